//! The items of an input, of a conversation and of a response.

use utoipa::ToSchema;

use super::super::item::{ItemStatus, SummaryPart};
use super::{
    AdditionalToolsType, CompactionType, CustomToolCallOutputType, CustomToolCallType, FunctionCallOutputType,
    FunctionCallType, ItemReferenceType, MessageType, ReasoningType, RequestTool, Role,
};

/// An item of the input: itself, or a stored one.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
pub enum InputItem {
    /// Itself.
    Item(NewItem),
    /// A stored item.
    Reference(ItemReference),
    /// A stored item, in short.
    Id(ItemId),
}

/// An item that a client sends. Its id and its status are optional; fields that are not named here are stored, too.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
pub enum NewItem {
    /// A message.
    Message(InputMessage),
    /// A call that the model made.
    FunctionCall(FunctionCallItem),
    /// The output of a function.
    FunctionCallOutput(FunctionCallOutputItem),
    /// A call of a custom tool that the model made.
    CustomToolCall(CustomToolCallItem),
    /// The output of a custom tool.
    CustomToolCallOutput(CustomToolCallOutputItem),
    /// What the model thought.
    Reasoning(ReasoningItem),
    /// The summary of a compacted conversation.
    Compaction(CompactionItem),
    /// More tools.
    AdditionalTools(AdditionalToolsItem),
    /// Any other type. It is stored and given to agents, but not sent to models.
    Other(OtherItem),
}

/// A message.
#[derive(Debug, ToSchema)]
pub struct InputMessage {
    /// May be left out.
    pub r#type: Option<MessageType>,
    /// The author.
    pub role: Role,
    /// The content. Only assistants may leave it out.
    pub content: Option<InputContent>,
}

/// The content of a message: a text, or parts.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
pub enum InputContent {
    /// One text.
    Text(String),
    /// Parts.
    Parts(Vec<InputPart>),
}

/// A part of a message.
#[derive(Debug, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum InputPart {
    /// Text of the user, the developer or the system.
    InputText {
        /// The text.
        text: String,
    },
    /// An image.
    InputImage {
        /// Where it is, or itself, as a `data:` URL.
        image_url: Option<String>,
        /// `low`, `high` or `auto`.
        detail: Option<String>,
    },
    /// A file.
    InputFile {
        /// What it is called.
        filename: Option<String>,
        /// The file, as a `data:` URL.
        file_data: Option<String>,
    },
    /// Text of the assistant.
    OutputText {
        /// The text.
        text: String,
    },
    /// Why the assistant did not answer; in its messages only.
    Refusal {
        /// The reason.
        refusal: String,
    },
}

/// A call of one of the client's functions.
#[derive(Debug, ToSchema)]
pub struct FunctionCallItem {
    /// `function_call`
    pub r#type: FunctionCallType,
    /// What the output refers to.
    pub call_id: String,
    /// The function.
    pub name: String,
    /// The namespace that it is a member of.
    pub namespace: Option<String>,
    /// JSON text.
    pub arguments: String,
}

/// The output of a function of the client.
#[derive(Debug, ToSchema)]
pub struct FunctionCallOutputItem {
    /// `function_call_output`
    pub r#type: FunctionCallOutputType,
    /// The call that this answers.
    pub call_id: String,
    /// A text, or parts of the user's kinds.
    pub output: InputContent,
}

/// A call of one of the client's custom tools.
#[derive(Debug, ToSchema)]
pub struct CustomToolCallItem {
    /// `custom_tool_call`
    pub r#type: CustomToolCallType,
    /// What the output refers to.
    pub call_id: String,
    /// The tool.
    pub name: String,
    /// The namespace that it is a member of.
    pub namespace: Option<String>,
    /// What the tool is given.
    pub input: String,
}

/// The output of a custom tool of the client.
#[derive(Debug, ToSchema)]
pub struct CustomToolCallOutputItem {
    /// `custom_tool_call_output`
    pub r#type: CustomToolCallOutputType,
    /// The call that this answers.
    pub call_id: String,
    /// A text, or parts of the user's kinds.
    pub output: InputContent,
}

/// More tools, beside those of the request.
#[derive(Debug, ToSchema)]
pub struct AdditionalToolsItem {
    /// `additional_tools`
    pub r#type: AdditionalToolsType,
    /// The tools.
    pub tools: Vec<RequestTool>,
}

/// What the model thought, in summary.
#[derive(Debug, ToSchema)]
pub struct ReasoningItem {
    /// `reasoning`
    pub r#type: ReasoningType,
    /// The parts of the summary.
    pub summary: Vec<SummaryPart>,
}

/// The summary of a compacted conversation, made by `POST /v1/responses/compact`.
#[derive(Debug, ToSchema)]
pub struct CompactionItem {
    /// `compaction`
    pub r#type: CompactionType,
    /// Only this server reads it, and only for whom it was made.
    pub encrypted_content: String,
}

/// A stored item, by its id.
#[derive(Debug, ToSchema)]
pub struct ItemReference {
    /// `item_reference`
    pub r#type: ItemReferenceType,
    /// The id of an item of a stored response or of the conversation.
    pub id: String,
}

/// A stored item, by its id alone.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ItemId {
    /// The id of an item of a stored response or of the conversation.
    pub id: String,
}

/// An item as it is stored: with an id, and a message's content as parts. Fields that a client added stay.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
pub enum StoredItem {
    /// One that this server serves.
    Served(ServedItem),
    /// Any other.
    Other(OtherItem),
}

/// An item of a type that this server supports, as it is stored.
#[derive(Debug, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServedItem {
    /// A message.
    Message {
        /// `msg_…`, or the client's own.
        id: String,
        /// How far it is.
        status: ItemStatus,
        /// The author.
        role: Role,
        /// The content.
        content: Vec<InputPart>,
    },
    /// A call of one of the client's functions.
    FunctionCall {
        /// `fc_…`, or the client's own.
        id: String,
        /// How far it is.
        status: ItemStatus,
        /// What the output refers to.
        call_id: String,
        /// The function.
        name: String,
        /// The namespace that it is a member of.
        namespace: Option<String>,
        /// JSON text.
        arguments: String,
    },
    /// The output of a function of the client.
    FunctionCallOutput {
        /// `fco_…`, or the client's own.
        id: String,
        /// How far it is.
        status: ItemStatus,
        /// The call that this answers.
        call_id: String,
        /// A text, or parts.
        output: InputContent,
    },
    /// A call of one of the client's custom tools.
    CustomToolCall {
        /// `ctc_…`, or the client's own.
        id: String,
        /// How far it is.
        status: ItemStatus,
        /// What the output refers to.
        call_id: String,
        /// The tool.
        name: String,
        /// The namespace that it is a member of.
        namespace: Option<String>,
        /// What the tool is given.
        input: String,
    },
    /// The output of a custom tool of the client.
    CustomToolCallOutput {
        /// `ctco_…`, or the client's own.
        id: String,
        /// How far it is.
        status: ItemStatus,
        /// The call that this answers.
        call_id: String,
        /// A text, or parts.
        output: InputContent,
    },
    /// What the model thought, in summary.
    Reasoning {
        /// `rs_…`, or the client's own.
        id: String,
        /// The parts of the summary.
        summary: Vec<SummaryPart>,
    },
    /// The summary of a compacted conversation.
    Compaction {
        /// `cmp_…`, or the client's own.
        id: String,
        /// Only this server reads it.
        encrypted_content: String,
    },
    /// More tools.
    AdditionalTools {
        /// What the client chose, or `item_…`.
        id: String,
        /// The tools.
        tools: Vec<RequestTool>,
    },
}

/// An item of a type that this server does not support. It is stored as it is, and may have any fields.
#[derive(Debug, ToSchema)]
pub struct OtherItem {
    /// Its type.
    pub r#type: OtherItemType,
    /// Its id.
    pub id: Option<String>,
}

/// A type of items that this server does not serve, such as `web_search_call`.
#[derive(Debug, ToSchema)]
#[schema(
    pattern = "^(?!(message|function_call|function_call_output|custom_tool_call|custom_tool_call_output|reasoning|compaction|additional_tools|item_reference)$)"
)]
pub struct OtherItemType(pub String);
