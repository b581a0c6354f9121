//! What a model is offered of the caller's tools, and what its calls mean in the Responses API.
//!
//! Models know functions only. A custom tool is offered as a function with one string, a member of a namespace under its
//! flat name, a built-in tool that the client runs as the function that it amounts to, and nothing of the others. A call in
//! the conversation is told the same way, and one that the model makes becomes an item of its tool's kind again.

use std::collections::{HashMap, HashSet};

use outlast_protocol::{BuiltIn, ClientTool, ClientTools, INPUT, ToolKind, brings_tools, callable, chosen, flat_name};
use serde_json::{Map, Value, json};

use super::{
    conversation::{Call, FunctionCall},
    settings::{Tool, ToolChoice},
};

impl Call {
    /// The names that the tools are declared by that the input brings: a client's, like all items of their type.
    pub fn brought_tools(&self) -> impl Iterator<Item = String> {
        callable(brought(&self.input)).map(|(tool, _)| tool.declared().to_owned())
    }
}

/// All tools of a call: those of its options, and those that its input brings.
pub(super) fn tools<'a>(options: &'a Map<String, Value>, input: &'a [Value]) -> impl Iterator<Item = &'a Value> {
    options.get("tools").and_then(Value::as_array).into_iter().flatten().chain(brought(input))
}

fn brought(input: &[Value]) -> impl Iterator<Item = &Value> {
    input.iter().filter(|item| brings_tools(item)).filter_map(|item| item["tools"].as_array()).flatten()
}

/// The functions that a model is offered. Of two with one name, the first.
pub(super) fn functions<'a>(tools: impl IntoIterator<Item = &'a Value>) -> Vec<Tool> {
    let mut names = HashSet::new();
    let tools = callable(tools).filter(|(tool, _)| names.insert(tool.flat_name()));
    tools.map(|(tool, definition)| function(tool.flat_name(), &tool, definition)).collect()
}

fn function(name: String, tool: &ClientTool, definition: &Value) -> Tool {
    let description = definition["description"].as_str().map(str::to_owned);
    match tool.kind {
        ToolKind::Function => {
            let parameters = Some(definition["parameters"].clone()).filter(Value::is_object);
            return Tool { name, description, parameters, strict: definition["strict"].as_bool() };
        }
        ToolKind::BuiltIn(tool) => {
            let (description, parameters) = (Some(tool.description(definition)), Some(tool.parameters(definition)));
            return Tool { name, description, parameters, strict: None };
        }
        ToolKind::Custom => {}
    }
    let parameters = json!({
        "type": "object", "properties": {INPUT: {"type": "string"}}, "required": [INPUT], "additionalProperties": false,
    });
    let grammar = match &definition["format"] {
        format if format["type"] == "grammar" => format["definition"].as_str().map(|grammar| {
            let syntax = format["syntax"].as_str().unwrap_or("lark");
            format!("`{INPUT}` follows this {syntax} grammar:\n{grammar}")
        }),
        _ => None,
    };
    let parts: Vec<String> = description.into_iter().chain(grammar).collect();
    let description = Some(parts.join("\n\n")).filter(|text| !text.is_empty());
    Tool { name, description, parameters: Some(parameters), strict: None }
}

/// What a choice of tools means for a model, and the functions that are left of those that it is offered; none when it is
/// not a choice.
pub(super) fn choice(choice: &Value, functions: &mut Vec<Tool>) -> Option<ToolChoice> {
    if let Some(word) = choice.as_str() {
        return mode(word);
    }
    let fields = choice.as_object()?;
    if fields.get("type")? != "allowed_tools" {
        return one(fields).map(ToolChoice::Function);
    }
    let allowed: HashSet<String> =
        fields.get("tools")?.as_array()?.iter().filter_map(Value::as_object).filter_map(one).collect();
    functions.retain(|function| allowed.contains(&function.name));
    mode(fields.get("mode")?.as_str()?)
}

fn mode(word: &str) -> Option<ToolChoice> {
    match word {
        "auto" => Some(ToolChoice::Auto),
        "none" => Some(ToolChoice::None),
        "required" => Some(ToolChoice::Required),
        _ => None,
    }
}

/// The flat name of the tool that is chosen.
fn one(choice: &Map<String, Value>) -> Option<String> {
    match choice.get("type")?.as_str()? {
        "function" | "custom" => {}
        other => return BuiltIn::named(other).map(|tool| tool.name().to_owned()),
    }
    let (name, namespace) = chosen(choice)?;
    Some(flat_name(namespace, name).into_owned())
}

/// The call that an item of the conversation is; none when it is not one.
pub(super) fn called(item: &Value) -> Option<Result<FunctionCall, String>> {
    let text = |field: &str| item[field].as_str().map(str::to_owned).ok_or_else(|| format!("`{field}` is not a text"));
    let call = |arguments: String| {
        let name = flat_name(item["namespace"].as_str(), &text("name")?).into_owned();
        Ok(FunctionCall { call_id: text("call_id")?, name, arguments })
    };
    match item["type"].as_str()? {
        "function_call" => Some(text("arguments").and_then(call)),
        "custom_tool_call" => Some(text("input").and_then(|input| call(json!({INPUT: input}).to_string()))),
        other => {
            let tool = BuiltIn::of_call(other)?;
            let call_id = item["call_id"].as_str()?.to_owned();
            Some(Ok(FunctionCall { call_id, name: tool.name().to_owned(), arguments: tool.arguments(item) }))
        }
    }
}

/// The answers of built-in tools in a conversation.
pub(super) struct Answers<'a> {
    /// The call ids of the calls, also by the calls' own ids: the answer of a `local_shell` has one of them.
    calls: HashMap<&'a str, &'a str>,
}

impl<'a> Answers<'a> {
    /// Those of these items.
    pub(super) fn of(input: &'a [Value]) -> Self {
        let calls = input.iter().filter(|item| item["type"].as_str().and_then(BuiltIn::of_call).is_some());
        let named = calls.filter_map(|call| Some((call, call["call_id"].as_str()?)));
        let ids = named.flat_map(|(call, call_id)| [Some(call_id), call["id"].as_str()].map(|id| Some((id?, call_id))));
        Self { calls: ids.flatten().collect() }
    }

    /// The call that an item answers, and what a model is told; none when it is not such an answer, and nothing where there
    /// is no such call.
    pub(super) fn answered(&self, item: &Value) -> Option<Option<(&'a str, String)>> {
        let tool = BuiltIn::of_output(item["type"].as_str()?)?;
        let ids = [item["call_id"].as_str(), item["id"].as_str()];
        let call = ids.into_iter().flatten().find_map(|id| self.calls.get(id).copied());
        Some(call.map(|call| (call, tool.answer(item))))
    }
}

/// The calls that a model is not told of, by their ids: those of other tools, whose outputs are not for it either, and those
/// of custom and built-in tools without an output.
pub(super) fn untold<'a>(input: &'a [Value], answers: &Answers<'a>) -> HashSet<&'a str> {
    fn of(input: &[Value], wanted: impl Fn(&str) -> bool) -> impl Iterator<Item = &str> {
        let items = input.iter().filter(move |item| item["type"].as_str().is_some_and(&wanted));
        items.filter_map(|item| item["call_id"].as_str())
    }
    let outputs = of(input, |kind| matches!(kind, "function_call_output" | "custom_tool_call_output"));
    let built_in = input.iter().filter_map(|item| Some(answers.answered(item)??.0));
    let answered: HashSet<&str> = outputs.chain(built_in).collect();
    let may_be_open = |kind: &str| kind == "custom_tool_call" || BuiltIn::of_call(kind).is_some();
    let open = of(input, may_be_open).filter(|id| !answered.contains(id));
    let others = |kind: &str| kind.ends_with("_call") && kind != "function_call" && !may_be_open(kind);
    of(input, others).chain(open).collect()
}

/// An item of a completion; a call as the tool that is called has it.
pub fn restored(item: Value, tools: &ClientTools) -> Value {
    let text = |field: &str| item[field].as_str().unwrap_or_default();
    if item["type"] != "function_call" {
        return item;
    }
    let tool = tools.named(text("name"));
    super::generation::tool_call_item(text("call_id"), &tool, text("arguments"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Map<String, Value> {
        let options = json!({"tools": [
            {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": true},
            {"type": "custom", "name": "patch", "description": "Edits files.",
             "format": {"type": "grammar", "syntax": "lark", "definition": "start: /x/"}},
            {"type": "web_search"},
            {"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "g"}]},
            {"type": "shell"},
        ]});
        options.as_object().unwrap().clone()
    }

    #[test]
    fn a_model_is_offered_functions_only() {
        let input = [json!({"type": "additional_tools", "tools": [
            {"type": "function", "name": "more"}, {"type": "function", "name": "f", "description": "another"},
        ]})];
        let options = options();
        let functions = functions(tools(&options, &input));
        let names: Vec<_> = functions.iter().map(|function| function.name.as_str()).collect();
        assert_eq!(names, ["f", "patch", "n__g", "shell", "more"]);
        assert_eq!((functions[0].strict, functions[0].description.as_deref()), (Some(true), None));
        let described = functions[1].description.as_deref().unwrap();
        assert_eq!(described, "Edits files.\n\n`input` follows this lark grammar:\nstart: /x/");
        assert_eq!(functions[1].parameters.as_ref().unwrap()["required"], json!(["input"]));
    }

    #[test]
    fn a_call_is_told_and_restored_as_its_tool_has_it() {
        for item in [
            json!({"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "status": "completed"}),
            json!({"type": "function_call", "call_id": "c", "name": "g", "namespace": "n", "arguments": "{}", "status": "completed"}),
            json!({"type": "custom_tool_call", "call_id": "c", "name": "patch", "input": "a\n\"b\"", "status": "completed"}),
            json!({"type": "shell_call", "call_id": "c", "action": {"commands": ["ls"]}, "status": "completed"}),
        ] {
            let call = called(&item).unwrap().unwrap();
            let told = super::super::generation::call_item(&call.call_id, &call.name, &call.arguments);
            let options = options();
            assert_eq!(restored(told, &ClientTools::of(tools(&options, &[]))), item);
        }
    }

    #[test]
    fn of_calls_that_mean_nothing_to_a_model_it_is_not_told() {
        let item = |kind: &str, id: &str| json!({"type": kind, "call_id": id});
        let input = [
            item("function_call", "a"),
            item("custom_tool_call", "b"),
            item("custom_tool_call_output", "b"),
            item("custom_tool_call", "c"),
            item("computer_call", "d"),
            item("function_call_output", "d"),
            item("shell_call", "e"),
            item("shell_call", "f"),
            item("shell_call_output", "f"),
            item("local_shell_call", "g"),
            item("function_call_output", "g"),
        ];
        assert_eq!(untold(&input, &Answers::of(&input)), HashSet::from(["c", "d", "e"]));
    }

    #[test]
    fn of_allowed_tools_the_others_are_not_offered() {
        let choose = |wanted: Value| {
            let options = options();
            let mut offered = functions(tools(&options, &[]));
            let choice = choice(&wanted, &mut offered);
            (choice, offered.into_iter().map(|function| function.name).collect::<Vec<_>>())
        };
        let allowed = json!([{"type": "custom", "name": "patch"}, {"type": "web_search"}]);
        let (chosen, offered) = choose(json!({"type": "allowed_tools", "mode": "required", "tools": allowed}));
        assert_eq!((chosen, offered), (Some(ToolChoice::Required), vec!["patch".to_owned()]));
        for (wanted, name) in [
            (json!({"type": "function", "name": "f"}), "f"),
            (json!({"type": "function", "function": {"name": "f"}}), "f"),
            (json!({"type": "function", "name": "g", "namespace": "n"}), "n__g"),
            (json!({"type": "shell"}), "shell"),
        ] {
            let (chosen, offered) = choose(wanted);
            assert_eq!((chosen, offered.len()), (Some(ToolChoice::Function(name.to_owned())), 4));
        }
        assert_eq!(choose(json!({"type": "web_search"})).0, None);
    }
}
