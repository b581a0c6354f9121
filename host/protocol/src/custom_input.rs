//! The input of a custom tool, out of a function call's arguments.
//!
//! A model is told that a custom tool is a function with one string, [`INPUT`]. It sends `{"input":"…"}` in pieces; what the
//! client sees is the text in it, piece by piece as well.

use serde_json::Value;

/// The one parameter of the function that stands for a custom tool.
pub const INPUT: &str = "input";

/// The longest beginning before the text, in bytes: `{ "input" : "`.
const BEGINNING: usize = 64;

/// Arguments that are coming in.
#[derive(Debug, Default)]
pub struct CustomInput {
    state: State,
    /// What was not decoded yet.
    rest: String,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum State {
    /// Before the text.
    #[default]
    Before,
    /// In the text.
    Text,
    /// After the text.
    After,
    /// The arguments have another form: they are read at their end.
    Other,
}

impl CustomInput {
    /// Takes in a piece of the arguments; what it adds to the text.
    pub fn push(&mut self, piece: &str) -> String {
        if self.state == State::After {
            return String::new();
        }
        self.rest.push_str(piece);
        if self.state == State::Before {
            match beginning(&self.rest) {
                Beginning::Whole(length) => {
                    self.rest.drain(..length);
                    self.state = State::Text;
                }
                Beginning::Part if self.rest.len() < BEGINNING => {}
                Beginning::Part | Beginning::Other => self.state = State::Other,
            }
        }
        if self.state == State::Text { self.text() } else { String::new() }
    }

    /// What the end of the arguments adds to the text.
    pub fn finish(&mut self) -> String {
        let state = std::mem::replace(&mut self.state, State::After);
        let rest = std::mem::take(&mut self.rest);
        match state {
            State::Text | State::After => String::new(),
            State::Before | State::Other => match serde_json::from_str(&rest) {
                Ok(Value::Object(fields)) if fields.is_empty() => String::new(),
                Ok(Value::Object(fields)) => fields.get(INPUT).and_then(Value::as_str).unwrap_or(&rest).to_owned(),
                Ok(Value::String(text)) => text,
                // A model that has not kept to the form says the text itself.
                _ => rest,
            },
        }
    }

    /// Decodes what has come of the text.
    fn text(&mut self) -> String {
        let (mut text, mut at) = (String::new(), 0);
        while let Some(character) = self.rest[at..].chars().next() {
            match character {
                '"' => {
                    self.state = State::After;
                    self.rest.clear();
                    return text;
                }
                '\\' => match escape(&self.rest[at..]) {
                    Some((decoded, length)) => {
                        text.push(decoded);
                        at += length;
                    }
                    None => break,
                },
                other => {
                    text.push(other);
                    at += other.len_utf8();
                }
            }
        }
        self.rest.drain(..at);
        text
    }
}

enum Beginning {
    /// All of it, with its length.
    Whole(usize),
    /// It may become one.
    Part,
    /// It is another.
    Other,
}

/// Looks for `{"input":"`, with any white space.
fn beginning(text: &str) -> Beginning {
    let mut rest = text;
    for token in ["{", "\"input\"", ":", "\""] {
        rest = rest.trim_start_matches([' ', '\t', '\n', '\r']);
        match rest.strip_prefix(token) {
            Some(after) => rest = after,
            None if token.starts_with(rest) => return Beginning::Part,
            None => return Beginning::Other,
        }
    }
    Beginning::Whole(text.len() - rest.len())
}

/// The character that an escape at the beginning of `text` means, and its length; none when it is not complete.
fn escape(text: &str) -> Option<(char, usize)> {
    let plain = match text.as_bytes().get(1)? {
        b'n' => '\n',
        b't' => '\t',
        b'r' => '\r',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'u' => return unicode(text),
        _ => {
            let escaped = text[1..].chars().next()?;
            return Some((escaped, 1 + escaped.len_utf8()));
        }
    };
    Some((plain, 2))
}

/// `\u1234`, or a pair of them. Half a pair is U+FFFD.
fn unicode(text: &str) -> Option<(char, usize)> {
    const LENGTH: usize = 6;
    let unit = |at: usize| -> Option<u32> {
        let digits = text.as_bytes().get(at + 2..at + LENGTH)?;
        let digits = std::str::from_utf8(digits).unwrap_or_default();
        Some(u32::from_str_radix(digits, 16).unwrap_or(u32::from(char::REPLACEMENT_CHARACTER)))
    };
    // What is not ASCII ends an escape that is too short.
    if let Some(broken) = text.chars().take(LENGTH).position(|character| !character.is_ascii()) {
        return Some((char::REPLACEMENT_CHARACTER, broken));
    }
    let first = unit(0)?;
    if let Some(character) = char::from_u32(first) {
        return Some((character, LENGTH));
    }
    if (0xd800..0xdc00).contains(&first) {
        let next = text.as_bytes().get(LENGTH..).unwrap_or_default();
        if next.is_empty() || next == b"\\" || (next.starts_with(b"\\u") && next.len() < LENGTH) {
            return None;
        }
        if next.starts_with(b"\\u")
            && let Some(second @ 0xdc00..0xe000) = unit(LENGTH)
        {
            let code = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
            return Some((char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), 2 * LENGTH));
        }
    }
    Some((char::REPLACEMENT_CHARACTER, LENGTH))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded<'a>(pieces: impl IntoIterator<Item = &'a str>) -> String {
        let mut input = CustomInput::default();
        let mut text: String = pieces.into_iter().map(|piece| input.push(piece)).collect();
        text.push_str(&input.finish());
        text
    }

    #[test]
    fn the_text_is_the_same_however_it_is_cut() {
        let text = "*** Begin Patch\n+\"a\\b\"\t\u{1f600}ä\u{0}\r\n";
        let arguments = serde_json::json!({"input": text}).to_string();
        let escaped = r#"{ "input" : "😀ä\/ \ud83dx" , "more": 1}"#;
        for (arguments, expected) in [(arguments.as_str(), text), (escaped, "\u{1f600}ä/ \u{fffd}x")] {
            assert_eq!(decoded([arguments]), expected);
            let letters: Vec<String> = arguments.chars().map(String::from).collect();
            assert_eq!(decoded(letters.iter().map(String::as_str)), expected);
        }
    }

    #[test]
    fn the_text_comes_as_soon_as_it_is_known() {
        let mut input = CustomInput::default();
        assert_eq!(input.push("{\"inp"), "");
        assert_eq!(input.push("ut\":\"a\\"), "a");
        assert_eq!(input.push("nb"), "\nb");
        assert_eq!(input.push("\"}"), "");
    }

    #[test]
    fn arguments_of_another_form_are_read_at_their_end() {
        for (arguments, text) in [
            ("", ""),
            ("{}", ""),
            ("*** Begin Patch", "*** Begin Patch"),
            ("\"quoted\"", "quoted"),
            ("{\"more\": 1, \"input\": \"x\"}", "x"),
            ("{\"patch\": \"x\"}", "{\"patch\": \"x\"}"),
            ("{\"input\": 7}", "{\"input\": 7}"),
            ("{\"input\": \"cut", "cut"),
        ] {
            assert_eq!(decoded([arguments]), text, "{arguments}");
        }
    }
}
