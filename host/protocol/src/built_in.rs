//! Tools that the Responses API knows by their type, and that a client runs itself.
//!
//! No model but the API's own knows them. To others each is offered as a function, and a call of that function becomes the
//! item that the client waits for: its arguments, JSON, stand in the item as the API has them. What a client answers is
//! told as what the function returned.

use serde_json::{Map, Value, json};

use super::tools::callable;

/// A tool that a client runs itself, with calls of a form of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BuiltIn {
    /// `local_shell`: one command, as its words.
    LocalShell,
    /// `shell`: commands for a shell of the client.
    Shell,
    /// `apply_patch`: a file is created, changed or deleted.
    ApplyPatch,
    /// `tool_search`: the client looks for more tools.
    ToolSearch,
}

impl BuiltIn {
    const ALL: [Self; 4] = [Self::LocalShell, Self::Shell, Self::ApplyPatch, Self::ToolSearch];

    /// The tool that a definition means; none when it is another, or one that the client does not run.
    pub fn of(tool: &Value) -> Option<Self> {
        let found = Self::named(tool["type"].as_str()?)?;
        let is_clients = match found {
            Self::LocalShell | Self::ApplyPatch => true,
            Self::Shell => tool["environment"].is_null() || tool["environment"]["type"] == "local",
            Self::ToolSearch => tool["execution"] == "client",
        };
        is_clients.then_some(found)
    }

    /// The tool of this type.
    pub fn named(kind: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tool| tool.name() == kind)
    }

    /// The tool that items of this type are calls of.
    pub fn of_call(kind: &str) -> Option<Self> {
        kind.strip_suffix("_call").and_then(Self::named)
    }

    /// The tool that items of this type are answers of.
    pub fn of_output(kind: &str) -> Option<Self> {
        let name = kind.strip_suffix("_output")?;
        match Self::named(name) {
            Some(Self::ToolSearch) => Some(Self::ToolSearch),
            _ => Self::of_call(name).filter(|tool| *tool != Self::ToolSearch),
        }
    }

    /// Its type, and the name that a model knows it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::LocalShell => "local_shell",
            Self::Shell => "shell",
            Self::ApplyPatch => "apply_patch",
            Self::ToolSearch => "tool_search",
        }
    }

    /// What the ids of its calls begin with.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::LocalShell => "lsh",
            Self::Shell => "sh",
            Self::ApplyPatch => "apc",
            Self::ToolSearch => "tsc",
        }
    }

    /// The field of a call that says what is to be done.
    pub fn field(self) -> &'static str {
        match self {
            Self::LocalShell | Self::Shell => "action",
            Self::ApplyPatch => "operation",
            Self::ToolSearch => "arguments",
        }
    }

    /// What a model is told of it.
    pub fn description(self, tool: &Value) -> String {
        let known = match self {
            Self::LocalShell => "Runs a command on the user's machine and returns its output.",
            Self::Shell => {
                "Runs commands in a shell on the user's machine, one after the other, and returns their output."
            }
            Self::ApplyPatch => {
                "Creates, updates or deletes one file of the user's. To create one, every line of the diff begins with `+`. To \
                 update one, the diff has sections, each after a line `@@` that may name where it is: lines that stay begin \
                 with a space, those that go with `-`, those that come with `+`."
            }
            Self::ToolSearch => "Looks for more tools. Those that are found can be called afterwards.",
        };
        tool["description"].as_str().unwrap_or(known).to_owned()
    }

    /// The JSON Schema of its arguments.
    pub fn parameters(self, tool: &Value) -> Value {
        let texts = json!({"type": "array", "items": {"type": "string"}});
        let (properties, required) = match self {
            Self::LocalShell => (
                json!({
                    "command": texts, "working_directory": {"type": "string"}, "timeout_ms": {"type": "integer"},
                    "env": {"type": "object", "additionalProperties": {"type": "string"}},
                }),
                json!(["command"]),
            ),
            Self::Shell => (
                json!({
                    "commands": texts, "timeout_ms": {"type": "integer"}, "max_output_length": {"type": "integer"},
                }),
                json!(["commands"]),
            ),
            Self::ApplyPatch => (
                json!({
                    "type": {"type": "string", "enum": ["create_file", "update_file", "delete_file"]},
                    "path": {"type": "string"}, "diff": {"type": "string"},
                }),
                json!(["type", "path"]),
            ),
            Self::ToolSearch if tool["parameters"].is_object() => return tool["parameters"].clone(),
            Self::ToolSearch => (json!({"query": {"type": "string"}}), json!(["query"])),
        };
        json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
    }

    /// What stands in a call whose arguments have not come.
    pub fn nothing(self) -> Value {
        match self {
            Self::LocalShell => json!({"type": "exec", "command": [], "env": {}}),
            Self::Shell => json!({"commands": []}),
            Self::ApplyPatch => json!({"type": "update_file", "path": "", "diff": ""}),
            Self::ToolSearch => json!({}),
        }
    }

    /// What stands in a call for these arguments; none when they are not what was asked for.
    pub fn meant(self, arguments: &str) -> Option<Value> {
        let Ok(Value::Object(mut given)) = serde_json::from_str(arguments) else { return None };
        match self {
            Self::LocalShell => {
                let command = match given.remove("command")? {
                    // A model that says it as one text means a line of a shell.
                    Value::String(line) => json!(["sh", "-c", line]),
                    words => texts(words)?,
                };
                let env = given.remove("env").filter(is_texts).unwrap_or_else(|| json!({}));
                let mut action = json!({"type": "exec", "command": command, "env": env});
                keep(&mut action, &mut given, ["timeout_ms"], Value::is_u64);
                keep(&mut action, &mut given, ["working_directory", "user"], Value::is_string);
                Some(action)
            }
            Self::Shell => {
                let commands = match given.remove("commands").or_else(|| given.remove("command"))? {
                    Value::String(line) => json!([line]),
                    lines => texts(lines)?,
                };
                let mut action = json!({"commands": commands});
                keep(&mut action, &mut given, ["timeout_ms", "max_output_length"], Value::is_u64);
                Some(action)
            }
            Self::ApplyPatch => {
                let inner = given.remove("operation");
                let mut given = match inner {
                    Some(Value::Object(inner)) => inner,
                    _ => given,
                };
                let kind = given.get("type")?.as_str()?.to_owned();
                let mut operation = json!({"type": kind, "path": given.remove("path").filter(Value::is_string)?});
                match kind.as_str() {
                    "delete_file" => {}
                    "create_file" | "update_file" => {
                        operation["diff"] = given.remove("diff").filter(Value::is_string)?;
                    }
                    _ => return None,
                }
                Some(operation)
            }
            Self::ToolSearch => Some(Value::Object(given)),
        }
    }

    /// The arguments of a call, as a model is told of it.
    pub fn arguments(self, call: &Value) -> String {
        let mut said = call[self.field()].clone();
        if let (Self::LocalShell, Some(action)) = (self, said.as_object_mut()) {
            action.remove("type");
        }
        if said.is_object() { said.to_string() } else { "{}".to_owned() }
    }

    /// What a model is told of an answer.
    pub fn answer(self, output: &Value) -> String {
        match (self, &output["output"]) {
            (Self::ToolSearch, _) => {
                let tools = output["tools"].as_array().into_iter().flatten();
                let names: Vec<_> = callable(tools).map(|(tool, _)| tool.flat_name()).collect();
                match names.is_empty() {
                    true => "No tool was found.".to_owned(),
                    false => format!("These tools can be called now: {}.", names.join(", ")),
                }
            }
            (Self::ApplyPatch, Value::Null) => output["status"].as_str().unwrap_or("completed").to_owned(),
            (Self::ApplyPatch, said) if output["status"] == "failed" => format!("failed: {}", plain(said)),
            (_, said) => plain(said),
        }
    }
}

fn plain(said: &Value) -> String {
    said.as_str().map_or_else(|| said.to_string(), str::to_owned)
}

/// A list of texts.
fn texts(value: Value) -> Option<Value> {
    let right = value.as_array()?.iter().all(Value::is_string);
    right.then_some(value)
}

fn is_texts(value: &Value) -> bool {
    value.as_object().is_some_and(|fields| fields.values().all(Value::is_string))
}

/// Puts those fields into `to` that are as they should be.
fn keep<const N: usize>(to: &mut Value, from: &mut Map<String, Value>, names: [&str; N], fits: fn(&Value) -> bool) {
    for name in names {
        if let Some(value) = from.remove(name).filter(fits) {
            to[name] = value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_tools_are_told_from_those_that_a_server_would_run() {
        for (tool, found) in [
            (json!({"type": "local_shell"}), Some(BuiltIn::LocalShell)),
            (json!({"type": "shell"}), Some(BuiltIn::Shell)),
            (json!({"type": "shell", "environment": {"type": "local"}}), Some(BuiltIn::Shell)),
            (json!({"type": "shell", "environment": {"type": "container_auto"}}), None),
            (json!({"type": "apply_patch"}), Some(BuiltIn::ApplyPatch)),
            (json!({"type": "tool_search", "execution": "client"}), Some(BuiltIn::ToolSearch)),
            (json!({"type": "tool_search"}), None),
            (json!({"type": "web_search"}), None),
        ] {
            assert_eq!(BuiltIn::of(&tool), found, "{tool}");
        }
        for (kind, found) in [
            ("local_shell_call_output", Some(BuiltIn::LocalShell)),
            ("shell_call_output", Some(BuiltIn::Shell)),
            ("tool_search_output", Some(BuiltIn::ToolSearch)),
            ("tool_search_call_output", None),
            ("function_call_output", None),
        ] {
            assert_eq!(BuiltIn::of_output(kind), found, "{kind}");
        }
    }

    #[test]
    fn arguments_become_what_the_api_has_and_back() {
        for (tool, arguments, expected) in [
            (
                BuiltIn::LocalShell,
                r#"{"command":["ls","-l"],"timeout_ms":5,"working_directory":7,"x":1}"#,
                json!({"type": "exec", "command": ["ls", "-l"], "env": {}, "timeout_ms": 5}),
            ),
            (
                BuiltIn::LocalShell,
                r#"{"command":"ls -l","env":{"A":"b"}}"#,
                json!({"type": "exec", "command": ["sh", "-c", "ls -l"], "env": {"A": "b"}}),
            ),
            (
                BuiltIn::Shell,
                r#"{"commands":["a","b"],"timeout_ms":5}"#,
                json!({"commands": ["a", "b"], "timeout_ms": 5}),
            ),
            (BuiltIn::Shell, r#"{"command":"a"}"#, json!({"commands": ["a"]})),
            (
                BuiltIn::ApplyPatch,
                r#"{"type":"create_file","path":"a","diff":"+x"}"#,
                json!({"type": "create_file", "path": "a", "diff": "+x"}),
            ),
            (
                BuiltIn::ApplyPatch,
                r#"{"operation":{"type":"delete_file","path":"a","diff":""}}"#,
                json!({"type": "delete_file", "path": "a"}),
            ),
            (BuiltIn::ToolSearch, r#"{"goal":"x"}"#, json!({"goal": "x"})),
        ] {
            let meant = tool.meant(arguments).unwrap();
            assert_eq!(meant, expected);
            let told = tool.arguments(&json!({ tool.field(): meant }));
            assert_eq!(tool.meant(&told), Some(expected), "{told}");
        }
    }

    #[test]
    fn arguments_that_say_something_else_mean_nothing() {
        for (tool, arguments) in [
            (BuiltIn::LocalShell, "{}"),
            (BuiltIn::LocalShell, "ls"),
            (BuiltIn::LocalShell, r#"{"command":[1]}"#),
            (BuiltIn::Shell, r#"{"commands":{}}"#),
            (BuiltIn::ApplyPatch, r#"{"type":"update_file","path":"a"}"#),
            (BuiltIn::ApplyPatch, r#"{"type":"move_file","path":"a"}"#),
            (BuiltIn::ToolSearch, "[]"),
        ] {
            assert_eq!(tool.meant(arguments), None, "{arguments}");
        }
    }

    #[test]
    fn an_answer_is_told_as_text() {
        for (tool, output, expected) in [
            (BuiltIn::LocalShell, json!({"output": "{\"exit\":0}"}), "{\"exit\":0}"),
            (BuiltIn::Shell, json!({"output": [{"stdout": "x"}]}), "[{\"stdout\":\"x\"}]"),
            (BuiltIn::ApplyPatch, json!({"status": "completed"}), "completed"),
            (BuiltIn::ApplyPatch, json!({"status": "failed", "output": "no such file"}), "failed: no such file"),
            (
                BuiltIn::ToolSearch,
                json!({"tools": [{"type": "function", "name": "f"}, {"type": "namespace", "name": "n", "tools": [
                    {"type": "function", "name": "g"},
                ]}]}),
                "These tools can be called now: f, n__g.",
            ),
            (BuiltIn::ToolSearch, json!({"tools": []}), "No tool was found."),
        ] {
            assert_eq!(tool.answer(&output), expected);
        }
    }
}
