//! What the client would see.

use serde_json::{Map, Value};

use super::{State as Host, with, with_if_there};
use crate::Usage;
use crate::item::{self, FunctionCall, Item, Part, Role};

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) output: Vec<Item>,
    pub(super) deltas: Vec<String>,
    pub(super) usage: Usage,
    calls: usize,
}

impl State {
    /// Opens an item and returns its place.
    pub(super) fn open(&mut self, kind: Kind) -> usize {
        let rest = status("in_progress");
        self.output.push(match kind {
            Kind::Message => Item::Message(item::Message { role: Role::Assistant, content: Vec::new(), rest }),
            Kind::Reasoning => Item::Reasoning(item::Reasoning { summary: Vec::new(), rest }),
        });
        self.output.len() - 1
    }

    /// Adds to an item that is open.
    pub(super) fn write(&mut self, place: usize, text: &str) {
        if text.is_empty() {
            return;
        }
        self.deltas.push(text.to_owned());
        match &mut self.output[place] {
            Item::Message(message) => match message.content.last_mut() {
                Some(Part::OutputText { text: begun, .. }) => begun.push_str(text),
                _ => message.content.push(Part::output_text(text)),
            },
            Item::Reasoning(reasoning) => match reasoning.summary.last_mut() {
                Some(Part::SummaryText { text: begun, .. }) => begun.push_str(text),
                _ => reasoning.summary.push(Part::SummaryText { text: text.to_owned(), rest: Map::new() }),
            },
            _ => unreachable!("only messages and reasoning are opened"),
        }
    }

    fn refuse(&mut self, place: usize, words: &str) {
        let Item::Message(message) = &mut self.output[place] else { unreachable!("only messages have refusals") };
        if words.is_empty() {
            return;
        }
        self.deltas.push(words.to_owned());
        match message.content.last_mut() {
            Some(Part::Refusal { refusal, .. }) => refusal.push_str(words),
            _ => message.content.push(Part::Refusal { refusal: words.to_owned(), rest: Map::new() }),
        }
    }

    /// Closes an item that is open, and leaves one that is closed as it is.
    pub(super) fn close(&mut self, place: usize, word: &str) {
        let rest = match &mut self.output[place] {
            Item::Message(message) => &mut message.rest,
            Item::Reasoning(reasoning) => &mut reasoning.rest,
            _ => unreachable!("only messages and reasoning are opened"),
        };
        if rest["status"] == "in_progress" {
            rest.extend(status(word));
        }
    }

    /// A call with an id of its own.
    pub(super) fn new_call(&mut self, name: &str, arguments: &str) -> FunctionCall {
        self.calls += 1;
        FunctionCall {
            call_id: format!("call_{}", self.calls),
            name: name.to_owned(),
            arguments: arguments.to_owned(),
            rest: status("completed"),
        }
    }

    pub(super) fn add(&mut self, usage: Usage) {
        self.usage = Usage {
            input_tokens: self.usage.input_tokens + usage.input_tokens,
            cached_tokens: self.usage.cached_tokens + usage.cached_tokens,
            cache_write_tokens: self.usage.cache_write_tokens + usage.cache_write_tokens,
            output_tokens: self.usage.output_tokens + usage.output_tokens,
            reasoning_tokens: self.usage.reasoning_tokens + usage.reasoning_tokens,
        };
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Message,
    Reasoning,
}

fn status(word: &str) -> Map<String, Value> {
    Map::from_iter([("status".to_owned(), word.into())])
}

pub(crate) fn call_function(name: &str, arguments: &str) -> String {
    with("respond::call_function", |host| {
        let call = host.respond.new_call(name, arguments);
        host.respond.output.push(Item::FunctionCall(call.clone()));
        call.call_id
    })
}

pub(crate) fn report_usage(usage: Usage) {
    with("respond::report_usage", |host| host.respond.add(usage));
}

#[derive(Debug)]
pub(crate) struct Message(usize);

impl Message {
    pub(crate) fn new() -> Self {
        Self(with("respond::Message::open", |host| host.respond.open(Kind::Message)))
    }

    pub(crate) fn write(&self, text: &str) {
        with("respond::Message::write", |host| host.respond.write(self.0, text));
    }

    pub(crate) fn refuse(&self, text: &str) {
        with("respond::Message::refuse", |host| host.respond.refuse(self.0, text));
    }

    pub(crate) fn finish(&self) {
        with("respond::Message::finish", |host| host.respond.close(self.0, "completed"));
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        leave(self.0);
    }
}

#[derive(Debug)]
pub(crate) struct Reasoning(usize);

impl Reasoning {
    pub(crate) fn new() -> Self {
        Self(with("respond::Reasoning::open", |host| host.respond.open(Kind::Reasoning)))
    }

    pub(crate) fn write(&self, summary: &str) {
        with("respond::Reasoning::write", |host| host.respond.write(self.0, summary));
    }

    pub(crate) fn finish(&self) {
        with("respond::Reasoning::finish", |host| host.respond.close(self.0, "completed"));
    }
}

impl Drop for Reasoning {
    fn drop(&mut self) {
        leave(self.0);
    }
}

fn leave(place: usize) {
    with_if_there(|Host { respond, .. }| {
        // A handle that outlived its run says nothing about the next one.
        if place < respond.output.len() {
            respond.close(place, "incomplete");
        }
    });
}
