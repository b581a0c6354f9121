//! `GET /healthz`, `GET /readyz`, and what every answer has.

use reqwest::Method;

use crate::harness::{
    database::{Database, both_databases},
    server::Server,
    wait,
};

both_databases!(a_server_that_serves_is_healthy_and_ready);

async fn a_server_that_serves_is_healthy_and_ready(database: Database) {
    let server = Server::start(database);
    for path in ["/healthz", "/readyz"] {
        assert_eq!(server.client().get_path(path).await.ok()["status"], "ok", "{path}");
    }
}

#[tokio::test]
async fn a_request_id_of_the_client_is_kept() {
    let server = Server::start(Database::Sqlite);
    let client = server.client();
    let answer = client.send(client.request(Method::GET, "/healthz").header("x-request-id", "mine-17")).await;
    assert_eq!(answer.headers["x-request-id"], "mine-17");
    let (one, other) = (client.get_path("/nowhere").await, client.get_path("/nowhere").await);
    assert_ne!(one.headers["x-request-id"], other.headers["x-request-id"]);
}

#[tokio::test]
async fn the_start_says_where_it_listens_what_it_has_and_what_to_try() {
    let server = Server::start(Database::Sqlite);
    for part in [server.url(), "echo", "chat", "outlast.db", "curl"] {
        wait::eventually(format!("{part} is said"), async || server.stdout().contains(part).then_some(())).await;
    }
}
