//! A connection for each request, and the answer as it came.

use std::fmt::{self, Display, Formatter};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::requests::Made;

/// More of an answer is not kept, in bytes.
const KEPT: usize = 1 << 20;

/// What came of a request.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The HTTP status; 0 when the connection was closed without one.
    pub status: u16,
    /// The head, in lower case.
    pub head: String,
    /// The body, without its chunks.
    pub body: Vec<u8>,
    /// What came over a WebSocket.
    pub messages: Vec<Value>,
}

impl Display for Outcome {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let body = String::from_utf8_lossy(&self.body[..self.body.len().min(4_000)]);
        write!(formatter, "{}{body}\n{:?}", self.head, self.messages)
    }
}

/// Sends a request and reads all that comes.
pub async fn send(address: &str, made: &Made) -> Outcome {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let (mut reader, mut writer) = stream.split();
    let write = async {
        // It may be closed already: what is refused is not read to its end.
        let _ = writer.write_all(&made.bytes).await;
        if made.half_closes {
            let _ = writer.shutdown().await;
        }
    };
    let ((), bytes) = tokio::join!(write, read(&mut reader));
    parse(&bytes)
}

async fn read(reader: &mut (impl tokio::io::AsyncRead + Unpin)) -> Vec<u8> {
    let (mut bytes, mut part) = (Vec::new(), vec![0; 16 << 10]);
    while let Ok(length @ 1..) = reader.read(&mut part).await {
        let room = KEPT.saturating_sub(bytes.len()).min(length);
        bytes.extend_from_slice(&part[..room]);
    }
    bytes
}

fn parse(mut bytes: &[u8]) -> Outcome {
    // What comes before an answer, because it was waited for.
    while bytes.starts_with(b"HTTP/1.1 100") {
        bytes = &bytes[end_of_head(bytes)..];
    }
    if bytes.is_empty() {
        return Outcome::default();
    }
    let end = end_of_head(bytes);
    let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    let rest = &bytes[end..];
    if status == 101 {
        return Outcome { status, head, messages: messages(rest), ..Outcome::default() };
    }
    let body = if head.contains("transfer-encoding: chunked") { chunks(rest) } else { rest.to_vec() };
    let body = match head.lines().find_map(|line| line.strip_prefix("content-length: ")) {
        Some(length) => body[..length.parse::<usize>().map_or(body.len(), |length| length.min(body.len()))].to_vec(),
        None => body,
    };
    Outcome { status, head, body, messages: Vec::new() }
}

fn end_of_head(bytes: &[u8]) -> usize {
    memchr::memmem::find(bytes, b"\r\n\r\n").map_or(bytes.len(), |at| at + 4)
}

fn chunks(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(at) = memchr::memmem::find(bytes, b"\r\n") {
        let length = std::str::from_utf8(&bytes[..at]).ok().and_then(|text| usize::from_str_radix(text, 16).ok());
        let Some(length @ 1..) = length else { break };
        let end = (at + 2 + length).min(bytes.len());
        body.extend_from_slice(&bytes[at + 2..end]);
        bytes = &bytes[(end + 2).min(bytes.len())..];
    }
    body
}

/// The text messages of a server, as far as they are JSON.
fn messages(mut bytes: &[u8]) -> Vec<Value> {
    let mut messages = Vec::new();
    while let [first, second, rest @ ..] = bytes {
        let (length, rest) = match (second & 127, rest) {
            (126, [a, b, rest @ ..]) => (usize::from(u16::from_be_bytes([*a, *b])), rest),
            (127, [a, b, c, d, e, f, g, h, rest @ ..]) => {
                (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]) as usize, rest)
            }
            (126 | 127, _) => break,
            (short, rest) => (usize::from(short), rest),
        };
        let (payload, rest) = rest.split_at(length.min(rest.len()));
        if first & 15 == 1 {
            messages.extend(serde_json::from_slice::<Value>(payload));
        }
        bytes = rest;
    }
    messages
}
