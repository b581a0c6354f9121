//! What the operator says of tool components, and of which tools an agent may use.

use std::time::Duration;

use bytesize::ByteSize;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{http::HttpGrant, pin::Pin};

/// How long a call takes at most of which the operator says nothing.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What the operator says of one tool component: the section `[tools.NAME]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ToolConfig {
    /// What the component reads through `config.get`. Default: nothing.
    pub config: Map<String, Value>,
    /// The sha256 of the component that may have this name, 64 hexadecimal digits. Default: any.
    pub sha256: Option<Pin>,
    /// Where the component may send HTTP requests. Default: nowhere.
    pub http: HttpGrant,
    /// The memory of a call. Default: `limits.memory`.
    pub memory: Option<ByteSize>,
    /// The longest that a call may take. Default `60s`.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
}

impl Default for ToolConfig {
    fn default() -> Self {
        let (config, sha256, http, memory) = (Map::new(), None, HttpGrant::default(), None);
        Self { config, sha256, http, memory, timeout: TIMEOUT }
    }
}

/// Which tools an agent may use: the name of one, or the beginning of names and a `*`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ToolPattern(String);

impl ToolPattern {
    /// Every tool.
    pub fn any() -> Self {
        Self("*".to_owned())
    }

    /// Whether all tools are meant that `other` means.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        self.matches(&other.0)
    }

    /// Whether the tool of this name is meant.
    pub fn matches(&self, name: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => self.0 == name,
        }
    }
}

impl ToolPattern {
    /// Whether a tool whose name begins so may be meant.
    pub(crate) fn may_match(&self, beginning: &str) -> bool {
        let own = self.0.strip_suffix('*').unwrap_or(&self.0);
        own.starts_with(beginning) || (self.0.ends_with('*') && beginning.starts_with(own))
    }
}

impl TryFrom<String> for ToolPattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let name = text.strip_suffix('*').unwrap_or(&text);
        match !text.is_empty() && name.bytes().all(is_name_byte) {
            true => Ok(Self(text)),
            false => Err(format!(
                "`{text}` is not a pattern of tools: write a name like `units__convert`, or the beginning of names and \
                 a `*`"
            )),
        }
    }
}

impl std::fmt::Display for ToolPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether the name of a tool may have this in it.
pub(crate) fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_a_name_or_the_beginning_of_names() {
        let matches = |pattern: &str, name: &str| ToolPattern::try_from(pattern.to_owned()).unwrap().matches(name);
        assert!(matches("units__convert", "units__convert") && !matches("units__convert", "units__convert2"));
        assert!(matches("units__*", "units__convert") && !matches("units__*", "unitsx__convert"));
        assert!(matches("*", "anything") && ToolPattern::any().matches("anything"));
        let may = |pattern: &str, name: &str| ToolPattern::try_from(pattern.to_owned()).unwrap().may_match(name);
        assert!(may("*", "hub__") && may("h*", "hub__") && may("hub__x", "hub__") && may("hub__x*", "hub__"));
        assert!(!may("h", "hub__") && !may("units__*", "hub__"));
        for wrong in ["", "a b", "*__convert", "units__**", "units.convert"] {
            assert!(
                ToolPattern::try_from(wrong.to_owned()).unwrap_err().contains("is not a pattern of tools"),
                "{wrong}"
            );
        }
    }
}
