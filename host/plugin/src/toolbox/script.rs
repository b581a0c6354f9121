//! Tools that say what a script says: what a plugin is tested with.

use std::collections::VecDeque;

use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    bindings::{
        tools::Tool,
        types::{Failure, FailureKind},
    },
    failure::failure,
};

/// A tool of a script.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScriptedTool {
    /// Its name, as agents call it: `units__convert`.
    pub name: String,
    /// What it does.
    #[serde(default)]
    description: String,
    /// The JSON Schema of its arguments. Default: any object.
    parameters: Option<Map<String, Value>>,
    /// What it answers, call by call.
    #[serde(default)]
    answers: VecDeque<ScriptedResult>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "must be a text, or `{ error = { kind, code, message } }`")]
enum ScriptedResult {
    Text(String),
    Error { error: ScriptedFailure },
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScriptedFailure {
    #[serde(default)]
    kind: Kind,
    code: String,
    message: String,
}

/// The kinds of failures, in the contract's words.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Invalid,
    Denied,
    NotFound,
    Limit,
    RateLimited,
    Timeout,
    Unavailable,
    Interrupted,
    #[default]
    Other,
}

impl From<Kind> for FailureKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Invalid => Self::Invalid,
            Kind::Denied => Self::Denied,
            Kind::NotFound => Self::NotFound,
            Kind::Limit => Self::Limit,
            Kind::RateLimited => Self::RateLimited,
            Kind::Timeout => Self::Timeout,
            Kind::Unavailable => Self::Unavailable,
            Kind::Interrupted => Self::Interrupted,
            Kind::Other => Self::Other,
        }
    }
}

/// What tools answer, call by call, and what they were called with.
#[derive(Debug, Default)]
pub struct ToolScript(Mutex<Script>);

#[derive(Debug, Default)]
struct Script {
    tools: Vec<ScriptedTool>,
    calls: Vec<Value>,
}

impl ToolScript {
    /// A script of these tools.
    pub fn new(tools: impl IntoIterator<Item = ScriptedTool>) -> Self {
        Self(Mutex::new(Script { tools: tools.into_iter().collect(), calls: Vec::new() }))
    }

    /// The calls so far, oldest first: `{"name": …, "arguments": …}`.
    pub fn calls(&self) -> Vec<Value> {
        self.0.lock().calls.clone()
    }

    /// How many answers were not asked for.
    pub fn left(&self) -> usize {
        self.0.lock().tools.iter().map(|tool| tool.answers.len()).sum()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.lock().tools.iter().any(|tool| tool.name == name)
    }

    pub(super) fn all(&self) -> Vec<Tool> {
        let any = || Map::from_iter([("type".to_owned(), "object".into())]);
        let script = self.0.lock();
        let tools = script.tools.iter().map(|tool| Tool {
            name: tool.name.clone(),
            description: tool.description.clone(),
            parameters: Value::Object(tool.parameters.clone().unwrap_or_else(any)).to_string(),
        });
        tools.collect()
    }

    /// Makes a call: the next answer of its tool.
    pub(super) fn call(&self, name: &str, arguments: &str) -> Result<String, Failure> {
        let mut script = self.0.lock();
        let arguments: Value = serde_json::from_str(arguments).unwrap_or_default();
        script.calls.push(json!({"name": name, "arguments": arguments}));
        let tool = script.tools.iter_mut().find(|tool| tool.name == name);
        match tool.and_then(|tool| tool.answers.pop_front()) {
            Some(ScriptedResult::Text(text)) => Ok(text),
            Some(ScriptedResult::Error { error: ScriptedFailure { kind, code, message } }) => {
                Err(failure(kind.into(), &code, message))
            }
            None => {
                let message = format!("The script has no answer left for the tool `{name}`.");
                Err(failure(FailureKind::Other, "script_ended", message))
            }
        }
    }
}
