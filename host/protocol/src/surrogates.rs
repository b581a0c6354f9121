//! JSON with half a character in it.
//!
//! JavaScript cuts a text between the two halves of a character, and writes one half as `\ud83d`. RFC 8259 (8.2) lets it;
//! no Rust text can hold it. It is read as U+FFFD, as a broken byte is elsewhere.

use serde_json::Value;

/// The length of `\uXXXX`.
const LENGTH: usize = 6;

/// Reads JSON, half characters as U+FFFD.
pub(super) fn read(json: &[u8]) -> Result<Value, serde_json::Error> {
    serde_json::from_slice(json).or_else(|error| match mended(json) {
        Some(mended) => serde_json::from_slice(&mended),
        None => Err(error),
    })
}

/// The JSON with `\ufffd` in the place of every half of a character; none when there is no such half.
fn mended(json: &[u8]) -> Option<Vec<u8>> {
    let mut mended = None;
    for (at, _) in half_characters(json) {
        mended.get_or_insert_with(|| json.to_vec())[at..at + LENGTH].copy_from_slice(b"\\ufffd");
    }
    mended
}

/// Where JSON has an escape of six bytes that stands for half a character alone, and its number: from 0xd800 to 0xdfff.
pub fn half_characters(json: &[u8]) -> impl Iterator<Item = (usize, u16)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let escape = at + memchr::memchr(b'\\', json.get(at..)?)?;
            at = match unit(json, escape) {
                // What is escaped is not looked at.
                None => escape + 2,
                // Two halves in a row are a character.
                Some(0xd800..0xdc00) if matches!(unit(json, escape + LENGTH), Some(0xdc00..0xe000)) => {
                    escape + 2 * LENGTH
                }
                Some(half @ 0xd800..0xe000) => {
                    at = escape + LENGTH;
                    return Some((escape, half));
                }
                Some(_) => escape + LENGTH,
            };
        }
    })
}

/// The number of the escape `\uXXXX` at this place.
fn unit(json: &[u8], at: usize) -> Option<u16> {
    let digits = json.get(at..at + LENGTH)?.strip_prefix(b"\\u")?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_character_is_read_as_one_that_is_broken() {
        for (json, text) in [
            (r#""a\ud83d""#, "a\u{fffd}"),
            (r#""\ude00b""#, "\u{fffd}b"),
            (r#""\ud83d\ud83d\ude00""#, "\u{fffd}\u{1f600}"),
            (r#""\ud83d\n\u0041""#, "\u{fffd}\nA"),
            (r#""\\ud83d \ud83d""#, "\\ud83d \u{fffd}"),
            (r#""\ud83d\ude00""#, "\u{1f600}"),
        ] {
            assert_eq!(read(json.as_bytes()).unwrap(), text, "{json}");
        }
    }

    #[test]
    fn what_is_not_json_stays_so() {
        for wrong in [r#""\ud83d"#, r#""\ud8""#, r#"{"a": \ud83d}"#, "\"\\"] {
            assert!(read(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
