//! Where requests of HTTP/1 begin and end, as far as hyper does not tell.
//!
//! A request with `Content-Length` and `Transfer-Encoding` ends at two places. Whoever stands in front of the server may take
//! the other one, and send somebody else's request behind it. hyper takes the second, and hides that there was the first. So
//! the bytes that it reads are looked at here too: of each head the names of its lines, of bodies their lengths. Nothing is
//! changed, and nothing kept but the line that is being read, up to [`LINE`] bytes.
//!
//! hyper alone decides what a request is. Where this here cannot follow, the connection ends with the request.

use std::sync::atomic::{AtomicU64, Ordering};

/// How much of a line is kept: no line that matters is longer, the spaces after its colon not counted.
const LINE: usize = 64;
/// No request.
const NONE: u64 = u64::MAX;

/// What is known of the requests of a connection.
#[derive(Debug)]
pub(super) struct Requests {
    /// How many were answered, or are being answered.
    begun: AtomicU64,
    /// The one that has two lengths.
    ambiguous: AtomicU64,
    /// The last one of which the end is known; none: all so far.
    last: AtomicU64,
}

impl Default for Requests {
    fn default() -> Self {
        Self { begun: AtomicU64::new(0), ambiguous: AtomicU64::new(NONE), last: AtomicU64::new(NONE) }
    }
}

impl Requests {
    /// The next request is answered. Its number.
    pub fn begin(&self) -> u64 {
        self.begun.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether this request has two lengths.
    pub fn is_ambiguous(&self, number: u64) -> bool {
        number == self.ambiguous.load(Ordering::Relaxed)
    }

    /// Whether no other request may follow this one.
    pub fn is_last(&self, number: u64) -> bool {
        number >= self.last.load(Ordering::Relaxed)
    }
}

/// Follows the requests of one connection.
#[derive(Debug, Default)]
pub(super) struct Framing {
    state: State,
    line: Line,
    head: Head,
    /// How many heads were complete.
    heads: u64,
}

/// What comes next.
#[derive(Debug, Default)]
enum State {
    /// A line of a head.
    #[default]
    Head,
    /// So many bytes of a body or a chunk.
    Skip { bytes: u64, then: Then },
    /// The line before a chunk.
    Chunk,
    /// A line after the last chunk.
    Trailer,
    /// Nothing that matters.
    Over,
}

#[derive(Clone, Copy, Debug)]
enum Then {
    Head,
    Chunk,
}

/// What the lines of a head have said.
#[derive(Debug, Default)]
struct Head {
    begun: bool,
    length: Option<Length>,
    chunked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Length {
    Bytes(u64),
    Unknown,
}

/// The beginning of a line.
#[derive(Debug, Default)]
struct Line {
    start: Vec<u8>,
    /// Whether a colon was the last that mattered.
    at_value: bool,
}

impl Line {
    fn push(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.start.len() >= LINE {
                return;
            }
            if self.at_value && matches!(byte, b' ' | b'\t') {
                continue;
            }
            self.at_value = *byte == b':' && !self.start.contains(&b':');
            self.start.push(*byte);
        }
    }

    fn take(&mut self) -> Vec<u8> {
        self.at_value = false;
        let mut line = std::mem::take(&mut self.start);
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        line
    }
}

impl Framing {
    /// Looks at bytes that hyper is given now.
    pub fn came(&mut self, mut bytes: &[u8], requests: &Requests) {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Over => return,
                State::Skip { bytes: left, then } => {
                    let length = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    *left -= length as u64;
                    bytes = &bytes[length..];
                    if *left == 0 {
                        self.state = match then {
                            Then::Head => State::Head,
                            Then::Chunk => State::Chunk,
                        };
                    }
                }
                State::Head | State::Chunk | State::Trailer => {
                    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
                        self.line.push(bytes);
                        return;
                    };
                    self.line.push(&bytes[..end]);
                    bytes = &bytes[end + 1..];
                    let line = self.line.take();
                    self.state = self.after(&line, requests);
                }
            }
        }
    }

    /// What comes after this line.
    fn after(&mut self, line: &[u8], requests: &Requests) -> State {
        match self.state {
            State::Chunk => match chunk_size(line) {
                Some(0) => State::Trailer,
                // With the end of its line.
                Some(bytes) => State::Skip { bytes: bytes.saturating_add(2), then: Then::Chunk },
                None => self.lost(requests),
            },
            State::Trailer if line.is_empty() => State::Head,
            State::Trailer => State::Trailer,
            _ if line.is_empty() && !self.head.begun => State::Head,
            _ if line.is_empty() => self.head_came(requests),
            _ => {
                self.head.read(line);
                State::Head
            }
        }
    }

    fn head_came(&mut self, requests: &Requests) -> State {
        let number = self.heads;
        self.heads += 1;
        match std::mem::take(&mut self.head) {
            Head { chunked: true, length: Some(_), .. } => {
                requests.ambiguous.store(number, Ordering::Relaxed);
                self.lost(requests)
            }
            Head { chunked: true, length: None, .. } => State::Chunk,
            Head { length: None | Some(Length::Bytes(0)), .. } => State::Head,
            Head { length: Some(Length::Bytes(bytes)), .. } => State::Skip { bytes, then: Then::Head },
            Head { length: Some(Length::Unknown), .. } => self.lost(requests),
        }
    }

    /// The end of the request is not known.
    fn lost(&mut self, requests: &Requests) -> State {
        requests.last.store(self.heads.saturating_sub(1), Ordering::Relaxed);
        State::Over
    }
}

impl Head {
    fn read(&mut self, line: &[u8]) {
        if !std::mem::replace(&mut self.begun, true) {
            return;
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { return };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.chunked = true;
        } else if name.eq_ignore_ascii_case(b"content-length") {
            let length = std::str::from_utf8(value).ok().and_then(|value| value.parse().ok());
            let length = length.filter(|_| line.len() < LINE).map_or(Length::Unknown, Length::Bytes);
            self.length = match self.length {
                None => Some(length),
                Some(before) if before == length => Some(before),
                Some(_) => Some(Length::Unknown),
            };
        }
    }
}

/// The size that the line before a chunk says.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    u64::from_str_radix(std::str::from_utf8(&line[..digits]).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which request has two lengths, and which one the connection ends with, however the bytes come.
    fn seen(bytes: &str) -> (Option<u64>, Option<u64>) {
        let look = |pieces: &mut dyn Iterator<Item = &[u8]>| {
            let (mut framing, requests) = (Framing::default(), Requests::default());
            pieces.for_each(|piece| framing.came(piece, &requests));
            let found = |number: &AtomicU64| Some(number.load(Ordering::Relaxed)).filter(|number| *number != NONE);
            (found(&requests.ambiguous), found(&requests.last))
        };
        let whole = look(&mut std::iter::once(bytes.as_bytes()));
        for size in [1, 2, 3, 7] {
            assert_eq!(look(&mut bytes.as_bytes().chunks(size)), whole, "{bytes:?} in pieces of {size}");
        }
        whole
    }

    const TWO: &str = "POST / HTTP/1.1\r\nContent-Length: 3\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";

    #[test]
    fn a_request_with_two_lengths_is_found_wherever_it_is() {
        let first = |before: &str| seen(&format!("{before}{TWO}"));
        assert_eq!(first(""), (Some(0), Some(0)));
        assert_eq!(first("\r\n\r\n"), (Some(0), Some(0)));
        for before in [
            "GET / HTTP/1.1\r\nhost: x\r\n\r\n",
            "GET / HTTP/1.1\nhost: x\n\n",
            "POST / HTTP/1.1\r\nCONTENT-LENGTH:   \t  00012  \r\n\r\ncontent-leng",
            "POST / HTTP/1.1\r\ncontent-length: 4\r\ncontent-length: 4\r\n\r\n\r\n\r\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n5;x=y\r\nab\r\nc\r\nA\r\n0123456789\r\n0\r\nx: y\r\n\r\n",
            "POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n",
        ] {
            assert_eq!(first(before), (Some(1), Some(1)), "{before:?}");
        }
        let order = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length:      3\r\n\r\n";
        assert_eq!(seen(order), (Some(0), Some(0)));
    }

    #[test]
    fn a_body_that_looks_like_a_head_is_none() {
        let inner = TWO.replace("\r\n\r\n", "\r\n");
        let text = format!("POST / HTTP/1.1\r\ncontent-length: {}\r\n\r\n{inner}", inner.len());
        assert_eq!(seen(&text), (None, None));
        let chunked =
            format!("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{inner}\r\n0\r\n\r\n", inner.len());
        assert_eq!(seen(&chunked), (None, None));
    }

    #[test]
    fn nothing_follows_a_request_whose_end_is_not_known() {
        for lost in [
            &format!("POST / HTTP/1.1\r\ncontent-length: {}3\r\n\r\n", "0".repeat(100)) as &str,
            "POST / HTTP/1.1\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nx\r\n",
        ] {
            assert_eq!(seen(&format!("{lost}{TWO}")), (None, Some(0)), "{lost:?}");
        }
    }

    #[test]
    fn a_line_takes_no_memory() {
        let (mut framing, requests) = (Framing::default(), Requests::default());
        for _ in 0..1_000 {
            framing.came(&[b'a'; 1_000], &requests);
        }
        assert!(framing.line.start.len() <= LINE);
    }
}
