//! The agent `chat` is a conversation with an upstream model.
//!
//! `chat/gpt-4o` asks the model `gpt-4o`; `chat` asks the operator's default model. The model is given the
//! client's instructions, the earlier turns, the input of this turn, and those sampling parameters and
//! functions that the client sent. What it says goes straight to the client.

use outlast_guest::{Agent, Failure, Item, Outcome, Turn, context, model};
use serde_json::{Map, Value};

struct Chat;

outlast_guest::agent!(Chat);

impl Agent for Chat {
    const NAME: &'static str = "chat";
    const ABOUT: &'static str = "A conversation with an upstream model: chat/gpt-4o asks gpt-4o, \
        chat alone asks the default model.";

    fn run(turn: Turn) -> Result<Outcome, Failure> {
        let request = question(turn, context::request()?, context::history()?);
        Ok(model::forward(request)?.outcome())
    }
}

/// What the model is asked.
fn question(turn: Turn, request: context::Request, history: Vec<Item>) -> model::Request {
    model::Request {
        model: turn.model,
        options: options(&request),
        client_functions: functions(&request),
        instructions: request.instructions,
        input: history.into_iter().chain(turn.input).collect(),
    }
}

/// The names of the functions that the client runs.
fn functions(request: &context::Request) -> Vec<String> {
    let tools = request.tools.as_ref().and_then(Value::as_array).into_iter().flatten();
    tools.filter_map(|tool| tool["name"].as_str().map(str::to_owned)).collect()
}

/// The options of the request that a model understands, only those that the client sent.
fn options(request: &context::Request) -> Map<String, Value> {
    let options = [
        ("temperature", request.temperature.map(Value::from)),
        ("top_p", request.top_p.map(Value::from)),
        ("max_output_tokens", request.max_output_tokens.map(Value::from)),
        ("reasoning", request.reasoning.clone()),
        ("text", request.text.clone()),
        ("tools", request.tools.clone()),
        ("tool_choice", request.tool_choice.clone()),
        ("parallel_tool_calls", request.parallel_tool_calls.map(Value::from)),
    ];
    options.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn request(json: Value) -> context::Request {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn the_model_sees_the_instructions_and_the_conversation_in_order() {
        let turn = Turn { model: Some("gpt-4o".into()), input: vec![Item::user("and yours?")], ..Turn::default() };
        let history = vec![Item::user("my name is Ada"), Item::assistant("hello Ada")];
        let question = question(turn, request(json!({"model": "chat/gpt-4o", "instructions": "Be brief."})), history);
        assert_eq!(question.model.as_deref(), Some("gpt-4o"));
        assert_eq!(question.instructions.as_deref(), Some("Be brief."));
        assert_eq!(
            question.input,
            [Item::user("my name is Ada"), Item::assistant("hello Ada"), Item::user("and yours?")]
        );
        assert!(question.options.is_empty() && question.client_functions.is_empty());
    }

    #[test]
    fn without_a_name_the_default_model_is_asked() {
        let question = question(Turn::default(), request(json!({"model": "chat"})), vec![]);
        assert_eq!(question.model, None);
    }

    #[test]
    fn only_what_the_client_sent_becomes_an_option() {
        let sent = json!({"temperature": 0.0, "max_output_tokens": 16, "text": {"format": {"type": "text"}}});
        let mut body = sent.clone();
        body["model"] = "chat".into();
        body["top_p"] = Value::Null;
        body["truncation"] = "auto".into();
        assert_eq!(Value::Object(options(&request(body))), sent);
    }

    #[test]
    fn every_option_that_a_model_understands_is_passed_on() {
        let sent = json!({
            "temperature": 0.7, "top_p": 0.9, "max_output_tokens": 64,
            "reasoning": {"effort": "low"}, "text": {"format": {"type": "json_object"}},
            "tools": [{"type": "function", "name": "add", "parameters": {}}], "tool_choice": "auto",
            "parallel_tool_calls": false
        });
        assert_eq!(Value::Object(options(&request(sent.clone()))), sent);
    }
}
