//! The bytes of an answer, as they come.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};

use super::activity::Activity;

/// Bytes that are UTF-8.
pub(super) type Incoming = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// The bytes of a response: an error when there are more than `most` since `held` was last 0. What is not UTF-8 comes as
/// U+FFFD. An empty line follows the last one: some servers forget it.
pub(super) fn incoming(
    response: reqwest::Response,
    most: usize,
    held: Arc<AtomicUsize>,
    activity: Activity,
) -> Incoming {
    let mut text = Text::default();
    let bytes = response.bytes_stream().map(move |bytes| {
        let bytes = bytes.map_err(io::Error::other)?;
        activity.now();
        if held.fetch_add(bytes.len(), Ordering::Relaxed) + bytes.len() > most {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(text.next(bytes))
    });
    Box::pin(bytes.chain(stream::iter([Ok(Bytes::from_static(b"\n\n"))])))
}

/// Makes UTF-8 of bytes.
#[derive(Debug, Default)]
struct Text {
    /// The beginning of a character, at most three bytes.
    begun: Vec<u8>,
}

impl Text {
    fn next(&mut self, bytes: Bytes) -> Bytes {
        if self.begun.is_empty() && std::str::from_utf8(&bytes).is_ok() {
            return bytes;
        }
        let mut all = std::mem::take(&mut self.begun);
        all.extend_from_slice(&bytes);
        let mut text = String::with_capacity(all.len());
        for chunk in all.utf8_chunks() {
            text.push_str(chunk.valid());
            // At the end, it may only have begun.
            let invalid = chunk.invalid();
            let ends = invalid.as_ptr_range().end == all.as_ptr_range().end;
            if ends && std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none()) {
                self.begun = invalid.to_vec();
            } else if !invalid.is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        text.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(pieces: &[&'static [u8]]) -> String {
        let mut text = Text::default();
        let all: Vec<u8> = pieces.iter().flat_map(|piece| text.next(Bytes::from_static(piece))).collect();
        String::from_utf8(all).unwrap()
    }

    #[test]
    fn characters_are_joined_and_what_is_none_is_replaced() {
        assert_eq!(joined(&[b"gr\xc3", b"\xb6\xc3", b"\x9fer \xf0\x9f", b"\x98", b"\x80"]), "größer 😀");
        assert_eq!(joined(&[b"a\xffb", b"\xc3", b"c"]), "a\u{fffd}b\u{fffd}c");
    }
}
