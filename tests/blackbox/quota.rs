//! How much a principal may keep.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{
    client::{Answer, Client},
    database::{Database, both_databases},
    keys,
    server::{Options, Server},
    wait,
    websocket::Socket,
};

both_databases!(beyond_its_quota_a_principal_keeps_nothing_more_and_others_do);

/// A request that keeps some kilobytes.
fn large() -> Value {
    json!({"model": "echo", "input": "x".repeat(4_000)})
}

fn full(answer: &Answer) {
    answer.refused(429, "storage_quota_exceeded");
    assert!(answer.message().contains("60000") && answer.message().contains("stored_bytes"), "{}", answer.message());
    assert!(answer.headers["x-should-retry"] == "false" && answer.retry_after().is_none(), "{:?}", answer.headers);
}

async fn send(client: &Client, path: &str, body: &Value) -> Answer {
    client.send(client.request(Method::POST, path).json(body)).await
}

async fn beyond_its_quota_a_principal_keeps_nothing_more_and_others_do(database: Database) {
    let ann = format!("{}\nstored_bytes = \"60KB\"", keys::entry("ann"));
    let config = format!("{ann}\n{}\n[limits]\nstored_bytes = \"10MB\"", keys::entry("bob"));
    let mut server = Server::start(Options::new(database).config(&config));
    let client = keys::client(&server, "ann");
    let conversation = send(&client, "/v1/conversations", &json!({})).await.ok();
    let conversation = format!("/v1/conversations/{}", conversation["id"].as_str().unwrap());
    let keyed = |client: &Client| {
        let request = client.request(Method::POST, "/v1/responses").header("idempotency-key", "k").json(&large());
        let client = client.clone();
        async move { client.send(request).await }
    };
    let mut kept = vec![keyed(&client).await.response()["id"].as_str().unwrap().to_owned()];
    let refused = loop {
        let answer = client.post(large()).await;
        if answer.status != 200 {
            break answer;
        }
        kept.push(answer.response()["id"].as_str().unwrap().to_owned());
        assert!(kept.len() < 10, "it keeps more than it may");
    };
    full(&refused);
    assert!(kept.len() > 1);

    // Also after a start, and whatever it is that is to be kept.
    server.restart();
    let (client, bob) = (keys::client(&server, "ann"), keys::client(&server, "bob"));
    let items = json!({"items": [{"role": "user", "content": "x".repeat(40_000)}]});
    full(&client.post(large()).await);
    full(&send(&client, "/v1/conversations", &items).await);
    full(&send(&client, &format!("{conversation}/items"), &items).await);
    let mut socket = Socket::open_with_key(server.address(), "key-ann").await;
    socket.create(large()).await;
    socket.refused(429, "storage_quota_exceeded").await;
    // What is there is read, what is not kept is answered, and nobody else is concerned.
    client.response(&kept[0]).await;
    assert_eq!(keyed(&client).await.response()["id"], *kept[0]);
    let mut ephemeral = large();
    ephemeral["store"] = false.into();
    client.post(ephemeral).await.response();
    for _ in 0..kept.len() + 2 {
        bob.post(large()).await.response();
    }

    // What it deletes makes room.
    for id in kept {
        client.send(client.request(Method::DELETE, &format!("/v1/responses/{id}"))).await.ok();
    }
    wait::eventually("there is room", async || (client.post(large()).await.status == 200).then_some(())).await;
}
