//! What a component says of itself, checked.

use std::time::Duration;

use outlast_runtime::aside::aside;
use outlast_runtime::text;
use serde_json::Value;

use crate::{
    bindings::types,
    failure::shorten,
    grants::{SCHEMA_BYTES, Wants, validator},
    refused::{Refused, hidden_in, wrong},
};

/// How long reading what `describe` returned may take, with what that refers to.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// What a component says about itself, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// The agent's name: what clients send as `model`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What it does.
    pub about: String,
    /// The JSON Schema of its configuration.
    pub config_schema: Option<Value>,
    /// What it wants to be granted.
    pub wants: Wants,
}

/// Reads what a component says of itself: beside the threads that serve, and not for ever.
pub(crate) async fn read_description<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, Refused> + Send + 'static,
) -> Result<T, Refused> {
    let late = |_| Refused(format!("reading its description took longer than {READ_TIMEOUT:?}"));
    // Not by its length: little text can be much work.
    tokio::time::timeout(READ_TIMEOUT, aside(usize::MAX, read)).await.map_err(late)?
}

/// Refuses a version or a text about a component that is too long, or does not show what it is.
pub(crate) fn check_words(version: &str, about: &str) -> Result<(), Refused> {
    if version.len() > 64 || about.len() > 1_024 {
        return Err(wrong("`version` may have at most 64 bytes, `about` at most 1,024"));
    }
    for (member, said) in [("version", version), ("about", about)] {
        if let Some(character) = said.chars().find(|character| text::is_hidden(*character)) {
            return Err(wrong(&hidden_in(member, character)));
        }
    }
    Ok(())
}

/// The schema of a configuration.
pub(crate) fn config_schema(text: Option<&str>) -> Result<Option<Value>, Refused> {
    let Some(text) = text else { return Ok(None) };
    if text.len() > SCHEMA_BYTES {
        return Err(wrong(&format!("`config-schema` has {} bytes, limit {SCHEMA_BYTES}", text.len())));
    }
    match serde_json::from_str(text) {
        // What it is shown as is escaped: its patterns may well speak of such characters.
        Ok(schema @ Value::Object(_)) => validator(&schema).map(|_| Some(schema)).map_err(|why| wrong(&why)),
        _ => Err(wrong("`config-schema` is not a JSON object")),
    }
}

/// What a component wants to be granted.
pub(crate) fn wants(text: Option<&str>) -> Result<Wants, Refused> {
    text.map_or(Ok(Wants::default()), |text| Wants::read(text).map_err(|why| wrong(&why)))
}

pub(super) fn checked(given: types::Description) -> Result<Description, Refused> {
    let refuse = |what: &str| Err(wrong(what));
    let name = given.name;
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let first = name.bytes().next().is_some_and(word);
    if !first || name.len() > 64 || !name.bytes().all(|byte| word(byte) || b"-_.".contains(&byte)) {
        let shown = shorten(&name, 80);
        return refuse(&format!(
            "the name `{shown}` must be 1 to 64 of a-z, 0-9, `-`, `_`, `.`, and start with a letter or digit"
        ));
    }
    check_words(&given.version, &given.about)?;
    let config_schema = config_schema(given.config_schema.as_deref())?;
    let wants = wants(given.wants.as_deref())?;
    Ok(Description { name, version: given.version, about: given.about, config_schema, wants })
}
