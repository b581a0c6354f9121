//! `context_management`: a conversation that is compacted by itself, in the run that finds it too long.

use serde_json::{Value, json};

use crate::harness::{
    client::Client,
    database::{Database, both_databases},
    events::kinds,
    fold::fold,
    server::{Options, Server},
    upstream::{Upstream, end, stall, text, usage},
    wait,
};

both_databases!(
    a_run_compacts_what_is_too_long_and_others_go_on_from_there,
    a_kill_after_the_compaction_makes_no_second_one,
    it_is_done_in_the_background_and_in_a_conversation,
    a_client_that_keeps_its_items_sends_them_back,
);

/// Far more than the threshold.
fn long() -> String {
    format!("word {}", "word ".repeat(400))
}

fn say(said: &str) -> Vec<Value> {
    vec![text(said), end("stop")]
}

async fn with(database: Database, answers: impl IntoIterator<Item = Vec<Value>>) -> (Server, Upstream) {
    let upstream = Upstream::start(answers).await;
    (Server::start(upstream.options(Options::new(database))), upstream)
}

fn body(input: &str) -> Value {
    let management = json!([{"type": "compaction", "compact_threshold": 300}]);
    json!({"model": "chat/up-1", "input": input, "context_management": management})
}

fn on(input: &str, previous: &Value) -> Value {
    let mut body = body(input);
    body["previous_response_id"] = previous["id"].clone();
    body
}

/// What a request to the model says, as `role: text`, its texts cut.
fn messages(request: &Value) -> Vec<String> {
    let messages = request["messages"].as_array().unwrap().iter();
    let short = |text: &str| text.chars().rev().take(40).collect::<Vec<_>>().into_iter().rev().collect::<String>();
    messages
        .map(|message| {
            format!("{}: {}", message["role"].as_str().unwrap(), short(message["content"].as_str().unwrap()).trim())
        })
        .collect()
}

fn types(response: &Value) -> Vec<&str> {
    response["output"].as_array().unwrap().iter().map(|item| item["type"].as_str().unwrap()).collect()
}

async fn first(client: &Client) -> Value {
    client.post(body("My name is Ada.")).await.response()
}

async fn a_run_compacts_what_is_too_long_and_others_go_on_from_there(database: Database) {
    let summary = vec![text("Ada was greeted."), usage(500, 7), end("stop")];
    let answer = vec![text("Ada."), usage(40, 2), end("stop")];
    let (server, upstream) = with(database, [say(&long()), summary, answer, say("Yes.")]).await;
    let client = server.client();
    // One that is not long goes on as it is.
    let short = first(&client).await;
    assert_eq!(types(&short), ["message"]);
    let events = client.stream(on("Who am I?", &short)).await.rest().await;
    fold(&events);
    assert_eq!(
        kinds(&events)[..4],
        ["response.created", "response.in_progress", "response.output_item.added", "response.output_item.done",]
    );
    let response = &events.last().unwrap().data["response"];
    assert_eq!(types(response), ["compaction", "message"]);
    let item = &response["output"][0];
    assert!(item["id"].as_str().unwrap().starts_with("cmp_"), "{item}");
    assert!(item["encrypted_content"].as_str().is_some_and(|sealed| sealed.len() > 50 && !sealed.contains("Ada")));
    let used = |field: &str| response["usage"][field].as_u64().unwrap();
    assert_eq!((used("input_tokens"), used("output_tokens")), (540, 9), "the summary counts");
    let requests = upstream.requests();
    assert!(messages(&requests[1])[0].starts_with("system: ") && messages(&requests[1]).len() == 4);
    let given = messages(&requests[2]);
    assert!(given[0].ends_with("Ada was greeted."), "{given:?}");
    assert_eq!(given[1..], ["user: My name is Ada.", "user: Who am I?"]);
    // What follows goes on from the item, and does not compact again.
    let next = client.post(on("Sure?", response)).await.response();
    assert_eq!(types(&next), ["message"]);
    let given = messages(&upstream.requests()[3]);
    assert!(given[0].ends_with("Ada was greeted."), "{given:?}");
    assert_eq!(given[1..], ["user: My name is Ada.", "user: Who am I?", "assistant: Ada.", "user: Sure?"]);
    // The input is listed as it was sent.
    let path = format!("/v1/responses/{}/input_items", response["id"].as_str().unwrap());
    assert_eq!(client.get_path(&path).await.ok()["data"][0]["content"][0]["text"], "Who am I?");
}

async fn a_kill_after_the_compaction_makes_no_second_one(database: Database) {
    let summary = vec![text("Ada was greeted."), usage(500, 7), end("stop")];
    let cut = vec![text("Your name "), stall(), text("lost"), end("stop")];
    let again = vec![text("Ada."), usage(40, 2), end("stop")];
    let (mut server, upstream) = with(database, [say(&long()), summary, cut, again]).await;
    let short = first(&server.client()).await;
    let mut stream = server.client().stream(on("Who am I?", &short)).await;
    let seen = stream.until_delta(1).await;
    let id = crate::harness::events::response_id(&seen);
    server.restart();
    let client = server.client();
    let response = client.ended(&id).await;
    assert_eq!(response["status"], "completed", "{response}");
    assert_eq!(types(&response), ["compaction", "message", "message"]);
    let before = seen.iter().find(|event| event.kind == "response.output_item.done").unwrap();
    assert_eq!(before.data["item"], response["output"][0]);
    assert_eq!(response["usage"]["input_tokens"], 540);
    let requests = upstream.requests();
    assert_eq!(requests.len(), 4);
    assert_eq!(messages(&requests[2]), messages(&requests[3]));
    fold(&client.get_stream(&id, None).await.rest().await);
}

async fn it_is_done_in_the_background_and_in_a_conversation(database: Database) {
    let (server, upstream) = with(database, [say(&long()), say("In short."), say("Ada."), say("Yes.")]).await;
    let client = server.client();
    let turn = |input: &str| {
        let mut body = body(input);
        body["conversation"] = "c".into();
        body
    };
    client.post(turn("My name is Ada.")).await.response();
    let mut behind = turn("Who am I?");
    behind["background"] = true.into();
    let begun = client.post(behind).await.response();
    assert_eq!(begun["output"], json!([]));
    let response = client.ended(begun["id"].as_str().unwrap()).await;
    assert_eq!(types(&response), ["compaction", "message"]);
    client.post(turn("Sure?")).await.response();
    let given = messages(&upstream.requests()[3]);
    assert!(given[0].ends_with("In short."), "{given:?}");
    assert_eq!(given[1..], ["user: My name is Ada.", "user: Who am I?", "assistant: Ada.", "user: Sure?"]);
}

async fn a_client_that_keeps_its_items_sends_them_back(database: Database) {
    let (server, upstream) = with(database, [say("In short."), say("Ada."), say("Yes.")]).await;
    let client = server.client();
    let mut asked = body("");
    asked["store"] = false.into();
    asked["input"] = json!([
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "My name is Ada."},
        {"role": "assistant", "content": long()},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "1"},
    ]);
    let response = client.post(asked.clone()).await.response();
    assert_eq!(types(&response), ["compaction", "message"]);
    let requests = upstream.requests();
    let last = requests[1]["messages"].as_array().unwrap();
    // A call stays with its output, and instructions stay.
    assert_eq!(last[last.len() - 2]["tool_calls"][0]["id"], "c");
    assert_eq!(last.last().unwrap()["content"], "1");
    assert!(last[0]["content"].as_str().unwrap().contains("Be kind."), "{last:?}");
    assert!(last[0]["content"].as_str().unwrap().contains("In short."), "{last:?}");
    assert_eq!(last.len(), 4);
    let input = asked["input"].as_array_mut().unwrap();
    input.extend(response["output"].as_array().unwrap().iter().cloned());
    input.push(json!({"role": "user", "content": "Sure?"}));
    client.post(asked).await.response();
    let again = upstream.requests()[2]["messages"].as_array().unwrap().clone();
    assert_eq!(again[..4], last[..]);
    assert_eq!((&again[4]["content"], &again[5]["content"]), (&json!("Ada."), &json!("Sure?")));
}

#[tokio::test]
async fn without_a_summary_a_run_goes_on_as_it_is_and_its_log_says_so() {
    let failing = vec![text("Not"), end("content_filter")];
    let (server, upstream) = with(Database::Sqlite, [say(&long()), failing, say("Ada.")]).await;
    let client = server.client();
    let short = first(&client).await;
    let response = client.post(on("Who am I?", &short)).await.response();
    assert_eq!(types(&response), ["message"]);
    assert_eq!(messages(&upstream.requests()[2]).len(), 3);
    let path = format!("/admin/runs/{}/logs", response["id"].as_str().unwrap());
    wait::eventually("a line of the log", async || {
        let lines = client.get_path(&path).await.ok()["data"].to_string();
        lines.contains("the conversation is not compacted: ").then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_agent_without_a_model_keeps_everything() {
    let server = Server::start(Database::Sqlite);
    let client = server.client();
    let with = |input: &str| {
        let mut body = body(input);
        body["model"] = "echo".into();
        body
    };
    let first = client.post(with(&long())).await.response();
    assert_eq!(types(&first), ["message"]);
    let mut next = with("and now");
    next["previous_response_id"] = first["id"].clone();
    let next = client.post(next).await.response();
    assert_eq!(types(&next), ["compaction", "message"]);
    assert_eq!(next["output"][1]["content"][0]["text"], "and now");
}

#[tokio::test]
async fn what_is_wrong_is_refused_and_what_is_not_known_is_told() {
    let server = Server::start(Database::Sqlite);
    let client = server.client();
    let with = |management: Value| json!({"model": "echo", "input": "x", "context_management": management});
    for (wrong, code, param) in [
        (json!({}), "invalid_type", "context_management"),
        (json!([7]), "invalid_type", "context_management[0]"),
        (json!([{}]), "missing_required_parameter", "context_management[0].type"),
        (
            json!([{"type": "compaction", "compact_threshold": "1"}]),
            "invalid_type",
            "context_management[0].compact_threshold",
        ),
        (
            json!([{"type": "compaction", "compact_threshold": -1}]),
            "invalid_value",
            "context_management[0].compact_threshold",
        ),
    ] {
        assert_eq!(client.post(with(wrong.clone())).await.refused(400, code), Some(param), "{wrong}");
    }
    let answer = client.post(with(json!([{"type": "clear"}]))).await;
    assert_eq!(answer.headers["x-outlast-ignored"], "context_management[0].type=clear");
    answer.response();
}
