//! What HTTP asks of a server, whatever the request is about.

use serde_json::json;

use crate::harness::{
    database::Database,
    raw::Connection,
    server::{Options, Server},
};

const POST: &str = "POST /v1/responses HTTP/1.1\r\nhost: localhost\r\n";
const BODY: &str = "{\"model\":\"echo\",\"input\":\"x\"}";

#[tokio::test]
async fn two_headers_that_say_who_is_meant_are_refused() {
    for server in [Server::start(Database::Sqlite), crate::auth::with_keys(Database::Sqlite)] {
        for (twice, name) in [
            ("host: 127.0.0.1\r\nhost: localhost\r\n", "`Host`"),
            (
                "host: localhost\r\nauthorization: Bearer key-ann\r\nauthorization: Bearer key-bob\r\n",
                "`Authorization`",
            ),
        ] {
            for path in ["/v1/models", "/healthz", "/nowhere"] {
                let mut connection = Connection::open(server.address()).await;
                connection.send(format!("GET {path} HTTP/1.1\r\n{twice}\r\n").as_bytes()).await;
                let head = connection.head().await;
                assert_eq!(head.status, 400, "{twice}");
                let body = connection.body(&head).await;
                assert_eq!(body["error"]["code"], "repeated_header");
                assert!(body["error"]["message"].as_str().unwrap().contains(name), "{body}");
            }
        }
    }
}

#[tokio::test]
async fn a_body_of_two_lengths_is_refused_and_nothing_follows_it() {
    let server = Server::start(Database::Sqlite);
    let chunk = format!("{:x}\r\n{BODY}\r\n0\r\n\r\n", BODY.len());
    let json = "content-type: application/json\r\n";
    let length = BODY.len();
    for framing in [
        "content-length: 4\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 4\r\n",
        "Transfer-Encoding:chunked\r\nx-y: z\r\nCONTENT-LENGTH:\t4\r\n",
    ] {
        // Also behind other requests of the connection, whatever their bodies are like.
        for before in [
            String::new(),
            "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n".to_owned(),
            format!("{POST}{json}content-length: {length}\r\n\r\n{BODY}"),
            format!("{POST}{json}transfer-encoding: chunked\r\n\r\n{chunk}"),
        ] {
            let mut connection = Connection::open(server.address()).await;
            let smuggled = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
            connection.send(format!("{before}{POST}{json}{framing}\r\n{chunk}{smuggled}").as_bytes()).await;
            if !before.is_empty() {
                let head = connection.head().await;
                assert_eq!(head.status, 200, "{before}");
                connection.body(&head).await;
            }
            let head = connection.head().await;
            assert_eq!(head.status, 400, "{before}{framing}");
            assert!(head.headers.contains("connection: close"), "{}", head.headers);
            assert_eq!(connection.body(&head).await["error"]["code"], "ambiguous_length");
            assert!(connection.closed().await, "another request was answered");
        }
    }
    let mut connection = Connection::open(server.address()).await;
    for _ in 0..3 {
        connection.send(format!("{POST}{json}transfer-encoding: chunked\r\n\r\n{chunk}").as_bytes()).await;
        let head = connection.head().await;
        assert_eq!(head.status, 200);
        connection.body(&head).await;
    }
}

#[tokio::test]
async fn an_unread_body_closes_its_connection_and_the_answer_says_so() {
    let server = Server::start(Options::new(Database::Sqlite).config("[limits]\nbody_bytes = \"16KiB\""));
    for (head, status) in [
        // More than is worth reading, and not there yet.
        (format!("{POST}content-type: text/plain\r\ncontent-length: 1000000\r\n\r\n"), 415),
        (format!("{POST}content-type: text/plain\r\ncontent-length: 100\r\n\r\n"), 415),
        // The client waits to be asked for it.
        (format!("{POST}content-type: text/plain\r\ncontent-length: 10\r\nexpect: 100-continue\r\n\r\n"), 415),
        ("POST /nowhere HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\n\r\n".to_owned(), 404),
    ] {
        let mut connection = Connection::open(server.address()).await;
        connection.send(head.as_bytes()).await;
        let answer = connection.head().await;
        assert_eq!(answer.status, status, "{head}");
        assert!(answer.headers.contains("connection: close"), "{head}: {}", answer.headers);
        connection.body(&answer).await;
        assert!(connection.closed().await);
    }
}

#[tokio::test]
async fn a_short_body_that_nobody_reads_keeps_its_connection() {
    let server = Server::start(Database::Sqlite);
    let mut connection = Connection::open(server.address()).await;
    for _ in 0..3 {
        let head = format!("{POST}content-type: text/plain\r\ncontent-length: {}\r\n\r\n{BODY}", BODY.len());
        connection.send(head.as_bytes()).await;
        let answer = connection.head().await;
        assert_eq!(answer.status, 415);
        assert!(!answer.headers.contains("connection:"), "{}", answer.headers);
        connection.body(&answer).await;
    }
    connection.post(&json!({"model": "echo", "input": "x"})).await;
    assert_eq!(connection.head().await.status, 200);
}
