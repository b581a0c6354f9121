//! The task of a run, from its admission, or from the start that took it over, to its end.
//!
//! A run is executed, and may sleep in between: an instance that sleeps for `limits.idle_after` or longer is given up, and
//! its place with it. What is left of the run is what its subscribers need. When the time has come, the run is executed
//! again, as after a crash: its imports answer from its journal, and its words are compared with its events, until it is
//! where it was. So far more runs may wait than there can be instances. A run that was cut off by a stop goes the same way.
//!
//! Whatever panics in this task ends the run as failed.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt as _;
use outlast_plugin::{Agent, RunContext};
use outlast_runtime::clock::in_milliseconds;
use tokio::sync::oneshot;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{debug, error, warn};

use super::{
    Ending, Manager, Run, StopReason,
    admission::{Place, Slot},
    ending::finish,
    execution::{self, Attempt, execute},
    replay::{NotResumed, PAUSE, again},
};

/// How a run goes on.
pub(super) enum Begin {
    /// It is executed now, for the first time.
    Now(Box<Ready>),
    /// It is executed again, once its time has come.
    Later(Later),
    /// It ends.
    Never(Ending),
}

/// What an execution needs.
pub(super) struct Ready {
    pub agent: Arc<Agent>,
    pub context: RunContext,
    pub slot: Slot,
    /// Whether a stop of the server has cut it off.
    pub repeating: bool,
}

/// When a run is executed again.
#[derive(Default)]
pub(super) struct Later {
    /// Not before this time, since 1970; zero where it did not sleep.
    pub until: Duration,
    /// Not before whoever holds the other end lets it.
    pub turn: Option<oneshot::Receiver<()>>,
    /// Who wants to know that it has an instance.
    pub began: Option<oneshot::Sender<()>>,
}

impl Manager {
    /// Begins the task of a run. `place` is the run's among all runs; it is waited for where it is none.
    pub(super) fn live(self: &Arc<Self>, run: Arc<Run>, begin: Begin, place: Option<Place>, token: TaskTrackerToken) {
        let (manager, life) = (self.clone(), run.clone());
        let life = async move { manager.live_on(&life, begin, place).await };
        self.supervise(run, token, life);
    }

    /// Runs the task of a run. Whatever panics in it, the run ends.
    fn supervise(
        self: &Arc<Self>,
        run: Arc<Run>,
        token: TaskTrackerToken,
        life: impl Future<Output = ()> + Send + 'static,
    ) {
        let manager = self.clone();
        // Boxed: while it sleeps, a run is no larger than it must be.
        let life = AssertUnwindSafe(Box::pin(life)).catch_unwind();
        self.guests().spawn(async move {
            let _counted = token;
            if life.await.is_err() {
                error!(response = %run.id, "the task of this run panicked; the run ends");
                let ending = Ending::failed("The server failed while it ran the agent.");
                let ended = AssertUnwindSafe(Box::pin(finish(&manager, &run, ending))).catch_unwind();
                if ended.await.is_err() {
                    error!(response = %run.id, "the end of this run panicked, too");
                    run.feed.close(None);
                }
            }
            manager.forget(&run);
        });
    }

    async fn live_on(self: &Arc<Self>, run: &Arc<Run>, mut begin: Begin, place: Option<Place>) {
        let _place = match place {
            Some(place) => Some(place),
            // One that is stopped meanwhile needs none to end.
            None => run.stopping().run_until_cancelled(self.place(run)).await,
        };
        let ending = loop {
            let ready = match begin {
                Begin::Now(ready) => Ok(ready),
                Begin::Later(later) => Box::pin(self.wake(run, later)).await,
                Begin::Never(ending) => Err(ending),
            };
            let Ready { agent, mut context, slot, repeating } = match ready {
                Ok(ready) => *ready,
                Err(ending) => {
                    if run.stop_reason().is_none() {
                        warn!(response = %run.id, ?ending, "this run is not executed again");
                    }
                    break ending;
                }
            };
            if let Err(ending) = Box::pin(self.shorten(run, &agent, &mut context)).await {
                break ending;
            }
            let attempt = Box::pin(execute(run, &agent, context, *self.limits(), repeating)).await;
            drop(slot);
            match attempt {
                Attempt::Ended(ending) => break ending,
                Attempt::Asleep(until) => {
                    self.fall_asleep(run, until);
                    begin = Begin::Later(Later { until, ..Later::default() });
                }
            }
        };
        Box::pin(finish(self, run, ending)).await;
    }

    /// The run has no instance until this time, since 1970.
    fn fall_asleep(&self, run: &Arc<Run>, until: Duration) {
        debug!(response = %run.id, "run sleeps");
        run.feed.forget();
        run.shelve(in_milliseconds(until));
        run.metrics.sleep();
        // A drain has no reason to wait for it. It has either seen that the run is passive, or this sees the drain.
        if self.draining() {
            run.stop(StopReason::Suspended);
        }
    }

    /// Waits until a run is to be executed again, and for all that it needs.
    async fn wake(&self, run: &Arc<Run>, later: Later) -> Result<Box<Ready>, Ending> {
        let Later { until, turn, began } = later;
        let ready = run.stopping().run_until_cancelled(async {
            if let Some(turn) = turn {
                // An error says the same: nobody holds it back any more.
                let _ = turn.await;
            }
            self.clock().until(until).await;
            // Boxed: a run that sleeps is no larger than its timer.
            Box::pin(self.rouse(run, until.is_zero(), began)).await
        });
        ready.await.unwrap_or_else(|| Err(execution::stopped(run)))
    }

    /// Waits for all that a run needs whose time has come.
    async fn rouse(
        &self,
        run: &Arc<Run>,
        repeating: bool,
        began: Option<oneshot::Sender<()>>,
    ) -> Result<Box<Ready>, Ending> {
        // The place first: what a run needs is larger than what it is.
        let served = self.agents().get(&run.agent).map_or(1, |agent| agent.places());
        let mut slot = self.slot_again(served).await;
        let (agent, context) = self.recall(run).await?;
        // It began with another version.
        if agent.places() != served {
            drop(slot);
            slot = self.slot_again(agent.places()).await;
        }
        // It must be known before the agent does anything: should the server not survive it, it is counted.
        let _ = run.unshelve().await;
        if let Some(began) = began {
            let _ = began.send(());
        }
        Ok(Box::new(Ready { agent, context, slot, repeating }))
    }

    /// What the run needs to be executed again. Waits for a database that does not answer.
    async fn recall(&self, run: &Arc<Run>) -> Result<(Arc<Agent>, RunContext), Ending> {
        let mut warned = false;
        loop {
            match again(self, run).await {
                Ok(Some(found)) => return Ok(found),
                Err(NotResumed::Ended(ending)) => return Err(ending),
                // Some of it is still on its way to the database.
                Ok(None) => {}
                Err(NotResumed::Store(error)) => {
                    if !std::mem::replace(&mut warned, true) {
                        warn!(response = %run.id, %error, "a run cannot wake");
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use outlast_metrics::LiveRun;
    use outlast_protocol::{ResponseId, Status, TerminalStatus};
    use outlast_store::NewResponse;
    use serde_json::json;

    use super::*;
    use crate::{
        Feed, Journal, Ownership, Recorder, Retention, RunLimits,
        request::StoredRequest,
        testing::{ANN, BEGIN, Rooms, eventually},
    };

    #[tokio::test]
    async fn a_panic_in_the_task_of_a_run_ends_it_as_failed() {
        let rooms = Rooms::open(RunLimits::default()).await;
        let (limits, manager) = (rooms.limits, &rooms.manager);
        let id = ResponseId::new(rooms.clock.id());
        let response = StoredRequest::default().into_request(None, None).response(&id, 1);
        let run = Run::new(
            Ownership { id: id.clone(), principal: ANN.to_owned(), agent: "a".to_owned(), durable: true, epoch: 1 },
            Recorder::new(id.clone(), response, limits.output),
            Journal::new(limits.journal_bytes),
            Feed::new(Retention::Log, limits.feed_bytes),
            limits.bytes(),
            rooms.queues.durable.clone(),
            LiveRun::new(rooms.metrics.runs.agent("a")),
        );
        let row = NewResponse {
            id: id.clone(),
            principal: ANN.to_owned(),
            epoch: 1,
            agent: "a".to_owned(),
            component: "00".to_owned(),
            status: Status::IN_PROGRESS,
            previous: None,
            turns: 0,
            conversation: None,
            key: None,
            created_at: 1,
            request: "{\"fields\":{},\"input\":[]}".to_owned(),
        };
        run.admit(row).await.unwrap().unwrap();
        manager.supervise(run.clone(), manager.token(), async { panic!("on purpose") });
        let ended = run.feed.wait(|feed| feed.closed().then(|| feed.ended())).await;
        assert_eq!(ended.unwrap().status, TerminalStatus::Failed);
        let kept = rooms.store.response(ANN, &id).await.unwrap().unwrap();
        assert_eq!(kept.status, TerminalStatus::Failed.into());
        assert!(kept.response.unwrap().contains("The server failed while it ran the agent."));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_run_sleeps_until_the_clock_shows_its_time() {
        let limits = RunLimits { idle_after: Duration::from_secs(5), ..RunLimits::default() };
        let (rooms, pause) = (Rooms::with_agents(limits).await, Duration::from_secs(10));
        let request = json!({"model": "echo", "input": "one two three", "background": true,
            "metadata": {"delay_ms": pause.as_millis().to_string()}});
        let (_subscription, run) = rooms.begin(request).await;
        let mut entries = 0;
        for _ in 0..2 {
            // It has answers of its own after each sleep, so it has slept again.
            eventually("the run sleeps", || run.is_passive() && run.reached().1 > entries).await;
            entries = run.reached().1;
            rooms.clock.advance(pause - Duration::from_millis(1));
            assert!(run.is_passive(), "it woke before its time");
            rooms.clock.advance(Duration::from_millis(1));
        }
        let ended = run.feed.wait(|feed| feed.closed().then(|| feed.ended())).await;
        assert_eq!(ended.unwrap().status, TerminalStatus::Completed);
        assert_eq!(rooms.text(&run.id).await.unwrap(), "one two three");
        let row = rooms.store.run(&run.id).await.unwrap().unwrap();
        let begin = i64::try_from(BEGIN.as_millis()).unwrap();
        assert_eq!((row.created_at, row.ended_at), (begin, Some(begin + 20_000)));
    }
}
