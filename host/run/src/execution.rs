//! One execution of a run: from its instance to what it came to.

use std::{
    future::poll_fn,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use outlast_plugin::{Agent, Outcome, RunContext, RunFailure, TimeLimit, Used, thread_time};
use outlast_protocol::ResponseError;
use tracing::warn;

use super::{Ending, Run, RunLimits, StopReason};

/// What an instance came to.
pub(super) enum Attempt {
    /// The run is over.
    Ended(Ending),
    /// It sleeps until this time, since 1970.
    Asleep(Duration),
}

/// Executes a run once. Its end is still to be [written](super::ending::finish). `repeating` says that a stop of the
/// server made that necessary.
pub(super) async fn execute(
    run: &Arc<Run>,
    agent: &Agent,
    context: RunContext,
    limits: RunLimits,
    repeating: bool,
) -> Attempt {
    run.meter.begin(repeating);
    run.begin();
    run.metrics.begin();
    let attempt = attempt(run, agent, context, limits).await;
    let Used { memory, input_tokens, output_tokens, .. } = run.meter.used();
    run.metrics.measured(memory, input_tokens, output_tokens);
    attempt
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
        () = time_is_up(run, agent.run_timeout().most) => {
            return Attempt::Ended(too_long(run, "ran longer than", "", agent.run_timeout()));
        }
        result = metered(run, agent.cpu_time().most, agent.run(context)) => match result {
            Some(result) => Some(result),
            None => return Attempt::Ended(too_long(run, "used more than", " of CPU time", agent.cpu_time())),
        },
    };
    Attempt::Ended(match (run.stop_reason(), result) {
        // A stop wins over whatever the agent returns after it.
        (Some(reason), _) => stopped_because(reason),
        (None, Some(Ok(Outcome::Asleep(until)))) => return Attempt::Asleep(until),
        (None, Some(Ok(Outcome::Completed))) => Ending::Completed,
        (None, Some(Ok(Outcome::Incomplete(reason)))) => Ending::Incomplete(reason),
        (None, Some(Err(RunFailure { code, client, operator, retry_after, timed_out }))) => {
            let name = agent.description.name.as_str();
            warn!(response = %run.id, agent = name, "run failed: {operator}");
            run.note("error", &operator);
            Ending::Failed(ResponseError { retry_after, timed_out, ..ResponseError::new(code, client) })
        }
        (None, None) => Ending::Cancelled,
    })
}

/// The end of a run that went beyond a limit of time.
fn too_long(run: &Arc<Run>, what: &str, of: &str, TimeLimit { most, key }: &TimeLimit) -> Ending {
    let why = format!("stopped at {key}");
    warn!(response = %run.id, "{why}");
    run.note("error", &why);
    Ending::failed(format!("The agent was stopped: it {what} {} seconds{of} ({key}).", most.as_secs_f64()))
}

/// Waits until an execution has taken longer than `most`. What it sleeps through in memory, though it could have left it,
/// does not count, as it would not if it had.
async fn time_is_up(run: &Run, most: Duration) {
    let began = Instant::now();
    loop {
        let left = most.saturating_add(run.meter.napped()).saturating_sub(began.elapsed());
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left).await;
    }
}

/// How much time of a processor a run may take before that is written, though there is nothing else to write.
const SAVED: Duration = Duration::from_millis(500);

/// Counts the time of a processor that `future` takes: of this thread, each time it is polled, and of work of the host
/// beside it. None when the run has taken more than `most`, all its executions together: an agent that computes is
/// interrupted every millisecond.
async fn metered<T>(run: &Arc<Run>, most: Duration, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut saved = run.meter.used().cpu;
    poll_fn(|context| {
        let start = thread_time();
        let polled = future.as_mut().poll(context);
        let spent = thread_time().saturating_sub(start);
        run.meter.spend(spent);
        // What others did for it is counted already.
        let spent = spent + run.meter.take_aside();
        run.metrics.spend(spent);
        let all = run.meter.used().cpu;
        if all.saturating_sub(saved) >= SAVED {
            saved = all;
            run.save_usage();
        }
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
        StopReason::Unwritable => Ending::unwritable(),
    }
}
