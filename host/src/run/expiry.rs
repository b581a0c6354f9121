//! What has been kept long enough goes: responses, and with them their events and idempotency keys.
//!
//! A response's time counts from its end, so an active one never goes. Conversations stay until they are deleted.

use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::milliseconds;
use crate::store::{Store, StoreError};

/// The pause between two batches: the writer of the runs comes first.
const BREATH: Duration = Duration::from_millis(20);
/// How often it is looked for what has to go: a fraction of the retention, between these two.
const PERIOD: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(60));

/// Removes, until `stop`, what ended longer than `retention` ago.
pub async fn expire(store: Store, retention: Duration, stop: CancellationToken) {
    let period = (retention / 20).clamp(PERIOD.0, PERIOD.1);
    while stop.run_until_cancelled(tokio::time::sleep(period)).await.is_some() {
        match stop.run_until_cancelled(sweep(&store, retention)).await {
            None | Some(Ok(0)) => {}
            Some(Ok(removed)) => info!(responses = removed, "removed what was kept for the retention"),
            Some(Err(error)) => warn!(%error, "cannot remove what was kept for the retention; will try again"),
        }
    }
}

async fn sweep(store: &Store, retention: Duration) -> Result<u64, StoreError> {
    let before = SystemTime::now().checked_sub(retention).map_or(0, milliseconds);
    let mut removed = 0;
    loop {
        match store.remove_ended(before).await? {
            0 => return Ok(removed),
            batch => removed += batch,
        }
        tokio::time::sleep(BREATH).await;
    }
}
