//! The request of the Chat Completions API, from turns and settings. Pure.
//!
//! Sent is the form that most servers take: a single text as a text, no field that was not asked for, and the
//! arguments of function calls in the model's own bytes.

use serde_json::{Map, Value, json};

use super::{
    conversation::{FunctionCall, Part, Turn},
    settings::{Format, Settings, Tool, ToolChoice},
};

/// The body of a request to a model. `openai`: it goes to OpenAI itself.
pub(super) fn body(model: &str, turns: &[Turn], settings: &Settings, openai: bool) -> Value {
    let mut body = Map::new();
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            body.insert(name.to_owned(), value);
        }
    };
    set("model", Some(model.into()));
    set("messages", Some(turns.iter().map(message).collect()));
    set("stream", Some(true.into()));
    set("stream_options", Some(json!({"include_usage": true})));
    set("temperature", settings.temperature.map(Value::from));
    set("top_p", settings.top_p.map(Value::from));
    set("presence_penalty", settings.presence_penalty.map(Value::from));
    set("frequency_penalty", settings.frequency_penalty.map(Value::from));
    set("reasoning_effort", settings.effort.clone().map(Value::from));
    set("verbosity", settings.verbosity.clone().map(Value::from));
    // OpenAI has renamed it, most others have not.
    let name = model.rsplit('/').next().unwrap_or(model);
    let renamed = openai || ["gpt-5", "o1", "o3", "o4"].iter().any(|family| name.starts_with(family));
    let limit = if renamed { "max_completion_tokens" } else { "max_tokens" };
    set(limit, settings.max_output_tokens.map(Value::from));
    set("response_format", settings.format.as_ref().map(format));
    if !settings.tools.is_empty() {
        set("tools", Some(settings.tools.iter().map(tool).collect()));
    }
    set("tool_choice", settings.tool_choice.as_ref().map(tool_choice));
    set("parallel_tool_calls", settings.parallel_tool_calls.map(Value::from));
    Value::Object(body)
}

fn message(turn: &Turn) -> Value {
    match turn {
        Turn::System(text) => json!({"role": "system", "content": text}),
        Turn::User(parts) => match parts.as_slice() {
            // The form that every server takes.
            [Part::Text(text)] => json!({"role": "user", "content": text}),
            parts => json!({"role": "user", "content": parts.iter().map(part).collect::<Value>()}),
        },
        Turn::Assistant { text, calls } if calls.is_empty() => json!({"role": "assistant", "content": text}),
        Turn::Assistant { text, calls } => {
            let content = if text.is_empty() { Value::Null } else { text.as_str().into() };
            json!({"role": "assistant", "content": content, "tool_calls": calls.iter().map(call).collect::<Value>()})
        }
        Turn::Output { call_id, text } => json!({"role": "tool", "tool_call_id": call_id, "content": text}),
    }
}

fn part(part: &Part) -> Value {
    match part {
        Part::Text(text) => json!({"type": "text", "text": text}),
        Part::Image { url, detail: None } => json!({"type": "image_url", "image_url": {"url": url}}),
        Part::Image { url, detail } => json!({"type": "image_url", "image_url": {"url": url, "detail": detail}}),
        Part::File { name, data } => {
            let name = name.as_deref().unwrap_or("file");
            json!({"type": "file", "file": {"filename": name, "file_data": data}})
        }
        Part::Audio { data, format } => json!({"type": "input_audio", "input_audio": {"data": data, "format": format}}),
    }
}

fn call(call: &FunctionCall) -> Value {
    json!({"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}})
}

fn tool(tool: &Tool) -> Value {
    let mut function = Map::new();
    function.insert("name".to_owned(), tool.name.clone().into());
    let others = [
        ("description", tool.description.clone().map(Value::from)),
        ("parameters", tool.parameters.clone()),
        ("strict", tool.strict.map(Value::from)),
    ];
    for (name, value) in others {
        if let Some(value) = value {
            function.insert(name.to_owned(), value);
        }
    }
    json!({"type": "function", "function": function})
}

fn tool_choice(choice: &ToolChoice) -> Value {
    match choice {
        ToolChoice::Auto => "auto".into(),
        ToolChoice::None => "none".into(),
        ToolChoice::Required => "required".into(),
        ToolChoice::Function(name) => json!({"type": "function", "function": {"name": name}}),
    }
}

fn format(format: &Format) -> Value {
    match format {
        Format::JsonObject => json!({"type": "json_object"}),
        Format::JsonSchema { name, schema, strict } => {
            let mut spec = json!({"name": name, "schema": schema});
            if let Some(strict) = strict {
                spec["strict"] = (*strict).into();
            }
            json!({"type": "json_schema", "json_schema": spec})
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Call;

    fn sent(model: &str, input: Value, options: Value) -> Value {
        let input = input.as_array().unwrap().clone();
        let call = Call { input, instructions: Some("Be kind.".to_owned()), ..Call::default() };
        body(model, &call.turns().unwrap(), &Settings::read(options.as_object().unwrap(), &[]).unwrap(), false)
    }

    #[test]
    fn a_conversation_is_sent_as_it_was() {
        let image = json!({"type": "input_image", "image_url": "https://x/y.png", "detail": "low"});
        let file = json!({"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="});
        let body = sent(
            "m",
            json!([
                {"role": "user", "content": [{"type": "input_text", "text": "what?"}, image, file]},
                {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{\"b\": 1,  \"a\": 2}"},
                {"type": "function_call", "call_id": "2", "name": "g", "arguments": "not json"},
                {"type": "function_call_output", "call_id": "1", "output": "x"},
                {"type": "function_call_output", "call_id": "2", "output": "y"},
                {"role": "assistant", "content": [{"type": "output_text", "text": "So"}]},
            ]),
            json!({}),
        );
        let function = |name: &str, arguments: &str| json!({"name": name, "arguments": arguments});
        assert_eq!(
            body["messages"],
            json!([
                {"role": "system", "content": "Be kind."},
                {"role": "user", "content": [
                    {"type": "text", "text": "what?"},
                    {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}},
                    {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="}},
                ]},
                {"role": "assistant", "content": null, "tool_calls": [
                    {"id": "1", "type": "function", "function": function("f", "{\"b\": 1,  \"a\": 2}")},
                    {"id": "2", "type": "function", "function": function("g", "not json")},
                ]},
                {"role": "tool", "tool_call_id": "1", "content": "x"},
                {"role": "tool", "tool_call_id": "2", "content": "y"},
                {"role": "assistant", "content": "So"},
            ])
        );
    }

    #[test]
    fn options_are_sent_under_their_names_and_no_others() {
        let user = json!([{"role": "user", "content": "hi"}]);
        let tool = json!({"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": true});
        let schema = json!({"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": false});
        let body = sent(
            "qwen-max",
            user.clone(),
            json!({
                "temperature": 0.5, "max_output_tokens": 9, "reasoning": {"effort": "high"}, "text": {"format": schema},
                "tools": [tool], "tool_choice": {"type": "function", "name": "f"}, "parallel_tool_calls": false, "store": true,
            }),
        );
        let function = json!({"name": "f", "parameters": {"type": "object"}, "strict": true});
        let mut expected = json!({
            "model": "qwen-max", "stream": true, "stream_options": {"include_usage": true}, "temperature": 0.5,
            "max_tokens": 9, "reasoning_effort": "high", "tools": [{"type": "function", "function": function}],
            "tool_choice": {"type": "function", "function": {"name": "f"}}, "parallel_tool_calls": false,
            "response_format": {
                "type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": false},
            },
        });
        expected["messages"] = body["messages"].clone();
        assert_eq!(body, expected);
        let body = sent("openai/o3-mini", user, json!({"max_output_tokens": 9}));
        assert_eq!((&body["max_completion_tokens"], &body["max_tokens"]), (&json!(9), &Value::Null));
    }
}
