//! A model provider that speaks Chat Completions and says what it is told to.

use std::{collections::VecDeque, sync::Arc};

use axum::{Json, Router, body::Body, extract::State, response::IntoResponse, routing::post};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::server::Options;

/// A provider on a port of its own.
#[derive(Clone, Debug)]
pub struct Upstream {
    address: String,
    script: Arc<Script>,
}

#[derive(Debug, Default)]
struct Script {
    answers: Mutex<VecDeque<Vec<Value>>>,
    requests: Mutex<Vec<Value>>,
}

impl Upstream {
    /// A provider that gives these answers, one after the other. An answer is the `choices[0]` of its chunks.
    pub async fn start(answers: impl IntoIterator<Item = Vec<Value>>) -> Self {
        let answers = Mutex::new(answers.into_iter().collect());
        let script = Arc::new(Script { answers, requests: Mutex::default() });
        let app = Router::new().route("/v1/chat/completions", post(answer)).with_state(script.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, script }
    }

    /// A server that asks this provider.
    pub fn options(&self, options: Options) -> Options {
        options.config(&format!("[providers.up]\nbase_url = \"http://{}/v1\"", self.address))
    }

    /// What it was asked, so far.
    pub fn requests(&self) -> Vec<Value> {
        self.script.requests.lock().clone()
    }
}

/// A chunk that says a piece of a text.
pub fn text(text: &str) -> Value {
    json!({"delta": {"content": text}})
}

/// A chunk that says a piece of a function call.
pub fn call(index: usize, id: Option<&str>, name: Option<&str>, arguments: &str) -> Value {
    let function = json!({"name": name, "arguments": arguments});
    json!({"delta": {"tool_calls": [{"index": index, "id": id, "type": "function", "function": function}]}})
}

/// The last chunk.
pub fn end(reason: &str) -> Value {
    json!({"delta": {}, "finish_reason": reason})
}

/// A chunk that says how many tokens the call took.
pub fn usage(input: u64, output: u64) -> Value {
    json!({"usage": {"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output}})
}

async fn answer(State(script): State<Arc<Script>>, Json(request): Json<Value>) -> impl IntoResponse {
    script.requests.lock().push(request);
    let choices = script.answers.lock().pop_front().expect("an answer in the script");
    let chunk = |choice: &Value| match choice.get("usage") {
        Some(usage) => json!({"model": "up-1", "choices": [], "usage": usage}),
        None => json!({"model": "up-1", "choices": [choice]}),
    };
    let mut body: String = choices.iter().map(|choice| format!("data: {}\n\n", chunk(choice))).collect();
    body.push_str("data: [DONE]\n\n");
    ([("content-type", "text/event-stream")], Body::from(body))
}
