//! A provider that says what a script says: what a plugin is tested with.
//!
//! It stands where a real provider stands, behind the same calls, limits and failures, so that an agent cannot tell
//! them apart. A failure of a script has had its repetitions.

use std::{collections::VecDeque, time::Duration};

use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;

use super::{
    conversation::{Call, FunctionCall},
    error::{ModelError, ModelErrorKind},
    piece::{CallDelta, End, Piece, Usage},
};

/// The provider's name, and that of the model that answers when an agent names none.
pub(super) const NAME: &str = "script";

/// The failures that a script may have, and their kinds: those of a provider.
const FAILURES: [(&str, ModelErrorKind); 14] = [
    ("no_provider", ModelErrorKind::NotFound),
    ("model_not_found", ModelErrorKind::NotFound),
    ("context_length_exceeded", ModelErrorKind::Limit),
    ("insufficient_quota", ModelErrorKind::Limit),
    ("content_policy_violation", ModelErrorKind::Invalid),
    ("upstream_rejected", ModelErrorKind::Invalid),
    ("upstream_refused_key", ModelErrorKind::Other),
    ("upstream_rate_limited", ModelErrorKind::RateLimited),
    ("upstream_unavailable", ModelErrorKind::Unavailable),
    ("upstream_unreachable", ModelErrorKind::Unavailable),
    ("upstream_cut", ModelErrorKind::Unavailable),
    ("upstream_failed", ModelErrorKind::Unavailable),
    ("upstream_timeout", ModelErrorKind::Timeout),
    ("upstream_too_large", ModelErrorKind::Limit),
];

/// What a model answers, call by call, and what it was asked.
#[derive(Debug, Default)]
pub struct Script {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    answers: VecDeque<ScriptedAnswer>,
    asked: Vec<Call>,
    calls: usize,
}

/// One answer: thoughts, text and calls in this order, and then its failure or its end.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScriptedAnswer {
    /// The pieces of the summary of its thoughts.
    reasoning: Pieces,
    /// The pieces of its text.
    text: Pieces,
    /// The functions that it calls.
    calls: Vec<ScriptedCall>,
    /// Default: `tool_calls` with calls, and else `stop`.
    finish_reason: Option<String>,
    /// What it took. Default: nothing.
    usage: ScriptedUsage,
    /// How it breaks off.
    error: Option<ScriptedError>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Pieces {
    One(String),
    Many(Vec<String>),
}

impl Default for Pieces {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScriptedCall {
    name: String,
    /// A string is taken as it is, wrong JSON too.
    #[serde(default)]
    arguments: Value,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ScriptedUsage {
    input_tokens: u64,
    cached_tokens: u64,
    cache_write_tokens: u64,
    output_tokens: u64,
    reasoning_tokens: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "WrittenError")]
struct ScriptedError(ModelError);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenError {
    code: String,
    message: Option<String>,
    retry_after_ms: Option<u64>,
}

impl TryFrom<WrittenError> for ScriptedError {
    type Error = String;

    fn try_from(written: WrittenError) -> Result<Self, String> {
        let WrittenError { code, message, retry_after_ms } = written;
        let Some((code, kind)) = FAILURES.into_iter().find(|(known, _)| *known == code) else {
            let known = FAILURES.map(|(known, _)| known).join(", ");
            return Err(format!("`{code}` is not an error code of a model; valid codes: {known}"));
        };
        let mut error = ModelError::new(kind, code, message.unwrap_or_else(|| format!("scripted failure {code}")));
        error.retry_after = retry_after_ms.map(Duration::from_millis);
        Ok(Self(error))
    }
}

impl Script {
    /// A script of these answers.
    pub fn new(answers: impl IntoIterator<Item = ScriptedAnswer>) -> Self {
        Self { state: Mutex::new(State { answers: answers.into_iter().collect(), ..State::default() }) }
    }

    /// What was asked so far, oldest first.
    pub fn asked(&self) -> Vec<Call> {
        self.state.lock().asked.clone()
    }

    /// How many answers were not asked for.
    pub fn left(&self) -> usize {
        self.state.lock().answers.len()
    }

    pub(super) fn ask(&self, call: &Call) {
        self.state.lock().asked.push(call.clone());
    }

    /// The next answer.
    pub(super) fn answer(&self) -> Result<ScriptedStream, ModelError> {
        let mut state = self.state.lock();
        let Some(answer) = state.answers.pop_front() else {
            let message = format!("the script has no answer for model call {}", state.asked.len());
            return Err(ModelError::new(ModelErrorKind::Other, "upstream_error", message));
        };
        let mut pieces: VecDeque<Piece> = answer.reasoning.into_iter().map(Piece::Reasoning).collect();
        pieces.extend(answer.text.into_iter().map(Piece::Text));
        let mut calls = Vec::new();
        for (place, ScriptedCall { name, arguments }) in answer.calls.into_iter().enumerate() {
            let arguments = match arguments {
                Value::Null => "{}".to_owned(),
                Value::String(text) => text,
                value => value.to_string(),
            };
            let delta = CallDelta { place, name: name.clone(), arguments: arguments.clone() };
            pieces.push_back(Piece::Call(name.len() + arguments.len(), Some(delta)));
            state.calls += 1;
            calls.push(FunctionCall { call_id: format!("call_{}", state.calls), name, arguments });
        }
        let usual = if calls.is_empty() { "stop" } else { "tool_calls" };
        let usage = Usage {
            input_tokens: answer.usage.input_tokens,
            cached_tokens: answer.usage.cached_tokens,
            cache_write_tokens: answer.usage.cache_write_tokens,
            output_tokens: answer.usage.output_tokens,
            reasoning_tokens: answer.usage.reasoning_tokens,
        };
        let finish_reason = answer.finish_reason.unwrap_or_else(|| usual.to_owned());
        let end = match answer.error {
            Some(ScriptedError(error)) => Err(error),
            None => Ok(End { finish_reason, usage, model: Some(NAME.to_owned()), calls }),
        };
        Ok(ScriptedStream { pieces, end: Some(end) })
    }
}

impl IntoIterator for Pieces {
    type Item = String;
    type IntoIter = std::vec::IntoIter<String>;

    fn into_iter(self) -> Self::IntoIter {
        match self {
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        }
        .into_iter()
    }
}

/// An answer that is being said.
pub(super) struct ScriptedStream {
    pieces: VecDeque<Piece>,
    end: Option<Result<End, ModelError>>,
}

impl ScriptedStream {
    pub(super) fn next(&mut self) -> Result<Option<Piece>, ModelError> {
        match self.pieces.pop_front() {
            Some(piece) => Ok(Some(piece)),
            None => self.end.take().transpose().map(|end| end.map(Piece::End)),
        }
    }
}
