//! The end of a run, until it is committed.
//!
//! A run ends exactly once, and always: also when the database does not take what the run has to be written, or what was
//! written before cannot be read. Then it ends as failed, from what is committed.

use std::sync::Arc;

use futures::future::BoxFuture;
use outlast_protocol::{Response, ResponseError, ResponseId, Status, TerminalStatus};
use outlast_store::StoreError;
use tracing::{debug, error, warn};

use super::{
    Ending, Manager, Run, StopReason,
    events::fold,
    replay::{PAUSE, Unreadable, reread},
    request::StoredRequest,
};

/// Ends a run, or leaves it to the next start if that is why it was stopped. Returns once that is committed.
pub(super) async fn finish(manager: &Manager, run: &Arc<Run>, ending: Ending) {
    if !try_finish(manager, run, ending).await {
        let message = "The run could not be ended properly: its events cannot be read or not be completed.";
        let response = failed(manager, &run.id, message).await;
        run.feed.mend();
        run.end_unrecorded(&response, manager.clock().now());
        if !settled(run).await {
            error!(response = %run.id, "the end of this run cannot be written; the next start tries again");
            run.feed.close(None);
        }
    }
    if run.feed.suspended() {
        run.metrics.leave();
    } else {
        run.metrics.end(run.feed.ended().map(|ended| ended.status));
    }
}

/// Whether the end, or that the run is suspended, is committed.
async fn try_finish(manager: &Manager, run: &Arc<Run>, mut ending: Ending) -> bool {
    if run.stop_reason() == Some(StopReason::Suspended) && !run.feed.is_broken() {
        debug!(response = %run.id, "run suspended");
        run.suspend();
        if settled(run).await {
            return true;
        }
    }
    // The second time when the database has refused the first.
    for _ in 0..2 {
        if run.feed.is_broken() {
            ending = Ending::unwritable();
        }
        if run.feed.is_broken() || run.is_shelved() {
            match reread(manager, run).await {
                Ok(_) => run.feed.mend(),
                Err(Unreadable(why)) => {
                    warn!(response = %run.id, why, "the stored events of this run cannot be read");
                    return false;
                }
            }
        }
        debug!(response = %run.id, ?ending, "run ended");
        run.end(ending.clone(), manager.clock().now());
        if settled(run).await {
            return true;
        }
    }
    false
}

/// Waits until no more frames will come; false when the database does not take what the run has to be written.
async fn settled(run: &Run) -> bool {
    run.feed.wait(|feed| (feed.closed() || feed.is_broken()).then(|| feed.closed())).await
}

/// The response of a run that ends without an event: what can be read of it.
pub(super) async fn failed(manager: &Manager, id: &ResponseId, message: &str) -> Response {
    let store = manager.store();
    let folded = answered(|| Box::pin(fold(store, id))).await.and_then(|fold| fold.into_parts().0);
    let row = answered(|| Box::pin(store.active_run(id))).await.flatten();
    let mut response = folded.unwrap_or_else(|| {
        let now = manager.clock().milliseconds();
        let (created_at, request) = row.as_ref().map_or((now, ""), |row| (row.created_at, &*row.request));
        blank(id, created_at, request)
    });
    response.status = Status::Terminal(TerminalStatus::Failed);
    response.error = Some(ResponseError::new("server_error", message));
    let used = answered(|| Box::pin(store.run(id))).await.flatten();
    response.usage = Some(used.map(|run| run.usage.reported).unwrap_or_default());
    response
}

/// The response as it was accepted, as far as that can be read.
fn blank(id: &ResponseId, created_at: i64, request: &str) -> Response {
    let request = StoredRequest::read(request).unwrap_or_default().into_request(None, None);
    request.response(id, created_at / 1_000)
}

/// Asks the database until it answers; none when what it has is damaged.
async fn answered<'a, T>(ask: impl Fn() -> BoxFuture<'a, Result<T, StoreError>>) -> Option<T> {
    loop {
        match ask().await {
            Ok(answer) => return Some(answer),
            Err(error) if error.is_temporary() => tokio::time::sleep(PAUSE).await,
            Err(error) => {
                debug!(%error, "not readable");
                return None;
            }
        }
    }
}
