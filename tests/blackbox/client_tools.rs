//! Tools of a client that are no functions: what a model is told of them, and what comes back.

use serde_json::{Value, json};

use crate::harness::{
    database::{Database, both_databases},
    events::kinds,
    server::{Options, Server},
    upstream::{Upstream, call, end, text},
    websocket::Socket,
};

both_databases!(
    a_custom_tool_is_a_function_to_the_model_and_itself_to_the_client,
    a_member_of_a_namespace_is_called_by_its_name,
    what_nothing_serves_is_shown_and_said_to_be_ignored,
    items_of_other_types_are_kept_and_no_model_is_told_of_them,
    tools_of_the_input_are_offered_too,
    allowed_tools_are_the_ones_that_are_offered,
    what_other_servers_take_is_taken,
    a_websocket_takes_the_fields_of_http,
);

async fn with(database: Database, answers: impl IntoIterator<Item = Vec<Value>>) -> (Server, Upstream) {
    let upstream = Upstream::start(answers).await;
    (Server::start(upstream.options(Options::new(database))), upstream)
}

fn patch() -> Value {
    json!({"type": "custom", "name": "patch", "description": "Edits files.",
        "format": {"type": "grammar", "syntax": "lark", "definition": "start: /x/"}})
}

fn namespace() -> Value {
    json!({"type": "namespace", "name": "agents", "description": "d", "tools": [
        {"type": "function", "name": "spawn", "parameters": {"type": "object"}},
    ]})
}

/// The names of the functions that the model was offered last.
fn offered(upstream: &Upstream) -> Vec<String> {
    let asked = upstream.requests().pop().unwrap();
    let tools = asked["tools"].as_array().cloned().unwrap_or_default();
    tools.iter().map(|tool| tool["function"]["name"].as_str().unwrap().to_owned()).collect()
}

async fn a_custom_tool_is_a_function_to_the_model_and_itself_to_the_client(database: Database) {
    let ask = vec![
        call(0, Some("call_up"), Some("patch"), "{\"input\": \"+"),
        call(0, None, None, "a\\n\"}"),
        end("tool_calls"),
    ];
    let (server, upstream) = with(database, [ask, vec![text("Done."), end("stop")]]).await;
    let client = server.client();
    let body = json!({"model": "chat/up-1", "input": "edit", "tools": [patch()]});
    let events = client.stream(body).await.rest().await;
    let function = upstream.requests()[0]["tools"][0]["function"].clone();
    assert_eq!(function["parameters"]["required"], json!(["input"]));
    assert!(function["description"].as_str().unwrap().ends_with("lark grammar:\nstart: /x/"), "{function}");
    let kinds = kinds(&events);
    assert!(kinds.contains(&"response.custom_tool_call_input.delta"), "{kinds:?}");
    let response = &events.last().unwrap().data["response"];
    let item = &response["output"][0];
    assert_eq!((&item["type"], &item["name"]), (&json!("custom_tool_call"), &json!("patch")));
    assert_eq!((&item["input"], &item["status"]), (&json!("+a\n"), &json!("completed")));
    assert_eq!(response["tools"], json!([patch()]));

    let output = json!({"type": "custom_tool_call_output", "call_id": item["call_id"], "output": "Success."});
    let body =
        json!({"model": "chat/up-1", "input": [output], "tools": [patch()], "previous_response_id": response["id"]});
    client.post(body).await.response();
    let messages = upstream.requests().pop().unwrap()["messages"].clone();
    assert_eq!(messages[1]["tool_calls"][0]["function"]["name"], "patch");
    let told: Value =
        serde_json::from_str(messages[1]["tool_calls"][0]["function"]["arguments"].as_str().unwrap()).unwrap();
    assert_eq!(told, json!({"input": "+a\n"}));
    assert_eq!((&messages[2]["role"], &messages[2]["content"]), (&json!("tool"), &json!("Success.")));
}

async fn a_member_of_a_namespace_is_called_by_its_name(database: Database) {
    let ask = vec![call(0, Some("c"), Some("agents__spawn"), "{}"), end("tool_calls")];
    let (server, upstream) = with(database, [ask, vec![text("Done."), end("stop")]]).await;
    let client = server.client();
    let response = client.post(json!({"model": "chat/up-1", "input": "go", "tools": [namespace()]})).await.response();
    assert_eq!(offered(&upstream), ["agents__spawn"]);
    let item = response["output"][0].clone();
    assert_eq!((&item["type"], &item["name"]), (&json!("function_call"), &json!("spawn")));
    assert_eq!(item["namespace"], "agents");
    let output = json!({"type": "function_call_output", "call_id": item["call_id"], "output": "ok"});
    let body = json!({"model": "chat/up-1", "input": ["go", item, output], "tools": [namespace()]});
    let mut body = body;
    body["input"][0] = json!({"role": "user", "content": "go"});
    client.post(body).await.response();
    let messages = upstream.requests().pop().unwrap()["messages"].clone();
    assert_eq!(messages[1]["tool_calls"][0]["function"]["name"], "agents__spawn");
}

async fn what_nothing_serves_is_shown_and_said_to_be_ignored(database: Database) {
    let (server, upstream) = with(database, [vec![text("Hi."), end("stop")], vec![text("Hi."), end("stop")]]).await;
    let client = server.client();
    let hosted = ["web_search", "image_generation", "local_shell", "shell", "apply_patch", "tool_search", "acme"];
    let mut tools = vec![json!({"type": "function", "name": "f"})];
    tools.extend(hosted.iter().map(|kind| json!({"type": kind})));
    let answer = client.post(json!({"model": "chat/up-1", "input": "hi", "tools": tools})).await;
    let told = answer.headers["x-outlast-ignored"].to_str().unwrap().to_owned();
    let expected: Vec<_> = (1..).zip(hosted).map(|(index, kind)| format!("tools[{index}].type={kind}")).collect();
    assert_eq!(told, expected.join(", "));
    let response = answer.response();
    assert_eq!(response["tools"].as_array().unwrap().len(), 8);
    assert_eq!(response["tools"][1], json!({"type": "web_search"}));
    assert_eq!(offered(&upstream), ["f"]);
    let answer = client.post(json!({"model": "chat/up-1", "input": "hi"})).await;
    assert!(!answer.headers.contains_key("x-outlast-ignored"));
    let choice = json!({"model": "chat/up-1", "input": "hi", "tools": tools, "tool_choice": {"type": "web_search"}});
    let param = client.post(choice).await.refused(400, "unsupported_value").map(str::to_owned);
    assert_eq!(param.as_deref(), Some("tool_choice.type"));
}

async fn items_of_other_types_are_kept_and_no_model_is_told_of_them(database: Database) {
    let (server, upstream) = with(database, [vec![text("Hi."), end("stop")], vec![text("Hi."), end("stop")]]).await;
    let client = server.client();
    let items = json!([
        {"role": "user", "content": "hi"},
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "x"}},
        {"type": "local_shell_call", "call_id": "c", "status": "completed", "action": {"type": "exec", "command": ["ls"]}},
        {"type": "function_call_output", "call_id": "c", "output": "a.txt"},
        {"type": "acme:thing", "id": "acme_1", "more": {"a": 1}},
    ]);
    let first = client.post(json!({"model": "chat/up-1", "input": items})).await.response();
    let kept =
        client.get_path(&format!("/v1/responses/{}/input_items?order=asc", first["id"].as_str().unwrap())).await.ok();
    let kinds: Vec<_> = kept["data"].as_array().unwrap().iter().map(|item| item["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["message", "web_search_call", "local_shell_call", "function_call_output", "acme:thing"]);
    assert_eq!(kept["data"][4], items[4]);
    client.post(json!({"model": "chat/up-1", "input": "on", "previous_response_id": first["id"]})).await.response();
    let messages = upstream.requests().pop().unwrap()["messages"].clone();
    let said: Vec<_> =
        messages.as_array().unwrap().iter().map(|message| message["content"].as_str().unwrap()).collect();
    assert_eq!(said, ["hi", "Hi.", "on"]);
}

async fn tools_of_the_input_are_offered_too(database: Database) {
    let ask = vec![call(0, Some("c"), Some("agents__spawn"), "{}"), end("tool_calls")];
    let (server, upstream) = with(database, [ask]).await;
    let brought = json!({"type": "additional_tools", "role": "developer", "tools": [namespace()]});
    let body = json!({"model": "chat/up-1", "input": [brought, {"role": "user", "content": "go"}]});
    let response = server.client().post(body).await.response();
    assert_eq!(offered(&upstream), ["agents__spawn"]);
    assert_eq!(response["output"][0]["namespace"], "agents");
}

async fn allowed_tools_are_the_ones_that_are_offered(database: Database) {
    let (server, upstream) = with(database, [vec![text("Hi."), end("stop")]]).await;
    let tools = json!([{"type": "function", "name": "f"}, {"type": "function", "name": "g"}]);
    let choice = json!({"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "g"}]});
    let body = json!({"model": "chat/up-1", "input": "hi", "tools": tools, "tool_choice": choice});
    let response = server.client().post(body).await.response();
    assert_eq!(offered(&upstream), ["g"]);
    assert_eq!(upstream.requests()[0]["tool_choice"], "required");
    assert_eq!(response["tool_choice"], choice);
}

async fn what_other_servers_take_is_taken(database: Database) {
    let (server, upstream) = with(database, [vec![text("Hi."), end("stop")], vec![text("Hi."), end("stop")]]).await;
    let client = server.client();
    let cut = r#"{"model": "echo", "input": "half \ud83d"}"#;
    let answer = client.post_bytes(cut.to_owned()).await.response();
    assert_eq!(answer["output"][0]["content"][0]["text"], "half \u{fffd}");
    let call = json!({"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"});
    let output = json!({"type": "function_call_output", "call_id": "c", "output": "1"});
    let silent = json!({"role": "assistant", "content": null});
    let input = json!([{"role": "user", "content": "hi"}, silent, call, output]);
    let first = client.post(json!({"model": "chat/up-1", "input": input})).await.response();
    let roles = |request: &Value| -> Vec<String> {
        let messages = request["messages"].as_array().unwrap().iter();
        messages.map(|message| message["role"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(roles(&upstream.requests()[0]), ["user", "assistant", "tool"]);
    // What it continues is all that there is to answer.
    client.post(json!({"model": "chat/up-1", "previous_response_id": first["id"]})).await.response();
    assert_eq!(roles(&upstream.requests()[1]), ["user", "assistant", "tool", "assistant"]);
    let param = client
        .post(json!({"model": "chat/up-1", "conversation": "new"}))
        .await
        .refused(400, "invalid_value")
        .map(str::to_owned);
    assert_eq!(param.as_deref(), Some("input"));
}

async fn a_websocket_takes_the_fields_of_http(database: Database) {
    let server = Server::start(database);
    let mut socket = Socket::open(server.address()).await;
    for (field, value) in
        [("stream", json!(true)), ("stream", json!(false)), ("stream_options", json!({})), ("background", json!(false))]
    {
        let mut body = json!({"model": "echo", "input": "hi"});
        body[field] = value;
        let events = socket.turn(body).await;
        assert_eq!(events.last().unwrap().kind, "response.completed", "{field}");
    }
}
