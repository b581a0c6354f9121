//! What happens to a run when its client goes away.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{
    client::Client,
    database::{Database, both_databases},
    events, plugins,
    raw::Connection,
    server::{Options, Server},
    wait,
};

both_databases!(
    a_durable_stream_goes_on_without_its_client,
    a_durable_request_goes_on_without_its_client,
    an_ephemeral_stream_ends_with_its_connection,
    an_ephemeral_request_ends_with_its_connection,
    an_operator_may_cancel_durable_runs_too,
);

/// An ephemeral run that nobody waits for is gone within this time.
const GONE: Duration = Duration::from_secs(1);

/// A server with room for one run: the next one is taken when the one before is gone.
fn one_at_a_time(database: Database) -> Server {
    Server::start(Options::new(database).config("[limits]\nmax_live_runs = 1"))
}

/// Waits until there is room for a run, at most one second.
async fn room(client: &Client) {
    wait::eventually_within(GONE, "the run is gone", async || {
        let answer = client.post(json!({"model": "echo", "input": "next", "store": false})).await;
        assert!(answer.status == 200 || answer.status == 429, "{}", answer.body);
        (answer.status == 200).then_some(())
    })
    .await;
}

fn silent_after_one_word(store: bool) -> Value {
    json!({"model": "echo", "input": "one two", "stream": true, "store": store, "metadata": {"delay_ms": "10000"}})
}

async fn a_durable_stream_goes_on_without_its_client(database: Database) {
    let server = Server::start(database);
    let client = server.client();
    let input = "these words all come although nobody listens";
    let mut stream = client.stream(json!({"model": "echo", "input": input, "metadata": {"delay_ms": "50"}})).await;
    let seen = stream.until_delta(2).await;
    drop(stream);
    let response = client.ended(&events::response_id(&seen)).await;
    assert_eq!(response["status"], "completed");
    assert_eq!(response["output"][0]["content"][0]["text"], input);
}

async fn a_durable_request_goes_on_without_its_client(database: Database) {
    let server = Server::start(database);
    let client = server.client();
    let mut connection = Connection::open(server.address()).await;
    connection.post(&json!({"model": "echo", "input": "a b c d", "metadata": {"delay_ms": "200"}})).await;
    let ids =
        wait::eventually("the run begins", async || Some(server.response_ids().await).filter(|ids| !ids.is_empty()));
    let id = ids.await.remove(0);
    assert_eq!(client.response(&id).await["status"], "in_progress");
    connection.abort();
    let response = client.ended(&id).await;
    assert_eq!(response["status"], "completed");
    assert_eq!(response["output"][0]["content"][0]["text"], "a b c d");
}

async fn an_ephemeral_stream_ends_with_its_connection(database: Database) {
    let server = one_at_a_time(database);
    let client = server.client();
    // The agent is silent for ten seconds: nothing is written that could fail.
    let mut stream = client.stream(silent_after_one_word(false)).await;
    let seen = stream.until_delta(1).await;
    client.post(json!({"model": "echo", "input": "x"})).await.refused(429, "rate_limit_exceeded");
    drop(stream);
    room(&client).await;
    client.get(&events::response_id(&seen)).await.refused(404, "response_not_found");
    assert_eq!(server.response_ids().await, Vec::<String>::new());
}

async fn an_ephemeral_request_ends_with_its_connection(database: Database) {
    let server = one_at_a_time(database);
    let client = server.client();
    let mut request = silent_after_one_word(false);
    request["stream"] = json!(false);
    let mut connection = Connection::open(server.address()).await;
    connection.post(&request).await;
    wait::eventually("the run begins", async || {
        // Looked at, not tried: another run could take the only place before this one has it.
        (client.get_path("/readyz").await.body["runs"] == 1).then_some(())
    })
    .await;
    let beside = json!({"model": "echo", "input": "x", "store": false});
    client.post(beside).await.refused(429, "rate_limit_exceeded");
    drop(connection);
    room(&client).await;
    assert_eq!(server.response_ids().await, Vec::<String>::new());
}

async fn an_operator_may_cancel_durable_runs_too(database: Database) {
    let server = Server::start(Options::new(database).config("on_disconnect = \"cancel\""));
    let client = server.client();
    let mut stream = client.stream(silent_after_one_word(true)).await;
    let id = events::response_id(&stream.until_delta(1).await);
    // Whoever watches is not who began it.
    drop(client.get_stream(&id, None).await);
    assert_eq!(client.response(&id).await["status"], "in_progress");
    drop(stream);
    let response = wait::within(GONE * 2, "the run is cancelled", client.ended(&id)).await;
    assert_eq!(response["status"], "cancelled");
    assert_eq!(response["output"][0]["status"], "incomplete");
    assert_eq!(response["output"][0]["content"][0]["text"], "one ");
}

#[tokio::test]
async fn a_reset_connection_is_a_client_that_went_away() {
    let server = one_at_a_time(Database::Sqlite);
    let mut connection = Connection::open(server.address()).await;
    connection.post(&silent_after_one_word(false)).await;
    assert_eq!(connection.head().await.status, 200);
    connection.chunk().await.unwrap();
    connection.abort();
    room(&server.client()).await;
}

#[tokio::test]
async fn a_busy_ephemeral_run_ends_with_its_connection() {
    let folder = plugins::hostile_folder();
    let limits = "[limits]\nmax_live_runs = 1";
    let server = Server::start(Options::new(Database::Sqlite).plugins(folder.path()).config(limits));
    let client = server.client();
    let mut stream = client.stream(json!({"model": "hostile", "input": "spin", "store": false})).await;
    stream.until(|event| event.kind == "response.in_progress").await;
    drop(stream);
    room(&client).await;
}

#[tokio::test]
async fn an_agent_that_ignores_the_cancel_is_gone_all_the_same() {
    let folder = plugins::hostile_folder();
    let limits = "[limits]\nmax_live_runs = 1";
    let server = Server::start(Options::new(Database::Sqlite).plugins(folder.path()).config(limits));
    let client = server.client();
    let mut stream = client.stream(json!({"model": "hostile", "input": "forget-cancel", "store": false})).await;
    stream.until(|event| event.kind == "response.in_progress").await;
    drop(stream);
    room(&client).await;
}

#[tokio::test]
async fn a_slow_ephemeral_reader_suspends_the_run_and_loses_nothing() {
    let folder = plugins::hostile_folder();
    let server = Server::start(Options::new(Database::Sqlite).plugins(folder.path()));
    let mut connection = Connection::open_narrow(server.address()).await;
    let request = json!({"model": "hostile", "input": "events 50000", "stream": true, "store": false});
    connection.post(&request).await;
    assert_eq!(connection.head().await.status, 200);
    let before = crate::harness::process::rss(server.id());
    // The others go on while it does not read.
    server.client().post(json!({"model": "echo", "input": "meanwhile"})).await.response();
    let after = crate::harness::process::rss(server.id());
    assert!(after < before + (8 << 10), "{before} KiB grew to {after} KiB");
    let mut parser = events::Parser::expecting(0);
    parser.unchecked = true;
    let mut deltas = 0;
    while let Some(chunk) = connection.chunk().await {
        parser.push(&chunk);
        while let Some(frame) = parser.next() {
            if let events::Frame::Event(event) = frame {
                deltas += usize::from(event.delta().is_some());
            }
        }
    }
    assert!(parser.done());
    assert_eq!(deltas, 50_000);
}
