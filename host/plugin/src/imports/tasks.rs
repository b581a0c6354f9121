//! The interface `tasks`: waiting, also for what goes on beside the component.

use std::{pin::pin, time::Duration};

use futures::future::{OptionFuture, pending, select_all};
use wasmtime::component::Resource;

use crate::{
    bindings::{
        handles::OpenTask,
        tasks::{Host, HostTask},
        types::{Failure, FailureKind},
    },
    failure::{Asleep, Violation, cancelled, failure},
    sandbox::{HANDLES, RunState, digest},
};

impl Host for RunState {
    async fn wait_any(&mut self, tasks: Vec<Resource<OpenTask>>) -> wasmtime::Result<Result<Vec<u32>, Failure>> {
        const IMPORT: &str = "tasks.wait-any";
        self.active(IMPORT)?;
        if tasks.is_empty() {
            let message = "There is no task to wait for: the list is empty.";
            return Ok(Err(failure(FailureKind::Invalid, "no_tasks", message)));
        }
        if tasks.len() > HANDLES {
            return Err(Violation(format!("waited for {} tasks in one call, limit {HANDLES}", tasks.len())).into());
        }
        let tasks: Vec<OpenTask> = tasks.iter().map(|task| self.table.get(task).cloned()).collect::<Result<_, _>>()?;
        let names: Vec<_> = tasks.iter().map(OpenTask::name).collect();
        let arguments = digest(&names.iter().map(|name| &name[..]).collect::<Vec<_>>());
        if let Some(ended) = self.replayed(IMPORT, &arguments)? {
            return Ok(Ok(ended));
        }
        let ended = loop {
            let now = self.clock.now();
            let ended: Vec<u32> =
                (0..).zip(&tasks).filter(|(_, task)| task.has_ended(now)).map(|(place, _)| place).collect();
            if !ended.is_empty() {
                break ended;
            }
            let timers = tasks.iter().filter_map(|task| match task {
                OpenTask::Timer(until) => Some(*until),
                OpenTask::Answer(..) => None,
            });
            let answers = tasks.iter().filter_map(|task| match task {
                OpenTask::Answer(_, there) => Some(Box::pin(there.clone().cancelled_owned())),
                OpenTask::Timer(_) => None,
            });
            let (first, answers) = (timers.min(), answers.collect::<Vec<_>>());
            let answered = async {
                match answers.is_empty() {
                    true => pending().await,
                    false => drop(select_all(answers).await),
                }
            };
            if let Err(failure) = self.wait(IMPORT, first, answered).await? {
                return Ok(Err(failure));
            }
        };
        self.clock.advance();
        self.record(IMPORT, arguments, &ended).await?;
        Ok(Ok(ended))
    }

    async fn after(&mut self, milliseconds: u64) -> wasmtime::Result<Resource<OpenTask>> {
        let until = self.timer("tasks.after", milliseconds).await?;
        self.hold(OpenTask::Timer(until))
    }

    async fn sleep(&mut self, milliseconds: u64) -> wasmtime::Result<Result<(), Failure>> {
        const IMPORT: &str = "tasks.sleep";
        let until = self.timer(IMPORT, milliseconds).await?;
        let waited = self.wait(IMPORT, Some(until), pending()).await?;
        if waited.is_ok() {
            self.clock.set(until);
        }
        Ok(waited)
    }
}

impl HostTask for RunState {
    async fn drop(&mut self, task: Resource<OpenTask>) -> wasmtime::Result<()> {
        self.table.delete(task)?;
        Ok(())
    }
}

impl RunState {
    /// A durable timer: when it goes off, since 1970, also after a restart.
    async fn timer(&mut self, import: &str, milliseconds: u64) -> wasmtime::Result<Duration> {
        let arguments = digest(&[&milliseconds.to_le_bytes()]);
        if let Some(until) = self.replayed(import, &arguments)? {
            return Ok(Duration::from_nanos(until));
        }
        self.clock.advance();
        let until = self.clock.nanoseconds().saturating_add(milliseconds.saturating_mul(1_000_000));
        self.record(import, arguments, &until).await?;
        Ok(Duration::from_nanos(until))
    }

    /// Waits until the time `until` has come, if there is one, or until something has `ended`. The failure is that the
    /// run is being cancelled.
    ///
    /// When the time is far and nothing goes on beside the component, it leaves memory: what went on would be lost. It
    /// stays where it would be expensive to come back.
    async fn wait(
        &mut self,
        import: &str,
        until: Option<Duration>,
        ended: impl Future<Output = ()>,
    ) -> wasmtime::Result<Result<(), Failure>> {
        let run = self.active(import)?;
        let (stop, idle_after, clock) = (run.stop.clone(), run.idle_after, run.clock.clone());
        if let (true, false, Some(until)) = (self.clock.scripted, stop.is_cancelled(), until) {
            self.clock.set(until);
            return Ok(Ok(()));
        }
        let mut ended = pin!(ended);
        let mut naps = false;
        loop {
            let left = until.map(|until| until.saturating_sub(clock.since_1970()));
            // A timer would take a millisecond, and there may be ten thousand to replay.
            if left == Some(Duration::ZERO) && !stop.is_cancelled() {
                return Ok(Ok(()));
            }
            let far = left.is_some_and(|left| idle_after.is_some_and(|least| left >= least));
            let settled = match (until, far.then(|| self.tasks.settled())) {
                (Some(until), Some(None)) => {
                    let left = left.unwrap_or_default();
                    if self.is_worth_leaving(import, left)? {
                        return Err(Asleep(until).into());
                    }
                    if !std::mem::replace(&mut naps, true) {
                        self.active(import)?.meter.nap(left);
                    }
                    None
                }
                (_, settled) => settled.flatten(),
            };
            let settled = OptionFuture::from(settled);
            let timer = OptionFuture::from(until.map(|until| clock.until(until)));
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(Err(cancelled())),
                () = &mut ended => return Ok(Ok(())),
                Some(()) = timer => return Ok(Ok(())),
                Some(()) = settled => {}
            }
        }
    }

    /// Whether a run that sleeps for this long should leave memory. To come back, it computes once more all that it has
    /// computed: that must not take longer than it sleeps, nor the run beyond half of its time of a processor.
    fn is_worth_leaving(&mut self, import: &str, sleep: Duration) -> wasmtime::Result<bool> {
        let run = self.active(import)?;
        let (again, used, most) = (run.meter.execution(), run.meter.used().cpu, run.granted()?.cpu_time.most);
        Ok(again <= sleep && used.saturating_add(again) <= most / 2)
    }
}
