//! What has been kept long enough goes: responses, and with them their events and idempotency keys.
//!
//! A response's time counts from its end, so an active one never goes, nor does one that an active one goes on from.
//! Conversations stay until they are deleted.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use outlast_store::{StoreError, Swept};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Manager, milliseconds};

/// The pause between two batches: the writer of the runs comes first.
const BREATH: Duration = Duration::from_millis(20);
/// How often it is looked for what has to go: a fraction of the retention, between these two.
const PERIOD: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(60));

/// Removes, until `stop`, what ended longer than `retention` ago, and what was deleted and is not needed any more.
pub async fn expire(manager: Arc<Manager>, retention: Duration, stop: CancellationToken) {
    let period = (retention / 20).clamp(PERIOD.0, PERIOD.1);
    while stop.run_until_cancelled(tokio::time::sleep(period)).await.is_some() {
        match stop.run_until_cancelled(sweep(&manager, retention)).await {
            None | Some(Ok(0)) => {}
            Some(Ok(removed)) => info!(responses = removed, "removed what was kept for the retention"),
            Some(Err(error)) => warn!(%error, "cannot remove what was kept for the retention; will try again"),
        }
    }
}

async fn sweep(manager: &Manager, retention: Duration) -> Result<u64, StoreError> {
    manager.store().remove_deleted().await?;
    let before = SystemTime::now().checked_sub(retention).map_or(0, milliseconds);
    let (mut removed, mut swept) = (0, Swept::default());
    loop {
        swept = manager.remove_ended(before, &swept).await?;
        removed += swept.removed;
        if swept.looked_at == 0 {
            return Ok(removed);
        }
        tokio::time::sleep(BREATH).await;
    }
}
