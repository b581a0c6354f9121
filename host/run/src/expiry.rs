//! What has been kept long enough goes: responses, and with them their events and idempotency keys; deliveries to webhooks.
//!
//! A response's time counts from its end, so an active one never goes, nor does one that an active one goes on from.
//! Conversations stay until they are deleted, unless they have a time of their own: it counts from their last change, and
//! none goes in which a response is being made.

use std::{sync::Arc, time::Duration};

use outlast_runtime::clock::milliseconds;
use outlast_store::{StoreError, Swept};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Manager;

/// The pause between two batches: the writer of the runs comes first.
const BREATH: Duration = Duration::from_millis(20);
/// How often it is looked for what has to go: a fraction of the retention, between these two.
const PERIOD: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(60));

/// How long what is kept.
#[derive(Clone, Copy, Debug)]
pub struct Retentions {
    /// A response after its end, and a delivery to a webhook after its own: `retention`.
    pub responses: Duration,
    /// A conversation after its last change: `conversation_retention`. None: until it is deleted.
    pub conversations: Option<Duration>,
}

/// Removes, until `stop`, what was kept for longer than that, and what was deleted and is not needed any more.
pub async fn expire(manager: Arc<Manager>, retentions: Retentions, stop: CancellationToken) {
    let shortest = retentions.responses.min(retentions.conversations.unwrap_or(Duration::MAX));
    let period = (shortest / 20).clamp(PERIOD.0, PERIOD.1);
    let mut dated = false;
    while stop.run_until_cancelled(manager.clock().sleep(period)).await.is_some() {
        match stop.run_until_cancelled(sweep_all(&manager, retentions, &mut dated)).await {
            None | Some(Ok((0, 0))) => {}
            Some(Ok((responses, conversations))) => {
                info!(responses, conversations, "removed expired data");
            }
            Some(Err(error)) => warn!(%error, "cannot remove expired data; will retry"),
        }
    }
}

/// How many responses and conversations have gone. `dated` says whether every conversation has the time of its last change.
async fn sweep_all(manager: &Manager, retentions: Retentions, dated: &mut bool) -> Result<(u64, u64), StoreError> {
    let responses = sweep(manager, retentions.responses).await?;
    let conversations = match retentions.conversations {
        Some(retention) => {
            if !*dated {
                manager.store().date_conversations(manager.clock().milliseconds()).await?;
                *dated = true;
            }
            sweep_conversations(manager, retention).await?
        }
        None => 0,
    };
    while manager.store().shrink().await? {
        tokio::time::sleep(BREATH).await;
    }
    Ok((responses, conversations))
}

async fn sweep_deliveries(manager: &Manager, retention: Duration) -> Result<(), StoreError> {
    let before = manager.clock().now().checked_sub(retention).map_or(0, milliseconds);
    while manager.store().remove_deliveries(before).await? > 0 {
        tokio::time::sleep(BREATH).await;
    }
    Ok(())
}

async fn sweep_conversations(manager: &Manager, retention: Duration) -> Result<u64, StoreError> {
    let before = manager.clock().now().checked_sub(retention).map_or(0, milliseconds);
    let mut removed = 0;
    loop {
        let unchanged = manager.store().unchanged_conversations(before).await?;
        if unchanged.is_empty() {
            return Ok(removed);
        }
        for (principal, id) in unchanged {
            removed += u64::from(manager.remove_unchanged(&principal, &id, before).await?);
            tokio::time::sleep(BREATH).await;
        }
    }
}

async fn sweep(manager: &Manager, retention: Duration) -> Result<u64, StoreError> {
    manager.store().remove_deleted().await?;
    sweep_deliveries(manager, retention).await?;
    let before = manager.clock().now().checked_sub(retention).map_or(0, milliseconds);
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

#[cfg(test)]
mod tests {
    use outlast_protocol::ConversationId;
    use serde_json::json;

    use super::*;
    use crate::{
        RunLimits,
        testing::{ANN, Rooms},
    };

    const DAY: Duration = Duration::from_secs(86_400);

    #[tokio::test(flavor = "multi_thread")]
    async fn a_response_goes_when_its_time_is_over_and_not_before() {
        let rooms = Rooms::with_agents(RunLimits::default()).await;
        let (_subscription, run) = rooms.begin(json!({"model": "echo", "input": "one"})).await;
        run.feed.wait(|feed| feed.closed().then_some(())).await;
        rooms.clock.advance(DAY * 30);
        assert_eq!(sweep(&rooms.manager, DAY * 30).await.unwrap(), 0);
        assert_eq!(rooms.text(&run.id).await.unwrap(), "one");
        rooms.clock.advance(Duration::from_millis(1));
        assert_eq!(sweep(&rooms.manager, DAY * 30).await.unwrap(), 1);
        assert_eq!(rooms.text(&run.id).await, None);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_active_response_stays_however_old_it_is() {
        let limits = RunLimits { idle_after: Duration::from_secs(5), ..RunLimits::default() };
        let rooms = Rooms::with_agents(limits).await;
        let request =
            json!({"model": "echo", "input": "one two", "background": true, "metadata": {"delay_ms": "10000"}});
        let (_subscription, run) = rooms.begin(request).await;
        crate::testing::eventually("the run sleeps", || run.is_passive()).await;
        rooms.clock.advance(DAY * 365);
        run.feed.wait(|feed| feed.closed().then_some(())).await;
        // Its time counts from its end.
        assert_eq!(sweep(&rooms.manager, DAY).await.unwrap(), 0);
        rooms.clock.advance(DAY * 2);
        assert_eq!(sweep(&rooms.manager, DAY).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn a_conversation_goes_some_time_after_its_last_change() {
        let rooms = Rooms::open(RunLimits::default()).await;
        let (store, clock) = (&rooms.store, &rooms.clock);
        let id = ConversationId::new(clock.id());
        store.create_conversation(ANN, &id, clock.milliseconds(), "{}", &[]).await.unwrap();
        let retentions = Retentions { responses: DAY, conversations: Some(DAY * 7) };
        let sweep = async || sweep_all(&rooms.manager, retentions, &mut false).await.unwrap();
        clock.advance(DAY * 6);
        store.set_conversation_metadata(ANN, &id, "{}", clock.milliseconds()).await.unwrap();
        clock.advance(DAY * 6);
        assert_eq!(sweep().await, (0, 0));
        clock.advance(DAY * 2);
        assert_eq!(sweep().await, (0, 1));
        assert!(store.conversation(ANN, &id).await.unwrap().is_none());
    }
}
