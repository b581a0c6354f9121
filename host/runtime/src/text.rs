//! What somebody else wrote, where people read it: in what commands print, in the log, in a sentence that says why a plugin
//! is refused.
//!
//! A plugin, an upstream model or a client chooses these texts, and a terminal or a pager obeys more than it shows: escape
//! sequences paint over lines, bidirectional controls show words in another order, a line break begins a line that looks
//! like the server's own, and characters without a width hide the difference between two names. Such
//! [characters](is_hidden) are shown as `\u001b`, as JSON writes them, so that a text which is JSON stays the same JSON.

use std::{borrow::Cow, fmt::Write as _};

use unicode_general_category::{GeneralCategory, get_general_category};

/// What each line of an entry of the log begins with, but its first one: no line of the log does.
const INDENT: &str = "    ";

/// Whether a character does not show what it does: a control character (a line break, too), one that formats (direction,
/// no width, tags), a separator of lines or paragraphs.
pub fn is_hidden(character: char) -> bool {
    if character.is_ascii() {
        return character.is_ascii_control();
    }
    matches!(
        get_general_category(character),
        GeneralCategory::Control
            | GeneralCategory::Format
            | GeneralCategory::LineSeparator
            | GeneralCategory::ParagraphSeparator
    )
}

/// The same in a text of many lines: line feeds and tabs, and what Arabic, Persian and emoji join their letters with, are
/// what they are.
pub fn is_hidden_in_prose(character: char) -> bool {
    is_hidden(character) && !matches!(character, '\n' | '\t' | '\u{200c}'..='\u{200f}')
}

/// A text that shall stay in its line.
pub fn line(text: &str) -> Cow<'_, str> {
    escaped(text, is_hidden)
}

/// A text of any number of lines.
pub fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, is_hidden_in_prose)
}

/// An entry of the log, with its line feed. What follows its first line is indented, so that it is not taken for an entry.
/// `coloured`: the log itself has put the colours of a terminal in.
pub fn entry(text: &str, coloured: bool) -> Cow<'_, str> {
    let text = escaped(text, |character| {
        is_hidden(character) && !matches!(character, '\n' | '\t') && !(coloured && character == '\u{1b}')
    });
    let (entry, end) = text.strip_suffix('\n').map_or((&*text, ""), |entry| (entry, "\n"));
    if !entry.contains('\n') {
        return text;
    }
    let mut indented = String::with_capacity(text.len() + INDENT.len());
    for (number, line) in entry.split('\n').enumerate() {
        if number > 0 {
            indented.push('\n');
            if !line.starts_with(INDENT) {
                indented.push_str(INDENT);
            }
        }
        indented.push_str(line);
    }
    indented.push_str(end);
    Cow::Owned(indented)
}

fn escaped(text: &str, hidden: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(&hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match character {
            _ if !hidden(character) => shown.push(character),
            '\n' => shown.push_str("\\n"),
            '\r' => shown.push_str("\\r"),
            '\t' => shown.push_str("\\t"),
            _ => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    // A `String` takes everything.
                    let _ = write!(shown, "\\u{unit:04x}");
                }
            }
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_controls_a_terminal_or_the_order_of_words_is_shown() {
        for (text, shown) in [
            ("plain, größer, 日本語", "plain, größer, 日本語"),
            ("a\u{1b}[2Jb\u{7}\u{7f}", "a\\u001b[2Jb\\u0007\\u007f"),
            ("\u{9b}2J\u{85}", "\\u009b2J\\u0085"),
            ("\u{202e}txt\u{2066}\u{61c}", "\\u202etxt\\u2066\\u061c"),
            ("a\u{2028}b\u{2029}c\r\nd\te", "a\\u2028b\\u2029c\\r\\nd\\te"),
            ("a\u{200b}b\u{feff}c\u{2060}\u{ad}", "a\\u200bb\\ufeffc\\u2060\\u00ad"),
            ("\u{e0061}", "\\udb40\\udc61"),
        ] {
            assert_eq!(line(text), shown);
        }
        assert_eq!(lines("a\n\tb\u{1b}\r\u{202e}👩\u{200d}🚀"), "a\n\tb\\u001b\\r\\u202e👩\u{200d}🚀");
    }

    #[test]
    fn json_stays_the_same_json() {
        let value = serde_json::json!({"a\u{202e}": "\u{9b}\u{e0061}\u{7f}\n\u{1b}"});
        let text = value.to_string();
        let shown = line(&text);
        assert!(!shown.chars().any(is_hidden));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
    }

    #[test]
    fn an_entry_of_the_log_has_one_beginning() {
        assert_eq!(entry("one\n", false), "one\n");
        assert_eq!(
            entry("one\n2026-01-01 INFO two\n      at x\n", false),
            "one\n    2026-01-01 INFO two\n      at x\n"
        );
        assert_eq!(entry("\u{1b}[31mred\u{9b}\n", true), "\u{1b}[31mred\\u009b\n");
        assert_eq!(entry("\u{1b}[31mred\n", false), "\\u001b[31mred\n");
    }
}
