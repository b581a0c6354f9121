//! `GET /v1/models`: one for each agent, and one for each upstream model of an agent.

use serde_json::json;

use crate::harness::{
    database::Database,
    server::{Options, Server},
};

#[tokio::test]
async fn every_agent_is_a_model() {
    let server = Server::start(Database::Sqlite);
    let list = server.client().get_path("/v1/models").await.ok();
    assert_eq!(list["object"], "list");
    let ids: Vec<_> = list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["chat", "echo"]);
    for model in list["data"].as_array().unwrap() {
        assert_eq!(model["object"], "model");
        assert!(model["created"].is_u64());
        assert!(model["owned_by"].is_string());
        let path = format!("/v1/models/{}", model["id"].as_str().unwrap());
        assert_eq!(server.client().get_path(&path).await.ok(), *model);
    }
}

#[tokio::test]
async fn every_configured_model_of_an_agent_is_one() {
    let providers = "default_model = \"big/large\"\n[providers.big]\nbase_url = \"http://127.0.0.1:9/v1\"\n\
        [providers.small]\nbase_url = \"http://127.0.0.1:9/v1\"\nmodels = [\"tiny\", \"org/tinier\"]";
    let server = Server::start(Options::new(Database::Sqlite).config(providers));
    let client = server.client();
    let list = client.get_path("/v1/models").await.ok();
    let ids: Vec<_> = list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["chat", "chat/big/large", "chat/small/org/tinier", "chat/small/tiny", "echo"]);
    for id in ids.into_iter().chain(["chat/any", "chat/big/any", "echo/any"]) {
        assert_eq!(client.get_path(&format!("/v1/models/{id}")).await.ok()["id"], id);
    }
    for id in ["chat/small/huge", "nobody/tiny"] {
        client.get_path(&format!("/v1/models/{id}")).await.refused(404, "model_not_found");
    }
}

#[tokio::test]
async fn a_model_that_is_not_there_is_not_found() {
    let server = Server::start(Database::Sqlite);
    for id in ["nobody", "Echo", "a/b", "%00"] {
        server.client().get_path(&format!("/v1/models/{id}")).await.refused(404, "model_not_found");
    }
}

#[tokio::test]
async fn what_stands_behind_the_slash_does_not_choose_the_agent() {
    let server = Server::start(Database::Sqlite);
    let response = server.client().post(json!({"model": "echo/anything", "input": "x"})).await.response();
    assert_eq!(response["model"], "echo/anything");
    assert_eq!(response["output"][0]["content"][0]["text"], "x");
}

#[tokio::test]
async fn chat_without_a_provider_fails_and_says_what_to_set() {
    let server = Server::start(Database::Sqlite);
    let response = server.client().run(json!({"model": "chat/gpt-4o", "input": "x"})).await;
    assert_eq!(response["status"], "failed");
    let message = response["error"]["message"].as_str().unwrap();
    assert!(message.contains("OPENAI_API_KEY") || message.contains("provider"), "{message}");
}
