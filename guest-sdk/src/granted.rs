use std::fmt;

use serde::Serialize;
use serde_json::{Value, json};

use crate::host::tools as host;
use crate::tasks::{Task, wait_any};
use crate::{Failure, tools::Tool};

/// The tools that the operator granted this agent and that are there, in the order of their names.
///
/// # Errors
///
/// `invalid_json` when the parameters of one are not valid.
pub fn available() -> Result<Vec<Granted>, Failure> {
    let tool = |tool: host::Tool| {
        let parameters = serde_json::from_str(&tool.parameters)?;
        Ok(Granted { name: tool.name, description: tool.description, parameters })
    };
    host::available().into_iter().map(tool).collect()
}

/// Calls a tool that the operator granted, and waits for the answer. Its name is the one of its component or server, two
/// underscores, and its own: `units__convert`. The arguments are a struct or an object of JSON.
///
/// ```
/// use outlast_guest::{mock::Mock, tools};
/// use serde_json::json;
///
/// let run = Mock::new().tool("units__convert", Ok("1 mi = 1.609344 km")).call(|| {
///     tools::call("units__convert", &json!({"value": 1, "from": "mi", "to": "km"}))
/// });
/// assert_eq!(run.result.unwrap(), "1 mi = 1.609344 km");
/// assert_eq!(run.tool_calls[0].arguments, json!({"value": 1, "from": "mi", "to": "km"}));
/// ```
///
/// # Errors
///
/// `denied` when the operator does not allow it, `not-found` when there is no such tool, `invalid` when the arguments are
/// no object, `limit` when they or the answer are too large, `timeout`, `unavailable` when the tool crashed or is not
/// reached, `interrupted` when the server was stopped meanwhile and the tool may not be called twice, `cancelled` when the
/// run is; and what the tool itself says.
pub fn call(name: &str, arguments: &(impl Serialize + ?Sized)) -> Result<String, Failure> {
    Ok(host::call(name, &serde_json::to_string(arguments)?)?)
}

/// Begins a call and returns at once. The agent continues meanwhile.
///
/// # Errors
///
/// As [`call`], for what is known at once; `limit` also when too many are open.
pub fn start(name: &str, arguments: &(impl Serialize + ?Sized)) -> Result<Pending, Failure> {
    Pending::start(name, &serde_json::to_string(arguments)?)
}

/// Makes all calls at the same time, as many in parallel as a run may, and waits for all of them. A call is the name of
/// a tool and its arguments, as JSON text. The answers are in the order of the calls.
pub fn call_all<'a>(calls: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<Result<String, Failure>> {
    let mut answers: Vec<Option<Result<String, Failure>>> = Vec::new();
    let mut open: Vec<(usize, Pending)> = Vec::new();
    for (name, arguments) in calls {
        let place = answers.len();
        answers.push(None);
        loop {
            match Pending::start(name, arguments) {
                Ok(pending) => open.push((place, pending)),
                // There is room again when one of these has ended.
                Err(failure) if failure.code == "too_many_calls" && !open.is_empty() => {
                    take_first(&mut open, &mut answers);
                    continue;
                }
                Err(failure) => answers[place] = Some(Err(failure)),
            }
            break;
        }
    }
    while !open.is_empty() {
        take_first(&mut open, &mut answers);
    }
    answers.into_iter().flatten().collect()
}

/// Waits until at least one has ended, and takes the answers of those that have.
fn take_first(open: &mut Vec<(usize, Pending)>, answers: &mut [Option<Result<String, Failure>>]) {
    // What a wait that fails leaves, `get` tells.
    let ended = wait_any(open.iter().map(|(_, pending)| pending.task()));
    let ended = ended.unwrap_or_else(|_| (0..open.len()).collect());
    for place in ended.into_iter().rev() {
        let (call, pending) = open.remove(place);
        answers[call] = Some(pending.get());
    }
}

/// A tool that the operator granted.
#[derive(Clone, Debug, PartialEq)]
pub struct Granted {
    /// Its name, for [`call`] and for a model.
    pub name: String,
    /// What it does and when to use it.
    pub description: String,
    /// The JSON Schema of its arguments.
    pub parameters: Value,
}

impl Granted {
    /// The tool as the Responses API defines it, as an element of the option `tools`.
    pub fn definition(&self) -> Value {
        json!({
            "type": "function", "name": self.name, "description": self.description, "parameters": self.parameters,
            "strict": false
        })
    }
}

impl From<Granted> for Tool<'_> {
    /// The granted tool as one of the agent's own.
    fn from(granted: Granted) -> Self {
        let name = granted.name.clone();
        let call = move |arguments: &str| Ok(host::call(&name, arguments)?);
        Self::raw(granted.name, granted.description, granted.parameters, call)
    }
}

/// A call under way. Dropping it gives it up.
pub struct Pending {
    task: Task,
    pending: host::Pending,
}

impl Pending {
    fn start(name: &str, arguments: &str) -> Result<Self, Failure> {
        let pending = host::start(name, arguments)?;
        Ok(Self { task: pending.task(), pending })
    }

    /// What to wait for with [`wait_any`].
    pub fn task(&self) -> &Task {
        &self.task
    }

    /// Waits for the answer.
    ///
    /// # Errors
    ///
    /// As [`call`].
    pub fn get(self) -> Result<String, Failure> {
        Ok(self.pending.get()?)
    }
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").finish_non_exhaustive()
    }
}
