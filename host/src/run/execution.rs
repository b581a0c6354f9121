//! The task of a run: from its instance to its end.

use std::{
    future::poll_fn,
    panic::AssertUnwindSafe,
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures::FutureExt as _;
use tracing::{debug, error, warn};

use super::{Ending, Run, RunLimits, StopReason};
use crate::{
    plugin::{Agent, Outcome, RunContext, RunFailure, Used, thread_time},
    protocol::ResponseError,
};

/// What an instance came to.
enum Attempt {
    Ended(Ending),
    /// It sleeps until this time, since 1970.
    Asleep(Duration),
}

/// Executes a run that was admitted, and returns once its end is committed; or at once when its instance has left, with
/// the time (since 1970) at which the run is to be executed again.
pub(super) async fn execute(
    run: &Arc<Run>,
    agent: Arc<Agent>,
    context: RunContext,
    limits: RunLimits,
) -> Option<Duration> {
    run.begin();
    run.metrics.begin();
    let attempt = AssertUnwindSafe(attempt(run, &agent, context, limits)).catch_unwind().await;
    let Used { memory, input_tokens, output_tokens, .. } = run.meter.used();
    run.metrics.measured(memory, input_tokens, output_tokens);
    let ending = match attempt {
        Ok(Attempt::Asleep(until)) => return Some(until),
        Ok(Attempt::Ended(ending)) => ending,
        Err(_) => {
            error!(response = %run.id, "a host call of this run panicked");
            Ending::failed("The server failed while it ran the agent.")
        }
    };
    finish(run, ending).await;
    None
}

/// Ends a run, or leaves it to the next start if that is why it was stopped. Returns once that is committed.
pub(super) async fn finish(run: &Arc<Run>, ending: Ending) {
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
    match run.feed.suspended() {
        true => run.metrics.leave(),
        false => run.metrics.end(run.feed.ended().map(|ended| ended.status)),
    }
}

async fn attempt(run: &Arc<Run>, agent: &Agent, context: RunContext, limits: RunLimits) -> Attempt {
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
            run.note("error", "stopped at limits.run_timeout");
            let message = format!(
                "The agent was stopped: it took longer than {} seconds (limits.run_timeout).",
                limits.run_timeout.as_secs_f64()
            );
            return Attempt::Ended(Ending::failed(message));
        }
        result = metered(run, agent.run(context)) => Some(result),
    };
    Attempt::Ended(match (run.stop_reason(), result) {
        // A stop wins over whatever the agent returns after it.
        (Some(reason), _) => stopped_because(reason),
        (None, Some(Ok(Outcome::Asleep(until)))) => return Attempt::Asleep(until),
        (None, Some(Ok(Outcome::Completed))) => Ending::Completed,
        (None, Some(Ok(Outcome::Incomplete(reason)))) => Ending::Incomplete(reason),
        (None, Some(Err(RunFailure { code, client, operator }))) => {
            let name = agent.description.name.as_str();
            warn!(response = %run.id, agent = name, "run failed: {operator}");
            run.note("error", &operator);
            Ending::Failed(ResponseError { code: code.to_owned(), message: client })
        }
        (None, None) => Ending::Cancelled,
    })
}

/// Counts the time of a processor that `future` takes: of this thread, each time it is polled.
async fn metered<T>(run: &Run, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    poll_fn(|context| {
        let start = thread_time();
        let polled = future.as_mut().poll(context);
        let spent = thread_time().saturating_sub(start);
        run.meter.spend(spent);
        run.metrics.spend(spent);
        polled
    })
    .await
}

/// The end of a run that was asked to stop.
pub(super) fn stopped(run: &Run) -> Ending {
    run.stop_reason().map_or(Ending::Cancelled, stopped_because)
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
