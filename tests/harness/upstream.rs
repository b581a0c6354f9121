//! A model provider that speaks Chat Completions and says what it is told to.

use std::{collections::VecDeque, convert::Infallible, sync::Arc};

use axum::{
    Json, Router,
    body::Body,
    extract::{DefaultBodyLimit, State},
    http::{StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
    routing::post,
};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch};

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
    /// Whether answers that stall go on.
    released: watch::Sender<bool>,
}

impl Upstream {
    /// A provider that gives these answers, one after the other. An answer is the `choices[0]` of its chunks.
    pub async fn start(answers: impl IntoIterator<Item = Vec<Value>>) -> Self {
        let answers = Mutex::new(answers.into_iter().collect());
        let script = Arc::new(Script { answers, ..Script::default() });
        let app = Router::new().route("/v1/chat/completions", post(answer)).with_state(script.clone());
        let app = app.layer(DefaultBodyLimit::disable());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, script }
    }

    /// Host and port.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A server that asks this provider, and lets the agents of the tests do so.
    pub fn options(&self, options: Options) -> Options {
        let granted = |options: Options, agent| options.env(&format!("OUTLAST_AGENTS__{agent}__MODELS"), "true");
        ["HOSTILE", "ASSISTANT"].into_iter().fold(options.config(&self.providers()), granted)
    }

    /// The lines of a configuration that name this provider.
    pub fn providers(&self) -> String {
        format!("[providers.up]\nbase_url = \"http://{}/v1\"", self.address)
    }

    /// Lets the answers go on that [`stall`].
    pub fn release(&self) {
        self.script.released.send_replace(true);
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

/// No chunk: the answer is an error with this HTTP status, and perhaps a `retry-after`.
pub fn fails(status: u16, retry_after: Option<u64>, error: Value) -> Value {
    json!({"fails": {"status": status, "retry_after": retry_after, "body": {"error": error}}})
}

/// No chunk: the answer stalls here until [`Upstream::release`].
pub fn stall() -> Value {
    json!("stall")
}

/// The last chunk.
pub fn end(reason: &str) -> Value {
    json!({"delta": {}, "finish_reason": reason})
}

/// A chunk that says how many tokens the call took.
pub fn usage(input: u64, output: u64) -> Value {
    json!({"usage": {"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output}})
}

async fn answer(State(script): State<Arc<Script>>, Json(request): Json<Value>) -> Response {
    script.requests.lock().push(request);
    let choices = script.answers.lock().pop_front().expect("an answer in the script");
    if let Some(Value::Object(fails)) = choices.first().and_then(|first| first.get("fails")) {
        let status = StatusCode::from_u16(u16::try_from(fails["status"].as_u64().unwrap()).unwrap()).unwrap();
        let mut failed = (status, Json(&fails["body"])).into_response();
        if let Some(seconds) = fails["retry_after"].as_u64() {
            failed.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        return failed;
    }
    let chunks = stream::iter(choices).filter_map(move |choice| {
        let mut released = script.released.subscribe();
        async move {
            if choice == stall() {
                released.wait_for(|released| *released).await.unwrap();
                return None;
            }
            let chunk = match (choice.get("usage"), choice.get("error")) {
                (Some(usage), _) => json!({"model": "up-1", "choices": [], "usage": usage}),
                (None, Some(_)) => choice,
                (None, None) => json!({"model": "up-1", "choices": [choice]}),
            };
            Some(format!("data: {chunk}\n\n"))
        }
    });
    let chunks = chunks.chain(stream::iter(["data: [DONE]\n\n".to_owned()]));
    (
        [("content-type", "text/event-stream")],
        Body::from_stream(chunks.map(|chunk| Ok::<_, Infallible>(Bytes::from(chunk)))),
    )
        .into_response()
}
