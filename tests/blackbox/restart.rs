//! `kill -9`, then a new start on the same data.

use futures::future::join_all;
use serde_json::json;

use crate::harness::{
    database::{Database, both_databases},
    events::{self, Event},
    fold::fold,
    plugins,
    server::{Options, Server},
};

both_databases!(
    what_has_ended_is_there_byte_for_byte,
    what_was_seen_is_kept,
    a_run_that_was_active_has_failed_and_says_why,
    a_subscriber_goes_on_where_it_was,
    a_second_restart_changes_nothing,
);

async fn what_has_ended_is_there_byte_for_byte(database: Database) {
    let mut server = Server::start(database);
    let mut before = Vec::new();
    for input in ["one two three", "", "größer\n\nals"] {
        let mut stream = server.client().stream(json!({"model": "echo", "input": input})).await;
        let id = events::response_id(&stream.rest().await);
        before.push((server.client().response(&id).await, id, stream.frames().to_vec()));
    }
    server.restart();
    for (response, id, frames) in before {
        assert_eq!(server.client().response(&id).await, response);
        let mut replay = server.client().get_stream(&id, None).await;
        replay.rest().await;
        assert!(replay.frames() == frames);
    }
}

async fn what_was_seen_is_kept(database: Database) {
    let folder = plugins::hostile_folder();
    let mut server = Server::start(Options::new(database).plugins(folder.path()));
    let client = server.client();
    // Slow ones, fast ones, and ones that write as much as they can.
    let requests = (0..24).map(|n| match n % 3 {
        0 => json!({"model": "echo", "input": "a b c d e f g h i j k l m n o p", "metadata": {"delay_ms": "20"}}),
        1 => json!({"model": "echo", "input": "word ".repeat(3_000)}),
        _ => json!({"model": "hostile", "input": "events 200000"}),
    });
    let readers: Vec<_> = requests
        .map(|request| {
            let client = client.clone();
            tokio::spawn(async move {
                let mut stream = client.stream(request).await.unchecked();
                let created = stream.next().await.unwrap();
                stream.rest_or_cut().await;
                (events::response_id(&[created]), stream.frames().to_vec(), stream.done())
            })
        })
        .collect();
    // In the middle: one of them is at its tenth word.
    let mut watched =
        client.stream(json!({"model": "echo", "input": "a ".repeat(20), "metadata": {"delay_ms": "20"}})).await;
    watched.until_delta(10).await;
    server.kill9();
    let seen = join_all(readers).await;
    server.restart();
    let mut active = 0;
    for reader in seen {
        let (id, frames, done) = reader.unwrap();
        let mut replay = server.client().get_stream(&id, None).await.unchecked();
        replay.rest().await;
        assert!(replay.frames().starts_with(&frames), "of {id}, something was shown that is not kept");
        let status = server.client().response(&id).await["status"].clone();
        if done {
            assert_eq!(status, "completed");
            assert_eq!(replay.frames().len(), frames.len());
        }
        active += usize::from(status == "failed");
        assert!(status == "completed" || status == "failed", "{status}");
    }
    assert!(active > 0, "no run was cut off");
}

async fn a_run_that_was_active_has_failed_and_says_why(database: Database) {
    let mut server = Server::start(database);
    let request = json!({"model": "echo", "input": "said unsaid", "metadata": {"delay_ms": "10000"}});
    let mut stream = server.client().stream(request).await;
    let mut seen = stream.until_delta(1).await;
    let id = events::response_id(&seen);
    server.restart();
    let response = server.client().response(&id).await;
    assert_eq!(response["status"], "failed");
    assert_eq!(response["error"]["code"], "server_error");
    let message = response["error"]["message"].as_str().unwrap();
    assert!(message.contains("stopped") || message.contains("restart"), "{message}");
    assert_eq!(response["output"][0]["status"], "incomplete");
    assert_eq!(response["output"][0]["content"][0]["text"], "said ");

    let replay = server.client().get_stream(&id, None).await.rest().await;
    assert_eq!(fold(&replay), response);
    assert_eq!(replay.last().unwrap().kind, "response.failed");
    seen.extend(replay[seen.len()..].iter().cloned());
    assert_eq!(seen, replay);
}

async fn a_subscriber_goes_on_where_it_was(database: Database) {
    let mut server = Server::start(database);
    let request = json!({"model": "echo", "input": "one two three", "metadata": {"delay_ms": "10000"}});
    let mut stream = server.client().stream(request).await;
    let mut seen = stream.until_delta(1).await;
    server.kill9();
    seen.extend(stream.rest_or_cut().await);
    assert!(!stream.done());
    server.restart();
    let (id, last) = (events::response_id(&seen), seen.last().unwrap().number);
    let rest: Vec<Event> = server.client().get_stream(&id, Some(last)).await.rest().await;
    assert_eq!(rest[0].number, last + 1);
    seen.extend(rest);
    assert_eq!(fold(&seen), server.client().response(&id).await);
}

async fn a_second_restart_changes_nothing(database: Database) {
    let mut server = Server::start(database);
    let request = json!({"model": "echo", "input": "one two", "metadata": {"delay_ms": "10000"}});
    let mut stream = server.client().stream(request).await;
    let id = events::response_id(&stream.until_delta(1).await);
    server.restart();
    let response = server.client().response(&id).await;
    let events = server.client().get_stream(&id, None).await.rest().await;
    server.restart();
    assert_eq!(server.client().response(&id).await, response);
    assert_eq!(server.client().get_stream(&id, None).await.rest().await, events);
}

#[tokio::test]
async fn a_server_that_is_killed_at_any_moment_starts_again() {
    let folder = plugins::hostile_folder();
    let mut server = Server::start(Options::new(Database::Sqlite).plugins(folder.path()));
    for round in 0..5 {
        let client = server.client();
        let mut streams = Vec::new();
        for _ in 0..8 {
            streams.push(client.stream(json!({"model": "hostile", "input": "events 100000"})).await.unchecked());
        }
        streams[0].until_delta(1 + round * 300).await;
        server.restart();
    }
    for id in server.response_ids().await {
        let status = server.client().response(&id).await["status"].clone();
        assert!(status == "completed" || status == "failed", "{status}");
    }
    server.client().post(json!({"model": "echo", "input": "still here"})).await.response();
}
