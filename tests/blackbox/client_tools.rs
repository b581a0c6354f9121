//! Tools of a client that are no functions: what a model is told of them, and what comes back.

use serde_json::{Value, json};

use crate::harness::{
    database::{Database, both_databases},
    events::kinds,
    fold::fold,
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
    a_tool_that_the_client_runs_is_called_as_the_api_calls_it,
    arguments_that_say_something_else_are_a_call_that_is_not_complete,
    tools_that_were_looked_for_are_offered,
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
    let hosted = ["web_search", "image_generation", "computer", "shell", "tool_search", "acme"];
    let mut tools = vec![json!({"type": "function", "name": "f"})];
    tools.extend(hosted.iter().map(|kind| json!({"type": kind})));
    tools[4]["environment"] = json!({"type": "container_auto"});
    let answer = client.post(json!({"model": "chat/up-1", "input": "hi", "tools": tools})).await;
    let told = answer.headers["x-outlast-ignored"].to_str().unwrap().to_owned();
    let expected: Vec<_> = (1..).zip(hosted).map(|(index, kind)| format!("tools[{index}].type={kind}")).collect();
    assert_eq!(told, expected.join(", "));
    let response = answer.response();
    assert_eq!(response["tools"].as_array().unwrap().len(), 7);
    assert_eq!(response["tools"][1], json!({"type": "web_search"}));
    assert_eq!(offered(&upstream), ["f"]);
    let answer = client.post(json!({"model": "chat/up-1", "input": "hi"})).await;
    assert!(!answer.headers.contains_key("x-outlast-ignored"));
    let choice = json!({"model": "chat/up-1", "input": "hi", "tools": tools, "tool_choice": {"type": "web_search"}});
    let param = client.post(choice).await.refused(400, "unsupported_value").map(str::to_owned);
    assert_eq!(param.as_deref(), Some("tool_choice.type"));
    // It would be kept and shown with its secrets.
    let mcp = json!({"type": "mcp", "server_label": "a", "server_url": "https://a.test/secret", "authorization": "b"});
    let param = client.post(json!({"model": "chat/up-1", "input": "hi", "tools": [mcp]})).await;
    assert_eq!(param.refused(400, "unsupported_parameter"), Some("tools[0].type"));
}

async fn items_of_other_types_are_kept_and_no_model_is_told_of_them(database: Database) {
    let (server, upstream) = with(database, [vec![text("Hi."), end("stop")], vec![text("Hi."), end("stop")]]).await;
    let client = server.client();
    let items = json!([
        {"role": "user", "content": "hi"},
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "x"}},
        {"type": "computer_call", "call_id": "c", "status": "completed", "action": {"type": "screenshot"}},
        {"type": "function_call_output", "call_id": "c", "output": "a.txt"},
        {"type": "acme:thing", "id": "acme_1", "more": {"a": 1}},
    ]);
    let first = client.post(json!({"model": "chat/up-1", "input": items})).await.response();
    let kept =
        client.get_path(&format!("/v1/responses/{}/input_items?order=asc", first["id"].as_str().unwrap())).await.ok();
    let kinds: Vec<_> = kept["data"].as_array().unwrap().iter().map(|item| item["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["message", "web_search_call", "computer_call", "function_call_output", "acme:thing"]);
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

async fn a_tool_that_the_client_runs_is_called_as_the_api_calls_it(database: Database) {
    let exit = json!([{"stdout": "a.txt", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}}]);
    let cases = [
        (
            "local_shell",
            json!({"type": "local_shell"}),
            r#"{"command":["ls","-l"],"timeout_ms":5}"#,
            ("action", json!({"type": "exec", "command": ["ls", "-l"], "env": {}, "timeout_ms": 5})),
            json!({"type": "local_shell_call_output", "output": "a.txt"}),
            "a.txt".to_owned(),
        ),
        (
            "shell",
            json!({"type": "shell", "environment": {"type": "local"}}),
            r#"{"commands":["ls"]}"#,
            ("action", json!({"commands": ["ls"]})),
            json!({"type": "shell_call_output", "output": exit}),
            exit.to_string(),
        ),
        (
            "apply_patch",
            json!({"type": "apply_patch"}),
            r#"{"type":"create_file","path":"a","diff":"+x"}"#,
            ("operation", json!({"type": "create_file", "path": "a", "diff": "+x"})),
            json!({"type": "apply_patch_call_output", "status": "failed", "output": "no"}),
            "failed: no".to_owned(),
        ),
    ];
    let answers = cases.iter().flat_map(|(name, _, arguments, ..)| {
        let (begin, rest) = arguments.split_at(7);
        let ask = vec![
            text("Let me see."),
            call(0, Some("call_up"), Some(name), begin),
            call(0, None, None, rest),
            end("tool_calls"),
        ];
        [ask, vec![text("Done."), end("stop")]]
    });
    let (server, upstream) = with(database, answers.collect::<Vec<_>>()).await;
    let client = server.client();
    for (name, tool, arguments, (field, said), mut output, told) in cases {
        let choice = json!({"type": tool["type"]});
        let body = json!({"model": "chat/up-1", "input": "go", "tools": [tool], "tool_choice": choice});
        let events = client.stream(body).await.rest().await;
        fold(&events);
        let asked = upstream.requests().pop().unwrap();
        assert_eq!(asked["tools"][0]["function"]["name"], name);
        assert!(asked["tools"][0]["function"]["description"].as_str().is_some_and(|text| text.len() > 20));
        assert_eq!(asked["tool_choice"]["function"]["name"], name);
        let response = &events.last().unwrap().data["response"];
        let item = &response["output"][1];
        assert_eq!((&item["type"], &item["status"]), (&json!(format!("{name}_call")), &json!("completed")));
        assert_eq!(item[field], said);

        let id = if name == "local_shell" { "id" } else { "call_id" };
        output[id] = item[id].clone();
        let body =
            json!({"model": "chat/up-1", "input": [output], "tools": [tool], "previous_response_id": response["id"]});
        let answer = client.post(body).await;
        assert!(!answer.headers.contains_key("x-outlast-ignored"), "{name}: {:?}", answer.headers);
        assert_eq!(answer.response()["output"][0]["content"][0]["text"], "Done.");
        let messages = upstream.requests().pop().unwrap()["messages"].clone();
        let asked = &messages[1]["tool_calls"][0]["function"];
        assert_eq!(asked["name"], name);
        let again: Value = serde_json::from_str(asked["arguments"].as_str().unwrap()).unwrap();
        for (field, value) in serde_json::from_str::<Value>(arguments).unwrap().as_object().unwrap() {
            assert_eq!(again[field], *value);
        }
        assert_eq!(messages[2]["role"], "tool");
        let content = messages[2]["content"].as_str().unwrap();
        // JSON is told as such, its keys in any order.
        let read = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_else(|_| text.into());
        assert_eq!(read(content), read(&told));
    }
}

async fn arguments_that_say_something_else_are_a_call_that_is_not_complete(database: Database) {
    let ask = vec![call(0, Some("call_up"), Some("shell"), "{\"commands\":7}"), end("tool_calls")];
    let (server, upstream) = with(database, [ask, vec![text("Hi."), end("stop")]]).await;
    let client = server.client();
    let tools = json!([{"type": "shell"}]);
    let response = client.post(json!({"model": "chat/up-1", "input": "go", "tools": tools})).await.response();
    let item = &response["output"][0];
    assert_eq!((&item["type"], &item["status"]), (&json!("shell_call"), &json!("incomplete")));
    // Nobody answers it, and the model is not told of it.
    let body = json!({"model": "chat/up-1", "input": "on", "tools": tools, "previous_response_id": response["id"]});
    client.post(body).await.response();
    let messages = upstream.requests().pop().unwrap()["messages"].clone();
    let said: Vec<_> = messages.as_array().unwrap().iter().map(|message| &message["content"]).collect();
    assert_eq!(said, ["go", "on"]);
}

async fn tools_that_were_looked_for_are_offered(database: Database) {
    let ask = |name: &str| vec![call(0, Some("call_up"), Some(name), "{\"query\":\"time\"}"), end("tool_calls")];
    let (server, upstream) = with(database, [ask("tool_search"), ask("agents__spawn")]).await;
    let client = server.client();
    let search = json!({"type": "tool_search", "execution": "client", "description": "Finds tools."});
    let response = client.post(json!({"model": "chat/up-1", "input": "go", "tools": [search]})).await.response();
    let item = &response["output"][0];
    assert_eq!((&item["type"], &item["execution"]), (&json!("tool_search_call"), &json!("client")));
    assert_eq!(item["arguments"], json!({"query": "time"}));
    let found = json!({
        "type": "tool_search_output", "call_id": item["call_id"], "execution": "client", "status": "completed",
        "tools": [namespace()],
    });
    let body =
        json!({"model": "chat/up-1", "input": [found], "tools": [search], "previous_response_id": response["id"]});
    let response = client.post(body).await.response();
    assert_eq!(offered(&upstream), ["tool_search", "agents__spawn"]);
    let messages = upstream.requests().pop().unwrap()["messages"].clone();
    assert_eq!(messages[2]["content"], "These tools can be called now: agents__spawn.");
    let item = &response["output"][0];
    assert_eq!((&item["type"], &item["name"]), (&json!("function_call"), &json!("spawn")));
    assert_eq!(item["namespace"], "agents");
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
