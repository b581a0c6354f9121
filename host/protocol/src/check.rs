//! How the fields of a request body are read: with their types, in their ranges, by their words.

use serde_json::{Map, Value};

use super::{
    error::{ApiError, ErrorKind},
    surrogates,
};

/// Limits on a request, from the configuration.
#[derive(Clone, Copy, Debug)]
pub struct RequestLimits {
    /// The largest text part, in bytes.
    pub text_bytes: usize,
    /// The most input items.
    pub input_items: usize,
}

/// The most values and keys in the JSON of a request. Parsed, each takes some 100 bytes, however short it is written.
const MOST_VALUES: usize = 250_000;
/// How deep a body is nested. What is made of it, an event with a response in it, is nested some levels deeper, and must be
/// read again: `serde_json` reads 127.
const MOST_DEPTH: usize = 100;

pub(super) fn missing(name: &str) -> ApiError {
    ApiError::invalid(name, "missing_required_parameter", format!("Missing required parameter: '{name}'."))
}

pub(super) fn wrong_type(param: &str, expected: &str, got: &Value) -> ApiError {
    let message = format!("Invalid type for '{param}': expected {expected}, but got {} instead.", type_of(got));
    ApiError::invalid(param, "invalid_type", message)
}

/// About how many values and keys are in JSON, at least as many as parsing it makes, and how deep they are nested. One pass,
/// which makes nothing.
fn shape(json: &[u8]) -> (usize, usize) {
    let (mut count, mut at, mut depth, mut deepest) = (1, 0, 0_usize, 0);
    while let Some(byte) = json.get(at) {
        at += 1;
        match byte {
            b',' | b':' => count += 1,
            b'[' | b'{' => {
                count += 1;
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => {
                while let Some(found) = memchr::memchr2(b'"', b'\\', json.get(at..).unwrap_or_default()) {
                    at += found + 1;
                    if json.get(at - 1) == Some(&b'"') {
                        break;
                    }
                    // What is escaped.
                    at += 1;
                }
            }
            _ => {}
        }
    }
    (count, deepest)
}

/// The JSON type of a value, with its article, for messages.
fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// The fields of a request body, read with their types.
pub(super) struct Checked<'a>(pub(super) &'a Map<String, Value>);

impl<'a> Checked<'a> {
    /// The fields of a body, without those that are null.
    pub(super) fn body(body: &[u8]) -> Result<Map<String, Value>, ApiError> {
        let (values, depth) = shape(body);
        if values > MOST_VALUES {
            let message = format!(
                "The request body has more than {MOST_VALUES} values and keys. Send fewer: what is large belongs into \
                 strings."
            );
            return Err(ApiError::new(ErrorKind::TooLarge, "request_too_complex", message));
        }
        if depth > MOST_DEPTH {
            let message = format!("The request body is nested deeper than {MOST_DEPTH} levels. Send a flatter one.");
            return Err(ApiError::new(ErrorKind::InvalidRequest, "invalid_json", message));
        }
        let body = surrogates::read(body).map_err(|error| {
            let message = format!("The request body is not valid JSON: {error}.");
            ApiError::new(ErrorKind::InvalidRequest, "invalid_json", message)
        })?;
        let Value::Object(mut fields) = body else {
            let message = format!("The request body must be a JSON object, not {}.", type_of(&body));
            return Err(ApiError::new(ErrorKind::InvalidRequest, "invalid_type", message));
        };
        fields.retain(|_, value| !value.is_null());
        Ok(fields)
    }

    pub(super) fn boolean(&self, name: &str) -> Result<Option<bool>, ApiError> {
        self.read(name, "a boolean", Value::as_bool)
    }

    pub(super) fn string(&self, name: &str) -> Result<Option<&'a str>, ApiError> {
        self.read(name, "a string", Value::as_str)
    }

    pub(super) fn object(&self, name: &str) -> Result<Option<&'a Map<String, Value>>, ApiError> {
        self.read(name, "an object", Value::as_object)
    }

    pub(super) fn read<T>(
        &self,
        name: &str,
        expected: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        let Some(value) = self.0.get(name) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| wrong_type(name, expected, value))
    }

    pub(super) fn required_string(&self, name: &str) -> Result<&'a str, ApiError> {
        self.string(name)?.ok_or_else(|| missing(name))
    }

    pub(super) fn number(&self, name: &str, least: f64, most: f64) -> Result<(), ApiError> {
        match self.read(name, "a number", Value::as_f64)? {
            Some(number) if !(least..=most).contains(&number) => {
                Err(out_of_range(name, number, &format!("{least} to {most}")))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn integer(&self, name: &str, least: i64, most: i64) -> Result<(), ApiError> {
        match self.read(name, "an integer", |value| value.as_i64().or(value.is_u64().then_some(i64::MAX)))? {
            Some(number) if !(least..=most).contains(&number) => {
                let range = if most == i64::MAX { format!("{least} or more") } else { format!("{least} to {most}") };
                Err(out_of_range(name, number, &range))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn one_of(&self, name: &str, words: &[&str]) -> Result<(), ApiError> {
        self.string(name)?.map_or(Ok(()), |word| one_of(name, word, words))
    }

    pub(super) fn text(&self, name: &str, most: usize) -> Result<(), ApiError> {
        match self.string(name)? {
            Some(text) if text.chars().count() > most => {
                let message = format!("'{name}' must have at most {most} characters.");
                Err(ApiError::invalid(name, "string_above_max_length", message))
            }
            _ => Ok(()),
        }
    }

    /// At most 16 pairs of strings, keys of at most 64 and values of at most 512 characters.
    pub(super) fn metadata(&self) -> Result<(), ApiError> {
        let Some(pairs) = self.object("metadata")? else { return Ok(()) };
        if pairs.len() > 16 {
            let message = format!("'metadata' can have at most 16 pairs, not {}.", pairs.len());
            return Err(ApiError::invalid("metadata", "object_above_max_properties", message));
        }
        for (key, value) in pairs {
            if key.chars().count() > 64 {
                let message = "A key of 'metadata' must have at most 64 characters.";
                return Err(ApiError::invalid("metadata", "string_above_max_length", message));
            }
            let param = format!("metadata.{key}");
            let text = value.as_str().ok_or_else(|| wrong_type(&param, "a string", value))?;
            if text.chars().count() > 512 {
                let message = format!("'{param}' must have at most 512 characters.");
                return Err(ApiError::invalid(param, "string_above_max_length", message));
            }
        }
        Ok(())
    }
}

fn out_of_range(name: &str, number: impl std::fmt::Display, range: &str) -> ApiError {
    let message = format!("Invalid value for '{name}': {number}. It must be {range}.");
    ApiError::invalid(name, "invalid_value", message)
}

pub(super) fn one_of(param: &str, word: &str, words: &[&str]) -> Result<(), ApiError> {
    if words.contains(&word) {
        return Ok(());
    }
    let shown: String = word.chars().take(64).collect();
    let allowed = words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(", ");
    let message = format!("Invalid value for '{param}': '{shown}'. Supported values are: {allowed}.");
    Err(ApiError::invalid(param, "invalid_value", message))
}
