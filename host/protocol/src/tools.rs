//! The tools of a request: which a client runs itself, what they are called, and which of them nothing serves.
//!
//! A model knows functions only, in one flat list. So the members of a `namespace`, the `custom` tools of the Responses
//! API and those [`BuiltIn`] tools that a client runs are offered to it as functions, and its calls of them become what the
//! client waits for again. All other types are kept and shown, and no model is told of them: [`ignored`] names them.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashSet},
};

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::{
    built_in::BuiltIn,
    check::{missing, one_of, wrong_type},
    error::ApiError,
};

/// The most characters of a function's name, in the Responses API and at every provider.
const NAME: usize = 64;
/// What is between a namespace and the name of its member.
const BETWEEN: &str = "__";
/// How many hexadecimal digits end a name that was cut.
const DIGITS: usize = 8;

/// A tool that a client runs itself and a model calls as a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTool {
    /// Its name.
    pub name: String,
    /// The namespace that it is a member of.
    pub namespace: Option<String>,
    /// What it takes.
    pub kind: ToolKind,
}

/// What a tool takes, and what its calls look like to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ToolKind {
    /// Arguments.
    Function,
    /// A text.
    Custom,
    /// What the API says.
    BuiltIn(BuiltIn),
}

impl ClientTool {
    /// A function that is no member of a namespace.
    pub fn function(name: impl Into<String>) -> Self {
        Self { name: name.into(), namespace: None, kind: ToolKind::Function }
    }

    /// The name that a model knows it by: `namespace__name`, of at most 64 characters. A longer one is cut, and ends with
    /// a hash of all of it.
    pub fn flat_name(&self) -> String {
        flat_name(self.namespace.as_deref(), &self.name).into_owned()
    }

    /// The name that a request declares it by: its namespace's, or its own.
    pub fn declared(&self) -> &str {
        self.namespace.as_deref().unwrap_or(&self.name)
    }
}

/// The name that a model knows a member of a namespace by; without a namespace, its own.
pub fn flat_name<'a>(namespace: Option<&str>, name: &'a str) -> Cow<'a, str> {
    let Some(namespace) = namespace.filter(|namespace| !namespace.is_empty()) else { return name.into() };
    let mut flat = format!("{namespace}{BETWEEN}{name}");
    if flat.len() > NAME {
        let hash = hex::encode(Sha256::digest(flat.as_bytes()));
        flat = flat.chars().take(NAME - DIGITS - 1).filter(char::is_ascii).collect();
        flat.push('_');
        flat.push_str(&hash[..DIGITS]);
    }
    flat.into()
}

/// The tools that a client runs itself, by the names that a model knows them by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientTools(BTreeMap<String, ClientTool>);

impl ClientTools {
    /// Those among these tools, of two with one name the first. What is not one is passed over.
    pub fn of<'a>(tools: impl IntoIterator<Item = &'a Value>) -> Self {
        let mut found = BTreeMap::new();
        for (tool, _) in callable(tools) {
            found.entry(tool.flat_name()).or_insert(tool);
        }
        Self(found)
    }

    /// The tool that a model means by this name. An unknown name is that of a function.
    pub fn named(&self, flat_name: &str) -> ClientTool {
        self.0.get(flat_name).cloned().unwrap_or_else(|| ClientTool::function(flat_name))
    }
}

/// The tools that a model can call as functions, each with its definition: functions, custom tools, the members of
/// namespaces, and built-in tools that the client runs.
pub fn callable<'a>(tools: impl IntoIterator<Item = &'a Value>) -> impl Iterator<Item = (ClientTool, &'a Value)> {
    tools.into_iter().flat_map(|tool| {
        let namespace = (tool["type"] == "namespace").then(|| tool["name"].as_str()).flatten();
        let members = match namespace {
            Some(_) => tool["tools"].as_array().map(Vec::as_slice).unwrap_or_default(),
            None => std::slice::from_ref(tool),
        };
        members.iter().filter_map(move |member| {
            let kind = match member["type"].as_str()? {
                "function" => ToolKind::Function,
                "custom" => ToolKind::Custom,
                _ if namespace.is_some() => return None,
                _ => {
                    let tool = BuiltIn::of(member)?;
                    let name = tool.name().to_owned();
                    return Some((ClientTool { name, namespace: None, kind: ToolKind::BuiltIn(tool) }, member));
                }
            };
            let (name, namespace) = (member["name"].as_str()?.to_owned(), namespace.map(str::to_owned));
            Some((ClientTool { name, namespace, kind }, member))
        })
    })
}

/// The tools of a request that no model is told of, as `tools[8].type=web_search`.
pub(super) fn ignored(tools: Option<&Value>) -> impl Iterator<Item = String> {
    let tools = tools.and_then(Value::as_array).into_iter().flatten().enumerate();
    tools.filter_map(|(index, tool)| {
        let kind = tool["type"].as_str()?;
        let served = matches!(kind, "function" | "custom" | "namespace") || BuiltIn::of(tool).is_some();
        (!served).then(|| format!("tools[{index}].type={}", short(kind)))
    })
}

/// A type that a client made up, short enough for a header.
pub(super) fn short(kind: &str) -> String {
    kind.chars().take(NAME).collect()
}

/// Checks the tools of a request, and which of them it chooses, or of those that its `input` brings.
pub(super) fn check(fields: &Map<String, Value>, input: Option<&Value>) -> Result<(), ApiError> {
    let tools = match fields.get("tools") {
        None => &[][..],
        Some(Value::Array(tools)) => tools,
        Some(other) => return Err(wrong_type("tools", "an array", other)),
    };
    check_tools("tools", tools)?;
    match fields.get("tool_choice") {
        None => Ok(()),
        Some(Value::String(word)) => one_of("tool_choice", word, &["none", "auto", "required"]),
        Some(Value::Object(choice)) => Choices::of(tools.iter().chain(brought(input))).check("tool_choice", choice),
        Some(other) => Err(wrong_type("tool_choice", "a string or an object", other)),
    }
}

/// Whether an item of an input brings tools, besides those of the request.
pub fn brings_tools(item: &Value) -> bool {
    item["type"] == "additional_tools" || item["type"] == "tool_search_output"
}

/// The tools that the items of an input bring.
fn brought(input: Option<&Value>) -> impl Iterator<Item = &Value> + Clone {
    let items = input.and_then(Value::as_array).into_iter().flatten();
    items.filter(|item| brings_tools(item)).filter_map(|item| item["tools"].as_array()).flatten()
}

/// Checks tools, each for itself and beside the others.
pub(super) fn check_tools(param: &str, tools: &[Value]) -> Result<(), ApiError> {
    for (index, tool) in tools.iter().enumerate() {
        check_tool(&format!("{param}[{index}]"), tool)?;
    }
    let mut names = HashSet::new();
    for (index, tool) in tools.iter().enumerate() {
        let named = |tool: &ClientTool| !matches!(tool.kind, ToolKind::BuiltIn(_));
        for (tool, _) in callable([tool]).filter(|(tool, _)| named(tool)) {
            let name = tool.flat_name();
            if !names.insert(name.clone()) {
                let message = format!("There are two tools named '{name}'. Each needs a name of its own.");
                return Err(ApiError::invalid(format!("{param}[{index}].name"), "duplicate_tool", message));
            }
        }
    }
    Ok(())
}

fn check_tool(param: &str, tool: &Value) -> Result<(), ApiError> {
    let fields = tool.as_object().ok_or_else(|| wrong_type(param, "an object", tool))?;
    let at = |field: &str| format!("{param}.{field}");
    let kind = match fields.get("type") {
        Some(Value::String(kind)) => kind.as_str(),
        None | Some(Value::Null) => return Err(missing(&at("type"))),
        Some(other) => return Err(wrong_type(&at("type"), "a string", other)),
    };
    // It may hold the secrets of a server, and what is ignored is kept and shown.
    if kind == "mcp" {
        let message = "Tools of type 'mcp' are not supported by this server. Ask its operator for an MCP server in its \
                       configuration, and leave the tool out.";
        return Err(ApiError::invalid(at("type"), "unsupported_parameter", message));
    }
    if !matches!(kind, "function" | "custom" | "namespace") {
        return Ok(());
    }
    let name = fields.get("name").and_then(Value::as_str).ok_or_else(|| missing(&at("name")))?;
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if name.is_empty() || name.len() > NAME || !name.bytes().all(word) {
        let message = format!("The name of a tool has 1 to {NAME} letters, digits, '_' or '-'.");
        return Err(ApiError::invalid(at("name"), "invalid_value", message));
    }
    for (field, expected, fits) in [
        ("description", "a string", Value::is_string as fn(&Value) -> bool),
        ("parameters", "an object", Value::is_object),
        ("strict", "a boolean", Value::is_boolean),
        ("format", "an object", Value::is_object),
    ] {
        if let Some(value) = fields.get(field).filter(|value| !value.is_null() && !fits(value)) {
            return Err(wrong_type(&at(field), expected, value));
        }
    }
    if kind == "namespace" {
        let members = fields.get("tools").ok_or_else(|| missing(&at("tools")))?;
        let members = members.as_array().ok_or_else(|| wrong_type(&at("tools"), "an array", members))?;
        for (index, member) in members.iter().enumerate() {
            let param = format!("{}[{index}]", at("tools"));
            check_tool(&param, member)?;
            if member["type"] == "namespace" {
                let message = "A namespace has functions and custom tools, and no namespaces.";
                return Err(ApiError::invalid(format!("{param}.type"), "invalid_value", message));
            }
        }
    }
    Ok(())
}

/// The tools that can be chosen.
struct Choices<'a> {
    /// The flat names, and what they take.
    names: HashSet<(String, ToolKind)>,
    types: HashSet<&'a str>,
}

impl<'a> Choices<'a> {
    fn of(tools: impl Iterator<Item = &'a Value> + Clone) -> Self {
        let names = callable(tools.clone()).map(|(tool, _)| (tool.flat_name(), tool.kind));
        Self { names: names.collect(), types: tools.filter_map(|tool| tool["type"].as_str()).collect() }
    }

    fn check(&self, param: &str, choice: &Map<String, Value>) -> Result<(), ApiError> {
        let at = |field: &str| format!("{param}.{field}");
        let kind = choice.get("type").and_then(Value::as_str).ok_or_else(|| missing(&at("type")))?;
        if kind != "allowed_tools" {
            return self.check_one(param, kind, choice);
        }
        let mode = choice.get("mode").ok_or_else(|| missing(&at("mode")))?;
        let mode = mode.as_str().ok_or_else(|| wrong_type(&at("mode"), "a string", mode))?;
        one_of(&at("mode"), mode, &["auto", "required"])?;
        let allowed = choice.get("tools").ok_or_else(|| missing(&at("tools")))?;
        let allowed = allowed.as_array().ok_or_else(|| wrong_type(&at("tools"), "an array", allowed))?;
        for (index, tool) in allowed.iter().enumerate() {
            let param = format!("{}[{index}]", at("tools"));
            let fields = tool.as_object().ok_or_else(|| wrong_type(&param, "an object", tool))?;
            let kind = fields.get("type").and_then(Value::as_str).ok_or_else(|| missing(&format!("{param}.type")))?;
            // What is allowed and not served is not called, as if it were not chosen.
            if matches!(kind, "function" | "custom") || !self.declares(kind) {
                self.check_one(&param, kind, fields)?;
            }
        }
        Ok(())
    }

    /// Checks the choice of one tool, which the model must call.
    fn check_one(&self, param: &str, kind: &str, choice: &Map<String, Value>) -> Result<(), ApiError> {
        if let Some(tool) = BuiltIn::named(kind)
            && self.names.contains(&(kind.to_owned(), ToolKind::BuiltIn(tool)))
        {
            return Ok(());
        }
        if !matches!(kind, "function" | "custom") {
            let message = match self.declares(kind) {
                true => format!(
                    "A model cannot be required to call a tool of type '{kind}': this server does not support it."
                ),
                false => format!("The request has no tool of type '{kind}' among its 'tools'."),
            };
            return Err(ApiError::invalid(format!("{param}.type"), "unsupported_value", message));
        }
        let (name, namespace) = chosen(choice).ok_or_else(|| missing(&format!("{param}.name")))?;
        let takes = if kind == "custom" { ToolKind::Custom } else { ToolKind::Function };
        let found = self.names.contains(&(flat_name(namespace, name).into_owned(), takes));
        if found {
            return Ok(());
        }
        let shown: String = name.chars().take(NAME).collect();
        let what = if kind == "custom" { "custom tool" } else { "function" };
        let message = format!("The request has no {what} '{shown}' among its 'tools'.");
        Err(ApiError::invalid(format!("{param}.name"), "unknown_tool", message))
    }

    fn declares(&self, kind: &str) -> bool {
        self.types.contains(kind)
    }
}

/// The name and the namespace of the tool that a choice means. The form of Chat Completions, `{"type": "function",
/// "function": {"name": …}}`, is understood too.
pub fn chosen(choice: &Map<String, Value>) -> Option<(&str, Option<&str>)> {
    let kind = choice.get("type")?.as_str()?;
    let named = [choice.get("name"), choice.get(kind).and_then(|inner| inner.get("name"))];
    let name = named.into_iter().flatten().find_map(Value::as_str)?;
    Some((name, choice.get("namespace").and_then(Value::as_str)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tools() -> Value {
        json!([
            {"type": "function", "name": "f"},
            {"type": "custom", "name": "apply_patch", "format": {"type": "grammar"}},
            {"type": "namespace", "name": "agents", "tools": [
                {"type": "function", "name": "spawn"}, {"type": "custom", "name": "tell"}, {"type": "acme"},
            ]},
            {"type": "web_search"},
            {"type": "local_shell"},
            {"type": "shell", "environment": {"type": "container_auto"}},
        ])
    }

    #[test]
    fn a_model_knows_every_tool_of_the_client_by_one_name() {
        let tools = tools();
        let found: Vec<_> = callable(tools.as_array().unwrap()).map(|(tool, _)| tool).collect();
        let names: Vec<_> = found.iter().map(ClientTool::flat_name).collect();
        assert_eq!(names, ["f", "apply_patch", "agents__spawn", "agents__tell", "local_shell"]);
        let all = ClientTools::of(tools.as_array().unwrap());
        for tool in found {
            assert_eq!(all.named(&tool.flat_name()), tool);
        }
        assert_eq!(all.named("other"), ClientTool::function("other"));
        let ignored: Vec<_> = ignored(Some(&tools)).collect();
        assert_eq!(ignored, ["tools[3].type=web_search", "tools[5].type=shell"]);
    }

    #[test]
    fn a_long_name_is_cut_and_stays_one_of_its_own() {
        let of = |name: &str| flat_name(Some(&"n".repeat(60)), name).into_owned();
        let (one, two) = (of("first"), of("second"));
        assert_eq!((one.len(), two.len()), (NAME, NAME));
        assert_ne!(one, two);
        assert_eq!(one, of("first"));
    }

    #[test]
    fn every_choice_names_a_tool_that_is_there() {
        let check = |choice: Value| {
            let fields = json!({"tools": tools(), "tool_choice": choice});
            check(fields.as_object().unwrap(), None).map_err(|error| (error.param.unwrap_or_default(), error.code))
        };
        for right in [
            json!("required"),
            json!({"type": "function", "name": "f"}),
            json!({"type": "function", "function": {"name": "f"}}),
            json!({"type": "function", "name": "spawn", "namespace": "agents"}),
            json!({"type": "function", "name": "agents__spawn"}),
            json!({"type": "custom", "name": "apply_patch"}),
            json!({"type": "local_shell"}),
            json!({"type": "allowed_tools", "mode": "auto", "tools": [
                {"type": "function", "name": "f"}, {"type": "web_search"},
            ]}),
        ] {
            assert_eq!(check(right.clone()), Ok(()), "{right}");
        }
        for (wrong, param, code) in [
            (json!("some"), "tool_choice", "invalid_value"),
            (json!({}), "tool_choice.type", "missing_required_parameter"),
            (json!({"type": "function"}), "tool_choice.name", "missing_required_parameter"),
            (json!({"type": "function", "name": "g"}), "tool_choice.name", "unknown_tool"),
            (json!({"type": "custom", "name": "f"}), "tool_choice.name", "unknown_tool"),
            (json!({"type": "web_search"}), "tool_choice.type", "unsupported_value"),
            (json!({"type": "file_search"}), "tool_choice.type", "unsupported_value"),
            (json!({"type": "allowed_tools", "mode": "none", "tools": []}), "tool_choice.mode", "invalid_value"),
            (
                json!({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "g"}]}),
                "tool_choice.tools[0].name",
                "unknown_tool",
            ),
        ] {
            assert_eq!(check(wrong.clone()), Err((param.to_owned(), code)), "{wrong}");
        }
    }

    #[test]
    fn a_tool_that_is_wrong_is_named() {
        let function = json!({"type": "function", "name": "f"});
        let member = |member: &Value| json!([{"type": "namespace", "name": "n", "tools": [member]}]);
        for (tools, param, code) in [
            (json!([{"name": "f"}]), "tools[0].type", "missing_required_parameter"),
            (json!([{"type": "custom"}]), "tools[0].name", "missing_required_parameter"),
            (json!([{"type": "namespace", "name": "n"}]), "tools[0].tools", "missing_required_parameter"),
            (member(&json!({"type": "function", "name": "a b"})), "tools[0].tools[0].name", "invalid_value"),
            (
                member(&json!({"type": "namespace", "name": "m", "tools": []})),
                "tools[0].tools[0].type",
                "invalid_value",
            ),
            (json!([function, function]), "tools[1].name", "duplicate_tool"),
            (json!([function, {"type": "custom", "name": "f"}]), "tools[1].name", "duplicate_tool"),
        ] {
            let error = check(json!({"tools": tools}).as_object().unwrap(), None).unwrap_err();
            assert_eq!((error.param.as_deref(), error.code), (Some(param), code), "{tools}");
        }
    }
}
