//! What the operator says of an agent: its configuration, and what it is granted.

use bytesize::ByteSize;
use serde::Deserialize;
use serde_json::{Map, Value};

/// What the operator says of one agent: the section `[agents.NAME]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentConfig {
    /// What the agent reads through `context.config`. Default: nothing.
    pub config: Map<String, Value>,
    /// How much it may keep for each principal: a size, or `true` for `limits.state_bytes`. Default: nothing.
    pub state: Option<StateSize>,
}

/// How much an agent may keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "must be a size like `1MiB`, or true or false")]
pub enum StateSize {
    /// As much as all may, or nothing.
    Usual(bool),
    /// So much.
    Size(ByteSize),
}

impl StateSize {
    /// In bytes, where `usual` is what all may; none for nothing.
    pub(super) fn bytes(self, usual: usize) -> Option<usize> {
        match self {
            Self::Usual(granted) => granted.then_some(usual),
            Self::Size(size) => Some(usize::try_from(size.as_u64()).unwrap_or(usize::MAX)),
        }
    }
}
