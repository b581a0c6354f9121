//! What a model says, piece by piece, whichever API it speaks.

use serde_json::Value;

use super::conversation::FunctionCall;

/// What a stream says next.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Piece {
    /// How likely the tokens of the next text are.
    Logprobs(Vec<Value>),
    /// Text of the answer.
    Text(String),
    /// Text of its thoughts.
    Reasoning(String),
    /// Why it does not answer.
    Refusal(String),
    /// So many bytes of a function call, and what they say, where the provider tells it piece by piece. All calls come
    /// whole with the end.
    Call(usize, Option<CallDelta>),
    /// The answer is whole.
    End(End),
}

/// How an answer ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct End {
    /// `stop`, `length`, `tool_calls` or `content_filter`. Of a script: any word.
    pub finish_reason: String,
    /// All zero when the provider does not say.
    pub usage: Usage,
    /// In the provider's words, if it says.
    pub model: Option<String>,
    /// In the order of the model. One whose provider gave it no id has an empty one.
    pub calls: Vec<FunctionCall>,
}

/// A piece of a function call. Not every provider tells its calls piece by piece; in the completion they are whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallDelta {
    /// Which of the calls of this answer it is, counted from 0.
    pub place: usize,
    /// The function's name.
    pub name: String,
    /// More of the arguments, JSON text.
    pub arguments: String,
}

/// Tokens of one call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// All of the input.
    pub input_tokens: u64,
    /// Of them, read from a cache.
    pub cached_tokens: u64,
    /// Of them, written to a cache.
    pub cache_write_tokens: u64,
    /// All of the output.
    pub output_tokens: u64,
    /// Of them, spent on reasoning.
    pub reasoning_tokens: u64,
}
