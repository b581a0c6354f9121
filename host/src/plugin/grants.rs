//! What the operator says of an agent: its configuration, and what it is granted.

use serde::Deserialize;
use serde_json::{Map, Value};

/// What the operator says of one agent: the section `[agents.NAME]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentConfig {
    /// What the agent reads through `context.config`. Default: nothing.
    pub config: Map<String, Value>,
}
