//! HTTP/2 with prior knowledge: the same answers, many on one connection, within limits.

use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::{io::AsyncReadExt as _, net::TcpStream, task::JoinHandle};

use crate::harness::{
    database::Database,
    server::{Options, Server},
    wait,
};

/// A connection in HTTP/2, and what becomes of it.
async fn connect(server: &Server, window: u32) -> (SendRequest<Full<Bytes>>, JoinHandle<hyper::Result<()>>) {
    let stream = TcpStream::connect(server.address()).await.unwrap();
    let mut builder = http2::Builder::new(TokioExecutor::new());
    let builder = builder.initial_stream_window_size(window);
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
    (sender, tokio::spawn(connection))
}

fn request(server: &Server, body: &Value) -> Request<Full<Bytes>> {
    Request::post(format!("http://{}/v1/responses", server.address()))
        .header("content-type", "application/json")
        .body(Full::from(body.to_string()))
        .unwrap()
}

async fn text(answer: Response<Incoming>) -> String {
    let body = wait::within(wait::PATIENCE, "a body", answer.into_body().collect()).await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

#[tokio::test]
async fn requests_side_by_side_are_answered_on_one_connection() {
    let server = Server::start(Database::Sqlite);
    let (mut sender, _connection) = connect(&server, 65_535).await;
    let slow = json!({"model": "echo", "input": "one two three", "stream": true, "metadata": {"delay_ms": "200"}});
    let stream = sender.send_request(request(&server, &slow)).await.unwrap();
    assert_eq!((stream.status(), stream.version()), (hyper::StatusCode::OK, hyper::Version::HTTP_2));
    let answers = (0..10).map(|number| {
        let sent = sender.send_request(request(&server, &json!({"model": "echo", "input": format!("hi {number}")})));
        async move {
            let response: Value = serde_json::from_str(&text(sent.await.unwrap()).await).unwrap();
            assert_eq!(response["output"][0]["content"][0]["text"], format!("hi {number}"));
        }
    });
    futures::future::join_all(answers).await;
    let events = text(stream).await;
    assert!(events.ends_with("data: [DONE]\n\n"), "{events}");
    let large = json!({"model": "echo", "input": "x".repeat(900_000), "store": false});
    let answer = text(sender.send_request(request(&server, &large)).await.unwrap()).await;
    assert!(answer.len() > 900_000, "{}", answer.len());
    let refused = sender.send_request(request(&server, &json!({"model": "nobody", "input": "x"}))).await.unwrap();
    assert_eq!(refused.status(), 404);
}

#[tokio::test]
async fn a_stream_of_which_nothing_is_taken_ends_its_connection() {
    let server = Server::start(Options::new(Database::Sqlite).config("[limits]\nwrite_timeout = \"1s\""));
    let (mut sender, connection) = connect(&server, 100).await;
    let body = json!({"model": "echo", "input": "word ".repeat(1_000), "stream": true, "store": false});
    let _stream = sender.send_request(request(&server, &body)).await.unwrap();
    let _ = wait::within(Duration::from_secs(20), "the end of the connection", connection).await;
    let again = sender.send_request(request(&server, &body)).await;
    assert!(again.is_err(), "the connection is closed");
}

#[tokio::test]
async fn half_a_preface_is_not_waited_for() {
    let server = Server::start(Options::new(Database::Sqlite).config("[limits]\nheader_timeout = \"300ms\""));
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"P").await.unwrap();
    let mut rest = Vec::new();
    // Closed, with or without an answer.
    let _ = wait::within(wait::PATIENCE, "the end of the connection", stream.read_to_end(&mut rest)).await;
}
