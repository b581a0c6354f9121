//! A model call under way.

use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;
use genai::chat::{ChatStream, ChatStreamEvent, StopReason, StreamEnd, ToolCall};
use serde_json::{Value, json};

use super::{
    error::{ModelError, ModelErrorKind},
    models::Provider,
};

/// A piece of what the model says.
#[derive(Clone, Debug, PartialEq)]
pub enum Delta {
    /// Text of the answer.
    Text(String),
    /// Text of its thoughts.
    Reasoning(String),
    /// Anything else.
    Other(Value),
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

/// A finished call.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// Output items of the Responses API: reasoning, message, function calls, as far as there are any.
    pub items: Vec<Value>,
    /// `stop`, `length`, `tool_calls`, `content_filter`, or the provider's own word.
    pub finish_reason: String,
    /// Tokens; zero where the provider does not say.
    pub usage: Usage,
    /// The model, as the provider was asked for it.
    pub model: String,
}

/// A model call under way. Dropping it ends the call.
pub struct Generation {
    provider: Arc<Provider>,
    model: String,
    stream: ChatStream,
    /// Read while the call was started, not given out yet.
    first: Option<ChatStreamEvent>,
    text: String,
    reasoning: String,
    end: Option<StreamEnd>,
}

impl std::fmt::Debug for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generation").field("model", &self.model).finish_non_exhaustive()
    }
}

impl Generation {
    /// Waits for the first event of the stream that says something. Errors before it may be repeated.
    pub(super) async fn open(provider: Arc<Provider>, model: String, stream: ChatStream) -> Result<Self, ModelError> {
        let (text, reasoning) = (String::new(), String::new());
        let mut generation = Self { provider, model, stream, first: None, text, reasoning, end: None };
        let patience = generation.provider.config.first_token_timeout;
        let first = generation.event(patience, "the first token took longer than first_token_timeout").await;
        // Nothing has been said: the same call may be made again.
        generation.first = Some(first.map_err(|error| match error.code {
            "upstream_cut" | "upstream_timeout" => error.repeatable(),
            _ => error,
        })?);
        Ok(generation)
    }

    /// The next piece; none when the model has finished.
    ///
    /// # Errors
    ///
    /// The provider failed, was silent for too long, said too much, or broke off. The call is over then.
    pub async fn next(&mut self) -> Result<Option<Delta>, ModelError> {
        while self.end.is_none() {
            let event = match self.first.take() {
                Some(event) => event,
                None => {
                    let patience = self.provider.config.idle_timeout;
                    self.event(patience, "it was silent for longer than idle_timeout").await?
                }
            };
            let delta = match event {
                ChatStreamEvent::Chunk(chunk) => {
                    self.text.push_str(&chunk.content);
                    Delta::Text(chunk.content)
                }
                ChatStreamEvent::ReasoningChunk(chunk) => {
                    self.reasoning.push_str(&chunk.content);
                    Delta::Reasoning(chunk.content)
                }
                ChatStreamEvent::End(end) => {
                    self.end = Some(end);
                    break;
                }
                ChatStreamEvent::Start
                | ChatStreamEvent::Heartbeat
                | ChatStreamEvent::ThoughtSignatureChunk(_)
                | ChatStreamEvent::ToolCallChunk(_) => continue,
            };
            let most = self.provider.config.max_response_bytes.as_u64();
            if (self.text.len() + self.reasoning.len()) as u64 > most {
                let message =
                    format!("the answer of {} is larger than max_response_bytes ({most})", self.provider.name);
                return Err(ModelError::new(ModelErrorKind::Limit, "upstream_too_large", message));
            }
            return Ok(Some(delta));
        }
        Ok(None)
    }

    /// The whole answer, after [`next`](Self::next) has returned none.
    ///
    /// # Errors
    ///
    /// The call has not finished.
    pub fn completion(self) -> Result<Completion, ModelError> {
        let end = self.end.ok_or_else(|| {
            ModelError::new(ModelErrorKind::Invalid, "not_finished", "the model has not finished its answer")
        })?;
        let mut items = Vec::new();
        if !self.reasoning.is_empty() {
            items.push(json!({
                "type": "reasoning", "summary": [{"type": "summary_text", "text": self.reasoning}],
            }));
        }
        if !self.text.is_empty() {
            items.push(json!({
                "type": "message", "role": "assistant", "status": "completed",
                "content": [{"type": "output_text", "text": self.text, "annotations": []}],
            }));
        }
        items.extend(end.captured_tool_calls().into_iter().flatten().map(function_call));
        let finish_reason = match &end.captured_stop_reason {
            Some(StopReason::Completed(_) | StopReason::StopSequence(_)) | None => "stop".to_owned(),
            Some(StopReason::MaxTokens(_)) => "length".to_owned(),
            Some(StopReason::ToolCall(_)) => "tool_calls".to_owned(),
            Some(StopReason::ContentFilter(_)) => "content_filter".to_owned(),
            Some(StopReason::Other(word)) => word.chars().take(64).collect(),
        };
        Ok(Completion { items, finish_reason, usage: usage(&end), model: self.model })
    }

    /// The next event that is more than a sign of life.
    async fn event(&mut self, patience: Duration, late: &str) -> Result<ChatStreamEvent, ModelError> {
        let provider = &self.provider;
        let next = async {
            loop {
                match self.stream.next().await {
                    Some(Ok(ChatStreamEvent::Start | ChatStreamEvent::Heartbeat)) => {}
                    other => return other,
                }
            }
        };
        match tokio::time::timeout(patience, next).await {
            Ok(Some(Ok(event))) => Ok(event),
            Ok(Some(Err(error))) => Err(provider.error(&error)),
            // The end of the bytes is not the end of the answer: that is an event of its own.
            Ok(None) => {
                let message = format!("upstream {} broke off its answer", provider.name);
                Err(ModelError::new(ModelErrorKind::Unavailable, "upstream_cut", message))
            }
            Err(_) => {
                let message = format!("upstream {}: {late} ({patience:?})", provider.name);
                Err(ModelError::new(ModelErrorKind::Timeout, "upstream_timeout", message))
            }
        }
    }
}

fn function_call(call: &ToolCall) -> Value {
    let arguments = match &call.fn_arguments {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    json!({
        "type": "function_call", "call_id": call.call_id, "name": call.fn_name, "arguments": arguments,
        "status": "completed",
    })
}

fn usage(end: &StreamEnd) -> Usage {
    let count = |tokens: Option<i32>| u64::try_from(tokens.unwrap_or_default()).unwrap_or_default();
    let Some(usage) = &end.captured_usage else { return Usage::default() };
    let input = usage.prompt_tokens_details.as_ref();
    let output = usage.completion_tokens_details.as_ref();
    Usage {
        input_tokens: count(usage.prompt_tokens),
        cached_tokens: count(input.and_then(|details| details.cached_tokens)),
        cache_write_tokens: count(input.and_then(|details| details.cache_creation_tokens)),
        output_tokens: count(usage.completion_tokens),
        reasoning_tokens: count(output.and_then(|details| details.reasoning_tokens)),
    }
}
