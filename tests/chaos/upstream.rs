//! A model that says, slowly, what follows from the first word of the user's last message, and keeps count; and a shop,
//! which takes orders.
//!
//! The model has an address for each life of the server, so that it knows which of them called, however late the call is read.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, State},
    http::HeaderMap,
    response::IntoResponse,
    routing::post,
};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::runs::{Policy, marker_of, script};
use crate::harness::server::Options;

/// A call of the model.
#[derive(Clone, Debug)]
pub struct Call {
    /// Of the run that it is for.
    pub marker: String,
    /// Which life of the server called.
    pub life: u64,
}

/// An order that the shop has taken.
#[derive(Clone, Debug)]
pub struct Order {
    /// Of the run, and what it ordered.
    pub text: String,
    /// Its idempotency key.
    pub key: String,
}

/// The model and the shop.
#[derive(Clone, Debug)]
pub struct Upstream {
    address: String,
    state: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    seed: u64,
    calls: Mutex<Vec<Call>>,
    orders: Mutex<Vec<Order>>,
}

impl Upstream {
    /// A model on a port of its own.
    pub async fn start(seed: u64) -> Self {
        let state = Arc::new(Shared { seed, calls: Mutex::default(), orders: Mutex::default() });
        let app = Router::new()
            .route("/{life}/v1/chat/completions", post(answer))
            .route("/orders", post(order))
            .with_state(state.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, state }
    }

    /// A server that asks this model: under one name for each thing that may become of a call that is cut off.
    pub fn options(&self, options: Options, life: u64) -> Options {
        let shop = &self.address;
        let options = options.config(&format!(
            "[agents.orders]\nconfig.url = \"http://{shop}/orders\"\nhttp.hosts = [\"{shop}\"]\nhttp.private = true"
        ));
        Policy::ALL.into_iter().fold(options, |options, policy| {
            let policy = policy.name();
            options.config(&format!(
                "[providers.{policy}]\nbase_url = \"http://{}/{life}/v1\"\non_interrupt = \"{policy}\"\nmax_retries = 0",
                self.address
            ))
        })
    }

    /// What the shop has taken so far.
    pub fn orders(&self) -> Vec<Order> {
        self.state.orders.lock().clone()
    }

    /// The calls of the model so far.
    pub fn calls(&self) -> Vec<Call> {
        self.state.calls.lock().clone()
    }
}

/// Takes an order, and says so a while later.
async fn order(State(state): State<Arc<Shared>>, headers: HeaderMap, text: String) -> &'static str {
    let mut random = fastrand::Rng::with_seed(state.seed ^ state.orders.lock().len() as u64);
    let key = headers["idempotency-key"].to_str().unwrap().to_owned();
    state.orders.lock().push(Order { text, key });
    tokio::time::sleep(Duration::from_millis(random.u64(0..200))).await;
    "taken"
}

async fn answer(
    State(state): State<Arc<Shared>>,
    Path(life): Path<u64>,
    Json(request): Json<Value>,
) -> impl IntoResponse {
    let messages = request["messages"].as_array().unwrap();
    let text = |role: &str| {
        let last = messages.iter().rfind(|message| message["role"] == role)?;
        Some(last["content"].as_str().unwrap().to_owned())
    };
    let marker = marker_of(&text("user").expect("a message of the user")).to_owned();
    let script = script(&marker);
    let rest = match messages.last().filter(|message| message["role"] == "assistant") {
        Some(begun) => {
            let begun = begun["content"].as_str().unwrap();
            script.strip_prefix(begun).unwrap_or_else(|| panic!("{marker} never said {begun:?}")).to_owned()
        }
        None => script,
    };
    let mut random = fastrand::Rng::with_seed(state.seed ^ state.calls.lock().len() as u64);
    state.calls.lock().push(Call { marker, life });

    let mut chunks: Vec<Value> = rest
        .split_inclusive(' ')
        .map(|word| json!({"model": "slow", "choices": [{"delta": {"content": word}}]}))
        .collect();
    let words = chunks.len();
    chunks.push(json!({"model": "slow", "choices": [{"delta": {}, "finish_reason": "stop"}]}));
    let usage = json!({"prompt_tokens": 1, "completion_tokens": words, "total_tokens": words + 1});
    chunks.push(json!({"model": "slow", "choices": [], "usage": usage}));
    let frames = chunks.into_iter().map(|chunk| format!("data: {chunk}\n\n")).chain(["data: [DONE]\n\n".to_owned()]);
    let pause = Duration::from_millis(random.u64(5..100));
    let slowly = stream::iter(frames.collect::<Vec<_>>()).then(move |frame| async move {
        tokio::time::sleep(pause).await;
        Ok::<_, Infallible>(Bytes::from(frame))
    });
    ([("content-type", "text/event-stream")], Body::from_stream(slowly))
}
