//! Functions of the client, and what else goes to a model and comes back.

use serde_json::{Value, json};

use crate::harness::{
    database::{Database, both_databases},
    events::{Event, kinds},
    plugins,
    server::{Options, Server},
    upstream::{Upstream, call, end, text},
};

both_databases!(
    a_call_is_streamed_and_answered_in_a_later_turn,
    calls_side_by_side_are_kept_apart,
    a_call_that_is_cut_short_is_incomplete,
    a_call_needs_its_output,
);

fn tools() -> Value {
    json!([{"type": "function", "name": "add", "parameters": {"type": "object"}}, {"type": "function", "name": "now"}])
}

async fn with(database: Database, answers: impl IntoIterator<Item = Vec<Value>>) -> (Server, Upstream) {
    let upstream = Upstream::start(answers).await;
    (Server::start(upstream.options(Options::new(database))), upstream)
}

/// The pieces of arguments that were streamed for the item at this place.
fn pieces(events: &[Event], output_index: usize) -> Vec<&str> {
    let deltas = events.iter().filter(|event| event.kind == "response.function_call_arguments.delta");
    let deltas = deltas.filter(|event| event.data["output_index"] == output_index);
    deltas.map(|event| event.data["delta"].as_str().unwrap()).collect()
}

async fn a_call_is_streamed_and_answered_in_a_later_turn(database: Database) {
    let ask = vec![
        text("Let me see."),
        call(0, Some("call_up"), Some("add"), ""),
        call(0, None, None, "{\"a\":1,"),
        call(0, None, None, "\"b\":2}"),
        end("tool_calls"),
    ];
    let (server, upstream) =
        with(database, [ask.clone(), vec![text("3"), end("stop")], ask, vec![text("3"), end("stop")]]).await;
    let client = server.client();
    for conversation in [None, Some("sums")] {
        let body = json!({"model": "chat/up-1", "input": "1+2?", "tools": tools(), "conversation": conversation});
        let events = client.stream(body).await.rest().await;
        assert_eq!(pieces(&events, 1), ["{\"a\":1,", "\"b\":2}"]);
        let response = &events.last().unwrap().data["response"];
        assert_eq!(response["status"], "completed");
        let item = &response["output"][1];
        assert_eq!((&item["type"], &item["name"]), (&json!("function_call"), &json!("add")));
        assert_eq!((&item["arguments"], &item["status"]), (&json!("{\"a\":1,\"b\":2}"), &json!("completed")));

        let output = json!({"type": "function_call_output", "call_id": item["call_id"], "output": "3"});
        let mut body = json!({"model": "chat/up-1", "input": [output], "tools": tools()});
        match conversation {
            Some(name) => body["conversation"] = name.into(),
            None => body["previous_response_id"] = response["id"].clone(),
        }
        let answer = client.post(body).await.response();
        assert_eq!(answer["output"][0]["content"][0]["text"], "3");
        let messages = upstream.requests().pop().unwrap()["messages"].clone();
        assert_eq!(messages[0]["content"], "1+2?");
        assert_eq!(messages[1]["content"], "Let me see.");
        assert_eq!(messages[1]["tool_calls"][0]["id"], item["call_id"]);
        assert_eq!(messages[1]["tool_calls"][0]["function"]["arguments"], "{\"a\":1,\"b\":2}");
        assert_eq!((&messages[2]["role"], &messages[2]["tool_call_id"]), (&json!("tool"), &item["call_id"]));
    }
}

async fn calls_side_by_side_are_kept_apart(database: Database) {
    let ask = vec![
        call(0, Some("a"), Some("add"), "{"),
        call(1, Some("b"), Some("now"), ""),
        call(0, None, None, "}"),
        // The provider's numbers cannot be trusted: the same id again is another call of another turn.
        call(2, Some("a"), Some("unknown"), "{}"),
        end("stop"),
    ];
    let (server, _upstream) = with(database, [ask]).await;
    let body = json!({"model": "chat/up-1", "input": "x", "tools": tools()});
    let events = server.client().stream(body).await.rest().await;
    let output = events.last().unwrap().data["response"]["output"].as_array().unwrap().clone();
    let calls: Vec<_> = output.iter().map(|item| (item["name"].as_str(), item["arguments"].as_str())).collect();
    // Nobody has declared the last one: there is nobody else to tell.
    assert_eq!(calls, [(Some("add"), Some("{}")), (Some("now"), Some("{}")), (Some("unknown"), Some("{}"))]);
    assert_ne!(output[0]["call_id"], output[1]["call_id"]);
    assert_eq!((pieces(&events, 0), pieces(&events, 1)), (vec!["{", "}"], vec!["{}"]));
}

#[tokio::test]
async fn a_call_of_nobodys_function_goes_to_the_client_unless_the_agent_has_tools() {
    let ask = vec![call(0, Some("a"), Some("search"), "{\"q\":\"x\"}"), end("tool_calls")];
    let answers = [ask.clone(), ask, vec![text("Never mind."), end("stop")]];
    let (upstream, folder) = (Upstream::start(answers).await, plugins::folder("assistant"));
    let server = Server::start(upstream.options(Options::new(Database::Sqlite)).plugins(folder.path()));
    let client = server.client();
    let response = client.post(json!({"model": "chat/up-1", "input": "x"})).await.response();
    let item = &response["output"][0];
    assert_eq!((&item["name"], &item["arguments"]), (&json!("search"), &json!("{\"q\":\"x\"}")));
    // An agent with tools tells the model that it has no such tool.
    let response = client.post(json!({"model": "assistant/up-1", "input": "x"})).await.response();
    let output = response["output"].as_array().unwrap();
    assert_eq!((output.len(), &output[0]["content"][0]["text"]), (1, &json!("Never mind.")));
    let told = upstream.requests().pop().unwrap()["messages"].as_array().unwrap().last().unwrap().clone();
    assert!(told["content"].as_str().unwrap().contains("there is no tool `search`"), "{told}");
}

#[tokio::test]
async fn a_refusal_is_a_part_of_its_own() {
    let refuses = |words: &str| json!({"delta": {"refusal": words}});
    let answer = vec![text("Well. "), refuses("I can"), refuses("not."), end("stop")];
    let (server, upstream) = with(Database::Sqlite, [answer, vec![text("Fine."), end("stop")]]).await;
    let client = server.client();
    let events = client.stream(json!({"model": "chat/up-1", "input": "x"})).await.rest().await;
    let deltas = events.iter().filter(|event| event.kind == "response.refusal.delta");
    assert_eq!(deltas.map(|event| event.data["delta"].as_str().unwrap()).collect::<Vec<_>>(), ["I can", "not."]);
    let response = &events.last().unwrap().data["response"];
    assert_eq!(response["status"], "completed");
    assert_eq!(response["output"][0]["content"][1], json!({"type": "refusal", "refusal": "I cannot."}));
    // The model reads in the next turn what it has said.
    let next = json!({"model": "chat/up-1", "input": "y", "previous_response_id": response["id"]});
    client.post(next).await.response();
    assert_eq!(upstream.requests().pop().unwrap()["messages"][1]["content"], "Well. I cannot.");
}

#[tokio::test]
async fn a_delta_that_is_larger_than_an_event_comes_in_pieces() {
    let large = "größer ".repeat(200_000);
    let (server, _upstream) = with(Database::Sqlite, [vec![text(&large), end("stop")]]).await;
    let events = server.client().stream(json!({"model": "chat/up-1", "input": "x"})).await.rest().await;
    let deltas: Vec<&str> = events.iter().filter_map(Event::delta).collect();
    assert!(deltas.len() > 1 && deltas.iter().all(|delta| delta.len() <= 1 << 20), "{}", deltas.len());
    assert_eq!(deltas.concat(), large);
}

async fn a_call_that_is_cut_short_is_incomplete(database: Database) {
    let ask = vec![text("So:"), call(0, Some("a"), Some("add"), "{\"a\":"), end("length")];
    let (server, _upstream) = with(database, [ask]).await;
    let body = json!({"model": "chat/up-1", "input": "x", "tools": tools(), "max_output_tokens": 16});
    let events = server.client().stream(body).await.rest().await;
    assert_eq!(kinds(&events).last(), Some(&"response.incomplete"));
    let response = &events.last().unwrap().data["response"];
    assert_eq!(response["incomplete_details"]["reason"], "max_output_tokens");
    assert_eq!(response["output"][1]["status"], "incomplete");
    assert_eq!(response["output"][1]["arguments"], "{\"a\":");
}

async fn a_call_needs_its_output(database: Database) {
    let ask = vec![call(0, Some("a"), Some("add"), "{}"), end("tool_calls")];
    let (server, upstream) = with(database, [ask]).await;
    let client = server.client();
    let body = json!({"model": "chat/up-1", "input": "x", "tools": tools(), "conversation": "c"});
    let response = client.post(body).await.response();
    let on = |input: Value, field: &str, value: &Value| {
        let mut body = json!({"model": "chat/up-1", "input": input});
        body[field] = value.clone();
        body
    };
    let stray = json!([{"type": "function_call_output", "call_id": "call_other", "output": "3"}]);
    for (field, value) in [("conversation", json!("c")), ("previous_response_id", response["id"].clone())] {
        let answer = client.post(on(json!("and?"), field, &value)).await;
        assert_eq!(answer.refused(400, "missing_tool_output"), Some("input"));
        let answer = client.post(on(stray.clone(), field, &value)).await;
        assert_eq!(answer.status, 400);
    }
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn what_a_request_says_reaches_the_model_and_comes_back() {
    let thinks = vec![json!({"delta": {"reasoning_content": "hm"}}), text("{\"n\":1}"), end("stop")];
    let (server, upstream) = with(Database::Sqlite, [thinks]).await;
    let image = "data:image/png;base64,iVBORw0KGgo=";
    let file = "data:application/pdf;base64,JVBERi0=";
    let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}}});
    let body = json!({
        "model": "chat/up-1", "instructions": "Look.", "temperature": 0.5, "max_output_tokens": 100,
        "reasoning": {"effort": "low", "summary": "auto"}, "tool_choice": "required", "tools": tools(),
        "parallel_tool_calls": false,
        "text": {"format": {"type": "json_schema", "name": "n", "schema": schema, "strict": true}},
        "input": [{"role": "user", "content": [
            {"type": "input_text", "text": "What is this?"},
            {"type": "input_image", "image_url": image, "detail": "low"},
            {"type": "input_file", "filename": "a.pdf", "file_data": file},
        ]}],
    });
    let response = server.client().post(body).await.response();
    assert_eq!(response["output"][0]["summary"], json!([{"type": "summary_text", "text": "hm"}]));
    assert_eq!(response["output"][1]["content"][0]["text"], "{\"n\":1}");
    let request = upstream.requests().pop().unwrap();
    assert_eq!(request["messages"][0], json!({"role": "system", "content": "Look."}));
    let parts = request["messages"][1]["content"].as_array().unwrap();
    assert_eq!(parts[0], json!({"type": "text", "text": "What is this?"}));
    assert_eq!(parts[1]["image_url"], json!({"url": image, "detail": "low"}));
    assert_eq!(parts[2]["file"], json!({"filename": "a.pdf", "file_data": file}));
    assert_eq!(request["response_format"]["json_schema"]["schema"], schema);
    assert_eq!((&request["temperature"], &request["reasoning_effort"]), (&json!(0.5), &json!("low")));
    assert_eq!((&request["tool_choice"], &request["parallel_tool_calls"]), (&json!("required"), &json!(false)));
    assert_eq!(request["tools"][0]["function"]["name"], "add");
}
