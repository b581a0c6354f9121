//! How long a response is kept.

use reqwest::Method;
use serde_json::json;

use crate::harness::{
    database::{Database, both_databases},
    events,
    server::{Options, Server},
    wait,
};

both_databases!(what_was_kept_long_enough_goes_with_all_that_belongs_to_it);

async fn what_was_kept_long_enough_goes_with_all_that_belongs_to_it(database: Database) {
    let server = Server::start(Options::new(database).config("retention = \"1s\""));
    let client = server.client();
    let slow = json!({"model": "echo", "input": "a b", "metadata": {"delay_ms": "10000"}});
    let active = events::response_id(&client.stream(slow).await.until_delta(1).await);
    // More than one batch.
    for _ in 0..120 {
        client.post(json!({"model": "echo", "input": "x"})).await.response();
    }
    let keyed = json!({"model": "echo", "input": "x", "conversation": "c"});
    let request = || client.request(Method::POST, "/v1/responses").header("idempotency-key", "k").json(&keyed);
    let first = client.send(request()).await.response();
    let id = first["id"].as_str().unwrap();
    wait::eventually("all that has ended goes", async || {
        (server.response_ids().await == [active.as_str()]).then_some(())
    })
    .await;
    client.get(id).await.refused(404, "response_not_found");
    client.get_path(&format!("/v1/responses/{id}?stream=true")).await.refused(404, "response_not_found");
    // The run that goes on is there, the key is free, and the conversation remembers.
    assert_eq!(client.response(&active).await["status"], "in_progress");
    let again = client.send(request()).await.response();
    assert_ne!(again["id"], first["id"]);
    let items = client.get_path("/v1/conversations/c/items").await.ok();
    assert_eq!(items["data"].as_array().unwrap().len(), 4);
}
