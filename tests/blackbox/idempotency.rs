//! `Idempotency-Key`: a key names one execution.

use std::collections::HashSet;

use futures::future::join_all;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::harness::{
    client::Client,
    database::{Database, both_databases},
    events,
    server::Server,
};

both_databases!(
    a_repeated_request_gets_the_same_response,
    twenty_first_uses_make_one_run,
    another_request_with_the_same_key_is_refused,
    a_repeated_stream_begins_with_a_snapshot_and_goes_on_live,
    a_repeated_stream_of_an_ended_run_is_replayed,
    a_request_without_a_stream_waits_for_the_run,
    a_key_survives_a_restart,
    a_refused_request_does_not_reserve_its_key,
    a_key_needs_store,
    a_key_goes_with_its_response,
);

fn with_key(client: &Client, key: &str, body: &Value) -> RequestBuilder {
    client.request(Method::POST, "/v1/responses").header("idempotency-key", key).json(body)
}

async fn a_repeated_request_gets_the_same_response(database: Database) {
    let server = Server::start(database);
    let client = server.client();
    let first = client.send(with_key(&client, "k", &json!({"model": "echo", "input": "once"}))).await;
    assert!(!first.headers.contains_key("idempotency-replayed"));
    let again = client.send(with_key(&client, "k", &json!({"input": "once", "model": "echo"}))).await;
    assert_eq!(again.headers["idempotency-replayed"], "true");
    assert_eq!(again.response(), first.response());
    assert_eq!(server.response_ids().await.len(), 1);
}

async fn twenty_first_uses_make_one_run(database: Database) {
    let server = Server::start(database);
    let client = server.client();
    let body = json!({"model": "echo", "input": "a b c", "metadata": {"delay_ms": "100"}});
    let answers = join_all((0..20).map(|_| client.send(with_key(&client, "k", &body)))).await;
    let ids: HashSet<String> =
        answers.into_iter().map(|answer| answer.response()["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 1);
    assert_eq!(server.response_ids().await.len(), 1);
}

async fn another_request_with_the_same_key_is_refused(database: Database) {
    let server = Server::start(database);
    let client = server.client();
    let first = client.send(with_key(&client, "k", &json!({"model": "echo", "input": "one"}))).await.response();
    let other = client.send(with_key(&client, "k", &json!({"model": "echo", "input": "two"}))).await;
    other.refused(409, "idempotency_key_conflict");
    assert_eq!(other.headers["x-should-retry"], "false");
    assert_eq!(client.response(first["id"].as_str().unwrap()).await, first);
}

async fn a_repeated_stream_begins_with_a_snapshot_and_goes_on_live(database: Database) {
    let server = Server::start(database);
    let client = server.client();
    let body = json!({"model": "echo", "input": "a b c d e f", "stream": true, "metadata": {"delay_ms": "150"}});
    let mut stream = client.events(with_key(&client, "k", &body), 0).await;
    let seen = stream.until_delta(2).await;
    let answer = client.request(Method::POST, "/v1/responses").header("idempotency-key", "k").json(&body).send().await;
    let text = answer.unwrap().text().await.unwrap();
    let mut frames = text.split("\n\n");
    let snapshot = frames.next().unwrap().strip_prefix("event: response.snapshot\ndata: ").expect("a snapshot first");
    let snapshot: Value = serde_json::from_str(snapshot).unwrap();
    client.description().await.unwrap().check_event(&snapshot);
    assert_eq!(snapshot["response"]["id"], events::response_id(&seen));
    assert_eq!(snapshot["response"]["status"], "in_progress");
    let so_far = snapshot["response"]["output"][0]["content"][0]["text"].as_str().unwrap();
    assert!("a b c d e f".starts_with(so_far), "{so_far}");

    let mut whole = seen;
    whole.extend(stream.rest().await);
    let next = snapshot["sequence_number"].as_u64().unwrap() + 1;
    let live: Vec<u8> =
        whole.iter().filter(|event| event.number >= next).flat_map(|event| event.frame.clone()).collect();
    let after = text.split_once("\n\n").unwrap().1;
    assert_eq!(after, format!("{}data: [DONE]\n\n", String::from_utf8(live).unwrap()));
}

async fn a_repeated_stream_of_an_ended_run_is_replayed(database: Database) {
    let server = Server::start(database);
    let client = server.client();
    let body = json!({"model": "echo", "input": "a b c", "stream": true});
    let first = client.events(with_key(&client, "k", &body), 0).await.rest().await;
    let again = client.events(with_key(&client, "k", &body), 0).await.rest().await;
    assert_eq!(events::frames(&again), events::frames(&first));
}

async fn a_request_without_a_stream_waits_for_the_run(database: Database) {
    let server = Server::start(database);
    let client = server.client();
    let body = json!({"model": "echo", "input": "a b c", "stream": true, "metadata": {"delay_ms": "200"}});
    let mut stream = client.events(with_key(&client, "k", &body), 0).await;
    let id = events::response_id(&stream.until_delta(1).await);
    let mut body = body;
    body["stream"] = json!(false);
    let response = client.send(with_key(&client, "k", &body)).await.response();
    assert_eq!((response["id"].as_str(), response["status"].as_str()), (Some(id.as_str()), Some("completed")));
}

async fn a_key_survives_a_restart(database: Database) {
    let mut server = Server::start(database);
    let body = json!({"model": "echo", "input": "kept"});
    let client = server.client();
    let first = client.send(with_key(&client, "k", &body)).await.response();
    server.kill9();
    server.restart();
    let client = server.client();
    assert_eq!(client.send(with_key(&client, "k", &body)).await.response(), first);
}

async fn a_refused_request_does_not_reserve_its_key(database: Database) {
    let server = Server::start(database);
    let client = server.client();
    for wrong in [json!({"model": "echo"}), json!({"model": "nobody", "input": "x"})] {
        assert!(client.send(with_key(&client, "k", &wrong)).await.status >= 400);
    }
    client.send(with_key(&client, "k", &json!({"model": "echo", "input": "right"}))).await.response();
    for wrong in ["", "a b", &"x".repeat(256)] {
        let answer = client.send(with_key(&client, wrong, &json!({"model": "echo", "input": "x"}))).await;
        answer.refused(400, "invalid_idempotency_key");
    }
}

async fn a_key_needs_store(database: Database) {
    let server = Server::start(database);
    let client = server.client();
    let body = json!({"model": "echo", "input": "x", "store": false, "stream": true});
    client.send(with_key(&client, "k", &body)).await.refused(400, "idempotency_requires_store");
}

async fn a_key_goes_with_its_response(database: Database) {
    let server = Server::start(database);
    let client = server.client();
    let body = json!({"model": "echo", "input": "x"});
    let first = client.send(with_key(&client, "k", &body)).await.response();
    let id = first["id"].as_str().unwrap();
    client.send(client.request(Method::DELETE, &format!("/v1/responses/{id}"))).await.ok();
    assert_ne!(client.send(with_key(&client, "k", &body)).await.response()["id"], first["id"]);
}
