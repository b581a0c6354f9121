//! A model that answers what the test says.

use std::collections::VecDeque;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Mock, context, respond, tasks, with};
use crate::bindings::Failure as HostFailure;
use crate::item::{self, FunctionCall, Item, Part};
use crate::{Failure, Usage, model as sdk};

pub(crate) use crate::bindings::outlast::agent::model::{Completion, Delta, Request};

#[derive(Debug, Default)]
pub(super) struct State {
    answers: VecDeque<Answer>,
    models: Vec<String>,
    pub(super) calls: Vec<sdk::Request>,
}

impl State {
    pub(super) fn answers_left(&self) -> usize {
        self.answers.len()
    }
}

/// What a model says when it is called: pieces, one after the other, and how it ends.
///
/// ```
/// use outlast_guest::{Failure, mock::Answer};
/// use serde_json::json;
///
/// let text = Answer::from("In one piece.");
/// let call = Answer::new().text("Let me ").text("see.").call("add", json!({"a": 1, "b": 2}));
/// let cut = Answer::new().text("It is cut o").finish_reason("length");
/// let broken = Answer::new().text("And then").fail(Failure::unavailable("upstream_error", "gone"));
/// let refused = Answer::from(Failure::rate_limited("upstream_rate_limited", "slow down"));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pieces: Vec<Piece>,
    finish_reason: Option<String>,
    usage: Usage,
    failure: Option<Failure>,
}

#[derive(Clone, Debug)]
enum Piece {
    Text(String),
    Reasoning(String),
    Call(String, String),
}

impl Answer {
    /// An answer that says nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says a piece of text.
    #[must_use]
    pub fn text(mut self, text: impl Into<String>) -> Self {
        self.pieces.push(Piece::Text(text.into()));
        self
    }

    /// Says a piece of the reasoning summary.
    #[must_use]
    pub fn reasoning(mut self, summary: impl Into<String>) -> Self {
        self.pieces.push(Piece::Reasoning(summary.into()));
        self
    }

    /// Calls a function. A string is the arguments as they are, wrong ones too; anything else becomes JSON.
    ///
    /// # Panics
    ///
    /// The arguments are no JSON.
    #[must_use]
    pub fn call(mut self, name: impl Into<String>, arguments: impl Serialize) -> Self {
        let arguments = match context::json(arguments) {
            Value::String(text) => text,
            value => value.to_string(),
        };
        self.pieces.push(Piece::Call(name.into(), arguments));
        self
    }

    /// Says why it stops: `length`, `content_filter`, … It is `tool_calls` when there are calls, and else `stop`.
    #[must_use]
    pub fn finish_reason(mut self, reason: impl Into<String>) -> Self {
        self.finish_reason = Some(reason.into());
        self
    }

    /// Says how many tokens it took; none otherwise.
    #[must_use]
    pub fn usage(mut self, usage: Usage) -> Self {
        self.usage = usage;
        self
    }

    /// Breaks off, after the pieces before.
    #[must_use]
    pub fn fail(mut self, failure: Failure) -> Self {
        self.failure = Some(failure);
        self
    }
}

impl From<&str> for Answer {
    fn from(text: &str) -> Self {
        Self::new().text(text)
    }
}

impl From<String> for Answer {
    fn from(text: String) -> Self {
        Self::new().text(text)
    }
}

/// A model that does not begin to answer.
impl From<Failure> for Answer {
    fn from(failure: Failure) -> Self {
        Self::new().fail(failure)
    }
}

impl Mock {
    /// Adds an answer of a model. Each call of a model takes the next one, whichever model it names.
    pub fn answer(mut self, answer: impl Into<Answer>) -> Self {
        self.state.model.answers.push_back(answer.into());
        self
    }

    /// The models that [`model::models`](crate::model::models) names.
    pub fn models(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.state.model.models.extend(names.into_iter().map(Into::into));
        self
    }
}

/// The next answer of the script to this request.
fn ask(call: &str, request: &Request) -> Result<(Answer, Vec<String>), HostFailure> {
    if with(call, |host| host.clock.cancelled()) {
        return Err(tasks::cancelled());
    }
    let asked = read(request);
    let client_functions = asked.client_functions.clone();
    let answer = with(call, |host| {
        host.model.calls.push(asked);
        host.model.answers.pop_front().ok_or(host.model.calls.len())
    });
    let answer =
        answer.unwrap_or_else(|n| panic!("the test has no answer for model call {n} of the agent: {}", request.input));
    match &answer.failure {
        Some(failure) if answer.pieces.is_empty() => Err(failure.clone().into()),
        _ => Ok((answer, client_functions)),
    }
}

/// The request as the agent made it.
fn read(request: &Request) -> sdk::Request {
    let options = request.options.as_deref().unwrap_or("{}");
    let mut options: Map<String, Value> = parse(options);
    let client_functions = options.remove("client_functions").map(|names| parse(&names.to_string()));
    sdk::Request {
        model: request.model.clone(),
        instructions: request.instructions.clone(),
        input: parse(&request.input),
        options,
        client_functions: client_functions.unwrap_or_default(),
    }
}

fn parse<T: serde::de::DeserializeOwned>(json: &str) -> T {
    serde_json::from_str(json)
        .unwrap_or_else(|error| panic!("the agent calls a model with invalid JSON ({error}): {json}"))
}

/// The finished items of an answer.
#[derive(Debug, Default)]
struct Items(Vec<Item>);

impl Items {
    fn text(&mut self, text: &str) {
        match self.0.last_mut() {
            Some(Item::Message(message)) => match message.content.last_mut() {
                Some(Part::OutputText { text: begun, .. }) => begun.push_str(text),
                _ => message.content.push(Part::output_text(text)),
            },
            _ => self.0.push(Item::assistant(text)),
        }
    }

    fn reasoning(&mut self, text: &str) {
        match self.0.last_mut() {
            Some(Item::Reasoning(item::Reasoning { summary, .. })) => match summary.last_mut() {
                Some(Part::SummaryText { text: begun, .. }) => begun.push_str(text),
                _ => summary.push(Part::SummaryText { text: text.to_owned(), rest: Map::new() }),
            },
            _ => {
                let summary = vec![Part::SummaryText { text: text.to_owned(), rest: Map::new() }];
                self.0.push(Item::Reasoning(item::Reasoning { summary, rest: Map::new() }));
            }
        }
    }

    fn call(&mut self, call: FunctionCall) {
        self.0.push(Item::FunctionCall(call));
    }

    fn completion(self, answer: &Answer) -> Result<Completion, HostFailure> {
        if let Some(failure) = &answer.failure {
            return Err(failure.clone().into());
        }
        let calls = self.0.iter().any(|item| item.as_function_call().is_some());
        let usual = if calls { "tool_calls" } else { "stop" };
        Ok(Completion {
            items: context::json(&self.0).to_string(),
            finish_reason: answer.finish_reason.as_deref().unwrap_or(usual).to_owned(),
            usage: answer.usage,
            model: "mock".to_owned(),
        })
    }
}

pub(crate) fn forward(request: &Request) -> Result<Completion, HostFailure> {
    let (answer, client_functions) = ask("model::forward", request)?;
    let mut items = Items::default();
    with("model::forward", |host| {
        let out = &mut host.respond;
        let mut open: Option<(respond::Kind, usize)> = None;
        for piece in &answer.pieces {
            let kind = match piece {
                Piece::Text(_) => Some(respond::Kind::Message),
                Piece::Reasoning(_) => Some(respond::Kind::Reasoning),
                Piece::Call(..) => None,
            };
            if let Some((before, place)) = open.filter(|(before, _)| Some(*before) != kind) {
                let _ = before;
                out.close(place, "completed");
                open = None;
            }
            match piece {
                Piece::Text(text) | Piece::Reasoning(text) => {
                    let Some(kind) = kind else { unreachable!("text has a kind of item") };
                    let (_, place) = *open.get_or_insert_with(|| (kind, out.open(kind)));
                    out.write(place, text);
                    match kind {
                        respond::Kind::Message => items.text(text),
                        respond::Kind::Reasoning => items.reasoning(text),
                    }
                }
                Piece::Call(name, arguments) => {
                    let call = out.new_call(name, arguments);
                    if client_functions.contains(name) {
                        out.output.push(Item::FunctionCall(call.clone()));
                    }
                    items.call(call);
                }
            }
        }
        if let Some((_, place)) = open {
            let cut = answer.failure.is_some()
                || matches!(answer.finish_reason.as_deref(), Some("length" | "content_filter"));
            out.close(place, if cut { "incomplete" } else { "completed" });
        }
        if answer.failure.is_none() {
            out.add(answer.usage);
        }
    });
    items.completion(&answer)
}

pub(crate) fn generate(request: &Request) -> Result<Generation, HostFailure> {
    let (answer, _) = ask("model::generate", request)?;
    let mut items = Items::default();
    let mut deltas = VecDeque::new();
    let mut calls = 0;
    for piece in &answer.pieces {
        deltas.push_back(match piece {
            Piece::Text(text) => {
                items.text(text);
                Delta::Text(text.clone())
            }
            Piece::Reasoning(text) => {
                items.reasoning(text);
                Delta::Reasoning(text.clone())
            }
            Piece::Call(name, arguments) => {
                items.call(with("model::generate", |host| host.respond.new_call(name, arguments)));
                let delta = json!({"type": "function_call", "index": calls, "name": name, "arguments": arguments});
                calls += 1;
                Delta::Other(delta.to_string())
            }
        });
    }
    Ok(Generation { deltas: deltas.into(), end: std::cell::RefCell::new(Some(items.completion(&answer))) })
}

pub(crate) fn models() -> Vec<String> {
    with("model::models", |host| host.model.models.clone())
}

#[derive(Debug)]
pub(crate) struct Generation {
    deltas: std::cell::RefCell<VecDeque<Delta>>,
    end: std::cell::RefCell<Option<Result<Completion, HostFailure>>>,
}

impl Generation {
    pub(crate) fn next(&self) -> Option<Delta> {
        self.deltas.borrow_mut().pop_front()
    }

    pub(crate) fn finish(&self) -> Result<Completion, HostFailure> {
        let again = || Err(Failure::invalid("finished", "the generation was finished already").into());
        self.end.borrow_mut().take().unwrap_or_else(again)
    }
}
