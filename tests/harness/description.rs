//! The server's own description, `GET /openapi.json`: every answer is checked against it.
//!
//! The answer of a described operation has a described status, media type, headers and shape; and a body that was
//! accepted has the shape that the description asks for.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use jsonschema::Validator;
use reqwest::{Method, header::HeaderMap};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// The description of the server under test. All servers of these tests are the same binary.
static DESCRIPTION: OnceCell<Description> = OnceCell::const_new();

/// What the server says of itself.
pub struct Description {
    document: Value,
    compiled: Mutex<HashMap<String, Arc<Validator>>>,
}

impl Description {
    /// The description, from the server at `url` when it is the first that is asked; none when that one is gone.
    pub async fn of(http: &reqwest::Client, url: &str) -> Option<&'static Self> {
        let fetch = async || -> Result<Self, reqwest::Error> {
            let document = http.get(format!("{url}/openapi.json")).send().await?.json().await?;
            Ok(Self { document, compiled: Mutex::default() })
        };
        DESCRIPTION.get_or_try_init(fetch).await.ok()
    }

    /// The document.
    pub fn document(&self) -> &Value {
        &self.document
    }

    /// Every operation: its method, its path and its description.
    pub fn operations(&self) -> impl Iterator<Item = (Method, &str, &Value)> {
        let paths = self.document["paths"].as_object().unwrap();
        paths.iter().flat_map(|(path, item)| {
            item.as_object().unwrap().iter().map(|(method, operation)| {
                (Method::from_bytes(method.to_uppercase().as_bytes()).unwrap(), path.as_str(), operation)
            })
        })
    }

    /// The operation that a request is for; none when it is for none.
    fn operation(&self, method: &Method, path: &str) -> Option<(String, &Value)> {
        let rank = |template: &str| template.matches('{').count();
        self.operations()
            .filter(|(its, template, _)| its == method && matches(template, path))
            .min_by_key(|(_, template, _)| rank(template))
            .map(|(method, template, operation)| (format!("{method} {template}"), operation))
    }

    /// Checks an answer with a body of JSON.
    #[track_caller]
    pub fn check_answer(&self, method: &Method, path: &str, status: u16, headers: &HeaderMap, body: &Value) {
        let Some((name, operation)) = self.operation(method, path) else { return };
        let answer = &operation["responses"][status.to_string()];
        assert!(answer.is_object(), "{name} answers {status}, which is not described: {body}");
        let schema = &answer["content"]["application/json"]["schema"];
        assert!(schema.is_object(), "{name} answers {status} with JSON, which is not described: {body}");
        self.check(&format!("{name} {status}"), schema, body);
        for header in [
            "x-request-id",
            "retry-after",
            "www-authenticate",
            "x-should-retry",
            "idempotency-replayed",
            "x-outlast-response-id",
            "x-outlast-ignored",
        ] {
            let described = answer["headers"][header].is_object();
            assert!(described || !headers.contains_key(header), "{name} {status} has {header}, which is not described");
        }
    }

    /// Checks the body of a request that was accepted.
    #[track_caller]
    pub fn check_request(&self, method: &Method, path: &str, body: &Value) {
        let Some((name, operation)) = self.operation(method, path) else { return };
        let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
        assert!(schema.is_object(), "{name} accepts a body, which is not described: {body}");
        self.check(&format!("{name} request"), schema, body);
    }

    /// Checks an event of a stream or of a WebSocket.
    #[track_caller]
    pub fn check_event(&self, event: &Value) {
        let name = if event["type"] == "response.snapshot" { "Snapshot" } else { "StreamEvent" };
        self.check(name, &json!({"$ref": format!("#/components/schemas/{name}")}), event);
    }

    #[track_caller]
    fn check(&self, name: &str, schema: &Value, value: &Value) {
        let compiled = self.compiled.lock().unwrap().get(name).cloned();
        let validator = compiled.unwrap_or_else(|| self.compile(name, schema));
        let errors: Vec<_> =
            validator.iter_errors(value).map(|error| format!("  {}: {error}", error.instance_path())).collect();
        assert!(errors.is_empty(), "not as described for {name}:\n{}\n{value}", errors.join("\n"));
    }

    fn compile(&self, name: &str, schema: &Value) -> Arc<Validator> {
        let schema = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "allOf": [schema],
            "components": self.document["components"],
        });
        let validator = Arc::new(jsonschema::validator_for(&schema).unwrap());
        self.compiled.lock().unwrap().insert(name.to_owned(), validator.clone());
        validator
    }
}

/// Whether `path`, with or without a query, is one of those that `template` stands for.
fn matches(template: &str, path: &str) -> bool {
    let path = path.split('?').next().unwrap_or_default();
    let (mut wanted, mut given) = (template.split('/'), path.split('/'));
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return true,
            (Some(name), Some(part)) if name.starts_with('{') && !part.is_empty() => {}
            (Some(name), Some(part)) if name == part => {}
            _ => return false,
        }
    }
}
