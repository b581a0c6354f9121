//! Many readers of one run, each at its own pace.

use futures::future::join_all;
use serde_json::json;

use crate::harness::{
    database::{Database, both_databases},
    events::{self, Event, Frame, Parser},
    plugins, process,
    raw::Connection,
    server::{Options, Server},
};

both_databases!(
    a_second_subscriber_sees_the_same_frames,
    subscribers_may_come_at_any_moment_with_any_cursor,
    a_subscriber_that_fell_behind_reads_the_log,
);

async fn a_second_subscriber_sees_the_same_frames(database: Database) {
    let server = Server::start(database);
    let client = server.client();
    let request = json!({"model": "echo", "input": "one two three four five", "metadata": {"delay_ms": "40"}});
    let mut first = client.stream(request).await;
    let mut seen = first.until_delta(2).await;
    let mut second = client.get_stream(&events::response_id(&seen), None).await;
    seen.extend(first.rest().await);
    assert_eq!(second.rest().await, seen);
    assert!(second.frames() == first.frames());
}

async fn subscribers_may_come_at_any_moment_with_any_cursor(database: Database) {
    // The feed holds a few events: some subscribers begin in the log and end in the feed.
    let server = Server::start(Options::new(database).config("[limits]\nfeed_bytes = \"2KiB\""));
    let client = server.client();
    let input: Vec<_> = (0..150).map(|n| format!("w{n}")).collect();
    let request = json!({"model": "echo", "input": input.join(" "), "metadata": {"delay_ms": "3"}});
    let mut first = client.stream(request).await;
    let mut seen = vec![first.next().await.unwrap()];
    let id = events::response_id(&seen);
    let mut others = Vec::new();
    while let Some(event) = first.next().await {
        let number = event.number;
        seen.push(event);
        if number % 5 == 0 {
            // From the beginning, from the middle, from here.
            for cursor in [None, Some(number / 2), Some(number)] {
                let (client, id) = (client.clone(), id.clone());
                others.push(tokio::spawn(async move {
                    let mut stream = client.get_stream(&id, cursor).await;
                    stream.rest().await;
                    (cursor, stream.frames().to_vec())
                }));
            }
        }
    }
    assert!(first.done());
    for other in join_all(others).await {
        let (cursor, frames) = other.unwrap();
        let behind: Vec<Event> =
            seen.iter().filter(|event| cursor.is_none_or(|cursor| event.number > cursor)).cloned().collect();
        assert!(frames == events::frames(&behind), "the frames behind {cursor:?}");
    }
}

async fn a_subscriber_that_fell_behind_reads_the_log(database: Database) {
    let folder = plugins::hostile_folder();
    let options = Options::new(database).plugins(folder.path()).config("[limits]\nfeed_bytes = \"4KiB\"");
    let server = Server::start(options);
    let client = server.client();
    let mut slow = Connection::open_narrow(server.address()).await;
    slow.post(&json!({"model": "hostile", "input": "events 20000", "stream": true})).await;
    assert_eq!(slow.head().await.status, 200);
    let mut slow_frames = slow.chunk().await.unwrap();
    let mut parser = Parser::expecting(0);
    parser.push(&slow_frames);
    let Some(Frame::Event(created)) = parser.next() else { panic!("no event") };
    // The run ends although its first reader has stopped reading.
    let id = events::response_id(&[created]);
    assert_eq!(client.ended(&id).await["status"], "completed");
    for chunk in slow.chunks().await {
        slow_frames.extend(chunk);
    }
    let mut whole = client.get_stream(&id, None).await.unchecked();
    whole.rest().await;
    let frames = slow_frames.strip_suffix(b"data: [DONE]\n\n".as_slice()).expect("[DONE]");
    assert!(frames == whole.frames());
}

#[tokio::test]
async fn subscribers_that_do_not_read_cost_no_memory() {
    let folder = plugins::hostile_folder();
    let server = Server::start(Options::new(Database::Sqlite).plugins(folder.path()));
    let client = server.client();
    let mut stream = client.stream(json!({"model": "hostile", "input": "events 60000"})).await.unchecked();
    let id = events::response_id(&[stream.next().await.unwrap()]);
    let path = format!("/v1/responses/{id}?stream=true");
    let mut silent = Vec::new();
    for _ in 0..20 {
        let mut connection = Connection::open_narrow(server.address()).await;
        connection.get(&path).await;
        assert_eq!(connection.head().await.status, 200);
        silent.push(connection);
    }
    let before = process::rss(server.id());
    stream.rest().await;
    let after = process::rss(server.id());
    // Twenty times the twelve megabytes of this run would be 240.
    assert!(after < before + (48 << 10), "{before} KiB grew to {after} KiB");
}
