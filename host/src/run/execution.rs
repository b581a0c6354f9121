//! The task of a run: from its instance to its end.

use std::{
    future::poll_fn,
    panic::AssertUnwindSafe,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::{Duration, SystemTime},
};

use futures::FutureExt as _;
use tracing::{debug, error, warn};

use super::{Ending, Run, RunLimits, StopReason};
use crate::{
    plugin::{Agent, Outcome, RunContext, RunFailure, TimeLimit, Used, thread_time},
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
        () = tokio::time::sleep(agent.run_timeout().most) => {
            return Attempt::Ended(too_long(run, "took longer than", agent.run_timeout()));
        }
        result = metered(run, agent.cpu_time().most, agent.run(context)) => match result {
            Some(result) => Some(result),
            None => return Attempt::Ended(too_long(run, "used a processor for more than", agent.cpu_time())),
        },
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

/// The end of a run that went beyond a limit of time.
fn too_long(run: &Arc<Run>, what: &str, TimeLimit { most, key }: &TimeLimit) -> Ending {
    let why = format!("stopped at {key}");
    warn!(response = %run.id, "{why}");
    run.note("error", &why);
    Ending::failed(format!("The agent was stopped: it {what} {} seconds ({key}).", most.as_secs_f64()))
}

/// Counts the time of a processor that `future` takes: of this thread, each time it is polled. None when it takes more
/// than `most`: an agent that computes is interrupted every millisecond.
async fn metered<T>(run: &Run, most: Duration, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut all = Duration::ZERO;
    poll_fn(|context| {
        let start = thread_time();
        let polled = future.as_mut().poll(context);
        let spent = thread_time().saturating_sub(start);
        run.meter.spend(spent);
        run.metrics.spend(spent);
        all += spent;
        match polled {
            Poll::Pending if all > most => Poll::Ready(None),
            polled => polled.map(Some),
        }
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
