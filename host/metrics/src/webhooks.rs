//! Webhooks: how deliveries go.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};

use super::durations;

/// How a try to deliver has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebhookTry {
    /// The endpoint has taken it.
    Delivered,
    /// The endpoint has answered with another status than 2xx.
    Refused,
    /// The endpoint has not answered in time.
    Timeout,
    /// The endpoint was not reached, or has broken off.
    Unreachable,
    /// The URL leads to where nothing is sent.
    Denied,
    /// Something of the server's own.
    Failed,
}

impl WebhookTry {
    const ALL: [Self; 6] =
        [Self::Delivered, Self::Refused, Self::Timeout, Self::Unreachable, Self::Denied, Self::Failed];

    fn word(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Denied => "denied",
            Self::Failed => "failed",
        }
    }
}

/// Deliveries to webhooks.
#[derive(Clone, Debug)]
pub struct WebhookMetrics {
    tries: Family<Outcome, Counter>,
    ended: Family<Outcome, Counter>,
    duration: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

impl Default for WebhookMetrics {
    fn default() -> Self {
        Self { tries: Family::default(), ended: Family::default(), duration: durations() }
    }
}

impl WebhookMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        for what in WebhookTry::ALL {
            drop(self.tries.get_or_create(&Outcome { outcome: what.word() }));
        }
        for outcome in ["delivered", "dead"] {
            drop(self.ended.get_or_create(&Outcome { outcome }));
        }
        registry.register(
            "webhook_attempts",
            "Attempts to deliver to webhooks: delivered, refused (another status than 2xx), timeout, unreachable, denied (an \
             address that is not allowed), failed (in the server itself)",
            self.tries.clone(),
        );
        registry.register(
            "webhook_deliveries_ended",
            "Deliveries to webhooks that ended: delivered, dead (given up)",
            self.ended.clone(),
        );
        registry.register(
            "webhook_attempt_duration_seconds",
            "Of an attempt to deliver to a webhook",
            self.duration.clone(),
        );
    }

    /// A try has ended so.
    pub fn tried(&self, what: WebhookTry, took: Duration) {
        self.tries.get_or_create(&Outcome { outcome: what.word() }).inc();
        self.duration.observe(took.as_secs_f64());
    }

    /// A delivery has ended.
    pub fn ended(&self, delivered: bool) {
        let outcome = if delivered { "delivered" } else { "dead" };
        self.ended.get_or_create(&Outcome { outcome }).inc();
    }
}
