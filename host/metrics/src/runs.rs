//! Runs: how many, how they end, how long they take.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use outlast_protocol::TerminalStatus;
use parking_lot::Mutex;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use super::{Durations, Held, durations};

/// Runs, by agent.
#[derive(Debug)]
pub struct RunMetrics {
    live: Family<State, Gauge>,
    ended: Family<Status, Counter>,
    duration: Durations<Agent>,
    first_output: Durations<Agent>,
    cpu: Family<Agent, Counter<f64, AtomicU64>>,
    memory: Family<Agent, Histogram, fn() -> Histogram>,
    input_tokens: Family<Agent, Counter>,
    output_tokens: Family<Agent, Counter>,
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

/// From 64 KiB to 1 GiB, four times as much each.
fn memory() -> Histogram {
    Histogram::new(exponential_buckets(65_536.0, 4.0, 8))
}

impl Default for RunMetrics {
    fn default() -> Self {
        Self {
            live: Family::default(),
            ended: Family::default(),
            duration: Family::new_with_constructor(durations),
            first_output: Family::new_with_constructor(durations),
            cpu: Family::default(),
            memory: Family::new_with_constructor(memory),
            input_tokens: Family::default(),
            output_tokens: Family::default(),
            resumed: Counter::default(),
            agents: Mutex::default(),
        }
    }
}

impl RunMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "runs_live",
            "Active runs: queued, the agent has not started; in_progress, it has; sleeping, without an instance",
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
            "From a run's admission to the first text, summary or arguments of its agent",
            self.first_output.clone(),
        );
        registry.register(
            "agent_cpu_seconds",
            "CPU time used by agents, including calls of the host",
            self.cpu.clone(),
        );
        registry.register(
            "agent_memory_peak_bytes",
            "The peak memory of an instance, recorded when it is dropped",
            self.memory.clone(),
        );
        registry.register(
            "agent_input_tokens",
            "Tokens of the input of model calls that agents made",
            self.input_tokens.clone(),
        );
        registry.register(
            "agent_output_tokens",
            "Tokens of the output of model calls that agents made",
            self.output_tokens.clone(),
        );
        registry.register(
            "runs_resumed",
            "Runs that the last stop interrupted and this start resumed",
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
    sleeping: Gauge,
    completed: Counter,
    failed: Counter,
    incomplete: Counter,
    cancelled: Counter,
    lost: Counter,
    duration: Histogram,
    first_output: Histogram,
    cpu: Counter<f64, AtomicU64>,
    memory: Histogram,
    input_tokens: Counter,
    output_tokens: Counter,
}

impl AgentMetrics {
    fn new(runs: &RunMetrics, name: &str) -> Self {
        let state = |state| runs.live.get_or_create_owned(&State { agent: name.to_owned(), state });
        let status = |status| runs.ended.get_or_create_owned(&Status { agent: name.to_owned(), status });
        let agent = Agent { agent: name.to_owned() };
        Self {
            queued: state("queued"),
            in_progress: state("in_progress"),
            sleeping: state("sleeping"),
            completed: status(TerminalStatus::Completed.as_str()),
            failed: status(TerminalStatus::Failed.as_str()),
            incomplete: status(TerminalStatus::Incomplete.as_str()),
            cancelled: status(TerminalStatus::Cancelled.as_str()),
            lost: status("lost"),
            duration: runs.duration.get_or_create_owned(&agent),
            first_output: runs.first_output.get_or_create_owned(&agent),
            cpu: runs.cpu.get_or_create_owned(&agent),
            memory: runs.memory.get_or_create_owned(&agent),
            input_tokens: runs.input_tokens.get_or_create_owned(&agent),
            output_tokens: runs.output_tokens.get_or_create_owned(&agent),
        }
    }
}

/// A run that goes on, until its end, or until this is dropped. One that is dropped without an end was not admitted.
#[derive(Debug)]
pub struct LiveRun {
    agent: Arc<AgentMetrics>,
    since: Instant,
    /// None when it is over.
    state: Mutex<Option<Held>>,
    has_output: AtomicBool,
    /// The tokens of the input and the output that were counted.
    tokens: Mutex<(u64, u64)>,
}

impl LiveRun {
    /// A run that begins to be admitted.
    pub fn new(agent: Arc<AgentMetrics>) -> Self {
        let state = Mutex::new(Some(Held::new(&agent.queued)));
        let (has_output, tokens) = (AtomicBool::new(false), Mutex::default());
        Self { agent, since: Instant::now(), state, has_output, tokens }
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
        *self.state.lock() = Some(Held::new(&self.agent.in_progress));
    }

    /// The run sleeps, without an instance.
    pub fn sleep(&self) {
        *self.state.lock() = Some(Held::new(&self.agent.sleeping));
    }

    /// The run is left to the next start.
    pub fn leave(&self) {
        self.state.lock().take();
    }

    /// The agent gives output. Only the first time counts; the others cost one load.
    pub fn output(&self) {
        if !self.has_output.load(Ordering::Relaxed) && !self.has_output.swap(true, Ordering::Relaxed) {
            self.agent.first_output.observe(self.since.elapsed().as_secs_f64());
        }
    }

    /// The agent took this much time of a processor.
    pub fn spend(&self, cpu: Duration) {
        self.agent.cpu.inc_by(cpu.as_secs_f64());
    }

    /// The run has used so much before this server counts.
    pub fn recall(&self, input_tokens: u64, output_tokens: u64) {
        *self.tokens.lock() = (input_tokens, output_tokens);
    }

    /// An instance goes, and so much has the run used until now: the most memory in bytes, and tokens.
    pub fn measured(&self, memory: u64, input_tokens: u64, output_tokens: u64) {
        self.agent.memory.observe(memory as f64);
        let (input, output) = std::mem::replace(&mut *self.tokens.lock(), (input_tokens, output_tokens));
        self.agent.input_tokens.inc_by(input_tokens.saturating_sub(input));
        self.agent.output_tokens.inc_by(output_tokens.saturating_sub(output));
    }

    /// The run has ended; none when this server could not write its end.
    pub fn end(&self, status: Option<TerminalStatus>) {
        self.leave();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_queued_then_in_progress_then_ended() {
        let runs = RunMetrics::default();
        let agent = runs.agent("echo");
        let live = || (agent.queued.get(), agent.in_progress.get(), agent.sleeping.get());
        let run = LiveRun::new(runs.agent("echo"));
        assert_eq!(live(), (1, 0, 0));
        run.begin();
        run.begin();
        assert_eq!(live(), (0, 1, 0));
        run.sleep();
        assert_eq!(live(), (0, 0, 1));
        run.begin();
        run.output();
        run.output();
        run.end(Some(TerminalStatus::Completed));
        assert_eq!(live(), (0, 0, 0));
        assert_eq!((agent.completed.get(), agent.duration.count(), agent.first_output.count()), (1, 1, 1));
    }

    #[test]
    fn a_run_that_is_not_admitted_leaves_no_trace() {
        let agent = RunMetrics::default().agent("echo");
        drop(LiveRun::new(agent.clone()));
        assert_eq!((agent.queued.get(), agent.in_progress.get(), agent.duration.count()), (0, 0, 0));
    }
}
