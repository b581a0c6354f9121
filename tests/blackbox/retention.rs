//! How long a response is kept.

use reqwest::Method;
use serde_json::json;
use sqlx::Row as _;

use crate::harness::{
    database::{Database, both_databases},
    events, plugins,
    server::{Options, Server},
    wait,
};

both_databases!(
    what_was_kept_long_enough_goes_with_all_that_belongs_to_it,
    a_conversation_that_nobody_changes_goes_with_all_that_belongs_to_it,
);

/// How many rows a table has for a conversation.
async fn rows(server: &Server, table: &str, conversation: &str) -> i64 {
    let sql = format!("SELECT COUNT(*) FROM {table} WHERE conversation_id = $1");
    let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(conversation.to_owned());
    query.fetch_one(&mut server.database().await).await.unwrap().get(0)
}

async fn a_conversation_that_nobody_changes_goes_with_all_that_belongs_to_it(database: Database) {
    let config = "conversation_retention = \"1s\"\n[agents.keeper]\nstate = true";
    let folder = plugins::folder("keeper");
    let server = Server::start(Options::new(database).plugins(folder.path()).config(config));
    let client = server.client();
    // It is older than the others, and a response is being made in it.
    let slow = json!({"model": "echo", "input": "a b", "conversation": "busy", "metadata": {"delay_ms": "10000"}});
    let active = events::response_id(&client.stream(slow).await.until_delta(1).await);
    let made = client.send(client.request(Method::POST, "/v1/conversations").json(&json!({}))).await.ok();
    let made = format!("/v1/conversations/{}", made["id"].as_str().unwrap());
    let keeping = json!({"model": "keeper", "input": "set conversation k v", "conversation": "old"});
    let response = client.post(keeping).await.response();
    for path in [&*made, "/v1/conversations/old"] {
        wait::eventually("it goes", async || (client.get_path(path).await.status == 404).then_some(())).await;
    }
    for table in ["conversation_items", "state"] {
        assert_eq!(rows(&server, table, "old").await, 0, "{table}");
    }
    // Its response has a time of its own.
    client.response(response["id"].as_str().unwrap()).await;
    let busy = client.get_path("/v1/conversations/busy").await.ok();
    assert_eq!(busy["active_response_id"], active);
    client.cancel(&active).await.response();
    wait::eventually("it goes, too", async || {
        (client.get_path("/v1/conversations/busy").await.status == 404).then_some(())
    })
    .await;
}

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
