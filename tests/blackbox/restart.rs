//! `kill -9`, then a new start on the same data.

use std::time::{Duration, Instant};

use futures::future::join_all;
use reqwest::Method;
use serde_json::json;

use crate::harness::{
    client::Client,
    database::{Database, both_databases},
    events::{self, Event, text},
    fold::fold,
    plugins,
    server::{Options, Server},
};

both_databases!(
    what_has_ended_is_there_byte_for_byte,
    what_was_seen_is_kept,
    a_run_that_was_active_goes_on_to_its_end,
    many_runs_go_on_at_once,
    many_turns_go_on_at_once,
    whoever_lost_its_stream_finds_the_run_that_goes_on,
    a_timer_keeps_its_deadline,
    a_run_can_be_cancelled_after_a_restart,
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
        active += usize::from(!done);
        assert!(status == "completed" || status == "in_progress", "{status}");
    }
    assert!(active > 0, "no run was cut off");
}

async fn a_run_that_was_active_goes_on_to_its_end(database: Database) {
    let mut server = Server::start(database);
    let input = "a run that outlives its server";
    let request = json!({"model": "echo", "input": input, "metadata": {"delay_ms": "150"}});
    let mut stream = server.client().stream(request).await;
    let mut seen = stream.until_delta(2).await;
    server.kill9();
    seen.extend(stream.rest_or_cut().await);
    assert!(!stream.done());
    server.restart();
    let (id, last) = (events::response_id(&seen), seen.last().unwrap().number);
    let rest: Vec<Event> = server.client().get_stream(&id, Some(last)).await.rest().await;
    assert_eq!(rest[0].number, last + 1);
    seen.extend(rest);
    assert_eq!(text(&seen), input);
    assert_eq!(seen.last().unwrap().kind, "response.completed");
    let response = server.client().response(&id).await;
    assert_eq!(fold(&seen), response);
    assert_eq!(response["usage"]["output_tokens"], 6);
    assert_eq!(server.client().get_stream(&id, None).await.rest().await, seen);
}

async fn many_runs_go_on_at_once(database: Database) {
    let mut server = Server::start(database);
    let client = server.client();
    let begin = async |n: usize| {
        let request = json!({"model": "echo", "input": format!("run number {n} goes on"), "metadata": {"delay_ms": "400"},
            "background": n < 25});
        let mut stream = client.stream(request).await;
        let seen = stream.until_delta(1).await;
        (n, events::response_id(&seen))
    };
    let runs = join_all((0..50).map(begin)).await;
    for _ in 0..2 {
        server.restart();
    }
    for (n, id) in runs {
        let response = server.client().ended(&id).await;
        assert_eq!(response["status"], "completed");
        let events = server.client().get_stream(&id, None).await.rest().await;
        assert_eq!(text(&events), format!("run number {n} goes on"));
        assert_eq!(fold(&events), response);
    }
}

async fn many_turns_go_on_at_once(database: Database) {
    let mut server = Server::start(database);
    let client = server.client();
    let turn = |n: usize, input: &str, delay: &str| json!({"model": "echo", "input": input, "conversation": format!("c{n}"), "metadata": {"delay_ms": delay}});
    let begin = async |n: usize| {
        client.post(turn(n, "first", "0")).await.response();
        let seen = client.stream(turn(n, "second turn", "1500")).await.until_delta(1).await;
        events::response_id(&seen)
    };
    let runs = join_all((0..30).map(begin)).await;
    server.restart();
    for id in runs {
        assert_eq!(server.client().ended(&id).await["status"], "completed");
    }
}

async fn whoever_lost_its_stream_finds_the_run_that_goes_on(database: Database) {
    let mut server = Server::start(database);
    let request =
        json!({"model": "echo", "input": "one two three", "conversation": "c", "metadata": {"delay_ms": "700"}});
    let post = |client: &Client, stream: bool| {
        let mut body = request.clone();
        body["stream"] = stream.into();
        client.request(Method::POST, "/v1/responses").header("idempotency-key", "k").json(&body)
    };
    let mut stream = server.client().events(post(&server.client(), true), 0).await;
    let id = events::response_id(&stream.until_delta(1).await);
    server.restart();
    let client = server.client();
    let other = client.post(json!({"model": "echo", "input": "x", "conversation": "c"})).await;
    other.refused(409, "conversation_response_not_completed");
    assert_eq!(other.body["error"]["response_id"], id);
    let response = client.send(post(&client, false)).await.response();
    assert_eq!((&response["id"], &response["status"]), (&json!(id), &json!("completed")));
    client.post(json!({"model": "echo", "input": "x", "conversation": "c"})).await.response();
}

async fn a_timer_keeps_its_deadline(database: Database) {
    const DELAY: Duration = Duration::from_secs(10);
    let mut server = Server::start(database);
    let request = json!({"model": "echo", "input": "before after", "metadata": {"delay_ms": "10000"}});
    let id = events::response_id(&server.client().stream(request).await.until_delta(1).await);
    server.journal(&id).await;
    let due = Instant::now() + DELAY;
    server.restart();
    server.kill9();
    tokio::time::sleep_until(due.into()).await;
    server.restart();
    let restarted = Instant::now();
    assert_eq!(server.client().ended(&id).await["status"], "completed");
    // Not the delay once more: what has passed of it has passed.
    assert!(restarted.elapsed() < DELAY / 2, "{:?}", restarted.elapsed());
}

async fn a_run_can_be_cancelled_after_a_restart(database: Database) {
    let mut server = Server::start(database);
    let request = json!({"model": "echo", "input": "said unsaid", "metadata": {"delay_ms": "10000"}});
    let mut seen = server.client().stream(request).await.until_delta(1).await;
    let id = events::response_id(&seen);
    server.restart();
    let last = seen.last().unwrap().number;
    let cancelled = server.client().cancel(&id).await.response();
    assert_eq!(cancelled["status"], "cancelled");
    seen.extend(server.client().get_stream(&id, Some(last)).await.rest().await);
    assert_eq!(fold(&seen), cancelled);
}

#[tokio::test]
async fn a_server_that_is_killed_at_any_moment_starts_again() {
    let folder = plugins::hostile_folder();
    let mut server = Server::start(Options::new(Database::Sqlite).plugins(folder.path()));
    for round in 0..5 {
        let client = server.client();
        let mut streams = Vec::new();
        for _ in 0..8 {
            streams.push(client.stream(json!({"model": "hostile", "input": "events 10000"})).await.unchecked());
        }
        streams[0].until_delta(1 + round * 300).await;
        server.restart();
    }
    for id in server.response_ids().await {
        assert_eq!(server.client().ended(&id).await["status"], "completed");
    }
    server.client().post(json!({"model": "echo", "input": "still here"})).await.response();
}
