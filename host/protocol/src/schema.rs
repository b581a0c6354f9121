//! The shapes of what clients send, for the description of the API.
//!
//! Requests are read field by field, so that an error names what was wrong; these types are never built. They say the
//! same once more, as a schema: `GET /openapi.json`. The black-box tests hold the two against each other.

mod items;
mod tools;
mod webhooks;

use std::collections::HashMap;

use serde_json::Value;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, Type},
};

pub use self::{items::*, tools::*, webhooks::*};

/// A request for a response. Fields that are null are absent; fields that the API does not know are ignored.
#[derive(Debug, ToSchema)]
#[schema(as = CreateResponse)]
pub struct CreateResponseShape {
    /// The agent, or `agent/upstream-model`. `GET /v1/models` lists the agents.
    #[schema(min_length = 1, max_length = 256, example = "echo")]
    pub model: String,
    /// What to answer. May be left out with `previous_response_id` or `conversation`.
    pub input: Option<Input>,
    /// Stores the response, so that it can be read, followed and continued later. Default: true.
    pub store: Option<bool>,
    /// Answers with the events, as they happen. Default: false.
    pub stream: Option<bool>,
    /// Answers before the run has ended; needs `store`. Default: false.
    pub background: Option<bool>,
    /// Goes on from this response. Not together with `conversation`.
    pub previous_response_id: Option<String>,
    /// Adds the input and the response to this conversation: an id, or a name that the client chooses.
    pub conversation: Option<ConversationParam>,
    /// Instructions to the model, for this response alone.
    pub instructions: Option<String>,
    /// Kept with the response.
    pub metadata: Option<Metadata>,
    /// What the model may call. Tools of types that the server does not serve are accepted, and no model is told of them.
    pub tools: Option<Vec<RequestTool>>,
    /// Whether the model may, must or must not call a tool, or which. Default: `auto`.
    pub tool_choice: Option<ToolChoice>,
    /// Whether the model may call several functions in parallel. Default: true.
    pub parallel_tool_calls: Option<bool>,
    /// The form of the text.
    pub text: Option<TextOptions>,
    /// How much the model thinks, and whether it tells of it.
    pub reasoning: Option<ReasoningOptions>,
    /// The most tokens of the answer. An answer that is cut there is `incomplete`.
    #[schema(minimum = 1)]
    pub max_output_tokens: Option<i64>,
    /// The most calls of granted tools. Further ones are answered with an error that says so.
    #[schema(minimum = 1)]
    pub max_tool_calls: Option<i64>,
    /// Default: 1.
    #[schema(minimum = 0, maximum = 2)]
    pub temperature: Option<f64>,
    /// Default: 1.
    #[schema(minimum = 0, maximum = 1)]
    pub top_p: Option<f64>,
    /// Default: 0.
    #[schema(minimum = -2, maximum = 2)]
    pub presence_penalty: Option<f64>,
    /// Default: 0.
    #[schema(minimum = -2, maximum = 2)]
    pub frequency_penalty: Option<f64>,
    /// Default: 0.
    #[schema(minimum = 0, maximum = 20)]
    pub top_logprobs: Option<i64>,
    /// What happens to input that is too long for the model. Default: `disabled`.
    pub truncation: Option<Truncation>,
    /// What is done about a conversation that becomes long.
    pub context_management: Option<Vec<ContextManagement>>,
    /// How fast and at what price, in the provider's words. Passed on to providers that take it.
    #[schema(max_length = 256, example = "default")]
    pub service_tier: Option<String>,
    /// `reasoning.encrypted_content` seals the reasoning into its item. Others are accepted, without effect: what can
    /// be included always is.
    pub include: Option<Vec<String>>,
    /// Taken, and without effect.
    #[schema(value_type = Option<Object>)]
    pub stream_options: Option<Value>,
    /// Shown in the response.
    #[schema(max_length = 256)]
    pub safety_identifier: Option<String>,
    /// Shown in the response.
    #[schema(max_length = 256)]
    pub prompt_cache_key: Option<String>,
    /// Shown in the response.
    #[schema(max_length = 256)]
    pub user: Option<String>,
}

/// What is done about a conversation that becomes long. Only `compaction` has an effect.
#[derive(Debug, ToSchema)]
pub struct ContextManagement {
    /// `compaction`
    #[schema(example = "compaction")]
    pub r#type: String,
    /// From how many tokens on, as the server estimates them, the conversation is compacted before the agent begins. Default:
    /// 200000.
    #[schema(minimum = 1)]
    pub compact_threshold: Option<i64>,
}

/// A request to make a conversation shorter. It needs an `input`, a `previous_response_id` or a `conversation`.
#[derive(Debug, ToSchema)]
#[schema(as = CompactResponse)]
pub struct CompactShape {
    /// The agent, or `agent/upstream-model`, that writes the summary.
    #[schema(min_length = 1, max_length = 256, example = "chat")]
    pub model: String,
    /// What to compact.
    pub input: Option<Input>,
    /// The instructions that the conversation is held under.
    pub instructions: Option<String>,
    /// Compacts this response and all before it, too.
    pub previous_response_id: Option<String>,
    /// Compacts this conversation, too.
    pub conversation: Option<ConversationParam>,
}

/// A new conversation.
#[derive(Debug, ToSchema)]
#[schema(as = CreateConversation)]
pub struct CreateConversationShape {
    /// Default: `{}`.
    pub metadata: Option<Metadata>,
    /// What the conversation begins with.
    #[schema(max_items = 20)]
    pub items: Option<Vec<NewItem>>,
}

/// New metadata for a conversation, in place of what it has.
#[derive(Debug, ToSchema)]
#[schema(as = UpdateConversation)]
pub struct UpdateConversationShape {
    /// At most 16 pairs.
    pub metadata: Metadata,
}

/// Items for the end of a conversation.
#[derive(Debug, ToSchema)]
#[schema(as = CreateItems)]
pub struct CreateItemsShape {
    /// The items, oldest first.
    #[schema(min_items = 1, max_items = 20)]
    pub items: Vec<NewItem>,
}

/// At most 16 pairs of strings: keys of at most 64, values of at most 512 characters.
#[derive(Debug)]
pub struct Metadata(pub HashMap<String, String>);

impl PartialSchema for Metadata {
    fn schema() -> RefOr<Schema> {
        let key = ObjectBuilder::new().schema_type(Type::String).max_length(Some(64));
        let value = ObjectBuilder::new().schema_type(Type::String).max_length(Some(512));
        let description = "At most 16 pairs of strings: keys of at most 64, values of at most 512 characters.";
        let schema = ObjectBuilder::new().property_names(Some(key)).additional_properties(Some(value));
        schema.max_properties(Some(16)).description(Some(description)).into()
    }
}

impl ToSchema for Metadata {}

/// A text, which is one message of the user, or items.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
pub enum Input {
    /// The text of one message.
    Text(String),
    /// The items, oldest first. Their number has a limit: `limits.input_items`, 10,000 by default.
    Items(Vec<InputItem>),
}

/// The conversation of a request.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
pub enum ConversationParam {
    /// Alone.
    Id(ConversationName),
    /// In an object.
    Object(ConversationReference),
}

/// A conversation: in requests one way to name it, in responses the only one.
#[derive(Debug, ToSchema)]
pub struct ConversationReference {
    /// Its id or name.
    pub id: ConversationName,
}

/// A conversation's id, `conv_…`, or a name of 1 to 256 characters that the client chose.
#[derive(Debug, ToSchema)]
#[schema(min_length = 1, max_length = 256)]
pub struct ConversationName(pub String);

/// The form of the text.
#[derive(Debug, ToSchema)]
pub struct TextOptions {
    /// Default: `{"type":"text"}`.
    pub format: Option<TextFormat>,
    /// How detailed the model's answer is.
    pub verbosity: Option<Verbosity>,
}

/// The format of the text.
#[derive(Debug, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum TextFormat {
    /// Any text.
    Text,
    /// A JSON object.
    JsonObject,
    /// JSON that a schema describes.
    JsonSchema {
        /// What it is called.
        name: String,
        /// What it is for.
        description: Option<String>,
        /// The JSON Schema.
        #[schema(value_type = Object)]
        schema: Value,
        /// Whether the text follows the schema exactly.
        strict: Option<bool>,
    },
}

/// How much the model thinks, and whether it tells of it.
#[derive(Debug, ToSchema)]
pub struct ReasoningOptions {
    /// How much the model thinks, in the provider's words: `none`, `minimal`, `low`, `medium`, `high`, `xhigh`, `max` …
    #[schema(example = "medium")]
    pub effort: Option<String>,
    /// Whether the model tells what it thought.
    pub summary: Option<SummaryMode>,
}

/// Makes an enumeration of words, for a schema.
macro_rules! words {
    ($($(#[$doc:meta])* $name:ident: $($word:ident)+;)+) => {$(
        $(#[$doc])*
        #[derive(Debug, ToSchema)]
        #[serde(rename_all = "snake_case")]
        #[allow(missing_docs)] // The words are the API's own.
        pub enum $name { $($word),+ }
    )+};
}

words! {
    /// The author of a message.
    Role: User Assistant System Developer;
    /// Which functions the model may call.
    ToolChoiceMode: None Auto Required;
    /// How detailed the model's answer is.
    Verbosity: Low Medium High;
    /// Whether the model tells what it thought.
    SummaryMode: Auto Concise Detailed;
    /// What happens to input that is too long for the model: its oldest messages are left out (`auto`), or the run
    /// fails.
    Truncation: Auto Disabled;
    /// `message`
    MessageType: Message;
    /// `function`
    FunctionType: Function;
    /// `custom`
    CustomType: Custom;
    /// `namespace`
    NamespaceType: Namespace;
    /// `custom_tool_call`
    CustomToolCallType: CustomToolCall;
    /// `custom_tool_call_output`
    CustomToolCallOutputType: CustomToolCallOutput;
    /// `additional_tools`
    AdditionalToolsType: AdditionalTools;
    /// `function_call`
    FunctionCallType: FunctionCall;
    /// `function_call_output`
    FunctionCallOutputType: FunctionCallOutput;
    /// `reasoning`
    ReasoningType: Reasoning;
    /// `compaction`
    CompactionType: Compaction;
    /// `item_reference`
    ItemReferenceType: ItemReference;
}
