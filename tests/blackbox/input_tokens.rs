//! `POST /v1/responses/input_tokens`: how much a request would be.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{
    client::{Answer, Client},
    database::{Database, both_databases},
    server::Server,
    upstream::Upstream,
};

both_databases!(all_that_an_agent_is_given_is_counted);

async fn count(client: &Client, body: Value) -> Answer {
    client.send(client.request(Method::POST, "/v1/responses/input_tokens").json(&body)).await
}

/// The tokens of a request that must be right.
async fn tokens(client: &Client, body: Value) -> u64 {
    let counted = count(client, body).await.ok();
    assert_eq!((counted.as_object().unwrap().len(), &counted["object"]), (2, &json!("response.input_tokens")));
    counted["input_tokens"].as_u64().unwrap()
}

async fn all_that_an_agent_is_given_is_counted(database: Database) {
    let server = Server::start(database);
    let client = server.client();
    let words = |count: usize| "word ".repeat(count);
    let plain = tokens(&client, json!({"model": "echo", "input": words(100)})).await;
    assert!((100..130).contains(&plain), "{plain}");

    let tool = json!([{"type": "function", "name": "weather", "description": words(50), "parameters": {}}]);
    for (field, value, more) in [("instructions", json!(words(50)), 50), ("tools", tool, 60)] {
        let mut body = json!({"model": "echo", "input": words(100)});
        body[field] = value;
        let counted = tokens(&client, body).await;
        assert!((plain + more..plain + more + 30).contains(&counted), "{field}: {counted}");
    }

    let first = client.post(json!({"model": "echo", "input": words(200)})).await.response();
    let kept = server.response_ids().await;
    let on = json!({"model": "echo", "input": words(100), "previous_response_id": first["id"]});
    let counted = tokens(&client, on).await;
    assert!((plain + 400..plain + 430).contains(&counted), "{counted}");
    assert_eq!(server.response_ids().await, kept, "nothing is kept");

    // A compacted conversation counts as what it stands for.
    let conversation = json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": words(300)}]);
    let request = client.request(Method::POST, "/v1/responses/compact");
    let body = json!({"model": "echo", "input": conversation});
    let compacted = client.send(request.json(&body)).await.ok()["output"].clone();
    let before = tokens(&client, body).await;
    assert_eq!(tokens(&client, json!({"model": "echo", "input": compacted})).await, before);
}

#[tokio::test]
async fn nothing_is_started() {
    let upstream = Upstream::start([]).await;
    let server = Server::start(upstream.options(Database::Sqlite.into()));
    tokens(&server.client(), json!({"model": "chat/up-1", "input": "hello", "stream": true})).await;
    assert!(upstream.requests().is_empty());
    assert!(server.response_ids().await.is_empty());
}

#[tokio::test]
async fn a_request_that_is_wrong_is_refused_as_elsewhere() {
    let server = Server::start(Database::Sqlite);
    let client = server.client();
    for (body, status, code, param) in [
        (json!({"input": "x"}), 400, "missing_required_parameter", Some("model")),
        (json!({"model": "echo"}), 400, "missing_required_parameter", Some("input")),
        (json!({"model": "nobody", "input": "x"}), 404, "model_not_found", Some("model")),
        (json!({"model": "echo", "input": [{"role": "robot"}]}), 400, "invalid_value", Some("input[0].role")),
        (
            json!({"model": "echo", "input": [{"type": "compaction", "encrypted_content": "x"}]}),
            400,
            "invalid_encrypted_content",
            Some("input[0].encrypted_content"),
        ),
        (
            json!({"model": "echo", "input": "x", "previous_response_id": "resp_00000000000000000000000000000000"}),
            400,
            "previous_response_not_found",
            Some("previous_response_id"),
        ),
    ] {
        assert_eq!(count(&client, body.clone()).await.refused(status, code), param, "{body}");
    }
}
