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
}

/// What the database holds.
#[derive(Debug, Default)]
pub struct StorageMetrics {
    up: Gauge,
    responses: Gauge,
    bytes: Gauge,
    oldest: Gauge,
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
                self.oldest.set(size.oldest.map_or(0, |created_at| (now - created_at).max(0) / 1_000));
            }
            Err(error) => {
                if self.up.set(0) == 1 {
                    warn!(%error, "cannot measure the database; its metrics are unchanged");
                }
            }
        }
    }
}
