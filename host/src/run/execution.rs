//! The task of a run: from its instance to its end.

use std::{panic::AssertUnwindSafe, sync::Arc, time::SystemTime};

use futures::FutureExt as _;
use tracing::{debug, error, warn};

use super::{Ending, Run, RunLimits, StopReason};
use crate::{
    metrics::LiveRun,
    plugin::{Agent, Outcome, RunContext, RunFailure},
    protocol::ResponseError,
};

/// Executes a run that was admitted, and returns once its end is committed.
pub(super) async fn execute(
    run: Arc<Run>,
    agent: Arc<Agent>,
    context: RunContext,
    limits: RunLimits,
    live: Arc<LiveRun>,
) {
    run.begin();
    live.begin();
    let attempt = AssertUnwindSafe(attempt(&run, &agent, context, limits)).catch_unwind();
    let ending = attempt.await.unwrap_or_else(|_| {
        error!(response = %run.id, "a host call of this run panicked");
        Ending::failed("The server failed while it ran the agent.")
    });
    match run.stop_reason() {
        Some(StopReason::Suspended) => {
            debug!(response = %run.id, "run suspended");
            run.suspend();
        }
        _ => {
            debug!(response = %run.id, ?ending, "run ended");
            run.end(ending, SystemTime::now());
        }
    }
    run.feed.wait(|feed| feed.closed().then_some(())).await;
    if !run.feed.suspended() {
        live.end(run.feed.ended().map(|ended| ended.status));
    }
}

async fn attempt(run: &Run, agent: &Agent, context: RunContext, limits: RunLimits) -> Ending {
    let stopped = async {
        run.stopping().cancelled().await;
        if run.stop_reason() == Some(StopReason::Suspended) {
            return;
        }
        // Waiting host calls answer `cancelled` now. An agent that returns within the grace ends by itself.
        tokio::time::sleep(limits.cancel_grace).await;
    };
    let result = tokio::select! {
        biased;
        () = stopped => None,
        () = tokio::time::sleep(limits.run_timeout) => {
            warn!(response = %run.id, "stopped at limits.run_timeout");
            let message = format!(
                "The agent was stopped: it took longer than {} seconds (limits.run_timeout).",
                limits.run_timeout.as_secs_f64()
            );
            return Ending::failed(message);
        }
        result = agent.run(context) => Some(result),
    };
    match (run.stop_reason(), result) {
        // A stop wins over whatever the agent returns after it.
        (Some(reason), _) => stopped_because(reason),
        (None, Some(Ok(Outcome::Completed))) => Ending::Completed,
        (None, Some(Ok(Outcome::Incomplete(reason)))) => Ending::Incomplete(reason),
        (None, Some(Err(RunFailure { code, client, operator }))) => {
            let name = agent.description.name.as_str();
            warn!(response = %run.id, agent = name, "run failed: {operator}");
            Ending::Failed(ResponseError { code: code.to_owned(), message: client })
        }
        (None, None) => Ending::Cancelled,
    }
}

fn stopped_because(reason: StopReason) -> Ending {
    match reason {
        StopReason::Cancelled | StopReason::Disconnected => Ending::Cancelled,
        StopReason::Shutdown | StopReason::Suspended => {
            Ending::failed("The server was shut down before the agent finished.")
        }
        StopReason::Unwritable => Ending::failed("The database refused the events of this run."),
    }
}
