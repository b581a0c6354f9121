//! `store` × `stream`: four ways to ask, one run behind each.

use serde_json::{Value, json};

use crate::harness::{
    database::{Database, both_databases},
    events::{self, kinds, text},
    fold::fold,
    raw::Connection,
    server::{Options, Server},
};

both_databases!(
    a_stream_has_the_exact_event_order,
    every_mode_gives_the_same_response,
    the_stored_response_is_the_one_that_was_streamed,
    an_ephemeral_response_is_never_found,
);

/// The events of `echo` for a text of so many words.
fn order(words: usize) -> Vec<&'static str> {
    let mut order =
        vec!["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"];
    order.extend(std::iter::repeat_n("response.output_text.delta", words));
    order.extend([
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]);
    order
}

/// What two runs of the same request do not share.
fn without_identity(mut response: Value) -> Value {
    for key in ["id", "created_at", "completed_at", "store"] {
        response[key] = Value::Null;
    }
    for item in response["output"].as_array_mut().unwrap() {
        item["id"] = Value::Null;
    }
    response
}

async fn a_stream_has_the_exact_event_order(database: Database) {
    let server = Server::start(database);
    for store in [true, false] {
        let mut stream =
            server.client().stream(json!({"model": "echo", "input": "one two three", "store": store})).await;
        let events = stream.rest().await;
        assert_eq!(kinds(&events), order(3), "store: {store}");
        assert_eq!(text(&events), "one two three");
        let response = fold(&events);
        assert_eq!(response["store"], store);
        assert_eq!(response["output"][0]["content"][0]["text"], "one two three");
    }
}

async fn every_mode_gives_the_same_response(database: Database) {
    let server = Server::start(database);
    let client = server.client();
    let mut responses = Vec::new();
    for store in [true, false] {
        let request = json!({"model": "echo", "input": "the same  words", "store": store, "metadata": {"a": "b"}});
        responses.push(fold(&client.stream(request.clone()).await.rest().await));
        responses.push(client.post(request).await.response());
    }
    let expected = without_identity(responses[0].clone());
    assert_eq!(expected["status"], "completed");
    for response in responses {
        assert_eq!(without_identity(response.clone()), expected);
    }
}

async fn the_stored_response_is_the_one_that_was_streamed(database: Database) {
    let server = Server::start(database);
    let client = server.client();
    let events = client.stream(json!({"model": "echo", "input": "kept as it was"})).await.rest().await;
    let id = events::response_id(&events);
    assert_eq!(client.response(&id).await, fold(&events));

    let answered = client.post(json!({"model": "echo", "input": "kept as it was"})).await.response();
    assert_eq!(client.response(answered["id"].as_str().unwrap()).await, answered);
}

async fn an_ephemeral_response_is_never_found(database: Database) {
    let server = Server::start(database);
    let client = server.client();
    let request = json!({"model": "echo", "input": "a b", "store": false, "metadata": {"delay_ms": "500"}});
    let mut stream = client.stream(request.clone()).await;
    let begun = stream.until_delta(1).await;
    let id = events::response_id(&begun);
    client.get(&id).await.refused(404, "response_not_found");
    client.cancel(&id).await.refused(404, "response_not_found");
    stream.rest().await;
    client.get(&id).await.refused(404, "response_not_found");

    let answered = client.post(request).await.response();
    client.get(answered["id"].as_str().unwrap()).await.refused(404, "response_not_found");
    assert_eq!(server.response_ids().await, Vec::<String>::new());
}

#[tokio::test]
async fn the_deltas_joined_are_exactly_the_text() {
    let server = Server::start(Database::Sqlite);
    for input in
        ["", " ", "one", "  two  words \n", "größer\u{a0}als 👩‍👩‍👧\u{2003}!", "\"quoted\" \\ \u{1}\u{2028} \r\n\r\n end"]
    {
        let events = server.client().stream(json!({"model": "echo", "input": input})).await.rest().await;
        assert_eq!(text(&events), input);
        assert_eq!(fold(&events)["output"][0]["content"][0]["text"], input);
    }
}

#[tokio::test]
async fn the_last_message_of_the_user_is_echoed() {
    let server = Server::start(Database::Sqlite);
    let input = json!([
        {"role": "user", "content": "first"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "answer"}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "second"}]},
    ]);
    let response = server.client().post(json!({"model": "echo", "input": input})).await.response();
    assert_eq!(response["output"][0]["content"][0]["text"], "second");
}

#[tokio::test]
async fn a_response_has_every_key_with_its_default() {
    let server = Server::start(Database::Sqlite);
    let mut response = server.client().post(json!({"model": "echo", "input": "hello you"})).await.response();
    assert!(response["id"].as_str().unwrap().starts_with("resp_"));
    let (created, completed) = (response["created_at"].as_u64().unwrap(), response["completed_at"].as_u64().unwrap());
    assert!(created > 1_700_000_000 && completed >= created, "times are seconds: {created} {completed}");
    for key in ["id", "created_at", "completed_at", "output"] {
        response.as_object_mut().unwrap().remove(key);
    }
    assert_eq!(
        response,
        json!({
            "object": "response",
            "status": "completed",
            "background": false,
            "store": true,
            "model": "echo",
            "error": null,
            "incomplete_details": null,
            "instructions": null,
            "previous_response_id": null,
            "conversation": null,
            "metadata": {},
            "tools": [],
            "tool_choice": "auto",
            "parallel_tool_calls": true,
            "max_tool_calls": null,
            "max_output_tokens": null,
            "temperature": 1,
            "top_p": 1,
            "presence_penalty": 0,
            "frequency_penalty": 0,
            "top_logprobs": 0,
            "text": {"format": {"type": "text"}},
            "truncation": "disabled",
            "reasoning": {"effort": null, "summary": null},
            "service_tier": "default",
            "safety_identifier": null,
            "prompt_cache_key": null,
            "usage": {
                "input_tokens": 2,
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens": 2,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": 4,
            },
            "user": null,
        })
    );
}

#[tokio::test]
async fn a_response_shows_what_was_asked_for() {
    let server = Server::start(Database::Sqlite);
    let request = json!({
        "model": "echo",
        "input": "x",
        "instructions": "be brief",
        "metadata": {"ticket": "17"},
        "temperature": 0.5,
        "top_p": 0.25,
        "max_output_tokens": 99,
        "parallel_tool_calls": false,
        "user": "ann",
        "a_field_that_nobody_knows": {"is": "ignored"},
    });
    let response = server.client().post(request.clone()).await.response();
    for (key, value) in request.as_object().unwrap() {
        if key != "input" && key != "a_field_that_nobody_knows" {
            assert_eq!(&response[key], value, "{key}");
        }
    }
}

#[tokio::test]
async fn every_write_is_whole_frames() {
    let server = Server::start(Database::Sqlite);
    let input = "word ".repeat(2_000);
    for store in [true, false] {
        let mut connection = Connection::open(server.address()).await;
        connection.post(&json!({"model": "echo", "input": input, "stream": true, "store": store})).await;
        assert_eq!(connection.head().await.status, 200);
        let chunks = connection.chunks().await;
        for chunk in &chunks {
            assert!(chunk.ends_with(b"\n\n"), "{}", String::from_utf8_lossy(chunk));
            assert!(chunk.starts_with(b"event: ") || chunk.starts_with(b"data: [DONE]") || chunk.starts_with(b":"));
        }
        assert!(chunks.concat().ends_with(b"data: [DONE]\n\n"));
    }
}

#[tokio::test]
async fn a_silent_stream_shows_that_it_lives() {
    let server = Server::start(Options::new(Database::Sqlite).config("[limits]\nkeep_alive = \"50ms\""));
    for store in [true, false] {
        let request = json!({"model": "echo", "input": "a b", "store": store, "metadata": {"delay_ms": "1000"}});
        let mut stream = server.client().stream(request).await;
        stream.rest().await;
        assert!(stream.comments() >= 3, "{} comments in a second of silence", stream.comments());
    }
}
