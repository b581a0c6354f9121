//! Bodies of requests, many and large ones: what they cost, and whom they keep waiting.

use futures::future::join_all;
use serde_json::json;
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::frame::{
        Frame,
        coding::{Data, OpCode},
    },
};

use crate::harness::{
    client::Answer,
    database::Database,
    keys, process,
    raw::Connection,
    server::{Options, Server},
    wait,
    websocket::Socket,
};

/// A body with this much that nobody reads.
fn large(bytes: usize) -> String {
    json!({"model": "echo", "input": "x", "ignored": "x".repeat(bytes)}).to_string()
}

/// A request whose body does not come to its end.
async fn unfinished(server: &Server, key: &str, bytes: usize) -> Connection {
    let mut connection = Connection::open(server.address()).await;
    let head = format!(
        "POST /v1/responses HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {key}\r\ncontent-type: \
         application/json\r\ncontent-length: {}\r\n\r\n",
        bytes + 1
    );
    connection.send(head.as_bytes()).await;
    connection.send("x".repeat(bytes).as_bytes()).await;
    connection
}

#[tokio::test]
async fn bodies_have_room_each_principal_its_own_and_small_ones_always() {
    let names = ["ann", "bob", "eve"];
    let keys: Vec<_> = names.iter().map(|name| keys::entry(name)).collect();
    let limits = "[limits]\nbody_bytes = \"1MiB\"\nbodies_bytes = \"2MiB\"";
    let server = Server::start(Options::new(Database::Sqlite).config(&keys.join("\n")).config(limits));
    let [ann, bob, eve] = names.map(|name| keys::client(&server, name));
    let refused = |answer: Answer, status: u16| {
        assert!(answer.status == 200 || answer.status == status, "{}", answer.body);
        (answer.status == status).then_some(answer)
    };
    let of_ann = unfinished(&server, "key-ann", 900 << 10).await;
    let busy = wait::eventually("ann has no more room", async || refused(ann.post_bytes(large(300 << 10)).await, 429));
    let busy = busy.await;
    busy.refused(429, "rate_limit_exceeded");
    assert!(busy.retry_after().is_some() && busy.message().contains("limits.bodies_bytes"), "{}", busy.body);
    bob.post_bytes(large(300 << 10)).await.response();
    ann.post_bytes(large(1 << 10)).await.response();

    let _of_bob = unfinished(&server, "key-bob", 900 << 10).await;
    let full = wait::eventually("nobody has room", async || refused(eve.post_bytes(large(300 << 10)).await, 503)).await;
    full.refused(503, "server_busy");
    assert!(full.retry_after().is_some() && full.message().contains("limits.bodies_bytes"), "{}", full.body);
    eve.post_bytes(large(1 << 10)).await.response();
    of_ann.abort();
    wait::eventually("there is room again", async || {
        (eve.post_bytes(large(300 << 10)).await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn messages_over_sockets_have_room_as_bodies_have() {
    let limits = "[limits]\nbody_bytes = \"1MiB\"\nbodies_bytes = \"2MiB\"";
    let server = Server::start(Options::new(Database::Sqlite).config(limits));
    let begun = |bytes| Message::Frame(Frame::message("x".repeat(bytes), OpCode::Data(Data::Text), false));
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut socket = Socket::open(server.address()).await;
        socket.send(begun(900 << 10)).await;
        open.push(socket);
    }
    let client = server.client();
    wait::eventually("there is no more room", async || {
        (client.post_bytes(large(300 << 10)).await.status == 503).then_some(())
    })
    .await;
    let mut socket = Socket::open(server.address()).await;
    socket.send(begun(300 << 10)).await;
    socket.refused(503, "server_busy").await;
    assert_eq!(socket.closed().await, Some(1013));
    // A short one has room, and what is given up makes some.
    let mut socket = Socket::open(server.address()).await;
    socket.turn(json!({"model": "echo", "input": "x"})).await;
    drop(open);
    wait::eventually("there is room again", async || {
        (client.post_bytes(large(300 << 10)).await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_body_of_very_many_values_is_refused_before_they_are_made() {
    // This client is busy with large bodies, on a machine that may be busy, too.
    let server = Server::start(Options::new(Database::Sqlite).config("[limits]\nfirst_byte_timeout = \"60s\""));
    let client = server.client();
    let before = process::rss(server.id());
    let zeros = "0,".repeat(5 << 20);
    let bodies = ["ignored", "input", "metadata"].map(|field| {
        let zeros = &zeros[..zeros.len() - 100];
        format!("{{\"model\":\"echo\",\"{field}\":[{zeros}0]}}")
    });
    let answers = join_all(bodies.map(|body| client.post_bytes(body))).await;
    for answer in answers {
        answer.refused(413, "request_too_complex");
        assert!(answer.message().contains("250000"), "{}", answer.message());
    }
    // The bodies themselves; what is in them would be twenty times as much.
    let after = process::rss(server.id());
    assert!(after < before + (150 << 10), "{before} KiB before, {after} KiB after");
    // Nothing is counted in strings.
    let quoted = "[\\\"{,:".repeat(1 << 20);
    // On a connection of its own: the others may have been idle for too long by now.
    let client = server.client();
    client.post_bytes(format!("{{\"model\":\"echo\",\"input\":\"x\",\"ignored\":\"{quoted}\"}}")).await.response();
}
