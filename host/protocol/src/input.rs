//! The `input` of a request: from every form a client may send to the protocol's full items.
//!
//! After this, a message has a `type` and a list of parts, so an agent sees one shape only.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::{
    built_in::BuiltIn,
    check::{RequestLimits, one_of, wrong_type},
    error::ApiError,
    parts::check_parts,
    tools::{check_tools, short},
};

/// The most input items of one request, by default.
pub const MAX_INPUT_ITEMS: usize = 10_000;

/// The longest id of an item, in characters.
const ID: usize = 256;
/// The type of an item that stands for a stored one.
const REFERENCE: &str = "item_reference";
/// The type of an item that adds tools to those of the request.
const TOOLS: &str = "additional_tools";
/// The types of items that say something to a model, or stand for others that do.
const SERVED: [&str; 9] = [
    "message",
    "function_call",
    "function_call_output",
    "custom_tool_call",
    "custom_tool_call_output",
    "reasoning",
    TOOLS,
    REFERENCE,
    COMPACTION,
];
/// The type of an item that stands for a history that was compacted.
pub(super) const COMPACTION: &str = "compaction";

/// Checks `input` and brings it into its full shape.
pub(super) fn normalize(input: Value, limits: &RequestLimits) -> Result<Vec<Value>, ApiError> {
    let items = match input {
        Value::String(text) => {
            check_text("input", &text, limits)?;
            return Ok(vec![json!({
                "type": "message", "role": "user", "content": [{"type": "input_text", "text": text}],
            })]);
        }
        Value::Array(items) => items,
        other => return Err(wrong_type("input", "a string or an array of items", &other)),
    };
    normalize_items("input", items, limits)
}

/// Checks items and brings them into their full shapes.
pub(super) fn normalize_items(param: &str, items: Vec<Value>, limits: &RequestLimits) -> Result<Vec<Value>, ApiError> {
    if items.len() > limits.input_items {
        let message = format!("'{param}' has {} items; at most {} are allowed.", items.len(), limits.input_items);
        return Err(ApiError::invalid(param, "array_above_max_length", message));
    }
    let items = items.into_iter().enumerate();
    items.map(|(index, item)| normalize_item(&format!("{param}[{index}]"), item, limits)).collect()
}

fn normalize_item(param: &str, item: Value, limits: &RequestLimits) -> Result<Value, ApiError> {
    let Value::Object(mut item) = item else { return Err(wrong_type(param, "an object", &item)) };
    let kind = match item.get("type") {
        None | Some(Value::Null) if item.contains_key("role") => "message".to_owned(),
        None | Some(Value::Null) if item.contains_key("id") && item.len() == 1 => REFERENCE.to_owned(),
        None | Some(Value::Null) => return Err(absent(param, "type")),
        Some(Value::String(kind)) => kind.clone(),
        Some(other) => return Err(wrong_type(&format!("{param}.type"), "a string", other)),
    };
    match item.get("id") {
        None | Some(Value::Null) => {}
        Some(Value::String(id)) if id.chars().count() <= ID && !id.chars().any(char::is_control) => {}
        Some(Value::String(_)) => {
            let message = format!("'{param}.id' must have at most {ID} characters, and no control characters.");
            return Err(ApiError::invalid(format!("{param}.id"), "invalid_value", message));
        }
        Some(other) => return Err(wrong_type(&format!("{param}.id"), "a string", other)),
    }
    match kind.as_str() {
        "message" => normalize_message(param, &mut item, limits)?,
        "function_call" | "custom_tool_call" => {
            let said = if kind == "function_call" { "arguments" } else { "input" };
            for field in ["call_id", "name", said] {
                check_text(&format!("{param}.{field}"), required_string(param, &item, field)?, limits)?;
            }
            match item.get("namespace") {
                None | Some(Value::Null | Value::String(_)) => {}
                Some(other) => return Err(wrong_type(&format!("{param}.namespace"), "a string", other)),
            }
        }
        "function_call_output" | "custom_tool_call_output" => {
            required_string(param, &item, "call_id")?;
            match item.get("output") {
                Some(Value::String(text)) => check_text(&format!("{param}.output"), text, limits)?,
                Some(Value::Array(parts)) => check_parts(&format!("{param}.output"), parts, "user", limits)?,
                Some(other) => return Err(wrong_type(&format!("{param}.output"), "a string or an array", other)),
                None => return Err(absent(param, "output")),
            }
        }
        "reasoning" => match item.get("summary") {
            Some(Value::Array(parts)) => {
                for (index, part) in parts.iter().enumerate() {
                    let param = format!("{param}.summary[{index}]");
                    let part = part.as_object().ok_or_else(|| wrong_type(&param, "an object", part))?;
                    check_text(&format!("{param}.text"), required_string(&param, part, "text")?, limits)?;
                }
            }
            Some(other) => return Err(wrong_type(&format!("{param}.summary"), "an array", other)),
            None => return Err(absent(param, "summary")),
        },
        REFERENCE => {
            required_string(param, &item, "id")?;
        }
        COMPACTION => {
            required_string(param, &item, "encrypted_content")?;
        }
        TOOLS => match item.get("tools") {
            Some(Value::Array(tools)) => check_tools(&format!("{param}.tools"), tools)?,
            Some(other) => return Err(wrong_type(&format!("{param}.tools"), "an array", other)),
            None => return Err(absent(param, "tools")),
        },
        "tool_search_output" => {
            if let Some(Value::Array(tools)) = item.get("tools") {
                check_tools(&format!("{param}.tools"), tools)?;
            }
        }
        // Agents are given it as it is, and models what they can be told of it.
        _ => {}
    }
    item.insert("type".to_owned(), kind.into());
    Ok(Value::Object(item))
}

fn normalize_message(param: &str, item: &mut Map<String, Value>, limits: &RequestLimits) -> Result<(), ApiError> {
    let role = required_string(param, item, "role")?.to_owned();
    one_of(&format!("{param}.role"), &role, &["user", "assistant", "system", "developer"])?;
    let content_param = format!("{param}.content");
    match item.get_mut("content") {
        // Beside its calls, a model may have said nothing.
        None | Some(Value::Null) if role == "assistant" => {
            item.insert("content".to_owned(), json!([]));
        }
        None | Some(Value::Null) => return Err(absent(param, "content")),
        Some(Value::String(text)) => {
            check_text(&content_param, text, limits)?;
            let part = if role == "assistant" {
                json!({"type": "output_text", "text": text, "annotations": []})
            } else {
                json!({"type": "input_text", "text": text})
            };
            item.insert("content".to_owned(), json!([part]));
        }
        Some(Value::Array(parts)) => check_parts(&content_param, parts, &role, limits)?,
        Some(other) => return Err(wrong_type(&content_param, "a string or an array of parts", other)),
    }
    Ok(())
}

/// The items that no model is told of, as `input[3].type=web_search_call`.
pub(super) fn ignored(items: &[Value]) -> impl Iterator<Item = String> {
    items.iter().enumerate().filter_map(|(index, item)| {
        let kind = item["type"].as_str()?;
        let built_in = BuiltIn::of_call(kind).or_else(|| BuiltIn::of_output(kind));
        (!SERVED.contains(&kind) && built_in.is_none()).then(|| format!("input[{index}].type={}", short(kind)))
    })
}

/// Checks that every call has its output and every output its call, in the whole conversation: what came before, and
/// the new input; and that no call and no output comes twice.
///
/// The calls of tools that no model is told of need no outputs; nor does the call of a custom tool, of which no model is
/// told then.
///
/// # Errors
///
/// The first call or output that is alone, or comes again.
pub fn check_calls(history: &[Value], input: &[Value]) -> Result<(), ApiError> {
    let kind = |item: &Value| item["type"].as_str().map_or(Part::None, Part::of);
    let ids = |wanted: fn(Part) -> bool| -> HashSet<&str> {
        let items = history.iter().chain(input).filter(|item| wanted(kind(item)));
        items.filter_map(|item| item["call_id"].as_str()).collect()
    };
    let outputs = ids(|part| part == Part::Output);
    let functions = history.iter().chain(input).filter(|item| item["type"] == "function_call");
    let mut functions = functions.filter_map(|item| item["call_id"].as_str());
    if let Some(id) = functions.find(|id| !outputs.contains(id)) {
        let message = format!("No tool output found for function call {id}.");
        return Err(ApiError::invalid("input", "missing_tool_output", message));
    }
    if let Some(id) = outputs.difference(&ids(|part| matches!(part, Part::Call | Part::OtherCall))).next() {
        let message = format!("No tool call found for function call output with call_id {id}.");
        return Err(ApiError::invalid("input", "missing_tool_call", message));
    }
    let mut seen = HashSet::new();
    let known = history.iter().filter_map(|item| Some((kind(item), item["call_id"].as_str()?)));
    seen.extend(known.filter(|(part, _)| matches!(part, Part::Call | Part::Output)));
    for (index, item) in input.iter().enumerate() {
        let part = kind(item);
        let (Part::Call | Part::Output, Some(id)) = (part, item["call_id"].as_str()) else { continue };
        if !seen.insert((part, id)) {
            let what = if part == Part::Call { "call" } else { "output" };
            let message = format!(
                "There are two tool {what}s with call_id {id}. Each call has an id of its own, and one output."
            );
            return Err(ApiError::invalid(format!("input[{index}].call_id"), "duplicate_call_id", message));
        }
    }
    Ok(())
}

/// What part of a call an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Part {
    /// A call of a function or of a custom tool.
    Call,
    /// The call of another tool.
    OtherCall,
    /// What a function or a custom tool returned.
    Output,
    None,
}

impl Part {
    fn of(kind: &str) -> Self {
        match kind {
            "function_call" | "custom_tool_call" => Self::Call,
            "function_call_output" | "custom_tool_call_output" => Self::Output,
            other if other.ends_with("_call") => Self::OtherCall,
            _ => Self::None,
        }
    }
}

/// Whether an item is a call that was cut: nobody can answer it, and nothing that follows is told of it.
pub fn is_half_call(item: &Value) -> bool {
    item["type"] == "function_call" && item["status"] == "incomplete"
}

/// Whether an item stands for a stored one.
pub(super) fn is_reference(item: &Value) -> bool {
    item["type"] == REFERENCE
}

/// The items that stand for stored ones, each with its place in the input and the id it refers to.
pub fn references(input: &mut [Value]) -> impl Iterator<Item = (usize, &mut Value, String)> {
    input.iter_mut().enumerate().filter(|(_, item)| is_reference(item)).map(|(index, item)| {
        let id = item["id"].as_str().unwrap_or_default().to_owned();
        (index, item, id)
    })
}

/// Gives what a stored item has to every item that lacks it: a status, and the id that `make` makes of a prefix and
/// the item's place.
pub fn identify(items: &mut [Value], make: impl Fn(&str, usize) -> String) {
    for (index, item) in items.iter_mut().enumerate() {
        let (prefix, has_status) = match item["type"].as_str().unwrap_or_default() {
            "message" => ("msg", true),
            "function_call" => ("fc", true),
            "function_call_output" => ("fco", true),
            "custom_tool_call" => ("ctc", true),
            "custom_tool_call_output" => ("ctco", true),
            "reasoning" => ("rs", false),
            COMPACTION => ("cmp", false),
            other => BuiltIn::of_call(other).map_or(("item", false), |tool| (tool.prefix(), true)),
        };
        if has_status && item["status"].is_null() {
            item["status"] = "completed".into();
        }
        if item["id"].as_str().is_some_and(|id| !id.is_empty()) {
            continue;
        }
        item["id"] = make(prefix, index).into();
    }
}

pub(super) fn required_string<'a>(
    param: &str,
    fields: &'a Map<String, Value>,
    name: &str,
) -> Result<&'a str, ApiError> {
    match fields.get(name) {
        Some(Value::String(text)) => Ok(text),
        None | Some(Value::Null) => Err(absent(param, name)),
        Some(other) => Err(wrong_type(&format!("{param}.{name}"), "a string", other)),
    }
}

fn absent(param: &str, name: &str) -> ApiError {
    let param = format!("{param}.{name}");
    let message = format!("Missing required parameter: '{param}'.");
    ApiError::invalid(param, "missing_required_parameter", message)
}

pub(super) fn check_text(param: &str, text: &str, limits: &RequestLimits) -> Result<(), ApiError> {
    if text.len() <= limits.text_bytes {
        return Ok(());
    }
    let message = format!("'{param}' has {} bytes of text; at most {} are allowed.", text.len(), limits.text_bytes);
    Err(ApiError::invalid(param, "string_above_max_length", message))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: RequestLimits = RequestLimits { text_bytes: 100, input_items: 3 };

    fn refused(input: Value) -> (String, &'static str) {
        let error = normalize(input, &LIMITS).unwrap_err();
        (error.param.unwrap_or_default(), error.code)
    }

    #[test]
    fn every_form_of_a_message_becomes_the_same() {
        let full = json!([{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}]);
        for form in [json!("hi"), json!([{"role": "user", "content": "hi"}]), full.clone()] {
            let items = normalize(form, &LIMITS).unwrap();
            assert_eq!(items[0]["type"], "message");
            assert_eq!(items[0]["content"], full[0]["content"]);
        }
    }

    #[test]
    fn what_is_wrong_is_named_by_its_path() {
        let long = "x".repeat(101);
        let cases = [
            (json!(7), "input", "invalid_type"),
            (json!([7]), "input[0]", "invalid_type"),
            (json!([{}]), "input[0].type", "missing_required_parameter"),
            (json!([{"type": "additional_tools"}]), "input[0].tools", "missing_required_parameter"),
            (
                json!([{"type": "additional_tools", "tools": [{}]}]),
                "input[0].tools[0].type",
                "missing_required_parameter",
            ),
            (
                json!([{"type": "custom_tool_call", "call_id": "c", "name": "n"}]),
                "input[0].input",
                "missing_required_parameter",
            ),
            (json!([{"role": "robot", "content": "x"}]), "input[0].role", "invalid_value"),
            (json!([{"role": "user", "content": "x", "id": 7}]), "input[0].id", "invalid_type"),
            (json!([{"role": "user", "content": "x", "id": "a\u{0}"}]), "input[0].id", "invalid_value"),
            (json!([{"role": "user"}]), "input[0].content", "missing_required_parameter"),
            (json!([{"role": "user", "content": 1}]), "input[0].content", "invalid_type"),
            (json!([{"role": "user", "content": [{"type": "refusal"}]}]), "input[0].content[0].type", "invalid_value"),
            (
                json!([{"role": "user", "content": [{"type": "input_text"}]}]),
                "input[0].content[0].text",
                "missing_required_parameter",
            ),
            (json!(long), "input", "string_above_max_length"),
            (json!(["a", "b", "c", "d"]), "input", "array_above_max_length"),
        ];
        for (input, param, code) in cases {
            assert_eq!(refused(input.clone()), (param.to_owned(), code), "{input}");
        }
    }

    #[test]
    fn a_call_and_its_output_need_each_other_over_all_turns() {
        let call = json!({"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"});
        let output = json!({"type": "function_call_output", "call_id": "c", "output": "x"});
        assert!(check_calls(&[], &[call.clone(), output.clone()]).is_ok());
        let (call, output) = (&[call], &[output]);
        assert!(check_calls(call, output).is_ok());
        assert_eq!(check_calls(call, &[]).unwrap_err().code, "missing_tool_output");
        assert_eq!(check_calls(&[], output).unwrap_err().code, "missing_tool_call");
    }

    #[test]
    fn a_call_and_an_output_come_once() {
        let call = |kind: &str| json!({"type": kind, "call_id": "c", "name": "f", "arguments": "{}", "input": ""});
        let output = json!({"type": "function_call_output", "call_id": "c", "output": "x"});
        let (function, custom) = (call("function_call"), call("custom_tool_call"));
        let refused = |history: &[&Value], input: &[&Value]| {
            let owned = |items: &[&Value]| items.iter().map(|item| (*item).clone()).collect::<Vec<_>>();
            let error = check_calls(&owned(history), &owned(input)).unwrap_err();
            (error.param.unwrap_or_default(), error.code)
        };
        let twice = |place: usize| (format!("input[{place}].call_id"), "duplicate_call_id");
        assert_eq!(refused(&[], &[&function, &function, &output]), twice(1));
        assert_eq!(refused(&[], &[&function, &custom, &output]), twice(1));
        assert_eq!(refused(&[], &[&function, &output, &output]), twice(2));
        assert_eq!(refused(&[&function, &output], &[&function]), twice(0));
    }

    #[test]
    fn items_of_any_type_are_kept_as_they_are() {
        let items = json!([
            {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {}},
            {"type": "acme:thing"},
            {"type": "local_shell_call", "call_id": "c", "action": {}},
            {"type": "function_call_output", "call_id": "c", "output": "x"},
            {"type": "tool_search_call", "call_id": "d", "arguments": {}},
        ]);
        let mut kept = normalize(items.clone(), &RequestLimits { input_items: 9, ..LIMITS }).unwrap();
        assert_eq!(json!(kept), items);
        assert!(check_calls(&[], &kept).is_ok());
        let named: Vec<_> = ignored(&kept).collect();
        assert_eq!(named, ["input[0].type=web_search_call", "input[1].type=acme:thing"]);
        identify(&mut kept, |prefix, index| format!("{prefix}_{index}"));
        assert_eq!((&kept[1]["id"], &kept[1]["status"]), (&json!("item_1"), &Value::Null));
    }

    #[test]
    fn an_assistant_may_have_said_nothing() {
        for message in [json!({"role": "assistant", "content": null}), json!({"role": "assistant"})] {
            assert_eq!(normalize(json!([message]), &LIMITS).unwrap()[0]["content"], json!([]));
        }
    }

    #[test]
    fn a_reference_is_found_with_and_without_its_type() {
        let input =
            json!([{"id": "msg_1"}, {"type": "item_reference", "id": "msg_2"}, {"role": "user", "content": "x"}]);
        let mut items = normalize(input, &LIMITS).unwrap();
        let found: Vec<_> = references(&mut items).map(|(index, _, id)| (index, id)).collect();
        assert_eq!(found, [(0, "msg_1".to_owned()), (1, "msg_2".to_owned())]);
    }

    #[test]
    fn every_item_gets_an_id_and_keeps_the_one_it_has() {
        let id = crate::ResponseId::new(uuid::Uuid::from_u128(1));
        let mut items = vec![json!({"type": "message"}), json!({"type": "message", "id": "msg_mine"})];
        identify(&mut items, |prefix, index| id.input_child(prefix, index));
        assert_eq!(items[0]["id"], "msg_in_000000000000000000000000000000010000");
        assert_eq!(items[1]["id"], "msg_mine");
    }
}
