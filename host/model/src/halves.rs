//! Halves of characters.
//!
//! JSON writes a character beyond U+FFFF as two escapes, and some servers put the first into one chunk and the second into
//! the next, where neither is a character. Such a half is [marked](mark) with a private character, so that its chunk can be
//! read, and [joined](Half::join) with its other half, if that follows.

use std::borrow::Cow;

use outlast_protocol::half_characters;

/// The mark of the first half of all.
const MARK: u32 = 0x10_f800;

/// The length of an escape.
const ESCAPE: usize = 6;

/// What stands for a half that stays alone.
const BROKEN: char = '\u{fffd}';

/// JSON in which every escape of half a character is a mark.
pub(super) fn mark(json: &str) -> Cow<'_, str> {
    let (mut marked, mut copied) = (String::new(), 0);
    for (at, half) in half_characters(json.as_bytes()) {
        marked.push_str(&json[copied..at]);
        marked.extend(char::from_u32(MARK + u32::from(half) - 0xd800));
        copied = at + ESCAPE;
    }
    if copied == 0 {
        return Cow::Borrowed(json);
    }
    marked.push_str(&json[copied..]);
    Cow::Owned(marked)
}

/// The half that a text ended with, which comes in pieces.
#[derive(Debug, Default)]
pub(super) struct Half(Option<u32>);

impl Half {
    /// The next piece of the text, with its halves joined. A half at its end waits for the next piece.
    pub(super) fn join(&mut self, piece: String) -> String {
        if piece.is_empty() || (self.0.is_none() && !piece.chars().any(|character| half(character).is_some())) {
            return piece;
        }
        let mut joined = String::with_capacity(piece.len() + 4);
        for character in piece.chars() {
            match (self.0.take(), half(character)) {
                (Some(high), Some(low @ 0x400..)) => {
                    joined.push(char::from_u32(0x1_0000 + (high << 10) + (low - 0x400)).unwrap_or(BROKEN));
                }
                (before, now) => {
                    joined.extend(before.map(|_| BROKEN));
                    match now {
                        Some(high @ ..0x400) => self.0 = Some(high),
                        Some(_) => joined.push(BROKEN),
                        None => joined.push(character),
                    }
                }
            }
        }
        joined
    }

    /// What is left at the end of the text.
    pub(super) fn end(&mut self) -> Option<String> {
        self.0.take().map(|_| BROKEN.to_string())
    }
}

/// Which half a mark stands for: below 0x400 a first one.
fn half(character: char) -> Option<u32> {
    u32::from(character).checked_sub(MARK)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(json: &str) -> String {
        serde_json::from_str(&mark(json)).unwrap()
    }

    #[test]
    fn halves_are_joined_over_pieces() {
        let mut half = Half::default();
        let pieces = [r#""a\ud83d""#, r#""""#, r#""\ude00b""#, r#""\ud83d\ude00""#, r#""c\ud83d""#, r#""d\ude00""#];
        let joined: String = pieces.iter().map(|piece| half.join(text(piece))).collect();
        assert_eq!(joined, "a😀b😀c\u{fffd}d\u{fffd}");
        assert_eq!(half.end(), None);
        assert_eq!(half.join(text(r#""\ud83d""#)), "");
        assert_eq!(half.end().as_deref(), Some("\u{fffd}"));
    }

    #[test]
    fn what_is_whole_stays_as_it_is() {
        for json in [r#""\\ud83d""#, r#""\ud83d\ude00""#, r#""é\n\u00e9""#, r#""\u""#, r#""\"#, r#""\é"#, ""] {
            assert_eq!(mark(json), json);
        }
    }
}
