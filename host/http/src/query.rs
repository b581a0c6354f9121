//! The parameters of a query.

use std::ops::RangeInclusive;

use outlast_protocol::ApiError;

/// The value of a parameter: the first one.
pub(super) fn get<'a>(query: &'a [(String, String)], name: &str) -> Option<&'a str> {
    query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// Refuses a parameter that a list does not know: a filter that is misspelt would be none.
pub(super) fn only(query: &[(String, String)], known: &[&str]) -> Result<(), ApiError> {
    match query.iter().find(|(name, _)| !known.contains(&name.as_str())) {
        None => Ok(()),
        Some((name, _)) => {
            let message = format!("There is no parameter '{name}'. Allowed are {}.", known.join(", "));
            Err(ApiError::invalid(name.clone(), "unsupported_parameter", message))
        }
    }
}

/// A number in this range.
pub(super) fn number(
    query: &[(String, String)],
    name: &'static str,
    default: u64,
    allowed: RangeInclusive<u64>,
) -> Result<u64, ApiError> {
    match get(query, name).map(str::parse) {
        None => Ok(default),
        Some(Ok(number)) if allowed.contains(&number) => Ok(number),
        Some(_) => {
            let (least, most) = (allowed.start(), allowed.end());
            Err(ApiError::invalid(name, "invalid_value", format!("'{name}' must be {least} to {most}.")))
        }
    }
}

/// The name of something.
pub(super) fn name(query: &[(String, String)], name: &'static str) -> Result<Option<String>, ApiError> {
    match get(query, name) {
        // No database takes it, and no name has it.
        Some(text) if text.contains('\0') => {
            Err(ApiError::invalid(name, "invalid_value", format!("'{name}' must be a name.")))
        }
        text => Ok(text.map(str::to_owned)),
    }
}
