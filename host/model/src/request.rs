//! The request of the Chat Completions API, from turns and settings. Pure.
//!
//! Sent is the form that most servers take: a single text as a text, no field that was not asked for, and the
//! arguments of function calls in the model's own bytes.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use super::{
    conversation::{FunctionCall, Message, Part},
    order::instructed,
    parameter::Parameter,
    settings::{Format, Settings, Tool, ToolChoice},
};

/// What a provider takes.
#[derive(Clone, Debug, Default)]
pub(super) struct Takes {
    /// It is OpenAI itself.
    pub openai: bool,
    /// The field of a message for reasoning; none when it does not get it back.
    pub reasoning: Option<&'static str>,
    /// Parameters that not every provider takes.
    pub parameters: Vec<Parameter>,
}

/// The body of a request to a model.
pub(super) fn body(model: &str, turns: &[Message], settings: &Settings, takes: &Takes) -> Value {
    let openai = takes.openai;
    // OpenAI takes instructions anywhere, and a later one is meant from there on.
    let turns = if openai { Cow::Borrowed(turns) } else { Cow::Owned(instructed(turns)) };
    let mut body = Map::new();
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            body.insert(name.to_owned(), value);
        }
    };
    set("model", Some(model.into()));
    set("messages", Some(turns.iter().map(|turn| message(turn, takes.reasoning)).collect()));
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
    for parameter in &takes.parameters {
        let value = settings.extra(*parameter);
        if *parameter == Parameter::TopLogprobs {
            set("logprobs", settings.logprobs.then(|| true.into()));
        }
        set(parameter.name(), value.filter(|value| **value != 0).cloned());
    }
    Value::Object(body)
}

fn message(turn: &Message, reasoning_field: Option<&str>) -> Value {
    let mut message = plain_message(turn);
    if let (Message::Assistant { reasoning, .. }, Some(field)) = (turn, reasoning_field)
        && !reasoning.is_empty()
    {
        message[field] = reasoning.as_str().into();
    }
    message
}

fn plain_message(turn: &Message) -> Value {
    match turn {
        Message::System(text) => json!({"role": "system", "content": text}),
        Message::User(parts) => match parts.as_slice() {
            // The form that every server takes.
            [Part::Text(text)] => json!({"role": "user", "content": text}),
            parts => json!({"role": "user", "content": parts.iter().map(part).collect::<Value>()}),
        },
        Message::Assistant { text, calls, .. } if calls.is_empty() => json!({"role": "assistant", "content": text}),
        Message::Assistant { text, calls, .. } => {
            let content = if text.is_empty() { Value::Null } else { text.as_str().into() };
            json!({"role": "assistant", "content": content, "tool_calls": calls.iter().map(call).collect::<Value>()})
        }
        Message::Output { call_id, text, .. } => json!({"role": "tool", "tool_call_id": call_id, "content": text}),
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
    let arguments = if call.arguments.trim().is_empty() { "{}" } else { &call.arguments };
    json!({"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": arguments}})
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
        let settings = Settings::read(options.as_object().unwrap(), &[]).unwrap();
        body(model, &call.turns().unwrap(), &settings, &Takes::default())
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
    fn a_provider_gets_what_it_takes() {
        let thought = json!({"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]});
        let call = json!({"type": "function_call", "call_id": "1", "name": "f", "arguments": ""});
        let output = json!({"type": "function_call_output", "call_id": "1", "output": "x"});
        let developer = json!({"role": "developer", "content": "And short."});
        let input = vec![json!({"role": "user", "content": "hi"}), thought, call, output, developer];
        let call = Call { input, instructions: Some("Be kind.".to_owned()), ..Call::default() };
        let options = json!({
            "user": "ann", "metadata": {"a": "b"}, "service_tier": "flex", "top_logprobs": 2, "presence_penalty": 0.5,
            "prompt_cache_key": "k", "safety_identifier": "s",
        });
        let settings = Settings::read(options.as_object().unwrap(), &[]).unwrap();
        let mut takes =
            Takes { openai: true, reasoning: Some("reasoning_content"), parameters: Parameter::ALL.to_vec() };
        let body = self::body("m", &call.turns().unwrap(), &settings, &takes);
        for (name, value) in options.as_object().unwrap() {
            assert_eq!(body[name], *value);
        }
        assert_eq!(body["logprobs"], true);
        let messages = body["messages"].as_array().unwrap();
        assert_eq!(messages[2]["reasoning_content"], "hm");
        assert_eq!(messages[2]["tool_calls"][0]["function"]["arguments"], "{}");
        assert_eq!(messages.last().unwrap(), &json!({"role": "system", "content": "And short."}));
        takes = Takes::default();
        let body = self::body("m", &call.turns().unwrap(), &settings, &takes);
        assert_eq!(body["messages"][0], json!({"role": "system", "content": "Be kind.\n\nAnd short."}));
        assert!(body["messages"][2].get("reasoning_content").is_none() && body.get("user").is_none());
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
        // What a provider is not known to take is not sent.
        assert_eq!(sent("qwen-max", user.clone(), json!({"user": "ann", "top_logprobs": 2}))["user"], Value::Null);
        let body = sent("openai/o3-mini", user, json!({"max_output_tokens": 9}));
        assert_eq!((&body["max_completion_tokens"], &body["max_tokens"]), (&json!(9), &Value::Null));
    }
}
