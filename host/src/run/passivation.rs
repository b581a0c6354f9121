//! Runs that wait long leave memory.
//!
//! An instance that sleeps for `limits.idle_after` or longer is given up, and its place with it. What is left of the run
//! is what its subscribers need. When the time has come, the run is executed again, as after a crash: its imports answer
//! from its journal, and its words are compared with its events, until it is where it was. So far more runs may wait
//! than there can be instances.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{debug, warn};

use super::{
    Ending, Manager, Run, StopReason,
    admission::Place,
    execution,
    resume::{Over, again},
};
use crate::plugin::{Agent, RunContext};

/// The pause before the database is asked again for what a run needs.
const PAUSE: Duration = Duration::from_millis(500);

impl Manager {
    /// Keeps a run that has no instance, until the time `until` (since 1970).
    pub(super) fn passivate(self: &Arc<Self>, run: Arc<Run>, until: Duration, place: Place, token: TaskTrackerToken) {
        debug!(response = %run.id, "run sleeps");
        run.feed.forget();
        run.set_passive(true);
        run.metrics.sleep();
        // A drain has no reason to wait for it.
        if self.draining() {
            run.stop(StopReason::Suspended);
        }
        let manager = self.clone();
        self.guests().spawn(async move {
            let left = until.saturating_sub(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
            let _ = run.stopping().run_until_cancelled(tokio::time::sleep(left)).await;
            // Boxed: while it sleeps, a run is no larger than it must be.
            Box::pin(manager.wake(run, place, token)).await;
        });
    }

    /// Executes a run again that has slept.
    async fn wake(self: Arc<Self>, run: Arc<Run>, place: Place, token: TaskTrackerToken) {
        let (stopping, executor) = (run.stopping().clone(), self.clone());
        let prepared = stopping.run_until_cancelled(async {
            // The place first: what a run needs is larger than what it is.
            let slot = self.slot().await;
            self.recall(&run).await.map(|(agent, context)| (agent, context, slot))
        });
        match prepared.await {
            Some(Ok((agent, context, slot))) => {
                run.set_passive(false);
                executor.execute(run.clone(), agent, context, (place, Some(slot)), token);
            }
            Some(Err(ending)) => self.close(&run, ending).await,
            None => self.close(&run, execution::stopped(&run)).await,
        }
    }

    /// What the run needs to be executed again. Waits for a database that does not answer.
    async fn recall(&self, run: &Arc<Run>) -> Result<(Arc<Agent>, RunContext), Ending> {
        let mut warned = false;
        loop {
            match again(self, run).await {
                Ok(Some(found)) => return Ok(found),
                Err(Over::Ended(ending)) => return Err(ending),
                // Some of it is still on its way to the database.
                Ok(None) => {}
                Err(Over::Store(error)) => {
                    if !std::mem::replace(&mut warned, true) {
                        warn!(response = %run.id, %error, "a run cannot wake");
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn close(&self, run: &Arc<Run>, ending: Ending) {
        execution::finish(run, ending).await;
        self.forget(run);
    }
}
