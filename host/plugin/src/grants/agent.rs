//! What the operator says of one agent.

use std::{fmt, time::Duration};

use bytesize::ByteSize;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{http::HttpGrant, models::ModelGrant, pin::Pin, tools::ToolPattern};

/// What the operator says of one agent: the section `[agents.NAME]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentConfig {
    /// What the agent reads through `context.config`. Default: nothing.
    pub config: Map<String, Value>,
    /// The sha256 of the component that may have this name, 64 hexadecimal digits. Default: any.
    pub sha256: Option<Pin>,
    /// Where the agent may send HTTP requests. Default: nowhere.
    pub http: HttpGrant,
    /// The tools that it may call: names, or beginnings of names and a `*`. Default: none.
    pub tools: Vec<ToolPattern>,
    /// The upstream models that it may call: `true` for all, or a list like `["openai/*"]`. Default: none for plugins,
    /// all for the agents that come with the server.
    pub models: Option<ModelGrant>,
    /// How much it may keep for each principal: a size, or `true` for `limits.state_bytes`. Default: nothing.
    pub state: Option<StateSize>,
    /// The memory of a run. Default: `limits.memory`.
    pub memory: Option<ByteSize>,
    /// How much time of a processor a run may take. Default: `limits.cpu_time`.
    #[serde(with = "humantime_serde")]
    pub cpu_time: Option<Duration>,
    /// The longest that a run may take. Default: `limits.run_timeout`.
    #[serde(with = "humantime_serde")]
    pub run_timeout: Option<Duration>,
    /// The most runs at once. Default: as many as the server has.
    pub max_live_runs: Option<usize>,
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
    /// Whether this is as much as `wanted`.
    pub(crate) fn covers(self, wanted: Self) -> bool {
        match (self, wanted) {
            (_, Self::Usual(false)) | (Self::Usual(true), _) => true,
            (Self::Usual(false), _) => false,
            (Self::Size(_), Self::Usual(true)) => true,
            (Self::Size(size), Self::Size(wanted)) => size >= wanted,
        }
    }

    /// In bytes, where `usual` is what all may; none for nothing.
    pub(crate) fn bytes(self, usual: usize) -> Option<usize> {
        match self {
            Self::Usual(granted) => granted.then_some(usual),
            Self::Size(size) => Some(usize::try_from(size.as_u64()).unwrap_or(usize::MAX)),
        }
    }
}

/// As in the configuration.
impl fmt::Display for StateSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usual(granted) => write!(f, "{granted}"),
            Self::Size(size) => {
                // Exactly: `display` would round.
                let (mut number, mut unit) = (size.as_u64(), "B");
                for larger in ["KiB", "MiB", "GiB"] {
                    if number == 0 || number % 1_024 != 0 {
                        break;
                    }
                    (number, unit) = (number / 1_024, larger);
                }
                write!(f, "\"{number}{unit}\"")
            }
        }
    }
}
