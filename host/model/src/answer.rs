//! The answer of a Chat Completions stream, put together from its chunks. Pure: no I/O, no clocks.
//!
//! Servers differ, and what they say is taken in the most forgiving reading that loses nothing: [function calls](Calls) by
//! index, by id or by order; usage in any chunk; reasoning under many names; a whole message instead of deltas. What is not
//! forgiven: an error, in [any shape](reported); an end without a finish reason, which is a broken connection in disguise;
//! and a finish reason that is no [success](finish).

use std::sync::Arc;

use serde_json::Value;

use super::{
    calls::Calls,
    error::ModelError,
    finish,
    halves::Half,
    logprobs::logprobs,
    piece::{End, Piece, Usage},
    plain::Plain,
    reported::reported,
    usage::usage,
};

/// The names of thoughts. Some servers send the same thoughts under several.
const THOUGHTS: [&str; 7] = [
    "reasoning_content",
    "reasoning",
    "reasoning_text",
    "thinking",
    "thoughts",
    "reasoning_details",
    "thinking_blocks",
];

/// An answer under way.
#[derive(Debug, Default)]
pub(super) struct Answer {
    model: Option<String>,
    finish_reason: Option<String>,
    usage: Usage,
    calls: Calls,
    /// Whether there is any text or refusal.
    said: bool,
    /// Of the text, the thoughts and the refusal.
    halves: [Half; 3],
    /// Whether the caller asks how likely the tokens were.
    logprobs: bool,
}

impl Answer {
    /// Nothing yet; the model was told of these functions, and perhaps asked how likely its tokens are.
    pub(super) fn new(functions: Arc<[String]>, logprobs: bool) -> Self {
        Self { calls: Calls::new(functions), logprobs, ..Self::default() }
    }

    /// Takes in a chunk that says a piece of the text and nothing else, and says what is new in it. False when it is another
    /// one.
    pub(super) fn take_plain(&mut self, chunk: &str, pieces: &mut impl Extend<Piece>) -> bool {
        if self.logprobs {
            return false;
        }
        let Some(Plain { model, text }) = Plain::read(chunk) else { return false };
        if self.model.is_none() {
            self.model = model.filter(|model| !model.is_empty()).map(str::to_owned);
        }
        let piece = self.join(Piece::Text(text));
        self.said |= piece.is_some();
        pieces.extend(piece);
        true
    }

    /// Takes in one chunk and says what is new in it. A whole completion is a chunk as well.
    ///
    /// # Errors
    ///
    /// It is not one, or the provider reports an error in it.
    pub(super) fn take(&mut self, provider: &str, chunk: Value) -> Result<Vec<Piece>, ModelError> {
        match chunk {
            Value::Array(chunks) => {
                let mut pieces = Vec::new();
                for chunk in chunks {
                    pieces.extend(self.take_one(provider, chunk)?);
                }
                Ok(pieces)
            }
            Value::Null => Ok(Vec::new()),
            chunk => self.take_one(provider, chunk),
        }
    }

    fn take_one(&mut self, provider: &str, mut chunk: Value) -> Result<Vec<Piece>, ModelError> {
        if !chunk.is_object() {
            return Err(ModelError::unreadable(provider, &chunk.to_string()));
        }
        if let Some(error) = reported(&chunk) {
            return Err(ModelError::reported(provider, error));
        }
        if let Some(model) = chunk["model"].as_str().filter(|model| !model.is_empty()) {
            self.model.get_or_insert_with(|| model.to_owned());
        }
        for counted in [&chunk["usage"], &chunk["x_groq"]["usage"], &chunk["choices"][0]["usage"]] {
            if counted.is_object() {
                self.usage = usage(counted);
            }
        }
        let Some(choice) = chunk.get_mut("choices").and_then(|choices| choices.get_mut(0)) else {
            return Ok(Vec::new());
        };
        let mut take = |name: &str| choice.get_mut(name).map(Value::take).unwrap_or_default();
        let (delta, message) = (take("delta"), take("message"));
        let whole = !delta.is_object();
        // A whole message after its pieces says them again.
        let again = whole && (self.said || !self.calls.is_empty());
        let delta = if whole { message } else { delta };
        let mut pieces = if again { Vec::new() } else { self.read(provider, &delta, whole)? };
        let likely = if self.logprobs && !again { logprobs(choice) } else { Vec::new() };
        if !likely.is_empty() {
            // Before the text that they are of.
            pieces.insert(0, Piece::Logprobs(likely));
        }
        let reason = [&choice["finish_reason"], &choice["finishReason"]].into_iter().find(|reason| !reason.is_null());
        if let Some(reason) = reason.filter(|reason| **reason != "") {
            self.finish_reason = Some(reason.as_str().map_or_else(|| reason.to_string(), str::to_owned));
        }
        Ok(pieces)
    }

    /// What a delta says, or a `whole` message.
    fn read(&mut self, provider: &str, delta: &Value, whole: bool) -> Result<Vec<Piece>, ModelError> {
        let mut said = Vec::new();
        for name in THOUGHTS {
            content(&delta[name], &mut said);
            if !said.is_empty() {
                break;
            }
        }
        let mut said: Vec<Piece> = said.into_iter().map(thought).collect();
        let thinks = delta["thought"] == true || delta["extra_content"]["google"]["thought"] == true;
        let before = said.len();
        content(&delta["content"], &mut said);
        if thinks {
            let thoughts: Vec<_> = said.drain(before..).map(thought).collect();
            said.extend(thoughts);
        }
        if let Some(text) = delta["refusal"].as_str().filter(|text| !text.is_empty()) {
            said.push(Piece::Refusal(text.to_owned()));
        }
        let mut pieces: Vec<_> = said.into_iter().filter_map(|piece| self.join(piece)).collect();
        for calls in [&delta["tool_calls"], &delta["function_call"]] {
            pieces.extend(self.calls.take(calls, whole).map_err(|what| ModelError::unreadable(provider, what))?);
        }
        self.said |= pieces.iter().any(|piece| matches!(piece, Piece::Text(_) | Piece::Refusal(_)));
        Ok(pieces)
    }

    /// A piece whose halves of characters are joined; none when there is nothing but half a character.
    fn join(&mut self, piece: Piece) -> Option<Piece> {
        let (make, text, half): (fn(String) -> Piece, _, _) = match piece {
            Piece::Text(text) => (Piece::Text, text, 0),
            Piece::Reasoning(text) => (Piece::Reasoning, text, 1),
            Piece::Refusal(text) => (Piece::Refusal, text, 2),
            other => return Some(other),
        };
        let text = self.halves[half].join(text);
        (!text.is_empty()).then(|| make(text))
    }

    /// Whether the model has said that it is finished. Usage may still follow.
    pub(super) fn is_finished(&self) -> bool {
        self.finish_reason.is_some()
    }

    /// The end, after `[DONE]` or the last byte: the last pieces, and how it ended.
    ///
    /// # Errors
    ///
    /// The answer is not whole, or not a success.
    pub(super) fn end(mut self, provider: &str) -> Result<Vec<Piece>, ModelError> {
        let word = self.finish_reason.take().ok_or_else(|| ModelError::cut(provider, ""))?;
        let said = self.said;
        let calls = self.calls.end().map_err(|what| ModelError::unreadable(provider, what))?;
        let finish_reason = match finish::reason(&word, !calls.is_empty()) {
            None => return Err(ModelError::ended(provider, &word)),
            Some("tool_calls") if calls.is_empty() && !said => {
                return Err(ModelError::unreadable(
                    provider,
                    "Its finish reason is a function call, but it calls no function.",
                ));
            }
            Some("tool_calls") if calls.is_empty() => "stop",
            Some(reason) => reason,
        };
        let makes: [fn(String) -> Piece; 3] = [Piece::Text, Piece::Reasoning, Piece::Refusal];
        let left = self.halves.iter_mut().zip(makes).filter_map(|(half, make)| half.end().map(make));
        let mut pieces: Vec<_> = left.collect();
        let finish_reason = finish_reason.to_owned();
        pieces.push(Piece::End(End { finish_reason, usage: self.usage, model: self.model, calls }));
        Ok(pieces)
    }
}

/// A text; or an object or a list of texts, refusals and thoughts.
fn content(value: &Value, pieces: &mut Vec<Piece>) {
    match value {
        Value::String(text) if !text.is_empty() => pieces.push(Piece::Text(text.clone())),
        Value::Array(parts) => parts.iter().for_each(|part| content(part, pieces)),
        Value::Object(part) => {
            let begin = pieces.len();
            let text =
                ["text", "content", "summary"].into_iter().find_map(|name| part.get(name)).unwrap_or(&Value::Null);
            content(text, pieces);
            let is =
                |words: &[&str]| part.get("type").and_then(Value::as_str).is_some_and(|kind| words.contains(&kind));
            if is(&["reasoning", "reasoning_text", "summary_text", "thinking"]) {
                let thoughts: Vec<_> = pieces.drain(begin..).map(thought).collect();
                pieces.extend(thoughts);
            }
            let mut thoughts = Vec::new();
            content(part.get("thinking").unwrap_or(&Value::Null), &mut thoughts);
            pieces.extend(thoughts.into_iter().map(thought));
            if let Some(Value::String(text)) = part.get("refusal")
                && !text.is_empty()
            {
                pieces.push(Piece::Refusal(text.clone()));
            }
        }
        _ => {}
    }
}

/// The same as a thought.
fn thought(piece: Piece) -> Piece {
    match piece {
        Piece::Text(text) => Piece::Reasoning(text),
        other => other,
    }
}
