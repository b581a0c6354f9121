//! Functions that a model may call.
//!
//! A [`Tool`] is a closure whose argument says what the model has to send: its type is read by `serde` and described
//! to the model by `schemars`, doc comments included. What it returns goes to the model: a string as it is, anything
//! else as JSON. A failure goes to the model too, as text, so that it can try something else; `?` makes one of most
//! errors.
//!
//! ```
//! use outlast_guest::tools::Tool;
//! use outlast_guest::{Failure, schemars, serde};
//!
//! #[derive(serde::Deserialize, schemars::JsonSchema)]
//! #[serde(crate = "outlast_guest::serde")]
//! #[schemars(crate = "outlast_guest::schemars")]
//! struct Divide {
//!     /// The number that is divided.
//!     a: f64,
//!     /// The number that it is divided by.
//!     b: f64,
//! }
//!
//! fn divide(numbers: Divide) -> Result<f64, Failure> {
//!     if numbers.b == 0.0 {
//!         return Err(Failure::invalid("division_by_zero", "b must not be zero"));
//!     }
//!     Ok(numbers.a / numbers.b)
//! }
//!
//! let mut tool = Tool::new("divide", "Divides a number by another.", divide);
//! assert_eq!(tool.call(r#"{"a": 3, "b": 2}"#).unwrap(), "1.5");
//! assert_eq!(tool.call(r#"{"a": 3, "b": 0}"#).unwrap_err().message, "b must not be zero");
//! assert_eq!(tool.call(r#"{"a": 3}"#).unwrap_err().message, "the arguments do not fit: missing field `b` at line 1 column 8");
//! ```
//!
//! A crate that depends on `serde` and `schemars` itself needs no `crate = "…"`. [`ToolLoop`](crate::ToolLoop) lets a
//! model call tools until it has an answer.
//!
//! # Tools of others
//!
//! The operator may grant an agent tools that are not its own: functions of tool components, and of MCP servers.
//! [`available`] says which, [`call`] calls one, [`start`] and [`call_all`] call several in parallel;
//! [`ToolLoop::granted`](crate::ToolLoop::granted) offers them to a model. A [`ToolComponent`](crate::ToolComponent) is
//! such a component.
//!
//! A call that was answered before the server stopped is not made again: the run is given the same answer. One that was in
//! flight is made again if its tool says that it is [`idempotent`](Tool::idempotent), and ends as failure `interrupted`
//! otherwise.

use std::fmt;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{Failure, schema};

#[doc(inline)]
pub use crate::granted::{Granted, Pending, available, call, call_all, start};
#[doc(inline)]
pub use crate::tool_component::config;

/// A function that a model may call.
pub struct Tool<'a> {
    name: String,
    about: String,
    parameters: Value,
    idempotent: bool,
    call: Call<'a>,
}

/// Arguments as JSON text in, what the model is told out.
type Call<'a> = Box<dyn FnMut(&str) -> Result<String, Failure> + 'a>;

impl<'a> Tool<'a> {
    /// A tool of this name (1 to 64 of `A-Z`, `a-z`, `0-9`, `_`, `-`). `about` tells the model what it does and when
    /// to use it. `A` is a struct, or [`NoArguments`].
    pub fn new<A, R>(
        name: impl Into<String>,
        about: impl Into<String>,
        mut function: impl FnMut(A) -> Result<R, Failure> + 'a,
    ) -> Self
    where
        A: DeserializeOwned + JsonSchema,
        R: Serialize,
    {
        let call = move |arguments: &str| output(function(read(arguments)?)?);
        Self::raw(name, about, parameters(schema::<A>()), call)
    }

    /// A tool whose parameters are described by a JSON Schema and whose arguments come as they are, for tools that
    /// are known only when the agent runs.
    pub fn raw(
        name: impl Into<String>,
        about: impl Into<String>,
        parameters: Value,
        call: impl FnMut(&str) -> Result<String, Failure> + 'a,
    ) -> Self {
        Self { name: name.into(), about: about.into(), parameters, idempotent: false, call: Box::new(call) }
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Says that a call does no more when it is made twice. The server makes a call of a tool component again when it was
    /// stopped in the middle, if that is so.
    #[must_use]
    pub fn idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }

    /// Whether a call may be made twice.
    pub fn is_idempotent(&self) -> bool {
        self.idempotent
    }

    /// What the tool does and when to use it.
    pub fn about(&self) -> &str {
        &self.about
    }

    /// The JSON Schema of the arguments.
    pub fn parameters(&self) -> &Value {
        &self.parameters
    }

    /// The tool as the Responses API defines it, as an element of the option `tools`.
    pub fn definition(&self) -> Value {
        json!({
            "type": "function", "name": self.name, "description": self.about, "parameters": self.parameters,
            "strict": false
        })
    }

    /// Calls the tool. `arguments` is JSON text; no text at all means no arguments.
    ///
    /// # Errors
    ///
    /// `invalid_arguments` when they do not fit, and what the function returns.
    pub fn call(&mut self, arguments: &str) -> Result<String, Failure> {
        (self.call)(arguments)
    }
}

impl fmt::Debug for Tool<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tool").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The argument of a tool that takes none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NoArguments {}

fn read<A: DeserializeOwned>(arguments: &str) -> Result<A, Failure> {
    let arguments = if arguments.trim().is_empty() { "{}" } else { arguments };
    serde_json::from_str(arguments)
        .map_err(|error| Failure::invalid("invalid_arguments", format!("the arguments do not fit: {error}")))
}

fn output(result: impl Serialize) -> Result<String, Failure> {
    Ok(match serde_json::to_value(result)? {
        Value::String(text) => text,
        value => value.to_string(),
    })
}

/// A schema of parameters is one of an object, with its properties: models and their servers insist on it.
fn parameters(mut schema: Value) -> Value {
    if let Some(schema) = schema.as_object_mut() {
        schema.entry("type").or_insert_with(|| "object".into());
        schema.entry("properties").or_insert_with(|| Map::new().into());
        // What the type says of itself is for its author; the tool has a description.
        schema.remove("description");
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize, JsonSchema)]
    struct Search {
        /// What to look for.
        words: String,
        limit: Option<u8>,
    }

    #[test]
    fn a_tool_describes_its_arguments() {
        let tool = Tool::new("search", "Looks things up.", |search: Search| Ok(search.words));
        let definition = tool.definition();
        assert_eq!((&definition["type"], &definition["name"]), (&json!("function"), &json!("search")));
        let parameters = &definition["parameters"];
        assert_eq!(parameters["type"], "object");
        assert_eq!(parameters["properties"]["words"], json!({"type": "string", "description": "What to look for."}));
        assert_eq!(parameters["required"], json!(["words"]));
    }

    #[test]
    fn a_string_goes_out_as_it_is_and_anything_else_as_json() {
        let mut text = Tool::new("search", "", |search: Search| Ok(search.words));
        assert_eq!(text.call(r#"{"words": "a \"b\""}"#).unwrap(), "a \"b\"");
        let mut list = Tool::new("search", "", |search: Search| Ok((search.words, search.limit)));
        assert_eq!(list.call(r#"{"words": "a", "limit": 3}"#).unwrap(), r#"["a",3]"#);
    }

    #[test]
    fn no_arguments_are_none_or_an_empty_object() {
        let mut tool = Tool::new("now", "", |NoArguments {}| Ok("noon"));
        assert_eq!(tool.definition()["parameters"], json!({"type": "object", "properties": {}}));
        for arguments in ["", " ", "{}", r#"{"x": 1}"#] {
            assert_eq!(tool.call(arguments).unwrap(), "noon");
        }
        assert_eq!(tool.call("[").unwrap_err().code, "invalid_arguments");
    }

    #[test]
    fn a_tool_may_change_what_surrounds_it() {
        let mut calls = 0;
        let mut tool = Tool::new("count", "", |NoArguments {}| {
            calls += 1;
            Ok(calls)
        });
        tool.call("").unwrap();
        assert_eq!(tool.call("").unwrap(), "2");
    }
}
