//! Requests, refusals, connections and subscribers.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::{Durations, Held, durations};

/// What comes in over HTTP.
#[derive(Clone, Debug)]
pub struct HttpMetrics {
    requests: Family<Request, Counter>,
    duration: Durations<Route>,
    refusals: Family<Refusal, Counter>,
    connections: Gauge,
    websockets: Gauge,
    subscribers: Family<Over, Gauge>,
    gone: Family<Over, Counter>,
    wrong_keys: Counter,
    exchanges: Family<Exchange, Counter>,
    certificates: Family<Exchange, Counter>,
    handshakes: Counter,
}

/// How something goes to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Answers to requests; for subscribers, streams of server-sent events.
    Http,
    /// Messages of a WebSocket.
    WebSocket,
}

impl Transport {
    fn word(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::WebSocket => "websocket",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    route: String,
    method: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    route: String,
    method: &'static str,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refusal {
    transport: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Over {
    transport: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Exchange {
    outcome: &'static str,
}

/// The outcomes of reading the keys, or the certificate, again.
const TAKEN: &str = "taken";
const REFUSED: &str = "refused";

impl Default for HttpMetrics {
    fn default() -> Self {
        let metrics = Self {
            requests: Family::default(),
            duration: Family::new_with_constructor(durations),
            refusals: Family::default(),
            connections: Gauge::default(),
            websockets: Gauge::default(),
            subscribers: Family::default(),
            gone: Family::default(),
            wrong_keys: Counter::default(),
            exchanges: Family::default(),
            certificates: Family::default(),
            handshakes: Counter::default(),
        };
        for outcome in [TAKEN, REFUSED] {
            drop(metrics.exchanges.get_or_create(&Exchange { outcome }));
            drop(metrics.certificates.get_or_create(&Exchange { outcome }));
        }
        for transport in [Transport::Http, Transport::WebSocket].map(Transport::word) {
            drop(metrics.subscribers.get_or_create(&Over { transport }));
            drop(metrics.gone.get_or_create(&Over { transport }));
        }
        metrics
    }
}

impl HttpMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "http_requests",
            "Requests that were answered; the route is the pattern, or other where there is none",
            self.requests.clone(),
        );
        registry.register(
            "http_request_duration_seconds",
            "From the head of a request to the head of its answer: a stream continues after it",
            self.duration.clone(),
        );
        registry.register(
            "refusals",
            "Errors sent to clients, by code: answers that are not 2xx, and error messages of WebSockets",
            self.refusals.clone(),
        );
        registry.register(
            "http_connections",
            "Open connections, those of WebSockets included",
            self.connections.clone(),
        );
        registry.register("websockets", "Open WebSockets", self.websockets.clone());
        registry.register(
            "subscribers",
            "Subscribers that read events now: streams (http), and responses on WebSockets",
            self.subscribers.clone(),
        );
        registry.register("wrong_keys", "Requests with an API key that is not known", self.wrong_keys.clone());
        registry.register(
            "key_reloads",
            "How often the keys were read again: accepted, or refused because the configuration was not valid",
            self.exchanges.clone(),
        );
        registry.register(
            "certificate_reloads",
            "How often the certificate of TLS was read again: accepted, or refused because it could not be used",
            self.certificates.clone(),
        );
        registry.register(
            "failed_handshakes",
            "Connections of which the TLS handshake failed or took too long",
            self.handshakes.clone(),
        );
        registry.register("subscribers_gone", "Subscribers that left before the last event", self.gone.clone());
    }

    /// A request was answered.
    pub fn answered(&self, route: String, method: &'static str, status: u16, duration: Duration) {
        self.requests.get_or_create(&Request { route: route.clone(), method, status }).inc();
        self.duration.get_or_create(&Route { route, method }).observe(duration.as_secs_f64());
    }

    /// A client was given an error of this code.
    pub fn refused(&self, transport: Transport, code: &'static str) {
        self.refusals.get_or_create(&Refusal { transport: transport.word(), code }).inc();
    }

    /// A request had a key that is not known.
    pub fn wrong_key(&self) {
        self.wrong_keys.inc();
    }

    /// The keys were read again, and taken or not.
    pub fn keys_read(&self, taken: bool) {
        let outcome = if taken { TAKEN } else { REFUSED };
        self.exchanges.get_or_create(&Exchange { outcome }).inc();
    }

    /// The certificate was read again, and taken or not.
    pub fn certificate_read(&self, taken: bool) {
        let outcome = if taken { TAKEN } else { REFUSED };
        self.certificates.get_or_create(&Exchange { outcome }).inc();
    }

    /// A TLS handshake failed.
    pub fn handshake_failed(&self) {
        self.handshakes.inc();
    }

    /// A connection that is open as long as this is held.
    pub fn connection(&self) -> Held {
        Held::new(&self.connections)
    }

    /// A WebSocket that is open as long as this is held.
    pub fn websocket(&self) -> Held {
        Held::new(&self.websockets)
    }

    /// A subscriber that reads as long as this is held.
    pub fn subscriber(&self, transport: Transport) -> Subscriber {
        let over = Over { transport: transport.word() };
        let reading = Held::new(&self.subscribers.get_or_create(&over));
        Subscriber { _reading: reading, gone: Some(self.gone.get_or_create_owned(&over)) }
    }
}

/// A subscriber. One that is dropped without [`finish`](Self::finish) went before the last event.
#[derive(Debug)]
pub struct Subscriber {
    _reading: Held,
    gone: Option<Counter>,
}

impl Subscriber {
    /// It has the last event.
    pub fn finish(mut self) {
        self.gone = None;
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        if let Some(gone) = &self.gone {
            gone.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscriber_has_the_last_event_or_is_gone() {
        let metrics = HttpMetrics::default();
        let over = Over { transport: "http" };
        let state = || (metrics.subscribers.get_or_create(&over).get(), metrics.gone.get_or_create(&over).get());
        let (one, other) = (metrics.subscriber(Transport::Http), metrics.subscriber(Transport::Http));
        assert_eq!(state(), (2, 0));
        one.finish();
        assert_eq!(state(), (1, 0));
        drop(other);
        assert_eq!(state(), (0, 1));
    }
}
