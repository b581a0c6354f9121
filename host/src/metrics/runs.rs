//! Runs: how many, how they end, how long they take.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use super::{Durations, durations};
use crate::protocol::TerminalStatus;

/// Runs, by agent.
#[derive(Debug)]
pub struct RunMetrics {
    live: Family<State, Gauge>,
    ended: Family<Status, Counter>,
    duration: Durations<Agent>,
    first_output: Durations<Agent>,
    /// Runs that the last stop cut off.
    pub resumed: Counter,
    agents: Mutex<HashMap<String, Arc<AgentMetrics>>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Agent {
    agent: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    agent: String,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Status {
    agent: String,
    status: &'static str,
}

impl Default for RunMetrics {
    fn default() -> Self {
        Self {
            live: Family::default(),
            ended: Family::default(),
            duration: Family::new_with_constructor(durations),
            first_output: Family::new_with_constructor(durations),
            resumed: Counter::default(),
            agents: Mutex::default(),
        }
    }
}

impl RunMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "runs_live",
            "Runs that go on: queued, their agent has not begun; in_progress, it has",
            self.live.clone(),
        );
        registry.register(
            "runs_ended",
            "Runs that ended; lost are those whose end this server could not write",
            self.ended.clone(),
        );
        registry.register("run_duration_seconds", "From a run's admission to its end", self.duration.clone());
        registry.register(
            "run_first_output_seconds",
            "From a run's admission to the first text, summary or arguments that its agent gave",
            self.first_output.clone(),
        );
        registry.register(
            "runs_resumed",
            "Runs that the last stop cut off and this start took up",
            self.resumed.clone(),
        );
    }

    /// The metrics of an agent of this server.
    pub fn agent(&self, name: &str) -> Arc<AgentMetrics> {
        let mut agents = self.agents.lock();
        if let Some(agent) = agents.get(name) {
            return agent.clone();
        }
        let agent = Arc::new(AgentMetrics::new(self, name));
        agents.insert(name.to_owned(), agent.clone());
        agent
    }
}

/// The metrics of the runs of one agent.
#[derive(Debug)]
pub struct AgentMetrics {
    queued: Gauge,
    in_progress: Gauge,
    completed: Counter,
    failed: Counter,
    incomplete: Counter,
    cancelled: Counter,
    lost: Counter,
    duration: Histogram,
    first_output: Histogram,
}

impl AgentMetrics {
    fn new(runs: &RunMetrics, name: &str) -> Self {
        let state = |state| runs.live.get_or_create_owned(&State { agent: name.to_owned(), state });
        let status = |status| runs.ended.get_or_create_owned(&Status { agent: name.to_owned(), status });
        let agent = Agent { agent: name.to_owned() };
        Self {
            queued: state("queued"),
            in_progress: state("in_progress"),
            completed: status(TerminalStatus::Completed.as_str()),
            failed: status(TerminalStatus::Failed.as_str()),
            incomplete: status(TerminalStatus::Incomplete.as_str()),
            cancelled: status(TerminalStatus::Cancelled.as_str()),
            lost: status("lost"),
            duration: runs.duration.get_or_create_owned(&agent),
            first_output: runs.first_output.get_or_create_owned(&agent),
        }
    }
}

/// A run that goes on, until this is dropped. One that is dropped without an end was not admitted.
#[derive(Debug)]
pub struct LiveRun {
    agent: Arc<AgentMetrics>,
    since: Instant,
    begun: AtomicBool,
    has_output: AtomicBool,
}

impl LiveRun {
    /// A run that begins to be admitted.
    pub fn new(agent: Arc<AgentMetrics>) -> Self {
        agent.queued.inc();
        Self { agent, since: Instant::now(), begun: AtomicBool::new(false), has_output: AtomicBool::new(false) }
    }

    /// A run that was admitted so long ago and goes on. Its first output is not measured: it may have been given.
    pub fn resumed(agent: Arc<AgentMetrics>, age: Duration) -> Self {
        let mut run = Self::new(agent);
        run.since = run.since.checked_sub(age).unwrap_or(run.since);
        *run.has_output.get_mut() = true;
        run
    }

    /// The agent begins.
    pub fn begin(&self) {
        if !self.begun.swap(true, Ordering::Relaxed) {
            self.agent.queued.dec();
            self.agent.in_progress.inc();
        }
    }

    /// The agent gives output. Only the first time counts; the others cost one load.
    pub fn output(&self) {
        if !self.has_output.load(Ordering::Relaxed) && !self.has_output.swap(true, Ordering::Relaxed) {
            self.agent.first_output.observe(self.since.elapsed().as_secs_f64());
        }
    }

    /// The run has ended; none when this server could not write its end.
    pub fn end(&self, status: Option<TerminalStatus>) {
        let agent = &self.agent;
        let ended = match status {
            Some(TerminalStatus::Completed) => &agent.completed,
            Some(TerminalStatus::Failed) => &agent.failed,
            Some(TerminalStatus::Incomplete) => &agent.incomplete,
            Some(TerminalStatus::Cancelled) => &agent.cancelled,
            None => &agent.lost,
        };
        ended.inc();
        agent.duration.observe(self.since.elapsed().as_secs_f64());
    }
}

impl Drop for LiveRun {
    fn drop(&mut self) {
        let begun = *self.begun.get_mut();
        let state = if begun { &self.agent.in_progress } else { &self.agent.queued };
        state.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_queued_then_in_progress_then_ended() {
        let runs = RunMetrics::default();
        let agent = runs.agent("echo");
        let live = || (agent.queued.get(), agent.in_progress.get());
        let run = LiveRun::new(runs.agent("echo"));
        assert_eq!(live(), (1, 0));
        run.begin();
        run.begin();
        assert_eq!(live(), (0, 1));
        run.output();
        run.output();
        run.end(Some(TerminalStatus::Completed));
        drop(run);
        assert_eq!(live(), (0, 0));
        assert_eq!((agent.completed.get(), agent.duration.count(), agent.first_output.count()), (1, 1, 1));
    }

    #[test]
    fn a_run_that_is_not_admitted_leaves_no_trace() {
        let agent = RunMetrics::default().agent("echo");
        drop(LiveRun::new(agent.clone()));
        assert_eq!((agent.queued.get(), agent.in_progress.get(), agent.duration.count()), (0, 0, 0));
    }
}
