//! `GET /v1/responses/{id}`, at any moment.

use reqwest::Method;
use serde_json::json;

use crate::harness::{
    database::{Database, both_databases},
    events::{self, Event, text},
    fold::fold,
    server::{Options, Server},
};

both_databases!(
    a_running_response_shows_the_output_so_far,
    a_response_is_there_before_its_first_byte,
    a_replay_is_byte_for_byte_what_was_streamed,
    a_cursor_gives_the_events_behind_it,
    a_cursor_at_the_end_gives_done_only,
);

async fn a_running_response_shows_the_output_so_far(database: Database) {
    let server = Server::start(database);
    let client = server.client();
    let input = "a b c d e f g h";
    let mut stream = client.stream(json!({"model": "echo", "input": input, "metadata": {"delay_ms": "300"}})).await;
    let mut seen = Vec::new();
    let mut id = String::new();
    for _ in 0..6 {
        seen.extend(stream.until(|event| event.delta().is_some()).await);
        id = events::response_id(&seen);
        let response = client.response(&id).await;
        assert_eq!(response["status"], "in_progress");
        assert_eq!(response["output"][0]["status"], "in_progress");
        let shown = response["output"][0]["content"][0]["text"].as_str().unwrap();
        let streamed = text(&seen);
        assert!(shown.starts_with(&streamed), "{shown:?} lacks something of {streamed:?}, which was seen");
        assert!(input.starts_with(shown));
    }
    seen.extend(stream.rest().await);
    assert_eq!(client.response(&id).await, fold(&seen));
}

async fn a_response_is_there_before_its_first_byte(database: Database) {
    let server = Server::start(database);
    let client = server.client();
    for _ in 0..10 {
        let mut stream = client.stream(json!({"model": "echo", "input": "quick"})).await;
        let created = stream.next().await.unwrap();
        let response = client.response(&events::response_id(&[created])).await;
        assert!(["in_progress", "completed"].contains(&response["status"].as_str().unwrap()));
        stream.rest().await;
    }
}

async fn a_replay_is_byte_for_byte_what_was_streamed(database: Database) {
    let server = Server::start(database);
    let client = server.client();
    let input = "größer  als \n\n 👩‍👩‍👧 \u{1} end ".repeat(50);
    let mut first = client.stream(json!({"model": "echo", "input": input})).await;
    let events = first.rest().await;
    let id = events::response_id(&events);
    for _ in 0..2 {
        let mut replay = client.get_stream(&id, None).await;
        replay.rest().await;
        assert!(replay.frames() == first.frames());
    }
    // One that was never streamed has the same events.
    let answered = client.post(json!({"model": "echo", "input": input})).await.response();
    let replay = client.get_stream(answered["id"].as_str().unwrap(), None).await.rest().await;
    assert_eq!(events::kinds(&replay), events::kinds(&events));
    assert_eq!(fold(&replay), answered);
}

async fn a_cursor_gives_the_events_behind_it(database: Database) {
    let server = Server::start(database);
    let client = server.client();
    let mut first =
        client.stream(json!({"model": "echo", "input": "one two three", "metadata": {"delay_ms": "5"}})).await;
    let events = first.rest().await;
    let id = events::response_id(&events);
    for cursor in 0..events.len() as u64 - 1 {
        let mut stream = client.get_stream(&id, Some(cursor)).await;
        stream.rest().await;
        let behind: Vec<Event> = events.iter().filter(|event| event.number > cursor).cloned().collect();
        assert!(stream.frames() == events::frames(&behind), "behind {cursor}");
    }
}

async fn a_cursor_at_the_end_gives_done_only(database: Database) {
    let server = Server::start(database);
    let client = server.client();
    let events = client.stream(json!({"model": "echo", "input": "one"})).await.rest().await;
    let (id, last) = (events::response_id(&events), events.last().unwrap().number);
    for cursor in [last, last + 1, 1_000_000, i64::MAX as u64] {
        let mut stream = client.get_stream(&id, Some(cursor)).await;
        assert_eq!(stream.rest().await, []);
        assert!(stream.done());
    }
}

#[tokio::test]
async fn the_last_event_id_is_a_cursor_too() {
    let server = Server::start(Database::Sqlite);
    let client = server.client();
    let events = client.stream(json!({"model": "echo", "input": "one two"})).await.rest().await;
    let path = format!("/v1/responses/{}?stream=true", events::response_id(&events));
    let request = client.request(Method::GET, &path).header("last-event-id", "4");
    let rest = client.events(request, 5).await.rest().await;
    assert_eq!(rest, events[5..]);
}

#[tokio::test]
async fn a_cursor_that_is_no_number_is_refused() {
    let server = Server::start(Database::Sqlite);
    let client = server.client();
    let response = client.post(json!({"model": "echo", "input": "x"})).await.response();
    let id = response["id"].as_str().unwrap();
    for cursor in ["x", "", "1.5", "-1", "99999999999999999999"] {
        let answer = client.get_path(&format!("/v1/responses/{id}?stream=true&starting_after={cursor}")).await;
        assert_eq!((answer.status, answer.body["error"]["param"].as_str()), (400, Some("starting_after")), "{cursor}");
    }
    let answer = client.get_path(&format!("/v1/responses/{id}?stream=maybe")).await;
    assert_eq!((answer.status, answer.body["error"]["param"].as_str()), (400, Some("stream")));
}

#[tokio::test]
async fn a_response_that_is_not_there_is_not_found() {
    let server = Server::start(Database::Sqlite);
    let client = server.client();
    for id in ["resp_00000000000000000000000000000000", "nonsense", "resp_", "%00", "..%2F..", &"x".repeat(2_000)] {
        client.get(id).await.refused(404, "response_not_found");
        let path = format!("/v1/responses/{id}?stream=true");
        client.get_path(&path).await.refused(404, "response_not_found");
    }
}

#[tokio::test]
async fn what_to_include_may_be_said_in_both_forms() {
    let server = Server::start(Database::Sqlite);
    let client = server.client();
    let response = client.post(json!({"model": "echo", "input": "x"})).await.response();
    let id = response["id"].as_str().unwrap();
    let what = "message.output_text.logprobs";
    for query in
        [format!("include[]={what}&include[]=a"), format!("include={what}&include=a"), format!("include%5B%5D={what}")]
    {
        assert_eq!(client.get_path(&format!("/v1/responses/{id}?{query}")).await.response(), response);
    }
}

#[tokio::test]
async fn without_a_stream_the_answer_waits_for_the_end() {
    let server = Server::start(Options::new(Database::Sqlite));
    let client = server.client();
    let request = json!({"model": "echo", "input": "a b c", "metadata": {"delay_ms": "150"}});
    assert_eq!(client.post(request).await.response()["status"], "completed");
}
