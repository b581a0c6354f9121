//! The agent `assistant`: a model with tools.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{
    database::{Database, both_databases},
    events::kinds,
    plugins,
    server::{Options, Server},
    upstream::{Upstream, call, end, stall, text, usage},
};

both_databases!(
    tools_are_run_until_there_is_an_answer,
    a_kill_between_two_steps_repeats_none,
    calls_beyond_those_that_the_request_allows_are_not_made,
);

struct Setting {
    server: Server,
    upstream: Upstream,
    _plugins: TempDir,
}

async fn with(database: Database, config: &str, answers: impl IntoIterator<Item = Vec<Value>>) -> Setting {
    let upstream = Upstream::start(answers).await;
    let plugins = plugins::folder("assistant");
    if config.contains("units") {
        plugins::add(plugins.path(), "units");
    }
    let options = upstream.options(Options::new(database).plugins(plugins.path()).config(config));
    Setting { server: Server::start(options), upstream, _plugins: plugins }
}

fn calculate(expression: &str) -> Value {
    call(0, Some("call_up"), Some("calculate"), &json!({ "expression": expression }).to_string())
}

async fn tools_are_run_until_there_is_an_answer(database: Database) {
    let ask = vec![text("Let me see. "), calculate("19.99 * 3"), usage(10, 5), end("tool_calls")];
    let setting = with(database, "", [ask, vec![text("It is "), text("59.97."), usage(20, 3), end("stop")]]).await;
    let body = json!({"model": "assistant/up-1", "instructions": "In English.", "input": "19.99 times 3?"});
    let events = setting.server.client().stream(body).await.rest().await;
    let response = &events.last().unwrap().data["response"];
    assert_eq!(response["status"], "completed");
    // The calls of its own tools are not the client's.
    let texts: Vec<_> = response["output"].as_array().unwrap().iter().map(|item| &item["content"][0]["text"]).collect();
    assert_eq!(texts, ["Let me see. ", "It is 59.97."]);
    assert_eq!(kinds(&events).iter().filter(|kind| kind.contains("function_call")).count(), 0);
    assert_eq!((&response["usage"]["input_tokens"], &response["usage"]["output_tokens"]), (&json!(30), &json!(8)));

    let [first, second] = &setting.upstream.requests()[..] else { panic!("two calls") };
    let instructions = first["messages"][0]["content"].as_str().unwrap();
    assert!(instructions.starts_with("You are a helpful assistant.") && instructions.ends_with("\n\nIn English."));
    let offered: Vec<_> = first["tools"].as_array().unwrap().iter().map(|tool| &tool["function"]["name"]).collect();
    assert_eq!(offered, ["now", "calculate", "wait"]);
    let parameters = &first["tools"][1]["function"]["parameters"];
    assert_eq!(parameters["properties"]["expression"]["type"], "string");
    let [asked, told] = &second["messages"].as_array().unwrap()[2..] else { panic!("{second}") };
    assert_eq!(asked["tool_calls"][0]["function"]["name"], "calculate");
    assert_eq!((&told["role"], &told["content"]), (&json!("tool"), &json!("59.97")));
    assert_eq!(told["tool_call_id"], asked["tool_calls"][0]["id"]);
}

async fn a_kill_between_two_steps_repeats_none(database: Database) {
    let answers = [
        vec![calculate("2 ^ 10"), end("tool_calls")],
        vec![text("It is "), stall(), text("lost"), end("stop")],
        vec![text("1024."), end("stop")],
    ];
    let mut setting = with(database, "", answers).await;
    let body = json!({"model": "assistant/up-1", "input": "2^10?", "stream": true});
    let mut stream = setting.server.client().stream(body).await;
    let seen = stream.until_delta(1).await;
    let id = seen[0].data["response"]["id"].as_str().unwrap().to_owned();
    setting.server.kill9();
    setting.server.restart();
    let response = setting.server.client().ended(&id).await;
    assert_eq!(response["status"], "completed", "{response}");
    assert_eq!(response["output"].as_array().unwrap().last().unwrap()["content"][0]["text"], "1024.");
    // The first step was answered, the second was in flight and asked again.
    let requests = setting.upstream.requests();
    assert_eq!(requests.len(), 3);
    assert_eq!(requests[1]["messages"], requests[2]["messages"]);
}

async fn calls_beyond_those_that_the_request_allows_are_not_made(database: Database) {
    let convert = |place: usize, value: u64| {
        let arguments = json!({"value": value, "from": "mi", "to": "km"}).to_string();
        call(place, Some(&format!("call_{value}")), Some("units__convert"), &arguments)
    };
    let answers = [
        vec![convert(0, 1), end("tool_calls")],
        vec![text("More. "), stall(), text("lost"), end("stop")],
        vec![convert(0, 2), convert(1, 3), end("tool_calls")],
        vec![text("Enough."), end("stop")],
    ];
    let mut setting = with(database, "[agents.assistant]\ntools = [\"units__*\"]", answers).await;
    let body = json!({"model": "assistant/up-1", "input": "Convert.", "max_tool_calls": 2, "stream": true});
    let mut stream = setting.server.client().stream(body).await;
    let seen = stream.until_delta(1).await;
    let id = seen[0].data["response"]["id"].as_str().unwrap().to_owned();
    setting.server.restart();
    let response = setting.server.client().ended(&id).await;
    assert_eq!((&response["status"], &response["max_tool_calls"]), (&json!("completed"), &json!(2)), "{response}");
    let request = setting.upstream.requests().pop().unwrap();
    let outputs = request["messages"].as_array().unwrap().iter().filter(|message| message["role"] == "tool");
    let outputs: Vec<_> = outputs.map(|message| message["content"].as_str().unwrap()).collect();
    let [one, two, three] = &outputs[..] else { panic!("{outputs:?}") };
    assert!(one.contains("1.609344") && two.contains("3.218688"), "{outputs:?}");
    assert_eq!(*three, "Error: The request allows 2 calls of tools (max_tool_calls), and all of them were made.");
}

#[tokio::test]
async fn a_function_of_the_client_ends_the_turn_and_the_next_one_goes_on() {
    let ask = vec![call(0, Some("up"), Some("weather"), "{\"city\":\"Bern\"}"), end("tool_calls")];
    let setting = with(Database::Sqlite, "", [ask, vec![text("Rain."), end("stop")]]).await;
    let tools = json!([{"type": "function", "name": "weather", "parameters": {"type": "object"}}]);
    let client = setting.server.client();
    let body = json!({"model": "assistant/up-1", "input": "Weather in Bern?", "tools": tools});
    let response = client.post(body).await.response();
    let item = &response["output"][0];
    assert_eq!((&item["type"], &item["name"]), (&json!("function_call"), &json!("weather")));
    let output = json!({"type": "function_call_output", "call_id": item["call_id"], "output": "rain"});
    let next =
        json!({"model": "assistant/up-1", "input": [output], "tools": tools, "previous_response_id": response["id"]});
    assert_eq!(client.post(next).await.response()["output"][0]["content"][0]["text"], "Rain.");

    let clash = json!([{"type": "function", "name": "now", "parameters": {"type": "object"}}]);
    let response = client.run(json!({"model": "assistant/up-1", "input": "x", "tools": clash})).await;
    assert_eq!(response["status"], "failed");
    let message = response["error"]["message"].as_str().unwrap();
    assert!(message.contains("two functions named `now`"), "{message}");
}

#[tokio::test]
async fn the_operator_says_how_it_behaves() {
    let config = "[agents.assistant]\nconfig = { instructions = \"Rhyme.\", model = \"up/up-2\", max_steps = 1 }";
    let answers = [vec![calculate("1 / 0"), end("tool_calls")]];
    let setting = with(Database::Sqlite, config, answers).await;
    let response = setting.server.client().run(json!({"model": "assistant", "input": "x"})).await;
    assert_eq!(response["status"], "failed");
    let message = response["error"]["message"].as_str().unwrap();
    assert!(message.contains("in each of 1 steps"), "{message}");
    let request = setting.upstream.requests().pop().unwrap();
    assert_eq!((&request["model"], &request["messages"][0]["content"]), (&json!("up-2"), &json!("Rhyme.")));
}
