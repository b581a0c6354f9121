//! Paths and methods as people write them.

use reqwest::Method;
use serde_json::json;

use crate::harness::{database::Database, server::Server};

#[tokio::test]
async fn a_path_may_have_a_slash_too_many_or_lack_its_version() {
    let server = Server::start(Database::Sqlite);
    let client = server.client();
    for path in ["/v1/responses/", "//v1//responses", "/responses", "/responses//"] {
        let request = client.request(Method::POST, path).json(&json!({"model": "echo", "input": "hi"}));
        let response = client.send(request).await.response();
        let id = response["id"].as_str().unwrap();
        let items = client.get_path(&format!("/responses/{id}/input_items/?limit=1")).await.ok();
        assert_eq!(items["data"].as_array().unwrap().len(), 1);
    }
    assert_eq!(client.get_path("/models/echo/").await.ok()["id"], "echo");
    // What is not of the API has one path.
    for path in ["//admin/runs", "/admin/runs/", "//healthz"] {
        let answer = client.get_path(path).await;
        answer.refused(404, "unknown_url");
        assert!(answer.message().contains("GET /openapi.json"), "{}", answer.message());
    }
}

#[tokio::test]
async fn a_client_of_chat_completions_learns_what_there_is_instead() {
    let server = Server::start(Database::Sqlite);
    let client = server.client();
    for path in ["/v1/chat/completions", "/chat/completions/", "/v1/completions"] {
        let request = client.request(Method::POST, path).json(&json!({"model": "echo", "messages": []}));
        let answer = client.send(request).await;
        answer.refused(404, "unknown_url");
        assert!(answer.message().contains("POST /v1/responses"), "{}", answer.message());
    }
}

#[tokio::test]
async fn options_names_the_methods_and_head_is_get_without_a_body() {
    let server = Server::start(Database::Sqlite);
    let client = server.client();
    for (path, method) in [("/v1/responses", "POST"), ("/v1/models", "GET"), ("/v1/conversations/c", "DELETE")] {
        let answer = client.request(Method::OPTIONS, path).send().await.unwrap();
        assert_eq!(answer.status(), 204, "{path}");
        let allowed = answer.headers()["allow"].to_str().unwrap().to_owned();
        assert!(allowed.split(',').any(|allowed| allowed.trim() == method), "{path}: {allowed}");
    }
    for (path, status) in [("/v1/models", 200), ("/v1/models/nobody", 404), ("/healthz", 200)] {
        let answer = client.request(Method::HEAD, path).send().await.unwrap();
        assert_eq!(answer.status(), status, "{path}");
        assert!(answer.headers().contains_key("x-request-id"));
        assert_eq!(answer.bytes().await.unwrap().len(), 0);
    }
}
