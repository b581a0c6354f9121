//! JSON of a component, read within bounds.
//!
//! Two bytes of text, `0,`, become a value of seventy: a text of some megabytes would become gigabytes. So the values are
//! counted before they are made, which takes no memory and a fraction of the time.

use memchr::memchr2;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Why a text was not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unread {
    /// It is not what it should be.
    #[error(transparent)]
    Wrong(#[from] serde_json::Error),
    /// It has too many values.
    #[error("there are more than {0} values in it")]
    TooMany(usize),
}

/// Reads a text of at most so many values.
///
/// # Errors
///
/// It has more of them, or is not what it should be.
pub(crate) fn read<T: DeserializeOwned>(text: &str, most: usize) -> Result<T, Unread> {
    match values(text) > most {
        true => Err(Unread::TooMany(most)),
        false => Ok(serde_json::from_str(text)?),
    }
}

/// About how many bytes of memory a value takes.
pub(crate) fn size(value: &Value) -> usize {
    let own = size_of::<Value>();
    own + match value {
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(size).sum(),
        // A place in the order, and the key.
        Value::Object(fields) => fields.iter().map(|(key, value)| 2 * own + key.len() + size(value)).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

/// How many values a text has at most: each stands behind a bracket, a comma, or a colon that has one of both before it.
pub(crate) fn values(text: &str) -> usize {
    let bytes = text.as_bytes();
    let (mut count, mut at) = (1, 0);
    while let Some(byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'[' | b'{' | b',' => count += 1,
            b'"' => at = end_of_string(bytes, at),
            _ => {}
        }
    }
    count
}

/// The place behind the string that goes on at `at`.
fn end_of_string(bytes: &[u8], mut at: usize) -> usize {
    while let Some(next) = memchr2(b'"', b'\\', bytes.get(at..).unwrap_or_default()) {
        at += next;
        match bytes[at] {
            b'"' => return at + 1,
            _ => at += 2,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_and_strings_are_not_looked_into() {
        assert_eq!(values("7"), 1);
        assert_eq!(values("[1,2,3]"), 4);
        assert_eq!(values(r#"{"a": [true], "b": {"c": null}}"#), 5);
        assert_eq!(values(r#"["[,,,{", "\"[[,", "\\", 1]"#), 5);
        assert_eq!(values(r#"["unfinished \"#), 2);
    }

    #[test]
    fn a_text_of_too_many_values_is_not_read() {
        assert_eq!(read::<Value>("[1,2]", 3).unwrap(), serde_json::json!([1, 2]));
        assert!(matches!(read::<Value>("[1,2,3]", 3), Err(Unread::TooMany(3))));
        assert!(matches!(read::<Value>("[1,", 3), Err(Unread::Wrong(_))));
    }
}
