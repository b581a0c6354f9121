//! A model call under way.
//!
//! The pieces go to the caller as they come; the whole answer is kept beside them until the end. Memory: the answer,
//! at most `max_response_bytes` of it. Dropping a generation closes the connection, which stops the model.

use std::sync::Arc;

use outlast_metrics::LiveCall;
use outlast_protocol::{ClientTool, ClientTools, CustomInput};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    error::{ModelError, ModelErrorKind},
    piece::{CallDelta, End, Piece, Usage},
    upstream::Upstream,
};

/// A piece of what the model says.
#[derive(Clone, Debug, PartialEq)]
pub enum Delta {
    /// Text of the answer.
    Text(String),
    /// Text of its thoughts.
    Reasoning(String),
    /// A piece of a function call.
    Call(CallDelta),
}

/// A finished call.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// Output items of the Responses API: reasoning, message, function calls, as far as there are any. Calls have the names
    /// that the model knows; [`restored`](super::restored) gives them those of their tools.
    pub items: Vec<Value>,
    /// `stop`, `length`, `tool_calls`, `content_filter`, or the provider's own word.
    pub finish_reason: String,
    /// Tokens; zero where the provider does not say.
    pub usage: Usage,
    /// The model that answered, in the provider's words, or as it was asked for.
    pub model: String,
    /// The tools that were offered.
    pub tools: Arc<ClientTools>,
}

/// A model call under way. Dropping it ends the call.
pub struct Generation {
    model: String,
    tools: Arc<ClientTools>,
    upstream: Upstream,
    /// Read while the call was started, not given out yet.
    first: Option<Piece>,
    text: String,
    reasoning: String,
    /// Of function calls; those are kept by the upstream until its end.
    call_bytes: usize,
    state: State,
    live: LiveCall,
}

enum State {
    Open,
    Ended(End),
    Failed(ModelError),
}

impl Generation {
    /// A call whose first piece has come.
    pub(super) fn new(
        model: String,
        tools: Arc<ClientTools>,
        upstream: Upstream,
        first: Piece,
        live: LiveCall,
    ) -> Self {
        let (text, reasoning) = (String::new(), String::new());
        let (first, state) = (Some(first), State::Open);
        Self { model, tools, upstream, first, text, reasoning, call_bytes: 0, state, live }
    }

    /// The tools that were offered.
    pub fn tools(&self) -> Arc<ClientTools> {
        self.tools.clone()
    }

    /// The next piece; none when the model has finished.
    ///
    /// # Errors
    ///
    /// The provider failed, was silent for too long, said too much, or broke off. The call is over then: every
    /// further call gives the same error.
    pub async fn next(&mut self) -> Result<Option<Delta>, ModelError> {
        match &self.state {
            State::Open => {}
            State::Ended(_) => return Ok(None),
            State::Failed(error) => return Err(error.clone()),
        }
        let next = self.read().await;
        if let Err(error) = &next {
            self.live.fail(error.code);
            self.state = State::Failed(error.clone());
        }
        next
    }

    async fn read(&mut self) -> Result<Option<Delta>, ModelError> {
        loop {
            let piece = match self.first.take() {
                Some(piece) => Some(piece),
                None => self.upstream.next().await?,
            };
            let delta = match piece {
                Some(Piece::Text(text)) => {
                    self.text.push_str(&text);
                    Some(Delta::Text(text))
                }
                Some(Piece::Reasoning(text)) => {
                    self.reasoning.push_str(&text);
                    Some(Delta::Reasoning(text))
                }
                Some(Piece::Call(bytes, delta)) => {
                    self.call_bytes += bytes;
                    delta.map(Delta::Call)
                }
                Some(Piece::End(mut end)) => {
                    for call in end.calls.iter_mut().filter(|call| call.call_id.is_empty()) {
                        call.call_id = format!("call_{}", Uuid::new_v4().simple());
                    }
                    let whole = !matches!(end.finish_reason.as_str(), "length" | "content_filter");
                    self.live.finish(&self.model, whole, end.usage.input_tokens, end.usage.output_tokens);
                    self.state = State::Ended(end);
                    return Ok(None);
                }
                None => return Err(ModelError::cut(self.upstream.provider(), "")),
            };
            let most = self.upstream.max_bytes();
            if self.text.len() + self.reasoning.len() + self.call_bytes > most {
                return Err(ModelError::too_large(self.upstream.provider(), most));
            }
            if delta.is_some() {
                return Ok(delta);
            }
        }
    }

    /// The whole answer, after [`next`](Self::next) has returned none.
    ///
    /// # Errors
    ///
    /// The call has not finished, or has failed.
    pub fn completion(self) -> Result<Completion, ModelError> {
        let end = match self.state {
            State::Ended(end) => end,
            State::Failed(error) => return Err(error),
            State::Open => {
                let message = "the model has not finished its answer";
                return Err(ModelError::new(ModelErrorKind::Invalid, "not_finished", message));
            }
        };
        let mut items = Vec::new();
        if !self.reasoning.is_empty() {
            items.push(reasoning_item(&self.reasoning));
        }
        if !self.text.is_empty() {
            items.push(message_item(&self.text));
        }
        items.extend(end.calls.iter().map(|call| call_item(&call.call_id, &call.name, &call.arguments)));
        let (finish_reason, usage) = (end.finish_reason, end.usage);
        let (model, tools) = (end.model.unwrap_or(self.model), self.tools);
        Ok(Completion { items, finish_reason, usage, model, tools })
    }
}

impl std::fmt::Debug for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generation").field("model", &self.model).finish_non_exhaustive()
    }
}

/// A reasoning item of a completion.
pub fn reasoning_item(text: &str) -> Value {
    json!({"type": "reasoning", "summary": [{"type": "summary_text", "text": text}]})
}

/// A message item of a completion.
pub fn message_item(text: &str) -> Value {
    json!({
        "type": "message", "role": "assistant", "status": "completed",
        "content": [{"type": "output_text", "text": text, "annotations": []}],
    })
}

/// The call of a tool, as an item of a completion. `arguments` are what a model says of it.
pub fn tool_call_item(call_id: &str, tool: &ClientTool, arguments: &str) -> Value {
    let mut item = match tool.custom {
        false => call_item(call_id, &tool.name, arguments),
        true => {
            let mut decoder = CustomInput::default();
            let input = decoder.push(arguments) + &decoder.finish();
            json!({
                "type": "custom_tool_call", "call_id": call_id, "name": tool.name, "input": input, "status": "completed",
            })
        }
    };
    if let Some(namespace) = &tool.namespace {
        item["namespace"] = namespace.as_str().into();
    }
    item
}

/// A function call item of a completion.
pub(super) fn call_item(call_id: &str, name: &str, arguments: &str) -> Value {
    json!({
        "type": "function_call", "call_id": call_id, "name": name, "arguments": arguments, "status": "completed",
    })
}
