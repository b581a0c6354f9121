//! What is kept: how much, since when.
//!
//! The database is asked when somebody looks, at most once in [`FRESH`], and for at most [`PATIENCE`]. When it does not
//! answer, the figures stay as they were and `outlast_storage_up` is 0.

use std::{
    fmt::Display,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use prometheus_client::{metrics::gauge::Gauge, registry::Registry};
use tokio::{sync::Mutex, time::timeout};
use tracing::warn;

/// How long figures are good enough. Counting responses takes longer the more there are.
const FRESH: Duration = Duration::from_secs(5);
/// How long the database may take: scrapers wait for 10 seconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// How much a database holds.
#[derive(Clone, Copy, Debug)]
pub struct StorageFigures {
    /// Responses, active ones included.
    pub responses: i64,
    /// Its size in bytes.
    pub bytes: i64,
    /// When the oldest response was made, in milliseconds since 1970.
    pub oldest: Option<i64>,
    /// Deliveries to webhooks that wait.
    pub pending_deliveries: i64,
    /// Since when the oldest of them waits, in milliseconds since 1970.
    pub oldest_delivery: Option<i64>,
}

/// What the database holds.
#[derive(Debug, Default)]
pub struct StorageMetrics {
    up: Gauge,
    responses: Gauge,
    bytes: Gauge,
    oldest: Gauge,
    pending_deliveries: Gauge,
    oldest_delivery: Gauge,
    /// When the database was asked last. Whoever asks holds it: one at a time.
    asked: Mutex<Option<Instant>>,
}

impl StorageMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "storage_up",
            "1 when the database answered the last query for metrics; 0 when it did not, and the figures are old",
            self.up.clone(),
        );
        registry.register(
            "storage_responses",
            "Responses in the database, active ones included",
            self.responses.clone(),
        );
        registry.register(
            "storage_bytes",
            "The size of the database in bytes, with the write-ahead log of an SQLite file",
            self.bytes.clone(),
        );
        registry.register(
            "storage_oldest_response_age_seconds",
            "How long ago the oldest response was made; 0 when there is none",
            self.oldest.clone(),
        );
        registry.register(
            "webhook_deliveries_pending",
            "Deliveries to webhooks that wait, those that are being tried included",
            self.pending_deliveries.clone(),
        );
        registry.register(
            "webhook_oldest_pending_age_seconds",
            "How long the oldest delivery to a webhook has waited; 0 when there is none",
            self.oldest_delivery.clone(),
        );
    }

    /// Asks the database, unless it was asked a moment ago.
    pub async fn refresh<E: Display>(&self, ask: impl Future<Output = Result<StorageFigures, E>>) {
        let mut asked = self.asked.lock().await;
        if asked.is_some_and(|asked| asked.elapsed() < FRESH) {
            return;
        }
        let kept = match timeout(PATIENCE, ask).await {
            Ok(kept) => kept.map_err(|error| error.to_string()),
            Err(_) => Err(format!("the database did not answer within {PATIENCE:?}")),
        };
        *asked = Some(Instant::now());
        match kept {
            Ok(size) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
                let now = i64::try_from(now).unwrap_or(i64::MAX);
                self.up.set(1);
                self.responses.set(size.responses);
                self.bytes.set(size.bytes);
                let age = |since: Option<i64>| since.map_or(0, |since| (now - since).max(0) / 1_000);
                self.oldest.set(age(size.oldest));
                self.pending_deliveries.set(size.pending_deliveries);
                self.oldest_delivery.set(age(size.oldest_delivery));
            }
            Err(error) => {
                if self.up.set(0) == 1 {
                    warn!(%error, "cannot measure the database; its metrics are unchanged");
                }
            }
        }
    }
}
