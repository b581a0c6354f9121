//! What surrounds a turn, as the test says.

use serde::Serialize;
use serde_json::{Map, Value};

use super::{Mock, with};
use crate::Item;

#[derive(Debug, Default)]
pub(super) struct State {
    request: Map<String, Value>,
    history: Vec<Item>,
    config: Option<Value>,
}

impl Mock {
    /// Sets a field of the request: `instructions`, `metadata`, `tools` and so on, by the Responses API's names.
    ///
    /// # Panics
    ///
    /// The value is no JSON.
    pub fn request(mut self, field: &str, value: impl Serialize) -> Self {
        self.state.context.request.insert(field.to_owned(), json(value));
        self
    }

    /// Adds an item to the earlier turns; a text is a message of the user.
    pub fn history(mut self, item: impl Into<Item>) -> Self {
        self.state.context.history.push(item.into());
        self
    }

    /// Sets the agent's configuration, what the operator writes below `agents.NAME.config`.
    ///
    /// # Panics
    ///
    /// The value is no JSON.
    pub fn config(mut self, config: impl Serialize) -> Self {
        self.state.context.config = Some(json(config));
        self
    }
}

pub(super) fn json(value: impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_else(|error| panic!("the test gives invalid JSON: {error}"))
}

pub(crate) fn request() -> String {
    with("context::request", |host| Value::Object(host.context.request.clone()).to_string())
}

pub(crate) fn history() -> String {
    with("context::history", |host| json(&host.context.history).to_string())
}

pub(crate) fn config() -> String {
    with("context::config", |host| host.context.config.as_ref().map_or("{}".to_owned(), Value::to_string))
}

pub(crate) fn cancelled() -> bool {
    with("context::cancelled", |host| host.clock.cancelled())
}
