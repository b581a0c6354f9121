//! `POST /v1/responses/{id}/cancel`

use std::time::Duration;

use serde_json::json;

use crate::harness::{
    database::{Database, both_databases},
    events,
    fold::fold,
    plugins,
    server::{Options, Server},
    wait,
};

both_databases!(
    a_cancelled_run_keeps_what_it_said,
    its_stream_ends_in_order,
    a_second_cancel_answers_the_same,
    what_has_ended_cannot_be_cancelled,
);

const AT_ONCE: Duration = Duration::from_secs(1);

async fn a_cancelled_run_keeps_what_it_said(database: Database) {
    let server = Server::start(database);
    let client = server.client();
    let request = json!({"model": "echo", "input": "said unsaid", "metadata": {"delay_ms": "10000"}});
    let mut stream = client.stream(request).await;
    let id = events::response_id(&stream.until_delta(1).await);
    let cancelled = wait::within(AT_ONCE, "the answer to the cancel", client.cancel(&id)).await.response();
    assert_eq!(cancelled["status"], "cancelled");
    assert_eq!(cancelled["error"], json!(null));
    assert_eq!(cancelled["output"][0]["status"], "incomplete");
    assert_eq!(cancelled["output"][0]["content"][0]["text"], "said ");
    assert_eq!(client.response(&id).await, cancelled);
}

async fn its_stream_ends_in_order(database: Database) {
    let server = Server::start(database);
    let client = server.client();
    let request = json!({"model": "echo", "input": "said unsaid", "metadata": {"delay_ms": "10000"}});
    let mut stream = client.stream(request).await;
    let mut events = stream.until_delta(1).await;
    let cancelled = client.cancel(&events::response_id(&events)).await.response();
    events.extend(stream.rest().await);
    assert_eq!(events.last().unwrap().kind, "response.failed");
    assert_eq!(fold(&events), cancelled);
}

async fn a_second_cancel_answers_the_same(database: Database) {
    let server = Server::start(database);
    let client = server.client();
    let request = json!({"model": "echo", "input": "a b", "metadata": {"delay_ms": "10000"}});
    let mut stream = client.stream(request).await;
    let id = events::response_id(&stream.until_delta(1).await);
    let (one, other) = tokio::join!(client.cancel(&id), client.cancel(&id));
    let first = one.response();
    assert_eq!(other.response(), first);
    assert_eq!(client.cancel(&id).await.response(), first);
}

async fn what_has_ended_cannot_be_cancelled(database: Database) {
    let server = Server::start(database);
    let client = server.client();
    let response = client.post(json!({"model": "echo", "input": "quick"})).await.response();
    let id = response["id"].as_str().unwrap();
    let answer = client.cancel(id).await;
    assert_eq!(answer.status, 400);
    assert!(answer.message().contains("completed"), "{}", answer.message());
    assert_eq!(client.response(id).await, response);
}

#[tokio::test]
async fn an_unknown_response_cannot_be_cancelled() {
    let server = Server::start(Database::Sqlite);
    for id in ["resp_00000000000000000000000000000000", "nonsense"] {
        server.client().cancel(id).await.refused(404, "response_not_found");
    }
}

/// Cancels a run of `hostile`, which must be gone within a second.
async fn cancelled(behaviour: &str) {
    let folder = plugins::hostile_folder();
    let server = Server::start(Options::new(Database::Sqlite).plugins(folder.path()));
    let client = server.client();
    let mut stream = client.stream(json!({"model": "hostile", "input": behaviour})).await;
    let id = events::response_id(&stream.until(|event| event.kind == "response.in_progress").await);
    let answer = wait::within(AT_ONCE, format!("the end of {behaviour}"), client.cancel(&id)).await;
    assert_eq!(answer.response()["status"], "cancelled");
    let last = stream.rest().await.pop().unwrap();
    assert_eq!(last.data["response"]["status"], "cancelled");
}

#[tokio::test]
async fn a_busy_loop_is_cancelled_at_once() {
    cancelled("spin").await;
}

#[tokio::test]
async fn an_agent_that_ignores_the_cancel_is_cancelled_at_once() {
    cancelled("forget-cancel").await;
}

#[tokio::test]
async fn an_agent_that_writes_without_end_is_cancelled_at_once() {
    cancelled("empty 1000000000").await;
}
