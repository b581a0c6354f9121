//! What goes to a provider: in an order that it takes, with what it takes, and with its own reasoning.

use serde_json::{Value, json};

use crate::harness::{
    database::{Database, both_databases},
    server::{Options, Server},
    upstream::{Upstream, call, end, fails, text},
};

both_databases!(
    an_incomplete_response_is_continued,
    an_incomplete_turn_stays_in_its_conversation,
    sealed_reasoning_is_read_again,
);

async fn with(database: Database, answers: impl IntoIterator<Item = Vec<Value>>, more: &str) -> (Server, Upstream) {
    let upstream = Upstream::start(answers).await;
    let provider = format!("{}\n{more}", upstream.providers());
    (Server::start(Options::new(database).config(&provider)), upstream)
}

fn fine() -> Vec<Value> {
    vec![text("fine"), end("stop")]
}

fn function() -> Value {
    json!([{"type": "function", "name": "look", "parameters": {"type": "object"}}])
}

/// The last request's messages, as roles and contents.
fn messages(upstream: &Upstream) -> Vec<(String, Value)> {
    let request = upstream.requests().pop().unwrap();
    let role = |message: &Value| message["role"].as_str().unwrap().to_owned();
    request["messages"].as_array().unwrap().iter().map(|message| (role(message), message["content"].clone())).collect()
}

#[tokio::test]
async fn instructions_come_first_and_outputs_follow_their_calls() {
    let (server, upstream) = with(Database::Sqlite, [fine()], "").await;
    let call = json!({"type": "function_call", "call_id": "c", "name": "look", "arguments": ""});
    let output = json!({"type": "function_call_output", "call_id": "c", "output": "seen"});
    let input = json!([{"role": "developer", "content": "b"}, {"role": "user", "content": "x"}, call,
        {"role": "user", "content": "y"}, {"role": "developer", "content": "c"}, output]);
    let body = json!({"model": "chat/up-1", "instructions": "a", "input": input, "tools": function()});
    server.client().post(body).await.response();
    let said = |role: &str, content: Value| (role.to_owned(), content);
    assert_eq!(
        messages(&upstream),
        [
            said("system", json!("a\n\nb\n\nc")),
            said("user", json!("x")),
            said("assistant", Value::Null),
            said("tool", json!("seen")),
            said("user", json!("y")),
        ]
    );
    let request = upstream.requests().pop().unwrap();
    assert_eq!(request["messages"][2]["tool_calls"][0]["function"]["arguments"], "{}");
}

#[tokio::test]
async fn an_output_may_have_images_and_files() {
    let (server, upstream) = with(Database::Sqlite, [fine(), fine()], "").await;
    let image = "data:image/png;base64,iVBORw0KGgo=";
    let file = "data:application/pdf;base64,JVBERi0=";
    let output = json!([
        {"type": "input_text", "text": "see"},
        {"type": "input_image", "image_url": image, "detail": "high"},
        {"type": "input_file", "filename": "a.pdf", "file_data": file},
    ]);
    let input = json!([
        {"role": "user", "content": "look"},
        {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": output},
    ]);
    let client = server.client();
    let body = json!({"model": "chat/up-1", "input": input, "tools": function()});
    let first = client.post(body).await.response();
    // Also when it is read from the history.
    let next = json!({"model": "chat/up-1", "input": "and?", "previous_response_id": first["id"], "tools": function()});
    client.post(next).await.response();
    for request in upstream.requests() {
        let messages = request["messages"].as_array().unwrap();
        assert_eq!((&messages[2]["role"], &messages[2]["content"]), (&json!("tool"), &json!("see")));
        let shown = messages[3]["content"].as_array().unwrap();
        assert_eq!(messages[3]["role"], "user");
        assert_eq!(shown[1]["image_url"], json!({"url": image, "detail": "high"}));
        assert_eq!(shown[2]["file"], json!({"filename": "a.pdf", "file_data": file}));
    }
}

#[tokio::test]
async fn a_model_gets_its_reasoning_back_where_its_provider_takes_it() {
    let thinks = || {
        vec![json!({"delta": {"reasoning_content": "hm"}}), call(0, Some("a"), Some("look"), "{}"), end("tool_calls")]
    };
    for (more, field) in [
        ("", Some("reasoning_content")),
        ("kind = \"deepseek\"", Some("reasoning_content")),
        ("kind = \"openrouter\"", Some("reasoning")),
        ("kind = \"groq\"", None),
        ("kind = \"groq\"\nsend_reasoning = true", Some("reasoning_content")),
        ("send_reasoning = false", None),
    ] {
        let (server, upstream) = with(Database::Sqlite, [thinks(), fine(), fine()], more).await;
        let client = server.client();
        let first = client.post(json!({"model": "chat/up-1", "input": "x", "tools": function()})).await.response();
        let output =
            json!({"type": "function_call_output", "call_id": first["output"][1]["call_id"], "output": "seen"});
        let chained = json!({"previous_response_id": first["id"], "input": [output]});
        let mut all = vec![json!({"role": "user", "content": "x"})];
        all.extend(first["output"].as_array().unwrap().iter().cloned());
        all.push(output);
        for mut body in [chained, json!({"input": all, "store": false})] {
            body["model"] = "chat/up-1".into();
            body["tools"] = function();
            client.post(body).await.response();
            let message = upstream.requests().pop().unwrap()["messages"][1].clone();
            for name in ["reasoning_content", "reasoning"] {
                assert_eq!(message.get(name), (field == Some(name)).then(|| json!("hm")).as_ref(), "{more}: {message}");
            }
        }
    }
}

async fn sealed_reasoning_is_read_again(database: Database) {
    let thinks = vec![json!({"delta": {"reasoning_content": "secret thoughts"}}), text("42"), end("stop")];
    let (mut server, upstream) = with(database, [thinks.clone(), thinks, fine(), fine(), fine()], "").await;
    let client = server.client();
    let mut body = json!({"model": "chat/up-1", "input": "x", "include": ["reasoning.encrypted_content"]});
    let stored = client.post(body.clone()).await.response();
    body["store"] = false.into();
    let events = client.stream(body).await.rest().await;
    let output = events.last().unwrap().data["response"]["output"].clone();
    let sealed = output[0]["encrypted_content"].as_str().unwrap();
    assert!(!sealed.contains("secret") && stored["output"][0]["encrypted_content"] != sealed);
    // The client may leave out the summary: what is sealed says it all, also after a restart.
    server.restart();
    let client = server.client();
    let reasoning = |sealed: &str| json!({"type": "reasoning", "summary": [], "encrypted_content": sealed});
    let replayed = |sealed: &str| json!({"input": [{"role": "user", "content": "x"}, reasoning(sealed), output[1], {"role": "user", "content": "y"}]});
    let chained = json!({"input": "y", "previous_response_id": stored["id"]});
    // What others have sealed is nothing to this server.
    for (mut body, expected) in
        [(replayed(sealed), Some("secret thoughts")), (chained, Some("secret thoughts")), (replayed("gAAAA"), None)]
    {
        body["model"] = "chat/up-1".into();
        client.post(body).await.response();
        let message = upstream.requests().pop().unwrap()["messages"][1].clone();
        assert_eq!((&message["content"], message["reasoning_content"].as_str()), (&json!("42"), expected));
    }
}

#[tokio::test]
async fn a_provider_gets_the_parameters_that_it_takes() {
    let asked = json!({
        "presence_penalty": 0.5, "frequency_penalty": 0.25, "top_logprobs": 2, "prompt_cache_key": "k",
        "safety_identifier": "s", "service_tier": "flex", "user": "ann", "metadata": {"a": "b"},
    });
    let all =
        r#"parameters = ["top_logprobs", "prompt_cache_key", "safety_identifier", "service_tier", "user", "metadata"]"#;
    let penalties = ["presence_penalty", "frequency_penalty"];
    for (more, taken) in [
        ("", vec!["top_logprobs", "user"]),
        (all, asked.as_object().unwrap().keys().map(String::as_str).collect()),
        ("parameters = []", vec![]),
        ("kind = \"groq\"", vec!["service_tier", "user"]),
    ] {
        let (server, upstream) = with(Database::Sqlite, [fine()], more).await;
        let mut body = asked.clone();
        body["model"] = "chat/up-1".into();
        body["input"] = "x".into();
        let response = server.client().post(body).await.response();
        let sent = upstream.requests().pop().unwrap();
        for (name, value) in asked.as_object().unwrap() {
            let expected = taken.contains(&name.as_str()) || penalties.contains(&name.as_str());
            assert_eq!(sent.get(name), expected.then_some(value), "{more}: {name}");
        }
        assert_eq!(sent.get("logprobs").is_some(), taken.contains(&"top_logprobs"));
        assert_eq!(response["presence_penalty"], sent["presence_penalty"]);
    }
}

#[tokio::test]
async fn the_likelihood_of_tokens_comes_with_the_text_where_it_is_asked_for() {
    let token = |text: &str| {
        let beside = json!([{"token": "no", "logprob": -1.5, "bytes": [110, 111]}]);
        json!({"token": text, "logprob": -0.5, "bytes": text.as_bytes(), "top_logprobs": beside})
    };
    let said = |text: &str| json!({"delta": {"content": text}, "logprobs": {"content": [token(text)]}});
    let answer = vec![said("4"), said("2"), end("stop")];
    let (server, upstream) = with(Database::Sqlite, [answer.clone(), answer.clone(), answer], "").await;
    for (asked, likely) in [
        (json!({"top_logprobs": 1}), true),
        (json!({"include": ["message.output_text.logprobs"]}), true),
        (json!({}), false),
    ] {
        let mut body = asked.clone();
        body["model"] = "chat/up-1".into();
        body["input"] = "x".into();
        let events = server.client().stream(body).await.rest().await;
        let deltas: Vec<_> = events.iter().filter(|event| event.delta().is_some()).collect();
        let expected = |text: &str| if likely { json!([token(text)]) } else { json!([]) };
        assert_eq!((&deltas[0].data["logprobs"], &deltas[1].data["logprobs"]), (&expected("4"), &expected("2")));
        let part = &events.last().unwrap().data["response"]["output"][0]["content"][0];
        assert_eq!(part["logprobs"], if likely { json!([token("4"), token("2")]) } else { json!([]) });
        assert_eq!(upstream.requests().pop().unwrap().get("logprobs").is_some(), likely);
    }
}

#[tokio::test]
async fn a_tool_is_shown_as_it_was_sent() {
    let (server, upstream) = with(Database::Sqlite, [fine(), fine(), fine()], "").await;
    for strict in [Value::Null, json!(true), json!(false)] {
        let tool = json!({"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": strict});
        let body = json!({"model": "chat/up-1", "input": "x", "tools": [tool]});
        let response = server.client().post(body).await.response();
        let sent = upstream.requests().pop().unwrap()["tools"][0]["function"]["strict"].clone();
        assert_eq!((&sent, &response["tools"][0]["strict"]), (&strict, &strict));
    }
}

#[tokio::test]
async fn what_is_too_long_loses_its_oldest_turns_where_the_client_wants_that() {
    let too_long = || vec![fails(400, None, json!({"code": "context_length_exceeded", "message": "too long"}))];
    let said = |role: &str, words: &str| json!({"role": role, "content": words});
    let input = json!([
        said("user", "one"),
        said("assistant", "1"),
        said("user", "two"),
        said("assistant", "2"),
        said("user", "three")
    ]);
    let body = |truncation: &str| json!({"model": "chat/up-1", "input": input, "truncation": truncation});
    let last = |upstream: &Upstream| -> Vec<Value> { messages(upstream).into_iter().map(|(_, said)| said).collect() };
    // Half is left out when the provider says so; of the last turn, nothing.
    let (server, upstream) = with(Database::Sqlite, [too_long(), fine(), too_long(), too_long(), too_long()], "").await;
    let client = server.client();
    let response = client.post(body("auto")).await.response();
    assert_eq!((&response["truncation"], upstream.requests().len()), (&json!("auto"), 2));
    assert_eq!(last(&upstream), ["three"]);
    server.logged(&["the first 4 items were left out"]);
    for (truncation, calls) in [("auto", 2), ("disabled", 1)] {
        let before = upstream.requests().len();
        client.post(body(truncation)).await.refused(400, "context_length_exceeded");
        assert_eq!(upstream.requests().len() - before, calls);
    }
    // What the operator says fits is not tried out.
    let (server, upstream) = with(Database::Sqlite, [fine(), fine()], "context = 30").await;
    for (truncation, expected) in
        [("auto", vec!["two", "2", "three"]), ("disabled", vec!["one", "1", "two", "2", "three"])]
    {
        server.client().post(body(truncation)).await.response();
        assert_eq!(last(&upstream), expected);
    }
}

#[tokio::test]
async fn what_is_still_too_long_is_halved_again() {
    let too_long = || vec![fails(400, None, json!({"code": "context_length_exceeded", "message": "too long"}))];
    let said = |word: &str, times: usize| json!({"role": "user", "content": format!("{word} ").repeat(times)});
    let (server, upstream) = with(Database::Sqlite, [too_long(), too_long(), fine()], "").await;
    let input = [said("one", 400), said("two", 200), said("three", 1)];
    let response = server.client().post(json!({"model": "chat/up-1", "input": input, "truncation": "auto"})).await;
    assert_eq!((&response.response()["status"], upstream.requests().len()), (&json!("completed"), 3));
    assert_eq!(messages(&upstream), [("user".to_owned(), json!("three "))]);
    server.logged(&["the first 2 items were left out"]);
}

/// An answer that was cut in a call.
fn cut() -> Vec<Value> {
    vec![text("Once upon"), call(0, Some("a"), Some("look"), "{\"at\":"), end("length")]
}

async fn an_incomplete_response_is_continued(database: Database) {
    let (server, upstream) = with(database, [cut(), fine()], "").await;
    let client = server.client();
    let first = client.post(json!({"model": "chat/up-1", "input": "tell", "tools": function()})).await.response();
    assert_eq!((&first["status"], &first["output"][1]["status"]), (&json!("incomplete"), &json!("incomplete")));
    let next = json!({"model": "chat/up-1", "input": "more", "previous_response_id": first["id"]});
    client.post(next).await.response();
    let said = |role: &str, content: &str| (role.to_owned(), json!(content));
    assert_eq!(messages(&upstream), [said("user", "tell"), said("assistant", "Once upon"), said("user", "more")]);
}

async fn an_incomplete_turn_stays_in_its_conversation(database: Database) {
    let (server, upstream) = with(database, [fine(), cut(), fine()], "").await;
    let client = server.client();
    let turn = |input: &str| json!({"model": "chat/up-1", "input": input, "conversation": "c", "tools": function()});
    let first = client.post(turn("hi")).await.response();
    assert_eq!(client.post(turn("tell")).await.response()["status"], "incomplete");
    let conversation = client.get_path("/v1/conversations/c").await.ok();
    assert_eq!(conversation["latest_completed_response_id"], first["id"]);
    let items = client.get_path("/v1/conversations/c/items").await.ok();
    assert_eq!(items["data"].as_array().unwrap().len(), 4, "{items}");
    client.post(turn("more")).await.response();
    let said: Vec<_> = messages(&upstream).into_iter().map(|(_, content)| content).collect();
    assert_eq!(said, ["hi", "fine", "tell", "Once upon", "more"]);
}
