//! Runs that sleep leave memory: nobody notices, and far more of them wait than there are places.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::harness::{
    database::{Database, both_databases},
    events,
    server::{Options, Server},
};

both_databases!(
    more_runs_sleep_than_there_are_places,
    a_stream_is_the_same_with_and_without_its_instance,
    a_run_is_cancelled_in_its_sleep,
    a_run_that_sleeps_survives_a_crash,
    a_stop_does_not_wait_for_runs_that_sleep,
);

/// A server with two places for instances, where sleeping a tenth of a second is long.
fn start(database: Database) -> Server {
    Server::start(Options::new(database).config("[limits]\nmax_live_runs = 2\nmax_runs = 20\nidle_after = \"100ms\""))
}

/// A run in the background that says the words with pauses.
fn slow(input: &str, milliseconds: u64) -> Value {
    json!({
        "model": "echo", "input": input, "metadata": {"delay_ms": milliseconds.to_string()}, "background": true,
    })
}

async fn more_runs_sleep_than_there_are_places(database: Database) {
    let server = start(database);
    let client = server.client();
    let mut ids = HashSet::new();
    while ids.len() < 20 {
        let answer = client.post(slow("a b c", 4_000)).await;
        match answer.status {
            200 => drop(ids.insert(answer.response()["id"].as_str().unwrap().to_owned())),
            // Two of them are on their way to sleep.
            _ => drop(answer.refused(429, "rate_limit_exceeded")),
        }
    }
    let refused = client.post(slow("one more", 1)).await;
    refused.refused(429, "rate_limit_exceeded");
    assert!(refused.message().contains("limits.max_runs"), "{}", refused.message());
    for id in ids {
        let response = client.ended(&id).await;
        assert_eq!(response["output"][0]["content"][0]["text"], "a b c", "{response}");
    }
    client.post(slow("one more", 1)).await.response();
}

async fn a_stream_is_the_same_with_and_without_its_instance(database: Database) {
    let server = start(database);
    let client = server.client();
    let asleep = client.stream(slow("a b c d", 300)).await.rest().await;
    let awake = client.stream(slow("a b c d", 10)).await.rest().await;
    assert_eq!(events::kinds(&asleep), events::kinds(&awake));
    assert_eq!(events::text(&asleep), "a b c d");
    let id = events::response_id(&asleep);
    assert_eq!(events::frames(&client.get_stream(&id, None).await.rest().await), events::frames(&asleep));
}

async fn a_run_is_cancelled_in_its_sleep(database: Database) {
    let server = start(database);
    let client = server.client();
    let mut stream = client.stream(slow("a b", 10_000)).await;
    let id = events::response_id(&stream.until_delta(1).await);
    let response = client.cancel(&id).await.response();
    assert_eq!(response["status"], "cancelled");
    assert_eq!(response["output"][0]["content"][0]["text"], "a ");
    assert!(stream.rest().await.last().unwrap().terminal());
}

async fn a_run_that_sleeps_survives_a_crash(database: Database) {
    let mut server = start(database);
    let mut stream = server.client().stream(slow("a b c", 1_500)).await;
    let id = events::response_id(&stream.until_delta(1).await);
    server.kill9();
    server.restart();
    let all = server.client().get_stream(&id, None).await.rest().await;
    assert_eq!(events::text(&all), "a b c");
}

async fn a_stop_does_not_wait_for_runs_that_sleep(database: Database) {
    let mut server = start(database);
    let client = server.client();
    let mut stream = client.stream(slow("a b", 10_000)).await;
    let id = events::response_id(&stream.until_delta(1).await);
    server.terminate();
    assert!(server.ended().await.success());
    server.restart();
    // It would have ended, had the stop waited for it.
    let response = server.client().response(&id).await;
    assert_eq!(response["status"], "in_progress", "{response}");
    server.client().cancel(&id).await.response();
}
