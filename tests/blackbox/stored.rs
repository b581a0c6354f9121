//! What can be done with a stored response: run it in the background, go on from it, list its input, delete it.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{
    client::Client,
    database::{Database, both_databases},
    events::{self, kinds},
    plugins,
    server::{Options, Server},
    wait,
};

both_databases!(
    a_background_run_is_answered_at_once,
    a_background_stream_is_queued_first,
    a_response_is_gone_on_from,
    what_is_not_completed_cannot_be_gone_on_from,
    input_items_are_listed_in_pages,
    a_deleted_response_is_gone_with_all_that_belongs_to_it,
    deleting_an_active_response_ends_its_run,
);

async fn delete(client: &Client, id: &str) -> crate::harness::client::Answer {
    client.send(client.request(Method::DELETE, &format!("/v1/responses/{id}"))).await
}

async fn a_background_run_is_answered_at_once(database: Database) {
    let server = Server::start(database);
    let client = server.client();
    let body = json!({"model": "echo", "input": "a b", "background": true, "metadata": {"delay_ms": "300"}});
    let response = client.post(body).await.response();
    assert_eq!((&response["status"], &response["background"]), (&json!("queued"), &json!(true)));
    let ended = client.ended(response["id"].as_str().unwrap()).await;
    assert_eq!(ended["status"], "completed");
    // Also a run that has ended before anybody looks.
    for _ in 0..20 {
        let response = client.post(json!({"model": "echo", "input": "", "background": true})).await.response();
        assert_eq!(response["status"], "queued");
    }
    client
        .post(json!({"model": "echo", "input": "x", "background": true, "store": false}))
        .await
        .refused(400, "background_requires_store");
}

async fn a_background_stream_is_queued_first(database: Database) {
    let server = Server::start(database);
    let client = server.client();
    let events = client.stream(json!({"model": "echo", "input": "a", "background": true})).await.rest().await;
    assert_eq!(kinds(&events)[..3], ["response.created", "response.queued", "response.in_progress"]);
    assert_eq!(events[0].data["response"]["status"], "queued");
    assert_eq!(events[2].data["response"]["status"], "in_progress");
}

async fn a_response_is_gone_on_from(database: Database) {
    let folder = plugins::hostile_folder();
    let server = Server::start(Options::new(database).plugins(folder.path()));
    let client = server.client();
    let first = client.post(json!({"model": "echo", "input": "first", "instructions": "Not inherited."})).await;
    let first = first.response();
    let second = client.post(json!({"model": "echo", "input": "second", "previous_response_id": first["id"]})).await;
    let second = second.response();
    assert_eq!(second["previous_response_id"], first["id"]);
    assert_eq!(second["instructions"], Value::Null);
    let third =
        client.post(json!({"model": "hostile", "input": "history", "previous_response_id": second["id"]})).await;
    let text = third.response()["output"][0]["content"][0]["text"].clone();
    assert_eq!(text, "user: first\nassistant: first\nuser: second\nassistant: second");
}

async fn what_is_not_completed_cannot_be_gone_on_from(database: Database) {
    let server = Server::start(database);
    let client = server.client();
    let slow = json!({"model": "echo", "input": "a b", "stream": true, "metadata": {"delay_ms": "10000"}});
    let id = events::response_id(&client.stream(slow).await.until_delta(1).await);
    let on = |id: &str| json!({"model": "echo", "input": "x", "previous_response_id": id});
    client.post(on(&id)).await.refused(409, "previous_response_not_completed");
    client.cancel(&id).await.response();
    client.post(on(&id)).await.refused(409, "previous_response_not_completed");
    for nobody in ["resp_00000000000000000000000000000000", "nonsense"] {
        let answer = client.post(on(nobody)).await;
        assert_eq!(answer.refused(400, "previous_response_not_found"), Some("previous_response_id"));
    }
}

async fn input_items_are_listed_in_pages(database: Database) {
    let server = Server::start(database);
    let client = server.client();
    let input: Vec<Value> = (1..=5).map(|n| json!({"role": "user", "content": format!("m{n}")})).collect();
    let response = client.post(json!({"model": "echo", "input": input})).await.response();
    let path = format!("/v1/responses/{}/input_items", response["id"].as_str().unwrap());
    let newest = client.get_path(&format!("{path}?limit=2")).await.ok();
    assert_eq!(newest["data"][0]["content"][0]["text"], "m5");
    assert_eq!(newest["has_more"], true);
    let after = newest["last_id"].as_str().unwrap();
    let rest = client.get_path(&format!("{path}?after={after}")).await.ok();
    assert_eq!((rest["data"].as_array().unwrap().len(), &rest["has_more"]), (3, &json!(false)));
    client.get_path(&format!("{path}?limit=0")).await.refused(400, "invalid_value");
    client.get_path(&format!("{path}?after=nobody")).await.refused(400, "invalid_value");
}

async fn a_deleted_response_is_gone_with_all_that_belongs_to_it(database: Database) {
    let server = Server::start(database);
    let client = server.client();
    let response = client.post(json!({"model": "echo", "input": "x"})).await.response();
    let id = response["id"].as_str().unwrap();
    let deleted = delete(&client, id).await.ok();
    assert_eq!(deleted, json!({"id": id, "object": "response.deleted", "deleted": true}));
    for path in [
        format!("/v1/responses/{id}"),
        format!("/v1/responses/{id}?stream=true"),
        format!("/v1/responses/{id}/input_items"),
    ] {
        client.get_path(&path).await.refused(404, "response_not_found");
    }
    client.cancel(id).await.refused(404, "response_not_found");
    delete(&client, id).await.refused(404, "response_not_found");
    assert!(server.response_ids().await.is_empty());
}

async fn deleting_an_active_response_ends_its_run(database: Database) {
    let server = Server::start(database);
    let client = server.client();
    let slow = json!({"model": "echo", "input": "a b", "metadata": {"delay_ms": "10000"}});
    let mut stream = client.stream(slow).await;
    let mut events = stream.until_delta(1).await;
    let id = events::response_id(&events);
    wait::within(Duration::from_secs(1), "the deletion", delete(&client, &id)).await.ok();
    events.extend(stream.rest().await);
    assert_eq!(events.last().unwrap().data["response"]["status"], "cancelled");
    client.get(&id).await.refused(404, "response_not_found");
}
