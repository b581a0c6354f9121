//! Items of a response's output.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// How far an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ItemStatus {
    /// Open for writing.
    InProgress,
    /// Finished.
    Completed,
    /// Ended before it was finished.
    Incomplete,
}

/// An item of the output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Item {
    /// What the assistant says.
    Message {
        /// `msg_…`
        id: String,
        /// How far it is.
        status: ItemStatus,
        /// Always `assistant`.
        role: String,
        /// Its parts.
        content: Vec<Content>,
    },
    /// What the model thought, in summary. Raw reasoning is not sent: its event names differ between the two
    /// specifications.
    Reasoning {
        /// `rs_…`
        id: String,
        /// The parts of the summary.
        summary: Vec<SummaryPart>,
        /// All of it, sealed: only this server reads it, and only for whom it was made. Where the request asks for it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        encrypted_content: Option<String>,
        /// How far it is.
        #[serde(skip_serializing_if = "Option::is_none")]
        status: Option<ItemStatus>,
    },
    /// A call of one of the client's functions.
    FunctionCall {
        /// `fc_…`
        id: String,
        /// What the client's output refers to: `call_…`
        call_id: String,
        /// The function.
        name: String,
        /// The namespace that it is a member of.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        namespace: Option<String>,
        /// JSON text.
        arguments: String,
        /// How far it is.
        status: ItemStatus,
    },
    /// A call of one of the client's custom tools.
    CustomToolCall {
        /// `ctc_…`
        id: String,
        /// What the client's output refers to: `call_…`
        call_id: String,
        /// The tool.
        name: String,
        /// The namespace that it is a member of.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        namespace: Option<String>,
        /// What the tool is given.
        input: String,
        /// How far it is.
        status: ItemStatus,
    },
}

/// A part of a message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Content {
    /// Text.
    OutputText {
        /// The text so far.
        text: String,
        /// Citations; always empty so far.
        annotations: Vec<Value>,
        /// How likely its tokens were, where the request asks for that and the provider tells.
        logprobs: Vec<Value>,
    },
    /// Why the model does not answer.
    Refusal {
        /// The refusal so far.
        refusal: String,
    },
}

impl Content {
    /// An empty text part.
    pub fn empty_text() -> Self {
        Self::OutputText { text: String::new(), annotations: Vec::new(), logprobs: Vec::new() }
    }

    /// An empty refusal.
    pub fn empty_refusal() -> Self {
        Self::Refusal { refusal: String::new() }
    }
}

/// A part of a reasoning summary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum SummaryPart {
    /// Text.
    SummaryText {
        /// The text so far.
        text: String,
    },
}

impl Item {
    /// The item's id.
    pub fn id(&self) -> &str {
        match self {
            Self::Message { id, .. }
            | Self::Reasoning { id, .. }
            | Self::FunctionCall { id, .. }
            | Self::CustomToolCall { id, .. } => id,
        }
    }

    /// How far the item is.
    pub fn status(&self) -> ItemStatus {
        match self {
            Self::Message { status, .. } | Self::FunctionCall { status, .. } | Self::CustomToolCall { status, .. } => {
                *status
            }
            Self::Reasoning { status, .. } => status.unwrap_or(ItemStatus::Completed),
        }
    }

    /// Whether it is a call that was cut, as [`is_half_call`](crate::is_half_call) says it of one that was stored.
    pub fn is_half_call(&self) -> bool {
        matches!(self, Self::FunctionCall { status: ItemStatus::Incomplete, .. })
    }

    /// Sets how far the item is.
    pub fn set_status(&mut self, new: ItemStatus) {
        match self {
            Self::Message { status, .. } | Self::FunctionCall { status, .. } | Self::CustomToolCall { status, .. } => {
                *status = new;
            }
            Self::Reasoning { status, .. } => *status = Some(new),
        }
    }
}
