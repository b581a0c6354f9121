//! Whoever is told by webhooks: it remembers the events, and answers as it is told.

use std::sync::Arc;

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use parking_lot::Mutex;
use ring::hmac;
use serde_json::Value;
use tokio::{net::TcpListener, sync::watch};

use super::wait;

/// A receiver of events on a port of its own.
#[derive(Clone, Debug)]
pub struct Receiver {
    address: String,
    seen: Arc<Seen>,
}

#[derive(Debug)]
struct Seen {
    events: Mutex<Vec<Received>>,
    answer: Mutex<Answer>,
    /// Whether it answers nobody.
    held: watch::Sender<bool>,
}

/// What it answers.
#[derive(Clone, Debug)]
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: String,
}

/// An event that came in.
#[derive(Clone, Debug)]
pub struct Received {
    /// `webhook-id`
    pub id: String,
    /// `webhook-timestamp`
    pub timestamp: String,
    /// `webhook-signature`
    pub signatures: String,
    /// The body.
    pub body: String,
}

impl Receiver {
    /// One that takes every event.
    pub async fn start() -> Self {
        let (events, answer) = (Mutex::default(), Answer { status: 200, headers: Vec::new(), body: String::new() });
        let seen = Arc::new(Seen { events, answer: Mutex::new(answer), held: watch::Sender::new(false) });
        let app = Router::new().fallback(receive).with_state(seen.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, seen }
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// The port.
    pub fn port(&self) -> &str {
        self.address.rsplit_once(':').unwrap().1
    }

    /// From now on it answers so.
    pub fn answer(&self, status: u16, headers: &[(&'static str, &str)], body: &str) {
        let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        *self.seen.answer.lock() = Answer { status, headers, body: body.to_owned() };
    }

    /// Whether it answers nobody from now on.
    pub fn hold(&self, held: bool) {
        self.seen.held.send_replace(held);
    }

    /// What came in so far.
    pub fn events(&self) -> Vec<Received> {
        self.seen.events.lock().clone()
    }

    /// Waits until so many events came in.
    pub async fn until(&self, count: usize) -> Vec<Received> {
        wait::eventually(format!("{count} events come in"), async || {
            let events = self.events();
            (events.len() >= count).then_some(events)
        })
        .await
    }
}

impl Received {
    /// The body.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// Checks that one of the signatures is by this secret, as Standard Webhooks has it.
    pub fn is_signed_by(&self, secret: &str) -> bool {
        let key = BASE64_STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        let signed = format!("{}.{}.{}", self.id, self.timestamp, self.body);
        self.signatures.split(' ').any(|signature| {
            let signature = BASE64_STANDARD.decode(signature.strip_prefix("v1,").unwrap()).unwrap();
            hmac::verify(&key, signed.as_bytes(), &signature).is_ok()
        })
    }
}

async fn receive(State(seen): State<Arc<Seen>>, headers: HeaderMap, body: Bytes) -> Response {
    assert_eq!(headers["content-type"], "application/json");
    let text = |name: &str| headers[name].to_str().unwrap().to_owned();
    seen.events.lock().push(Received {
        id: text("webhook-id"),
        timestamp: text("webhook-timestamp"),
        signatures: text("webhook-signature"),
        body: String::from_utf8(body.to_vec()).unwrap(),
    });
    let _ = seen.held.subscribe().wait_for(|held| !held).await;
    let Answer { status, headers, body } = seen.answer.lock().clone();
    let mut response = (StatusCode::from_u16(status).unwrap(), body).into_response();
    for (name, value) in headers {
        response.headers_mut().insert(name, value.parse().unwrap());
    }
    response
}
