//! The Open Responses schemas: every event and every response is checked against them.
//!
//! The specification lies beside the repository, at `../shared/contract/openresponses-openapi.json`; the
//! environment variable `OUTLAST_OPENRESPONSES` names another place. Without it, the tests say so and go on.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock},
};

use jsonschema::Validator;
use serde_json::{Value, json};

use super::notice;

/// Checks an event against the schema of its type.
#[track_caller]
pub fn check_event(event: &Value) {
    let Some(schemas) = Schemas::loaded() else { return };
    let kind = event["type"].as_str().unwrap_or_default();
    if kind.starts_with("response.custom_tool_call_input.") || is_unknown(&event["item"]) {
        return;
    }
    let mut event = event.clone();
    if let Some(response) = event.get_mut("response") {
        forget_unknown(response);
    }
    let event = &event;
    let Some(name) = schemas.events.get(kind) else {
        panic!("the Open Responses specification has no event {kind:?}");
    };
    schemas.check(name, event);
}

/// Checks a value against the schema of this name.
#[track_caller]
pub fn check(name: &str, value: &Value) {
    if let Some(schemas) = Schemas::loaded() {
        schemas.check(name, value);
    }
}

/// Checks a response object.
#[track_caller]
pub fn check_response(response: &Value) {
    if let Some(schemas) = Schemas::loaded() {
        let mut known = response.clone();
        forget_unknown(&mut known);
        schemas.check("ResponseResource", &known);
    }
    check_keys(response);
}

/// Types of items of the Responses API that Open Responses does not know.
const UNKNOWN: [&str; 5] =
    ["custom_tool_call", "local_shell_call", "shell_call", "apply_patch_call", "tool_search_call"];

fn is_unknown(item: &Value) -> bool {
    item["type"].as_str().is_some_and(|kind| UNKNOWN.contains(&kind))
}

/// Removes what is of the Responses API alone: tools that are not functions, and calls of them.
fn forget_unknown(response: &mut Value) {
    if let Some(tools) = response["tools"].as_array_mut() {
        tools.retain(|tool| tool["type"] == "function");
    }
    if let Some(output) = response["output"].as_array_mut() {
        output.retain(|item| !is_unknown(item));
    }
    if response["tool_choice"]["type"].as_str().is_some_and(|kind| kind != "function" && kind != "allowed_tools") {
        response["tool_choice"] = json!("auto");
    }
}

/// Every key that a response has, always, whatever Open Responses requires.
const KEYS: [&str; 33] = [
    "id",
    "object",
    "created_at",
    "completed_at",
    "status",
    "background",
    "store",
    "model",
    "output",
    "error",
    "incomplete_details",
    "instructions",
    "previous_response_id",
    "conversation",
    "metadata",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "max_tool_calls",
    "max_output_tokens",
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "top_logprobs",
    "text",
    "truncation",
    "reasoning",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "usage",
    "user",
];

/// Every code of a failed run.
const CODES: [&str; 6] = [
    "server_error",
    "rate_limit_exceeded",
    "insufficient_quota",
    "context_length_exceeded",
    "content_policy_violation",
    "model_not_found",
];

#[track_caller]
fn check_keys(response: &Value) {
    let fields = response.as_object().expect("a response is an object");
    let missing: Vec<_> = KEYS.iter().filter(|key| !fields.contains_key(**key)).collect();
    assert!(missing.is_empty(), "the response lacks {missing:?}: {response}");
    let more: Vec<_> = fields.keys().filter(|key| !KEYS.contains(&key.as_str())).collect();
    assert!(more.is_empty(), "the response has keys that nobody asked for, {more:?}: {response}");
    let completed = response["status"] == "completed";
    assert_eq!(response["completed_at"].is_i64(), completed, "completed_at is there when it completed: {response}");
    let active = response["status"] == "in_progress" || response["status"] == "queued";
    assert_eq!(response["usage"].is_null(), active, "usage is null until the end: {response}");
    if let Some(error) = response["error"].as_object() {
        assert_eq!(response["status"], "failed", "{response}");
        assert!(CODES.contains(&error["code"].as_str().unwrap()), "{response}");
    }
}

struct Schemas {
    components: Value,
    /// The name of the schema of each event type.
    events: HashMap<String, String>,
    compiled: Mutex<HashMap<String, Arc<Validator>>>,
}

impl Schemas {
    fn loaded() -> Option<&'static Self> {
        static LOADED: OnceLock<Option<Schemas>> = OnceLock::new();
        LOADED.get_or_init(Self::load).as_ref()
    }

    fn load() -> Option<Self> {
        let path = path();
        let Ok(text) = std::fs::read(&path) else {
            notice::once(&format!(
                "{} is not there: events and responses were not checked against the Open Responses schemas.",
                path.display()
            ));
            return None;
        };
        let mut document: Value = serde_json::from_slice(&text).unwrap();
        let mut components = document["components"].take();
        // The specification has no other value here than null, which no server that echoes a format can send.
        components["schemas"]["JsonSchemaResponseFormat"]["properties"]["schema"] = json!({"type": "object"});
        let event = |(name, schema): (&String, &Value)| {
            let kind = schema["properties"]["type"]["enum"][0].as_str()?;
            name.ends_with("StreamingEvent").then(|| (kind.to_owned(), name.clone()))
        };
        let events = components["schemas"].as_object().unwrap().iter().filter_map(event).collect();
        Some(Self { components, events, compiled: Mutex::default() })
    }

    #[track_caller]
    fn check(&self, name: &str, value: &Value) {
        let compiled = self.compiled.lock().unwrap().get(name).cloned();
        let validator = compiled.unwrap_or_else(|| self.compile(name));
        let errors: Vec<_> =
            validator.iter_errors(value).map(|error| format!("  {}: {error}", error.instance_path())).collect();
        assert!(errors.is_empty(), "not a {name}:\n{}\n{value}", errors.join("\n"));
    }

    fn compile(&self, name: &str) -> Arc<Validator> {
        let schema = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$ref": format!("#/components/schemas/{name}"),
            "components": self.components,
        });
        let validator = Arc::new(jsonschema::validator_for(&schema).unwrap());
        self.compiled.lock().unwrap().insert(name.to_owned(), validator.clone());
        validator
    }
}

fn path() -> PathBuf {
    match std::env::var_os("OUTLAST_OPENRESPONSES") {
        Some(path) => path.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/contract/openresponses-openapi.json"),
    }
}
