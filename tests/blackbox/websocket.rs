//! The WebSocket form of `/v1/responses`: many turns over one connection.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{
    client::Client,
    database::{Database, both_databases},
    events::{self, Event, frames, text},
    fold::fold,
    plugins,
    server::{Options, Server},
    wait,
    websocket::Socket,
};

both_databases!(
    a_turn_is_the_events_of_a_stream,
    a_turn_goes_on_from_the_one_before,
    a_response_that_is_not_kept_is_known_to_its_socket_only,
    a_stored_response_keeps_what_it_goes_on_from,
    a_turn_that_cannot_begin_forgets_what_it_would_have_gone_on_from,
    a_second_turn_meanwhile_is_refused,
    a_durable_run_goes_on_without_its_socket,
    an_ephemeral_run_ends_with_its_socket,
    a_draining_server_ends_the_turn_and_closes,
);

fn hostile(database: Database) -> (Server, tempfile::TempDir) {
    let folder = plugins::hostile_folder();
    (Server::start(Options::new(database).plugins(folder.path())), folder)
}

fn id(events: &[Event]) -> String {
    events::response_id(events)
}

/// What `hostile` says of the earlier turns.
fn said(events: &[Event]) -> Value {
    fold(events)["output"][0]["content"][0]["text"].clone()
}

async fn a_turn_is_the_events_of_a_stream(database: Database) {
    let server = Server::start(database);
    let mut socket = Socket::open(server.address()).await;
    for input in ["one two three", "and a second turn"] {
        let seen = socket.turn(json!({"model": "echo", "input": input})).await;
        assert_eq!(text(&seen), input);
        // Byte for byte what a stream of the same response carries.
        let mut stream = server.client().get_stream(&id(&seen), None).await;
        stream.rest().await;
        assert_eq!(stream.frames(), frames(&seen));
        assert_eq!(server.client().response(&id(&seen)).await, fold(&seen));
    }
    socket.close().await;
}

async fn a_turn_goes_on_from_the_one_before(database: Database) {
    let (server, _folder) = hostile(database);
    let mut socket = Socket::open(server.address()).await;
    for store in [true, false] {
        let first = socket.turn(json!({"model": "echo", "input": "first", "store": store})).await;
        let on = json!({"model": "echo", "input": "second", "store": store, "previous_response_id": id(&first)});
        let second = socket.turn(on).await;
        assert_eq!(fold(&second)["previous_response_id"], id(&first));
        let on = json!({"model": "hostile", "input": "history", "store": store, "previous_response_id": id(&second)});
        let third = socket.turn(on).await;
        assert_eq!(said(&third), "user: first\nassistant: first\nuser: second\nassistant: second", "{store}");
    }
    // A fork, and one that begins with a stored response.
    let stored = server.client().post(json!({"model": "echo", "input": "stored"})).await.response();
    let first = json!({"model": "echo", "input": "a", "store": false, "previous_response_id": stored["id"]});
    let first = socket.turn(first).await;
    for fork in ["b", "c"] {
        let on = json!({"model": "echo", "input": fork, "store": false, "previous_response_id": id(&first)});
        let second = socket.turn(on).await;
        let on = json!({"model": "hostile", "input": "history", "store": false, "previous_response_id": id(&second)});
        let expected =
            format!("user: stored\nassistant: stored\nuser: a\nassistant: a\nuser: {fork}\nassistant: {fork}");
        assert_eq!(said(&socket.turn(on).await), expected);
    }
}

async fn a_response_that_is_not_kept_is_known_to_its_socket_only(database: Database) {
    let server = Server::start(database);
    let mut socket = Socket::open(server.address()).await;
    let first = id(&socket.turn(json!({"model": "echo", "input": "first", "store": false})).await);
    let on = json!({"model": "echo", "input": "second", "store": false, "previous_response_id": first});
    let mut other = Socket::open(server.address()).await;
    other.create(on.clone()).await;
    let param = other.refused(400, "previous_response_not_found").await;
    assert_eq!(param.as_deref(), Some("previous_response_id"));
    server.client().post(on.clone()).await.refused(400, "previous_response_not_found");
    server.client().get(&first).await.refused(404, "response_not_found");
    socket.turn(on.clone()).await;
    socket.close().await;
    let mut again = Socket::open(server.address()).await;
    again.create(on).await;
    again.refused(400, "previous_response_not_found").await;
    // And goes on with the whole context.
    assert_eq!(text(&again.turn(json!({"model": "echo", "input": "anew", "store": false})).await), "anew");
    assert_eq!(server.response_ids().await, Vec::<String>::new());
}

async fn a_stored_response_keeps_what_it_goes_on_from(database: Database) {
    let (mut server, _folder) = hostile(database);
    let mut socket = Socket::open(server.address()).await;
    let first = socket.turn(json!({"model": "echo", "input": "unkept", "store": false})).await;
    let on = json!({"model": "echo", "input": "kept", "store": true, "previous_response_id": id(&first)});
    let second = socket.turn(on).await;
    server.restart();
    let on = json!({"model": "hostile", "input": "history", "previous_response_id": id(&second)});
    let third = server.client().post(on).await.response();
    let expected = "user: unkept\nassistant: unkept\nuser: kept\nassistant: kept";
    assert_eq!(third["output"][0]["content"][0]["text"], expected);
    let items = server.client().get_path(&format!("/v1/responses/{}/input_items", id(&second))).await.ok();
    assert_eq!(items["data"].as_array().unwrap().len(), 1, "its input is its own: {items}");
}

async fn a_turn_that_cannot_begin_forgets_what_it_would_have_gone_on_from(database: Database) {
    let server = Server::start(database);
    let mut socket = Socket::open(server.address()).await;
    let seed = json!({"model": "echo", "input": "remember", "store": false});
    let stray = json!([{"type": "function_call_output", "call_id": "call_of_nobody", "output": "x"}]);
    for (field, wrong, code) in [("input", stray, "missing_tool_call"), ("temperature", json!(9), "invalid_value")] {
        let first = id(&socket.turn(seed.clone()).await);
        let mut on = json!({"model": "echo", "input": "x", "store": false, "previous_response_id": first});
        on[field] = wrong;
        socket.create(on).await;
        socket.refused(400, code).await;
        socket.create(json!({"model": "echo", "input": "x", "store": false, "previous_response_id": first})).await;
        socket.refused(400, "previous_response_not_found").await;
    }
}

async fn a_second_turn_meanwhile_is_refused(database: Database) {
    let server = Server::start(database);
    let mut socket = Socket::open(server.address()).await;
    let slow = json!({"model": "echo", "input": "one two", "metadata": {"delay_ms": "1500"}});
    socket.create(slow).await;
    let mut seen = socket.until(0, |event| event.delta().is_some()).await;
    for _ in 0..3 {
        socket.create(json!({"model": "echo", "input": "impatient"})).await;
    }
    for _ in 0..3 {
        socket.refused(409, "response_already_in_flight").await;
    }
    seen.extend(socket.until(seen.len() as u64, Event::terminal).await);
    assert_eq!(text(&seen), "one two");
    assert_eq!(server.response_ids().await, [id(&seen)]);
    assert_eq!(text(&socket.turn(json!({"model": "echo", "input": "now"})).await), "now");
}

async fn a_durable_run_goes_on_without_its_socket(database: Database) {
    let server = Server::start(database);
    let mut socket = Socket::open(server.address()).await;
    let input = "these words all come although nobody listens";
    socket.create(json!({"model": "echo", "input": input, "metadata": {"delay_ms": "50"}})).await;
    let seen = socket.until(0, |event| event.delta().is_some()).await;
    drop(socket);
    let response = server.client().ended(&id(&seen)).await;
    assert_eq!(response["status"], "completed");
    assert_eq!(response["output"][0]["content"][0]["text"], input);
}

async fn an_ephemeral_run_ends_with_its_socket(database: Database) {
    for orderly in [true, false] {
        let server = Server::start(Options::new(database.clone()).config("[limits]\nmax_live_runs = 1"));
        let client = server.client();
        let mut socket = Socket::open(server.address()).await;
        let slow = json!({"model": "echo", "input": "a b", "store": false, "metadata": {"delay_ms": "10000"}});
        socket.create(slow).await;
        socket.until(0, |event| event.delta().is_some()).await;
        client.post(json!({"model": "echo", "input": "x"})).await.refused(429, "rate_limit_exceeded");
        if orderly {
            socket.close().await;
        } else {
            drop(socket);
        }
        room(&client).await;
    }
}

/// Waits until there is room for a run, at most one second.
async fn room(client: &Client) {
    wait::eventually_within(Duration::from_secs(1), "the run is gone", async || {
        let answer = client.post(json!({"model": "echo", "input": "next", "store": false})).await;
        (answer.status == 200).then_some(())
    })
    .await;
}

async fn a_draining_server_ends_the_turn_and_closes(database: Database) {
    let mut server = Server::start(Options::new(database).config("drain_timeout = \"300ms\""));
    let mut idle = Socket::open(server.address()).await;
    let mut busy = Vec::new();
    for store in [true, false] {
        let mut socket = Socket::open(server.address()).await;
        let slow = json!({"model": "echo", "input": "a b", "store": store, "metadata": {"delay_ms": "4000"}});
        socket.create(slow).await;
        let seen = socket.until(0, |event| event.delta().is_some()).await;
        busy.push((socket, seen));
    }
    server.terminate();
    let [(mut kept, mut seen), (mut unkept, mut all)]: [_; 2] = busy.try_into().unwrap();
    // A run that is kept has no end yet: it goes on after the next start.
    assert_eq!(kept.closed().await, Some(1001));
    all.extend(unkept.until(all.len() as u64, Event::terminal).await);
    let response = fold(&all);
    assert_eq!(response["status"], "failed");
    assert!(response["error"]["message"].as_str().unwrap().contains("shut down"), "{response}");
    assert_eq!(unkept.closed().await, Some(1001));
    assert_eq!(idle.closed().await, Some(1001));
    assert!(wait::within(Duration::from_secs(4), "the end", server.ended()).await.success());
    server.restart();
    let last = seen.last().unwrap().number;
    seen.extend(server.client().get_stream(&id(&seen), Some(last)).await.rest().await);
    assert_eq!(text(&seen), "a b");
}

#[tokio::test]
async fn while_it_drains_no_turn_begins() {
    let mut server = Server::start(Options::new(Database::Sqlite).config("drain_timeout = \"30s\""));
    let mut socket = Socket::open(server.address()).await;
    let mut busy = Socket::open(server.address()).await;
    busy.create(json!({"model": "echo", "input": "a b", "metadata": {"delay_ms": "2000"}})).await;
    let begun = busy.until(0, |event| event.delta().is_some()).await;
    server.terminate();
    let client = server.client();
    wait::eventually("readiness is false", async || (client.get_path("/readyz").await.status == 503).then_some(()))
        .await;
    socket.create(json!({"model": "echo", "input": "late"})).await;
    socket.refused(503, "shutting_down").await;
    assert_eq!(Socket::try_open(server.address(), &[], false).await.unwrap_err().0, 503);
    busy.until(begun.len() as u64, Event::terminal).await;
    assert_eq!(busy.closed().await, Some(1001));
    assert!(server.ended().await.success());
}

#[tokio::test]
async fn a_socket_needs_a_key_as_everything_does() {
    let server = crate::auth::with_keys(Database::Sqlite);
    for wrong in [&[][..], &[("authorization", "Bearer key-eve")]] {
        let (status, body) = Socket::try_open(server.address(), wrong, false).await.unwrap_err();
        assert_eq!((status, &body["error"]["code"]), (401, &json!("invalid_api_key")));
    }
    let mut ann = Socket::open_with_key(server.address(), "key-ann").await;
    let first = id(&ann.turn(json!({"model": "echo", "input": "mine"})).await);
    let mut bob = Socket::open_with_key(server.address(), "key-bob").await;
    bob.create(json!({"model": "echo", "input": "his", "previous_response_id": first})).await;
    bob.refused(400, "previous_response_not_found").await;
}

#[tokio::test]
async fn a_page_of_another_origin_is_refused_where_there_are_no_keys() {
    let server = Server::start(Database::Sqlite);
    let from = |origin| [("origin", origin)];
    let (status, body) = Socket::try_open(server.address(), &from("https://example.com"), false).await.unwrap_err();
    assert_eq!((status, &body["error"]["code"]), (403, &json!("origin_not_allowed")));
    Socket::try_open(server.address(), &from("http://localhost:3000"), false).await.unwrap().close().await;
    let server = crate::auth::with_keys(Database::Sqlite);
    let headers = [("origin", "https://example.com"), ("authorization", "Bearer key-ann")];
    Socket::try_open(server.address(), &headers, false).await.unwrap().close().await;
}

#[tokio::test]
async fn a_get_without_an_upgrade_says_what_is_missing() {
    let server = Server::start(Database::Sqlite);
    let answer = server.client().send(server.client().request(Method::GET, "/v1/responses")).await;
    answer.refused(426, "upgrade_required");
    assert_eq!(answer.headers["upgrade"], "websocket");
    assert_eq!(answer.headers["sec-websocket-version"], "13");
}

#[tokio::test]
async fn bad_messages_are_answered_and_the_socket_stays_open() {
    let server = Server::start(Database::Sqlite);
    let mut socket = Socket::open(server.address()).await;
    let create = |field: &str, value: Value| {
        let mut message = json!({"type": "response.create", "model": "echo", "input": "x"});
        message[field] = value;
        Message::text(message.to_string())
    };
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let cases = [
        (Message::text(""), 400, "invalid_json", None),
        (Message::text("{\"type\": "), 400, "invalid_json", None),
        (Message::text(deep), 400, "invalid_json", None),
        (Message::text("[]"), 400, "invalid_type", None),
        (Message::binary(vec![1, 2, 3]), 400, "invalid_message", None),
        (Message::text("{}"), 400, "missing_required_parameter", Some("type")),
        (create("type", json!("response.cancel")), 400, "invalid_value", Some("type")),
        (create("type", json!("session.update")), 400, "invalid_value", Some("type")),
        (create("model", Value::Null), 400, "missing_required_parameter", Some("model")),
        (create("model", json!("nobody")), 404, "model_not_found", Some("model")),
        (create("background", json!(true)), 400, "unsupported_value", Some("background")),
        (create("stream_id", json!("a")), 400, "unsupported_parameter", Some("stream_id")),
        (create("store", json!("false")), 400, "invalid_type", Some("store")),
        (create("generate", json!("false")), 400, "invalid_type", Some("generate")),
        (create("generate", json!(false)), 400, "unsupported_value", Some("generate")),
        (create("previous_response_id", json!("no")), 400, "previous_response_not_found", Some("previous_response_id")),
    ];
    for (message, status, code, param) in cases {
        socket.send(message.clone()).await;
        assert_eq!(socket.refused(status, code).await.as_deref(), param, "{message:?}");
    }
    assert_eq!(server.response_ids().await, Vec::<String>::new());
    assert_eq!(text(&socket.turn(json!({"model": "echo", "input": "still here"})).await), "still here");
}

#[tokio::test]
async fn a_message_that_is_too_large_closes_the_socket() {
    let server = Server::start(Options::new(Database::Sqlite).config("[limits]\nbody_bytes = \"64KiB\""));
    let mut socket = Socket::open(server.address()).await;
    let fits = json!({"model": "echo", "input": [{"role": "user", "content": "x".repeat(60_000)}]});
    assert_eq!(text(&socket.turn(fits).await).len(), 60_000);
    socket.create(json!({"model": "echo", "input": "x".repeat(70_000)})).await;
    socket.refused(413, "request_too_large").await;
    assert_eq!(socket.closed().await, Some(1009));
    server.client().post(json!({"model": "echo", "input": "fine"})).await.response();
}

#[tokio::test]
async fn a_silent_socket_shows_that_it_lives() {
    let server = Server::start(Options::new(Database::Sqlite).config("[limits]\nkeep_alive = \"50ms\""));
    let mut socket = Socket::open(server.address()).await;
    socket.ping(Duration::from_secs(5)).await;
    let slow = json!({"model": "echo", "input": "a b", "metadata": {"delay_ms": "1000"}});
    socket.turn(slow).await;
    assert!(socket.pings >= 3, "{} pings in a second of silence", socket.pings);
}

#[tokio::test]
async fn an_old_socket_is_closed_between_turns() {
    let server = Server::start(Options::new(Database::Sqlite).config("[limits]\nwebsocket_lifetime = \"500ms\""));
    let mut socket = Socket::open(server.address()).await;
    let slow = json!({"model": "echo", "input": "a b c", "metadata": {"delay_ms": "500"}});
    assert_eq!(text(&socket.turn(slow).await), "a b c");
    socket.refused(400, "websocket_connection_limit_reached").await;
    assert_eq!(socket.closed().await, Some(1000));
}

#[tokio::test]
async fn a_socket_remembers_as_much_as_it_may() {
    let limits = "[limits]\nwebsocket_responses = 2\nwebsocket_bytes = \"2KiB\"";
    let server = Server::start(Options::new(Database::Sqlite).config(limits));
    let mut socket = Socket::open(server.address()).await;
    let turn = |input: &str| json!({"model": "echo", "input": input, "store": false});
    let mut ids = Vec::new();
    for input in ["one", "two", "three"] {
        ids.push(id(&socket.turn(turn(input)).await));
    }
    let on = |id: &str| json!({"model": "echo", "input": "x", "store": false, "previous_response_id": id});
    socket.create(on(&ids[0])).await;
    socket.refused(400, "previous_response_not_found").await;
    socket.turn(on(&ids[2])).await;
    let large = id(&socket.turn(turn(&"x".repeat(4_096))).await);
    socket.create(on(&large)).await;
    socket.refused(400, "previous_response_not_found").await;
}

#[tokio::test]
async fn a_turn_can_be_prepared_without_an_answer() {
    let (server, _folder) = hostile(Database::Sqlite);
    let mut socket = Socket::open(server.address()).await;
    let prepared = json!({"model": "hostile", "input": "in advance", "store": false, "generate": false});
    let first = socket.turn(prepared).await;
    assert_eq!(events::kinds(&first), ["response.created", "response.in_progress", "response.completed"]);
    assert_eq!(fold(&first)["output"], json!([]));
    let on = json!({"model": "hostile", "input": "history", "store": false, "previous_response_id": id(&first)});
    assert_eq!(said(&socket.turn(on).await), "user: in advance");
    let mut unknown = json!({"model": "nobody", "input": "x", "store": false, "generate": false});
    socket.create(unknown.clone()).await;
    socket.refused(404, "model_not_found").await;
    unknown["model"] = json!("echo");
    unknown["previous_response_id"] = json!("resp_00000000000000000000000000000000");
    socket.create(unknown).await;
    socket.refused(400, "previous_response_not_found").await;
}

#[tokio::test]
async fn a_slow_reader_suspends_the_run_and_loses_nothing() {
    let (server, _folder) = hostile(Database::Sqlite);
    let mut socket = Socket::open_narrow(server.address()).await;
    socket.unchecked = true;
    socket.create(json!({"model": "hostile", "input": "events 50000", "store": false})).await;
    assert_eq!(text(&socket.events().await).len(), 50_000);
}

#[tokio::test]
async fn a_run_that_waits_for_its_reader_goes_on_when_all_is_read() {
    let config = "[limits]\noutbox_bytes = 1";
    let server = Server::start(Options::new(Database::Sqlite).config(config));
    let input = "word ".repeat(2_000);
    let request = json!({"model": "echo", "input": input, "store": false});
    let mut stream = server.client().stream(request.clone()).await.unchecked();
    assert_eq!(text(&stream.rest().await), input);
    let mut socket = Socket::open(server.address()).await;
    socket.unchecked = true;
    assert_eq!(text(&socket.turn(request).await), input);
}

#[tokio::test]
async fn the_next_turn_may_follow_at_once() {
    let server = Server::start(Database::Sqlite);
    let mut socket = Socket::open(server.address()).await;
    let mut previous = Value::Null;
    for turn in 0..200 {
        let store = turn % 2 == 0;
        let request = json!({"model": "echo", "input": "x", "store": store, "previous_response_id": previous});
        previous = json!(id(&socket.turn(request).await));
    }
}

#[tokio::test]
async fn sockets_count_as_connections() {
    let server = Server::start(Options::new(Database::Sqlite).config("[limits]\nconnections = 1"));
    let mut socket = Socket::open(server.address()).await;
    socket.turn(json!({"model": "echo", "input": "x"})).await;
    let second = tokio::time::timeout(Duration::from_millis(300), Socket::try_open(server.address(), &[], false));
    assert!(second.await.is_err(), "a second connection was served");
    socket.close().await;
    Socket::open(server.address()).await;
}
