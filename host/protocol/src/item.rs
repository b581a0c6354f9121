//! Items of a response's output.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::built_in::BuiltIn;

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
    /// Stands for everything before it, where the request asks for that with `context_management`.
    Compaction {
        /// `cmp_…`
        id: String,
        /// What it stands for, sealed: only this server reads it, and only for whom it was made.
        encrypted_content: String,
    },
    /// A call of the client's `local_shell`.
    LocalShellCall {
        /// `lsh_…`
        id: String,
        /// What the client's output refers to: `call_…`
        call_id: String,
        /// The command: `{"type":"exec","command":[…],"env":{…}}`.
        #[schema(value_type = Object)]
        action: Value,
        /// How far it is.
        status: ItemStatus,
    },
    /// A call of the client's `shell`.
    ShellCall {
        /// `sh_…`
        id: String,
        /// What the client's output refers to: `call_…`
        call_id: String,
        /// The commands: `{"commands":[…]}`.
        #[schema(value_type = Object)]
        action: Value,
        /// Always `{"type":"local"}`.
        #[schema(value_type = Object)]
        environment: Value,
        /// How far it is.
        status: ItemStatus,
    },
    /// A call of the client's `apply_patch`.
    ApplyPatchCall {
        /// `apc_…`
        id: String,
        /// What the client's output refers to: `call_…`
        call_id: String,
        /// What is to be done with which file: `{"type":"update_file","path":…,"diff":…}`.
        #[schema(value_type = Object)]
        operation: Value,
        /// How far it is.
        status: ItemStatus,
    },
    /// A call of the client's `tool_search`.
    ToolSearchCall {
        /// `tsc_…`
        id: String,
        /// What the client's output refers to: `call_…`
        call_id: String,
        /// Always `client`.
        execution: String,
        /// What is looked for.
        #[schema(value_type = Object)]
        arguments: Value,
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
            | Self::CustomToolCall { id, .. }
            | Self::Compaction { id, .. }
            | Self::LocalShellCall { id, .. }
            | Self::ShellCall { id, .. }
            | Self::ApplyPatchCall { id, .. }
            | Self::ToolSearchCall { id, .. } => id,
        }
    }

    /// How far the item is.
    pub fn status(&self) -> ItemStatus {
        match self {
            Self::Message { status, .. }
            | Self::FunctionCall { status, .. }
            | Self::CustomToolCall { status, .. }
            | Self::LocalShellCall { status, .. }
            | Self::ShellCall { status, .. }
            | Self::ApplyPatchCall { status, .. }
            | Self::ToolSearchCall { status, .. } => *status,
            Self::Reasoning { status, .. } => status.unwrap_or(ItemStatus::Completed),
            Self::Compaction { .. } => ItemStatus::Completed,
        }
    }

    /// A call of a built-in tool whose arguments have not come.
    pub fn built_in_call(tool: BuiltIn, id: String, call_id: String) -> Self {
        let (said, status) = (tool.nothing(), ItemStatus::InProgress);
        match tool {
            BuiltIn::LocalShell => Self::LocalShellCall { id, call_id, action: said, status },
            BuiltIn::Shell => {
                Self::ShellCall { id, call_id, action: said, environment: json!({"type": "local"}), status }
            }
            BuiltIn::ApplyPatch => Self::ApplyPatchCall { id, call_id, operation: said, status },
            BuiltIn::ToolSearch => {
                Self::ToolSearchCall { id, call_id, execution: "client".to_owned(), arguments: said, status }
            }
        }
    }

    /// The built-in tool that it is a call of, and what is to be done.
    pub fn built_in_mut(&mut self) -> Option<(BuiltIn, &mut Value)> {
        match self {
            Self::LocalShellCall { action, .. } => Some((BuiltIn::LocalShell, action)),
            Self::ShellCall { action, .. } => Some((BuiltIn::Shell, action)),
            Self::ApplyPatchCall { operation, .. } => Some((BuiltIn::ApplyPatch, operation)),
            Self::ToolSearchCall { arguments, .. } => Some((BuiltIn::ToolSearch, arguments)),
            _ => None,
        }
    }

    /// Whether it is a call that the client is to answer.
    pub fn is_call(&self) -> bool {
        !matches!(self, Self::Message { .. } | Self::Reasoning { .. } | Self::Compaction { .. })
    }

    /// Whether it is a call that was cut, as [`is_half_call`](crate::is_half_call) says it of one that was stored.
    pub fn is_half_call(&self) -> bool {
        matches!(self, Self::FunctionCall { status: ItemStatus::Incomplete, .. })
    }

    /// Sets how far the item is.
    pub fn set_status(&mut self, new: ItemStatus) {
        match self {
            Self::Message { status, .. }
            | Self::FunctionCall { status, .. }
            | Self::CustomToolCall { status, .. }
            | Self::LocalShellCall { status, .. }
            | Self::ShellCall { status, .. }
            | Self::ApplyPatchCall { status, .. }
            | Self::ToolSearchCall { status, .. } => *status = new,
            Self::Reasoning { status, .. } => *status = Some(new),
            // It is whole from the beginning.
            Self::Compaction { .. } => {}
        }
    }
}
