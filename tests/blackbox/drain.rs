//! SIGTERM: an orderly end.

use std::time::Duration;

use serde_json::json;

use crate::harness::{
    database::{Database, both_databases},
    events::{self, text},
    fold::fold,
    plugins,
    server::{Options, Server},
    wait,
};

both_databases!(
    a_run_that_can_finish_does,
    a_run_that_cannot_finish_goes_on_after_the_next_start,
    an_ephemeral_run_ends_in_order_too,
);

async fn a_run_that_can_finish_does(database: Database) {
    let mut server = Server::start(database);
    let client = server.client();
    let request = json!({"model": "echo", "input": "to the very end", "metadata": {"delay_ms": "150"}});
    let mut stream = client.stream(request).await;
    let mut seen = stream.until_delta(1).await;
    server.terminate();
    seen.extend(stream.rest().await);
    assert_eq!(text(&seen), "to the very end");
    assert!(server.ended().await.success());
    server.restart();
    assert_eq!(server.client().response(&events::response_id(&seen)).await, fold(&seen));
}

async fn a_run_that_cannot_finish_goes_on_after_the_next_start(database: Database) {
    let mut server = Server::start(Options::new(database).config("drain_timeout = \"200ms\""));
    let client = server.client();
    let request = json!({"model": "echo", "input": "said unsaid", "metadata": {"delay_ms": "3000"}});
    let mut stream = client.stream(request.clone()).await;
    let answer = tokio::spawn(async move { client.post(request).await });
    let mut seen = stream.until_delta(1).await;
    wait::eventually("both run", async || (server.response_ids().await.len() == 2).then_some(())).await;
    server.terminate();
    // Neither the end of the run nor `[DONE]`: the stream is cut, so that nobody takes it for whole.
    seen.extend(stream.rest_or_cut().await);
    assert!(!stream.done());
    let answer = answer.await.unwrap();
    answer.refused(503, "shutting_down");
    assert!(answer.retry_after().is_some());
    assert!(server.ended().await.success());
    server.restart();
    let (id, last) = (events::response_id(&seen), seen.last().unwrap().number);
    seen.extend(server.client().get_stream(&id, Some(last)).await.rest().await);
    assert_eq!(text(&seen), "said unsaid");
    assert_eq!(fold(&seen), server.client().response(&id).await);
    for id in server.response_ids().await {
        assert_eq!(server.client().ended(&id).await["status"], "completed");
    }
}

async fn an_ephemeral_run_ends_in_order_too(database: Database) {
    let mut server = Server::start(Options::new(database).config("drain_timeout = \"200ms\""));
    let request = json!({"model": "echo", "input": "a b", "store": false, "metadata": {"delay_ms": "10000"}});
    let mut stream = server.client().stream(request).await;
    let mut seen = stream.until_delta(1).await;
    server.terminate();
    seen.extend(stream.rest().await);
    assert_eq!(fold(&seen)["status"], "failed");
    assert!(server.ended().await.success());
}

#[tokio::test]
async fn while_it_drains_it_is_not_ready_and_takes_no_runs() {
    let mut server = Server::start(Options::new(Database::Sqlite).config("drain_timeout = \"30s\""));
    let client = server.client();
    let request = json!({"model": "echo", "input": "a b", "metadata": {"delay_ms": "2000"}});
    let mut stream = client.stream(request).await;
    let begun = stream.until_delta(1).await;
    server.terminate();
    wait::eventually("readiness is false", async || (client.get_path("/readyz").await.status == 503).then_some(()))
        .await;
    assert_eq!(client.get_path("/healthz").await.status, 200);
    for store in [true, false] {
        let refused = client.post(json!({"model": "echo", "input": "late", "store": store})).await;
        assert_eq!(refused.status, 503, "{}", refused.body);
        assert!(refused.retry_after().is_some());
    }
    // What runs is still shown.
    let id = events::response_id(&begun);
    assert_eq!(client.response(&id).await["status"], "in_progress");
    stream.rest().await;
    assert!(server.ended().await.success());
}

#[tokio::test]
async fn an_idle_server_stops_at_once() {
    let mut server = Server::start(Database::Sqlite);
    let client = server.client();
    // A connection that is kept open for the next request holds up nothing.
    client.post(json!({"model": "echo", "input": "x"})).await.response();
    server.terminate();
    assert!(wait::within(Duration::from_secs(3), "the end", server.ended()).await.success());
}

#[tokio::test]
async fn a_busy_loop_does_not_hold_up_the_end() {
    let folder = plugins::hostile_folder();
    let options = Options::new(Database::Sqlite).plugins(folder.path()).config("drain_timeout = \"100ms\"");
    let mut server = Server::start(options);
    let mut stream = server.client().stream(json!({"model": "hostile", "input": "spin"})).await;
    stream.until(|event| event.kind == "response.in_progress").await;
    server.terminate();
    stream.rest_or_cut().await;
    assert!(!stream.done());
    assert!(wait::within(Duration::from_secs(5), "the end", server.ended()).await.success());
}

#[tokio::test]
async fn a_subscriber_that_does_not_read_does_not_hold_up_the_end() {
    use crate::harness::raw::Connection;
    let folder = plugins::hostile_folder();
    let mut server = Server::start(Options::new(Database::Sqlite).plugins(folder.path()));
    let mut connection = Connection::open_narrow(server.address()).await;
    connection.post(&json!({"model": "hostile", "input": "events 20000", "stream": true})).await;
    assert_eq!(connection.head().await.status, 200);
    server.terminate();
    assert!(wait::within(Duration::from_secs(20), "the end", server.ended()).await.success());
}

#[tokio::test]
async fn a_stop_in_order_leaves_one_file() {
    let mut server = Server::start(Options::new(Database::Sqlite).config("drain_timeout = \"100ms\""));
    let slow = json!({"model": "echo", "input": "a b", "metadata": {"delay_ms": "10000"}});
    let _stream = server.client().stream(slow).await.until_delta(1).await;
    server.terminate();
    assert!(server.ended().await.success());
    // A copy of the file alone is a whole database.
    for beside in ["outlast.db-wal", "outlast.db-shm"] {
        assert!(!server.dir().join(beside).exists(), "{beside}");
    }
}
