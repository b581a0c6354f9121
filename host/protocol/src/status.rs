//! The six statuses of a response, and which of them are final.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, Type},
};

/// A status that a run passes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActiveStatus {
    /// Accepted, not started.
    Queued,
    /// Running.
    InProgress,
}

/// A status that a run ends with. It is written once and never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TerminalStatus {
    /// The agent finished.
    Completed,
    /// The agent, its model or the server failed; `error` says why.
    Failed,
    /// The answer was cut short; `incomplete_details` says why.
    Incomplete,
    /// The run was cancelled.
    Cancelled,
}

/// Any status of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum Status {
    /// The run goes on.
    Active(ActiveStatus),
    /// The run has ended.
    Terminal(TerminalStatus),
}

impl Status {
    /// `queued`.
    pub const QUEUED: Self = Self::Active(ActiveStatus::Queued);
    /// `in_progress`.
    pub const IN_PROGRESS: Self = Self::Active(ActiveStatus::InProgress);

    /// Reads the word used in JSON and SQL.
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "queued" => Self::QUEUED,
            "in_progress" => Self::IN_PROGRESS,
            "completed" => TerminalStatus::Completed.into(),
            "failed" => TerminalStatus::Failed.into(),
            "incomplete" => TerminalStatus::Incomplete.into(),
            "cancelled" => TerminalStatus::Cancelled.into(),
            _ => return None,
        })
    }

    /// The word used in JSON and SQL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active(ActiveStatus::Queued) => "queued",
            Self::Active(ActiveStatus::InProgress) => "in_progress",
            Self::Terminal(status) => status.as_str(),
        }
    }

    /// The final status, when the run has ended.
    pub fn terminal(self) -> Option<TerminalStatus> {
        match self {
            Self::Active(_) => None,
            Self::Terminal(status) => Some(status),
        }
    }
}

impl TerminalStatus {
    /// The word used in JSON and SQL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Incomplete => "incomplete",
            Self::Cancelled => "cancelled",
        }
    }
}

impl From<TerminalStatus> for Status {
    fn from(status: TerminalStatus) -> Self {
        Self::Terminal(status)
    }
}

impl From<Status> for &'static str {
    fn from(status: Status) -> Self {
        status.as_str()
    }
}

impl TryFrom<String> for Status {
    type Error = String;

    fn try_from(word: String) -> Result<Self, String> {
        Self::parse(&word).ok_or_else(|| format!("`{word}` is not a status of a response"))
    }
}

impl PartialSchema for Status {
    fn schema() -> RefOr<Schema> {
        let words = ["queued", "in_progress", "completed", "failed", "incomplete", "cancelled"];
        let schema = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words));
        schema.description(Some("The status of a response: the first two are active, the other four are final.")).into()
    }
}

impl ToSchema for Status {}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
