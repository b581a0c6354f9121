//! Who may come in, and who sees what.

use reqwest::Method;
use serde_json::json;

use crate::harness::{
    database::{Database, both_databases},
    keys,
    server::{Options, Server},
};

both_databases!(what_belongs_to_somebody_else_is_not_found);

/// A server with the keys `key-ann` and `key-bob`.
pub fn with_keys(database: Database) -> Server {
    Server::start(Options::new(database).config(&keys::entry("ann")).config(&keys::entry("bob")))
}

async fn what_belongs_to_somebody_else_is_not_found(database: Database) {
    let server = with_keys(database);
    let (ann, bob) = (server.client().with_key("key-ann"), server.client().with_key("key-bob"));
    let mut stream = ann.stream(json!({"model": "echo", "input": "a b", "metadata": {"delay_ms": "10000"}})).await;
    let id = crate::harness::events::response_id(&stream.until_delta(1).await);
    bob.get(&id).await.refused(404, "response_not_found");
    bob.cancel(&id).await.refused(404, "response_not_found");
    bob.get_path(&format!("/v1/responses/{id}?stream=true")).await.refused(404, "response_not_found");
    assert_eq!(ann.response(&id).await["status"], "in_progress");
    ann.cancel(&id).await.response();
    bob.get(&id).await.refused(404, "response_not_found");
}

#[tokio::test]
async fn without_a_right_key_nothing_is_shown() {
    let server = with_keys(Database::Sqlite);
    for client in [server.client(), server.client().with_key("key-eve"), server.client().with_key("")] {
        for (method, path) in
            [(Method::POST, "/v1/responses"), (Method::GET, "/v1/responses/resp_1"), (Method::GET, "/v1/models")]
        {
            let answer = client.send(client.request(method, path)).await;
            answer.refused(401, "invalid_api_key");
            assert!(answer.headers.contains_key("www-authenticate"));
        }
        client.get_path("/healthz").await.ok();
        client.get_path("/readyz").await.ok();
    }
    assert_eq!(server.response_ids().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_key_opens() {
    let server = with_keys(Database::Sqlite);
    server.client().with_key("key-bob").post(json!({"model": "echo", "input": "x"})).await.response();
}
