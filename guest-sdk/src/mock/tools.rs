//! Tools that answer what the test says.

use std::collections::VecDeque;

use serde_json::{Value, json};

use super::{Mock, tasks, with};
use crate::bindings::Failure as HostFailure;
use crate::{Failure, tools::Granted};

pub(crate) use crate::bindings::outlast::agent::tools::Tool;

#[derive(Debug, Default)]
pub(super) struct State {
    granted: Vec<Granted>,
    answers: VecDeque<(String, Result<String, Failure>)>,
    pub(super) calls: Vec<ToolCall>,
}

/// A call of a granted tool.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCall {
    /// The tool.
    pub name: String,
    /// The arguments.
    pub arguments: Value,
}

impl Mock {
    /// Grants this tool, and answers the next call of it that has no answer yet.
    pub fn tool(mut self, name: impl Into<String>, answer: Result<&str, Failure>) -> Self {
        let name = name.into();
        self.state.tools.answers.push_back((name.clone(), answer.map(str::to_owned)));
        if self.state.tools.granted.iter().any(|granted| granted.name == name) {
            return self;
        }
        let parameters = json!({"type": "object", "properties": {}});
        self.grant(Granted { name, description: String::new(), parameters })
    }

    /// Grants a tool, with a description and parameters that the agent may read.
    pub fn grant(mut self, tool: Granted) -> Self {
        let granted = &mut self.state.tools.granted;
        granted.retain(|other| other.name != tool.name);
        granted.push(tool);
        granted.sort_by(|one, other| one.name.cmp(&other.name));
        self
    }
}

/// A call under way: its answer is there at once.
#[derive(Debug)]
pub(crate) struct Pending(Result<String, HostFailure>);

impl Pending {
    #[allow(clippy::unused_self, reason = "as the server's")]
    pub(crate) fn task(&self) -> tasks::Task {
        tasks::Task::ended()
    }

    pub(crate) fn get(&self) -> Result<String, HostFailure> {
        self.0.clone()
    }
}

pub(crate) fn available() -> Vec<Tool> {
    with("tools::available", |host| {
        let tool = |tool: &Granted| Tool {
            name: tool.name.clone(),
            description: tool.description.clone(),
            parameters: tool.parameters.to_string(),
        };
        host.tools.granted.iter().map(tool).collect()
    })
}

pub(crate) fn call(name: &str, arguments: &str) -> Result<String, HostFailure> {
    match start(name, arguments) {
        Ok(pending) => pending.0,
        Err(failure) => Err(failure),
    }
}

pub(crate) fn start(name: &str, arguments: &str) -> Result<Pending, HostFailure> {
    with("tools::start", |host| {
        if host.clock.cancelled() {
            return Err(tasks::cancelled());
        }
        if !host.tools.granted.iter().any(|granted| granted.name == name) {
            let message = format!("The operator does not allow the agent to call the tool `{name}`.");
            return Err(Failure::denied("tool_not_granted", message).into());
        }
        let arguments = if arguments.trim().is_empty() { "{}" } else { arguments };
        let arguments = match serde_json::from_str(arguments) {
            Ok(object @ Value::Object(_)) => object,
            _ => return Err(Failure::invalid("invalid_arguments", "The arguments are not a JSON object.").into()),
        };
        host.tools.calls.push(ToolCall { name: name.to_owned(), arguments });
        let place = host.tools.answers.iter().position(|(of, _)| of == name);
        let answer = place.and_then(|place| host.tools.answers.remove(place));
        let (_, answer) = answer.unwrap_or_else(|| panic!("{name}: the script has no answer left"));
        Ok(Pending(answer.map_err(HostFailure::from)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools;

    #[test]
    fn calls_are_answered_by_tool_in_the_order_of_the_script() {
        let gone = Failure::unavailable("gone", "it is gone");
        let run = Mock::new().tool("a__x", Ok("1")).tool("b__y", Ok("2")).tool("a__x", Err(gone)).call(|| {
            let names: Vec<_> = tools::available().unwrap().into_iter().map(|tool| tool.name).collect();
            assert_eq!(names, ["a__x", "b__y"]);
            tools::call_all([("b__y", ""), ("a__x", "{}"), ("a__x", "{\"n\": 1}"), ("c__z", "{}"), ("a__x", "[]")])
        });
        let codes: Vec<_> =
            run.result.into_iter().map(|answer| answer.unwrap_or_else(|failure| failure.code)).collect();
        assert_eq!(codes, ["2", "1", "gone", "tool_not_granted", "invalid_arguments"]);
        assert_eq!(run.tool_calls.len(), 3);
        assert_eq!(run.tool_calls[2].arguments, json!({"n": 1}));
    }
}
