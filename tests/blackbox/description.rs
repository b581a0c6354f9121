//! `GET /openapi.json`. Every other test holds its answers against it, too.

use std::collections::HashSet;

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{
    database::Database,
    plugins,
    server::{Options, Server},
    upstream::{Upstream, call, end, text},
};

/// Every `$ref` in a document.
fn references<'a>(value: &'a Value, found: &mut HashSet<&'a str>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("$ref").and_then(Value::as_str));
            fields.values().for_each(|value| references(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[tokio::test]
async fn the_description_is_whole_and_needs_no_key() {
    let keys = "[[keys]]\nname = \"ann\"\nsha256 = \"".to_owned() + &"0".repeat(64) + "\"\n";
    let server = Server::start(Options::new(Database::Sqlite).config(&keys));
    let client = server.client();
    let document = client.get_path("/openapi.json").await.ok();
    assert_eq!((&document["openapi"], &document["info"]["title"]), (&json!("3.1.0"), &json!("Outlast")));
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));

    let mut found = HashSet::new();
    references(&document, &mut found);
    for reference in &found {
        assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference} leads nowhere");
    }
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        let reference = format!("#/components/schemas/{name}");
        let told_of = ["StreamEvent", "Snapshot"].contains(&name.as_str());
        assert!(told_of || found.contains(reference.as_str()), "{name} is not used");
        assert!(schema["description"].is_string(), "{name} has no description");
    }

    let description = client.description().await.unwrap();
    let mut ids = HashSet::new();
    for (method, path, operation) in description.operations() {
        let name = format!("{method} {path}");
        assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{name} has another's id");
        assert!(operation["summary"].is_string(), "{name} has no summary");
        for (status, answer) in operation["responses"].as_object().unwrap() {
            assert!(answer["description"].as_str().is_some_and(|text| !text.is_empty()), "{name} {status}");
            assert!(answer["headers"]["x-request-id"].is_object(), "{name} {status}");
            let error = answer["content"]["application/json"]["schema"]["$ref"] == "#/components/schemas/Error";
            assert_eq!(error, status.as_str() >= "400", "{name} {status}");
        }
    }
}

#[tokio::test]
async fn what_is_described_is_served() {
    let server = Server::start(Database::Sqlite);
    let client = server.client();
    for (method, path, _) in client.description().await.unwrap().operations() {
        let path = path.replace("{id}", "x").replace("{item}", "y");
        let request = client.request(method.clone(), &path);
        let request = if method == Method::POST { request.json(&json!({})) } else { request };
        let answer = request.send().await.unwrap().text().await.unwrap();
        for code in ["unknown_url", "method_not_allowed"] {
            assert!(!answer.contains(code), "{method} {path}: {answer}");
        }
    }
}

#[tokio::test]
async fn events_are_as_described() {
    let thinks = json!({"delta": {"reasoning_content": "hm"}});
    let upstream = Upstream::start([
        vec![thinks, text("Let me see."), call(0, Some("a"), Some("add"), "{}"), end("tool_calls")],
        vec![text("It is lo"), call(0, Some("b"), Some("patch"), "{\"input\":\"x\"}"), end("tool_calls")],
        vec![text("It is lo"), end("length")],
    ])
    .await;
    let folder = plugins::hostile_folder();
    let server = Server::start(upstream.options(Options::new(Database::Sqlite).plugins(folder.path())));
    let client = server.client();
    let description = client.description().await.unwrap();
    let mut kinds = HashSet::new();
    let function =
        json!([{"type": "function", "name": "add"}, {"type": "custom", "name": "patch"}, {"type": "web_search"}]);
    for (model, input) in
        [("chat/up-1", "hi"), ("chat/up-1", "hi"), ("chat/up-1", "hi"), ("hostile", "refuse no"), ("hostile", "fail")]
    {
        let body = json!({
            "model": model, "input": input, "background": true, "reasoning": {"summary": "auto"}, "tools": function,
        });
        for event in client.stream(body).await.rest().await {
            description.check_event(&event.data);
            kinds.insert(event.kind);
        }
    }
    let variants = description.document()["components"]["schemas"]["Event"]["oneOf"].as_array().unwrap();
    let described: HashSet<_> =
        variants.iter().map(|variant| variant["properties"]["type"]["enum"][0].as_str().unwrap().to_owned()).collect();
    assert_eq!(kinds, described);
}
