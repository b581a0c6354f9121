//! `POST /v1/responses/compact`: a conversation made shorter, and gone on from.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{
    client::{Answer, Client},
    database::{Database, both_databases},
    plugins,
    raw::Connection,
    schema,
    server::{Options, Server},
    upstream::{self, Upstream},
    wait,
    websocket::Socket,
};

both_databases!(
    a_conversation_is_summarised_by_its_model,
    an_agent_without_a_model_keeps_everything,
    what_was_not_sealed_for_the_caller_is_refused,
);

async fn compact(client: &Client, body: Value) -> Answer {
    client.send(client.request(Method::POST, "/v1/responses/compact").json(&body)).await
}

/// The output of a compaction that must be right: the user's messages, and the compaction item.
fn parts(answer: Answer) -> (Vec<String>, Value) {
    let compaction = answer.ok();
    schema::check("CompactResource", &compaction);
    let mut output = compaction["output"].as_array().unwrap().clone();
    let item = output.pop().unwrap();
    assert_eq!(item["type"], "compaction");
    let text = |item: &Value| {
        assert_eq!(
            (&item["type"], &item["role"], &item["status"]),
            (&json!("message"), &json!("user"), &json!("completed"))
        );
        item["content"][0]["text"].as_str().unwrap().to_owned()
    };
    (output.iter().map(text).collect(), item)
}

fn conversation() -> Value {
    json!([
        {"role": "user", "content": "My name is Ada."},
        {"role": "assistant", "content": "Hello Ada, what a long conversation this is."},
        {"role": "user", "content": "I like cats."},
        {"role": "assistant", "content": "So do I."},
    ])
}

/// What the model was given, as `role: text`.
fn messages(request: &Value) -> Vec<String> {
    let messages = request["messages"].as_array().unwrap().iter();
    messages
        .map(|message| format!("{}: {}", message["role"].as_str().unwrap(), message["content"].as_str().unwrap()))
        .collect()
}

async fn a_conversation_is_summarised_by_its_model(database: Database) {
    let summary =
        vec![upstream::text("Ada likes "), upstream::text("cats."), upstream::end("stop"), upstream::usage(70, 5)];
    let say = |text: &str| vec![upstream::text(text), upstream::end("stop")];
    let upstream = Upstream::start([summary, say("Tom"), say("Mia"), say("Ada, Tom, Mia"), say("short")]).await;
    let mut server = Server::start(upstream.options(Options::new(database)));
    let client = server.client();
    let answer =
        compact(&client, json!({"model": "chat/up-1", "input": conversation(), "instructions": "Be kind."})).await;
    assert_eq!(
        (&answer.body["usage"]["input_tokens"], &answer.body["usage"]["output_tokens"]),
        (&json!(70), &json!(5))
    );
    let output = answer.body["output"].clone();
    let (users, item) = parts(answer);
    assert_eq!(users, ["My name is Ada.", "I like cats."]);
    assert!(!item["encrypted_content"].as_str().unwrap().contains("cats"));
    let asked = messages(&upstream.requests()[0]);
    assert!(asked[0].starts_with("system: You compact conversations.") && asked[0].ends_with("Be kind."), "{asked:?}");
    assert_eq!(
        asked[1..5],
        [
            "user: My name is Ada.",
            "assistant: Hello Ada, what a long conversation this is.",
            "user: I like cats.",
            "assistant: So do I."
        ]
    );
    assert_eq!(asked.len(), 6);
    assert_eq!(server.response_ids().await, Vec::<String>::new(), "nothing is kept");

    // The summary stands for the rest, also after a restart, and behind a response that was made with it.
    server.restart();
    let client = server.client();
    let mut input = output.as_array().unwrap().clone();
    input.push(json!({"role": "user", "content": "And a cat's name?"}));
    let first = client.post(json!({"model": "chat/up-1", "input": input})).await.response();
    let on = json!({"model": "chat/up-1", "input": "Another?", "previous_response_id": first["id"]});
    let second = client.post(on).await.response();
    let requests = upstream.requests();
    for request in &requests[1..3] {
        let given = messages(request);
        assert!(given[0].starts_with("system: ") && given[0].ends_with("Ada likes cats."), "{given:?}");
        assert_eq!(given[1..4], ["user: My name is Ada.", "user: I like cats.", "user: And a cat's name?"]);
    }
    assert_eq!(messages(&requests[2])[4..], ["assistant: Tom", "user: Another?"]);
    // It is listed as it was sent.
    let path = format!("/v1/responses/{}/input_items?order=asc", first["id"].as_str().unwrap());
    assert_eq!(client.get_path(&path).await.ok()["data"][2], item);

    // A compacted conversation is compacted again, from where it stands.
    let again = json!({"model": "chat/up-1", "previous_response_id": second["id"]});
    let (users, _) = parts(compact(&client, again).await);
    assert_eq!(users, ["My name is Ada.", "I like cats.", "And a cat's name?", "Another?"]);
    assert!(messages(&upstream.requests()[3]).iter().any(|message| message.ends_with("Ada likes cats.")));
}

async fn an_agent_without_a_model_keeps_everything(database: Database) {
    let folder = plugins::hostile_folder();
    let server = Server::start(Options::new(database).plugins(folder.path()));
    let client = server.client();
    let answer = compact(&client, json!({"model": "echo", "input": conversation()})).await;
    assert_eq!(answer.body["usage"]["total_tokens"], 0);
    let mut input = answer.body["output"].as_array().unwrap().clone();
    assert_eq!(parts(answer).0, ["My name is Ada.", "I like cats."]);
    input.push(json!({"role": "user", "content": "next"}));
    let first = client.post(json!({"model": "echo", "input": input})).await.response();
    let on = json!({"model": "hostile", "input": "history", "previous_response_id": first["id"]});
    assert_eq!(
        client.post(on).await.response()["output"][0]["content"][0]["text"],
        "user: My name is Ada.\nuser: I like cats.\nassistant: Hello Ada, what a long conversation this is.\n\
         assistant: So do I.\nuser: next\nassistant: next"
    );
}

async fn what_was_not_sealed_for_the_caller_is_refused(database: Database) {
    let server = crate::auth::with_keys(database);
    let (ann, bob) = (server.client().with_key("key-ann"), server.client().with_key("key-bob"));
    let (_, item) = parts(compact(&ann, json!({"model": "echo", "input": conversation()})).await);
    let with = |item: &Value| json!({"model": "echo", "input": [{"role": "user", "content": "x"}, item]});
    let sealed = item["encrypted_content"].as_str().unwrap();
    let forge = |content: String| json!({"type": "compaction", "encrypted_content": content});
    let first = if sealed.starts_with('A') { 'B' } else { 'A' };
    let forged = [
        (&bob, item.clone()),
        (&ann, forge(format!("{first}{}", &sealed[1..]))),
        (&ann, forge(sealed[..sealed.len() - 4].to_owned())),
        (&ann, forge(String::new())),
        (&ann, forge("gAAAAABpM0Yj-".to_owned())),
    ];
    for (client, item) in forged {
        let answer = client.post(with(&item)).await;
        assert_eq!(answer.refused(400, "invalid_encrypted_content"), Some("input[1].encrypted_content"), "{item}");
        compact(client, with(&item)).await.refused(400, "invalid_encrypted_content");
    }
    for (wrong, code) in [(Value::Null, "missing_required_parameter"), (json!(7), "invalid_type")] {
        let answer = ann.post(with(&json!({"type": "compaction", "encrypted_content": wrong}))).await;
        assert_eq!(answer.refused(400, code), Some("input[1].encrypted_content"));
    }
    assert_eq!(server.response_ids().await, Vec::<String>::new());
    ann.post(with(&item)).await.response();
}

#[tokio::test]
async fn bad_requests_compact_nothing() {
    let server = Server::start(Database::Sqlite);
    let client = server.client();
    let call = json!([{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}]);
    for (body, status, code, param) in [
        (json!({"input": "x"}), 400, "missing_required_parameter", Some("model")),
        (json!({"model": "echo"}), 400, "missing_required_parameter", Some("input")),
        (json!({"model": "echo", "input": []}), 400, "invalid_value", Some("input")),
        (json!({"model": "echo", "input": [{"role": "robot"}]}), 400, "invalid_value", Some("input[0].role")),
        (json!({"model": "nobody", "input": "x"}), 404, "model_not_found", Some("model")),
        (json!({"model": "echo", "input": call}), 400, "missing_tool_output", Some("input")),
        (
            json!({"model": "echo", "previous_response_id": "resp_00000000000000000000000000000000"}),
            400,
            "previous_response_not_found",
            Some("previous_response_id"),
        ),
    ] {
        assert_eq!(compact(&client, body.clone()).await.refused(status, code), param, "{body}");
    }
    let text = client.request(Method::POST, "/v1/responses/compact").body("{}");
    client.send(text).await.refused(415, "unsupported_media_type");
}

#[tokio::test]
async fn a_summary_that_fails_is_an_error_and_not_a_loss() {
    let cut = vec![upstream::text("half of it"), upstream::end("length")];
    let silent = vec![upstream::end("stop")];
    let upstream = Upstream::start([cut, silent]).await;
    let server = Server::start(upstream.options(Options::new(Database::Sqlite)));
    for why in ["max_output_tokens", "has no text"] {
        let answer = compact(&server.client(), json!({"model": "chat/up-1", "input": conversation()})).await;
        answer.refused(502, "compaction_failed");
        assert!(answer.message().contains(why), "{}", answer.message());
    }
    let server = Server::start(Database::Sqlite);
    let answer = compact(&server.client(), json!({"model": "chat/up-1", "input": conversation()})).await;
    answer.refused(502, "compaction_failed");
    assert!(answer.message().contains("provider"), "{}", answer.message());
}

#[tokio::test]
async fn a_summary_takes_the_place_of_a_run() {
    let upstream = Upstream::start([]).await;
    let options = Options::new(Database::Sqlite).config("[limits]\nmax_live_runs = 1");
    let server = Server::start(upstream.options(options));
    let client = server.client();
    let mut stream = client.stream(json!({"model": "echo", "input": "a b", "metadata": {"delay_ms": "10000"}})).await;
    stream.until_delta(1).await;
    let answer = compact(&client, json!({"model": "chat/up-1", "input": conversation()})).await;
    answer.refused(429, "rate_limit_exceeded");
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn a_compacted_conversation_goes_on_over_a_websocket() {
    let server = Server::start(Database::Sqlite);
    let answer = compact(&server.client(), json!({"model": "echo", "input": conversation()})).await.ok();
    let mut input = answer["output"].as_array().unwrap().clone();
    input.push(json!({"role": "user", "content": "over the socket"}));
    let mut socket = Socket::open(server.address()).await;
    let first = socket.turn(json!({"model": "echo", "input": input, "store": false})).await;
    assert_eq!(crate::harness::events::text(&first), "over the socket");
    let id = crate::harness::events::response_id(&first);
    let on = json!({"model": "echo", "input": "and on", "store": false, "previous_response_id": id});
    assert_eq!(crate::harness::events::text(&socket.turn(on).await), "and on");
}

#[tokio::test]
async fn a_summary_ends_when_nobody_waits_for_it() {
    // A provider that takes the call and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let provider = format!("[providers.up]\nbase_url = \"http://{}/v1\"", silent.local_addr().unwrap());
    let server = Server::start(Options::new(Database::Sqlite).config(&provider));
    let client = server.client();
    let body = json!({"model": "chat/up-1", "input": conversation()}).to_string();
    let mut connection = Connection::open(server.address()).await;
    let head =
        "POST /v1/responses/compact HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length";
    connection.send(format!("{head}: {}\r\n\r\n{body}", body.len()).as_bytes()).await;
    let runs = async || client.get_path("/readyz").await.body["runs"].as_u64().unwrap();
    wait::eventually("the summary is being made", async || (runs().await == 1).then_some(())).await;
    connection.abort();
    wait::eventually_within(Duration::from_secs(1), "the run is gone", async || (runs().await == 0).then_some(()))
        .await;
}
