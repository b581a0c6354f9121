//! Places for connections: nobody keeps one for nothing, and nobody keeps others out.

use std::time::Duration;

use serde_json::json;
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::frame::{
        Frame,
        coding::{Data, OpCode},
    },
};

use crate::harness::{
    database::Database,
    keys,
    raw::Connection,
    server::{Options, Server},
    wait::within,
    websocket::Socket,
};

/// Far less than the times that `PATIENT` sets.
const SOON: Duration = Duration::from_secs(30);
/// No time of a connection ends in a test.
const PATIENT: &str = "first_byte_timeout = \"1h\"\nheader_timeout = \"1h\"\nwrite_timeout = \"1h\"";

fn limited(limits: &str) -> Server {
    Server::start(Options::new(Database::Sqlite).config(&format!("[limits]\n{limits}")))
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")
}

/// A new connection that has asked this and was answered soon.
async fn asking(server: &Server, request: &str) -> Connection {
    let mut connection = Connection::open(server.address()).await;
    connection.send(request.as_bytes()).await;
    let head = within(SOON, "an answer", connection.head()).await;
    assert_eq!(head.status, 200);
    connection.body(&head).await;
    connection
}

#[tokio::test]
async fn idle_connections_keep_nobody_out() {
    let server = limited(&format!("connections = 3\n{PATIENT}"));
    let mut idle = Vec::new();
    for bytes in ["", "GET /heal", "", "GET / HTTP/1.1\r\nhost: lo", "", ""] {
        let mut connection = Connection::open(server.address()).await;
        connection.send(bytes.as_bytes()).await;
        idle.push(connection);
    }
    // They stay, and need all places.
    let mut others = Vec::new();
    for _ in 0..3 {
        others.push(asking(&server, &get("/healthz")).await);
    }
    for connection in &mut idle {
        assert!(connection.closed().await, "an idle connection kept its place");
    }
    for other in &mut others {
        other.send(get("/healthz").as_bytes()).await;
        assert_eq!(other.head().await.status, 200, "more were closed than there had to be");
    }
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_closed_soon() {
    let server = limited("first_byte_timeout = \"200ms\"\nheader_timeout = \"1h\"");
    let mut silent = Connection::open(server.address()).await;
    assert!(within(SOON, "it is closed", silent.closed()).await);
    // Between requests another time counts.
    let mut connection = Connection::open(server.address()).await;
    for _ in 0..2 {
        connection.send(get("/healthz").as_bytes()).await;
        let head = connection.head().await;
        connection.body(&head).await;
        // Longer than that, and nothing happens.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

#[tokio::test]
async fn answers_that_nobody_reads_are_given_up() {
    let server = limited("connections = 1\nwrite_timeout = \"300ms\"");
    let mut deaf = Connection::open_narrow(server.address()).await;
    deaf.send(get("/openapi.json").repeat(200).as_bytes()).await;
    assert_eq!(deaf.head().await.status, 200);
    within(SOON, "an answer", server.client().get_path("/healthz")).await.ok();
}

#[tokio::test]
async fn who_has_shown_a_key_keeps_the_place_before_who_has_not() {
    let config = format!("{}\n[limits]\nconnections = 2\n{PATIENT}", keys::entry("ann"));
    let server = Server::start(Options::new(Database::Sqlite).config(&config));
    let ask = "GET /v1/models HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer key-ann\r\n\r\n";
    let mut ann = asking(&server, ask).await;
    // Idle for less long, and without a key.
    let mut eve = asking(&server, &get("/healthz")).await;
    let _again = asking(&server, ask).await;
    assert!(eve.closed().await);
    ann.send(ask.as_bytes()).await;
    assert_eq!(ann.head().await.status, 200);
}

#[tokio::test]
async fn an_address_has_its_share_of_connections() {
    let server = limited("connections_per_address = 2");
    let mut open = Vec::new();
    for _ in 0..2 {
        open.push(asking(&server, &get("/healthz")).await);
    }
    let mut third = Connection::open(server.address()).await;
    let head = third.head().await;
    assert_eq!(head.status, 429);
    assert!(head.headers.contains("connection: close") && head.headers.contains("retry-after: 1"), "{}", head.headers);
    let body = third.body(&head).await;
    assert_eq!(body["error"]["code"], "too_many_connections");
    assert!(body["error"]["message"].as_str().unwrap().contains("limits.connections_per_address"));
    open.pop().unwrap().abort();
    crate::harness::wait::eventually("there is a place", async || {
        let mut next = Connection::open(server.address()).await;
        // One that is turned away may be closed before it has sent all.
        next.try_send(get("/healthz").as_bytes()).await;
        (next.try_head().await?.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_client_that_only_stops_sending_gets_its_answer() {
    let server = limited("header_timeout = \"1h\"");
    for delay in ["0", "400"] {
        let mut connection = Connection::open(server.address()).await;
        connection.post(&json!({"model": "echo", "input": "a b c d", "metadata": {"delay_ms": delay}})).await;
        connection.half_close().await;
        let head = connection.head().await;
        assert_eq!(head.status, 200);
        let response = connection.body(&head).await;
        assert_eq!(response["output"][0]["content"][0]["text"], "a b c d");
        assert!(connection.closed().await);
    }
}

#[tokio::test]
async fn a_message_that_does_not_end_closes_its_socket() {
    let server = limited("body_timeout = \"300ms\"\nkeep_alive = \"50ms\"");
    let mut socket = Socket::open(server.address()).await;
    let part = |opcode| Message::Frame(Frame::message("{\"type\":", OpCode::Data(opcode), false));
    socket.send(part(Data::Text)).await;
    // The answers to these stand between the parts of the message, and end none.
    socket.ping(SOON).await;
    socket.send(part(Data::Continue)).await;
    socket.ping(SOON).await;
    socket.refused(408, "request_timeout").await;
    assert_eq!(within(SOON, "it is closed", socket.closed()).await, Some(1008));
    // A socket over which nothing comes but those answers stays open.
    let mut socket = Socket::open(server.address()).await;
    for _ in 0..20 {
        socket.ping(SOON).await;
    }
    socket.turn(json!({"model": "echo", "input": "x"})).await;
}
