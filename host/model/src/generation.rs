//! A model call under way.
//!
//! The pieces go to the caller as they come; the whole answer is kept beside them until the end. Memory: the answer,
//! at most `max_response_bytes` of it. Dropping a generation closes the connection, which stops the model.

use std::{collections::VecDeque, sync::Arc};

use outlast_metrics::LiveCall;
use outlast_protocol::{BuiltIn, ClientTool, ClientTools, CustomInput, ToolKind};
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
    /// How likely the tokens of the next text are, if that was asked for.
    Logprobs(Vec<Value>),
    /// Text of the answer.
    Text(String),
    /// Text of its thoughts.
    Reasoning(String),
    /// Why it does not answer.
    Refusal(String),
    /// A piece of a function call.
    Call(CallDelta),
}

impl Delta {
    /// The length of its text, in bytes.
    fn length(&self) -> usize {
        match self {
            Self::Logprobs(_) => 0,
            Self::Text(text) | Self::Reasoning(text) | Self::Refusal(text) => text.len(),
            Self::Call(CallDelta { arguments, .. }) => arguments.len(),
        }
    }

    /// The same in deltas whose texts have at most `longest` bytes.
    fn split(self, longest: usize) -> VecDeque<Self> {
        let (text, like): (_, Box<dyn Fn(String) -> Self>) = match self {
            Self::Logprobs(_) => return [self].into(),
            Self::Text(text) => (text, Box::new(Self::Text)),
            Self::Reasoning(text) => (text, Box::new(Self::Reasoning)),
            Self::Refusal(text) => (text, Box::new(Self::Refusal)),
            Self::Call(CallDelta { place, name, arguments }) => {
                (arguments, Box::new(move |arguments| Self::Call(CallDelta { place, name: name.clone(), arguments })))
            }
        };
        let (mut deltas, mut rest) = (VecDeque::new(), text.as_str());
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.floor_char_boundary(longest));
            deltas.push_back(like(piece.to_owned()));
            rest = after;
        }
        deltas
    }
}

/// A finished call.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// Output items of the Responses API: reasoning, message, function calls, as far as there are any. Calls have the names
    /// that the model knows; [`restored`](super::restored) gives them those of their tools.
    pub items: Vec<Value>,
    /// `stop`, `length`, `tool_calls` or `content_filter`. Of a script: any word.
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
    /// How many items of its input were left out.
    left_out: usize,
    tools: Arc<ClientTools>,
    upstream: Upstream,
    /// Read while the call was started, not given out yet.
    first: Option<Piece>,
    /// The longest text of a delta, in bytes.
    longest: usize,
    /// The rest of a longer one.
    rest: VecDeque<Delta>,
    text: String,
    refusal: String,
    reasoning: String,
    /// Of function calls, which are kept by the upstream until its end, and of what is beside the text.
    other_bytes: usize,
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
        let (text, refusal, reasoning) = (String::new(), String::new(), String::new());
        let (first, rest, longest, state) = (Some(first), VecDeque::new(), usize::MAX, State::Open);
        Self {
            model,
            left_out: 0,
            tools,
            upstream,
            first,
            longest,
            rest,
            text,
            refusal,
            reasoning,
            other_bytes: 0,
            state,
            live,
        }
    }

    /// The same, of whose input so many items were left out.
    pub(super) fn without(self, left_out: usize) -> Self {
        Self { left_out, ..self }
    }

    /// How many items of the input were left out, because it was too long.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// The same, with no delta that is longer than this, in bytes.
    #[must_use]
    pub fn in_pieces_of(self, longest: usize) -> Self {
        // No character is longer than that.
        Self { longest: longest.max(4), ..self }
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
        if let Some(delta) = self.rest.pop_front() {
            return Ok(Some(delta));
        }
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
                Some(Piece::Logprobs(likely)) => {
                    self.other_bytes += likely.iter().map(|token| token.to_string().len()).sum::<usize>();
                    Some(Delta::Logprobs(likely))
                }
                Some(Piece::Text(text)) => {
                    self.text.push_str(&text);
                    Some(Delta::Text(text))
                }
                Some(Piece::Reasoning(text)) => {
                    self.reasoning.push_str(&text);
                    Some(Delta::Reasoning(text))
                }
                Some(Piece::Refusal(text)) => {
                    self.refusal.push_str(&text);
                    Some(Delta::Refusal(text))
                }
                Some(Piece::Call(bytes, delta)) => {
                    self.other_bytes += bytes;
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
            if self.text.len() + self.refusal.len() + self.reasoning.len() + self.other_bytes > most {
                return Err(ModelError::too_large(self.upstream.provider(), most));
            }
            match delta {
                Some(delta) if delta.length() <= self.longest => return Ok(Some(delta)),
                Some(delta) => {
                    self.rest = delta.split(self.longest);
                    return Ok(self.rest.pop_front());
                }
                None => {}
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
        if !self.text.is_empty() || !self.refusal.is_empty() {
            items.push(message_item(&self.text, &self.refusal));
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
pub fn message_item(text: &str, refusal: &str) -> Value {
    let text = (!text.is_empty()).then(|| json!({"type": "output_text", "text": text, "annotations": []}));
    let refusal = (!refusal.is_empty()).then(|| json!({"type": "refusal", "refusal": refusal}));
    let content: Vec<_> = text.into_iter().chain(refusal).collect();
    json!({"type": "message", "role": "assistant", "status": "completed", "content": content})
}

/// The call of a tool, as an item of a completion. `arguments` are what a model says of it.
pub fn tool_call_item(call_id: &str, tool: &ClientTool, arguments: &str) -> Value {
    let mut item = match tool.kind {
        ToolKind::Function => call_item(call_id, &tool.name, arguments),
        ToolKind::BuiltIn(built_in) => return built_in_call_item(call_id, built_in, arguments),
        ToolKind::Custom => {
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

/// A call of a built-in tool. One whose arguments say something else stays the call of a function.
fn built_in_call_item(call_id: &str, tool: BuiltIn, arguments: &str) -> Value {
    let Some(meant) = tool.meant(arguments) else { return call_item(call_id, tool.name(), arguments) };
    let mut item = json!({
        "type": format!("{}_call", tool.name()), "call_id": call_id, tool.field(): meant, "status": "completed",
    });
    if tool == BuiltIn::ToolSearch {
        item["execution"] = "client".into();
    }
    item
}

/// A function call item of a completion.
pub(super) fn call_item(call_id: &str, name: &str, arguments: &str) -> Value {
    json!({
        "type": "function_call", "call_id": call_id, "name": name, "arguments": arguments, "status": "completed",
    })
}
