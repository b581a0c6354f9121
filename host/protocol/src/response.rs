//! The response object.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    item::Item,
    schema::{ConversationReference, Metadata, ReasoningOptions, RequestTool, TextOptions, ToolChoice},
    status::Status,
};

/// A response, with every key that the Responses API knows, always.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Response {
    /// `resp_…`
    pub id: String,
    /// Always `response`.
    pub object: String,
    /// When it was accepted, in seconds since 1970.
    pub created_at: i64,
    /// When it completed, in seconds since 1970; null unless the status is `completed`.
    #[schema(required)]
    pub completed_at: Option<i64>,
    /// One of the six statuses.
    pub status: Status,
    /// Whether it was asked for with `background`.
    pub background: bool,
    /// Whether it is kept.
    pub store: bool,
    /// The model as the client named it.
    pub model: String,
    /// The items so far.
    pub output: Vec<Item>,
    /// Why it failed.
    #[schema(required)]
    pub error: Option<ResponseError>,
    /// Why it is incomplete.
    #[schema(required)]
    pub incomplete_details: Option<IncompleteDetails>,
    /// As in the request.
    #[schema(required)]
    pub instructions: Option<String>,
    /// As in the request.
    #[schema(required)]
    pub previous_response_id: Option<String>,
    /// The conversation it belongs to.
    #[schema(value_type = Option<ConversationReference>, required)]
    pub conversation: Option<Value>,
    /// As in the request; `{}` by default.
    #[schema(value_type = Metadata)]
    pub metadata: Value,
    /// As in the request; `[]` by default.
    #[schema(value_type = Vec<RequestTool>)]
    pub tools: Value,
    /// As in the request; `"auto"` by default.
    #[schema(value_type = ToolChoice)]
    pub tool_choice: Value,
    /// As in the request; true by default.
    pub parallel_tool_calls: bool,
    /// As in the request.
    #[schema(required)]
    pub max_tool_calls: Option<u64>,
    /// As in the request.
    #[schema(required)]
    pub max_output_tokens: Option<u64>,
    /// As in the request; 1 by default.
    #[schema(value_type = f64)]
    pub temperature: Value,
    /// As in the request; 1 by default.
    #[schema(value_type = f64)]
    pub top_p: Value,
    /// As in the request; 0 by default.
    #[schema(value_type = f64)]
    pub presence_penalty: Value,
    /// As in the request; 0 by default.
    #[schema(value_type = f64)]
    pub frequency_penalty: Value,
    /// As in the request; 0 by default.
    pub top_logprobs: u64,
    /// As in the request; `{"format":{"type":"text"}}` by default.
    #[schema(value_type = TextOptions)]
    pub text: Value,
    /// As in the request; `disabled` by default.
    pub truncation: String,
    /// As in the request; `{"effort":null,"summary":null}` by default.
    #[schema(value_type = ReasoningOptions)]
    pub reasoning: Value,
    /// As in the request; `default` by default.
    pub service_tier: String,
    /// As in the request.
    #[schema(required)]
    pub safety_identifier: Option<String>,
    /// As in the request.
    #[schema(required)]
    pub prompt_cache_key: Option<String>,
    /// Null until the run has ended.
    #[schema(required)]
    pub usage: Option<Usage>,
    /// As in the request.
    #[schema(required)]
    pub user: Option<String>,
}

/// The answer to a deletion.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Deleted {
    /// What it was called.
    pub id: String,
    /// `response.deleted` or `conversation.deleted`.
    pub object: &'static str,
    /// Always true.
    pub deleted: bool,
}

impl Deleted {
    /// The thing `id` is removed; `object` says what it was.
    pub fn new(id: String, object: &'static str) -> Self {
        Self { id, object, deleted: true }
    }
}

/// Why a response failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResponseError {
    /// `server_error`, `rate_limit_exceeded`, `insufficient_quota`, `context_length_exceeded`,
    /// `content_policy_violation` or `model_not_found`.
    pub code: String,
    /// What happened, for people.
    pub message: String,
    /// When the request may be repeated, in seconds after the failure, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
    /// Whether it failed because something took too long.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub timed_out: bool,
}

/// Why a response is incomplete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IncompleteDetails {
    /// `max_output_tokens` or `content_filter`.
    pub reason: String,
}

/// Tokens used, in the shape of the Responses API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// All input tokens.
    pub input_tokens: u64,
    /// Which of them came from or went to a cache.
    pub input_tokens_details: InputTokensDetails,
    /// All output tokens.
    pub output_tokens: u64,
    /// Which of them were spent on reasoning.
    pub output_tokens_details: OutputTokensDetails,
    /// Input and output.
    pub total_tokens: u64,
}

/// Details of the input tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InputTokensDetails {
    /// Read from a cache.
    pub cached_tokens: u64,
    /// Written to a cache.
    pub cache_write_tokens: u64,
}

/// Details of the output tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OutputTokensDetails {
    /// Spent on reasoning.
    pub reasoning_tokens: u64,
}

impl Usage {
    /// The usage of one call.
    pub fn new(input: u64, cached: u64, cache_write: u64, output: u64, reasoning: u64) -> Self {
        Self {
            input_tokens: input,
            input_tokens_details: InputTokensDetails { cached_tokens: cached, cache_write_tokens: cache_write },
            output_tokens: output,
            output_tokens_details: OutputTokensDetails { reasoning_tokens: reasoning },
            total_tokens: input.saturating_add(output),
        }
    }

    /// The larger of each count.
    #[must_use]
    pub fn at_least(self, other: Self) -> Self {
        let (a, b) = (self.input_tokens_details, other.input_tokens_details);
        Self::new(
            self.input_tokens.max(other.input_tokens),
            a.cached_tokens.max(b.cached_tokens),
            a.cache_write_tokens.max(b.cache_write_tokens),
            self.output_tokens.max(other.output_tokens),
            self.output_tokens_details.reasoning_tokens.max(other.output_tokens_details.reasoning_tokens),
        )
    }

    /// The usage of two calls together. Counts stop at the largest number rather than wrap: they come from
    /// a plugin.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let (a, b) = (self.input_tokens_details, other.input_tokens_details);
        Self::new(
            self.input_tokens.saturating_add(other.input_tokens),
            a.cached_tokens.saturating_add(b.cached_tokens),
            a.cache_write_tokens.saturating_add(b.cache_write_tokens),
            self.output_tokens.saturating_add(other.output_tokens),
            self.output_tokens_details.reasoning_tokens.saturating_add(other.output_tokens_details.reasoning_tokens),
        )
    }
}
