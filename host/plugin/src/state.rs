//! What the host keeps for one instance: the data of its `Store`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use outlast_protocol::{ClientTools, Emission, EmitError, Emitted};
use outlast_runtime::aside::aside;
use outlast_runtime::clock::since_1970;
use rand_chacha::{ChaCha12Rng, rand_core::SeedableRng as _};
use wasmtime::component::{Resource, ResourceTable};
use wasmtime_wasi::{HostMonotonicClock, HostWallClock, WasiCtx, WasiCtxView, WasiView};

use super::{
    failure::{Diverged, Violation},
    instance::RunContext,
    journal::Replay,
    kept::Scratch,
    limits::{HANDLES, Limiter, MemoryLimit, PluginLimits, RANDOM_BYTES},
    log::RunLog,
    model::Generations,
    output::Output,
    secret::RunSecret,
    tasks::Tasks,
};

/// The data of one instance's `Store`.
pub(super) struct RunState {
    wasi: WasiCtx,
    pub(super) table: ResourceTable,
    pub(super) limiter: Limiter,
    pub(super) log: Arc<RunLog>,
    pub(super) stderr: Output,
    pub(super) clock: Clock,
    pub(super) replay: Replay,
    /// What goes on beside the component.
    pub(super) tasks: Tasks,
    /// The most that the component may hand over in one call, in bytes.
    pub(super) host_call: usize,
    /// What it holds of calls of models.
    pub(super) generations: Generations,
    /// What the component keeps for this run alone.
    pub(super) scratch: Scratch,
    /// The tools that the client offers, once they were asked for.
    pub(super) client_tools: Option<Arc<ClientTools>>,
    /// None while the component is only asked what it is.
    pub(super) run: Option<RunContext>,
}

impl RunState {
    /// The state for a run, or for `describe` when there is none. `id` is how it is called in the log.
    pub(super) fn new(agent: &str, id: &str, limits: &PluginLimits, mut run: Option<RunContext>) -> Self {
        let port = run.as_ref().and_then(|run| run.log.clone());
        let meter = run.as_ref().map(|run| run.meter.clone()).unwrap_or_default();
        let log = Arc::new(RunLog::new(agent, id, limits, port));
        let stderr = Output::new("stderr", log.clone());
        let clock = Clock { scripted: run.as_ref().is_some_and(|run| run.scripted_time.is_some()), ..Clock::default() };
        let entries = run.as_mut().map(|run| {
            clock.set(run.scripted_time.unwrap_or(Duration::from_nanos(run.began)));
            std::mem::take(&mut run.entries)
        });
        let (replay, answers) = Replay::new(entries.unwrap_or_default(), &meter);
        let port = run.as_ref().filter(|run| run.journaled).map(|run| run.port.clone());
        let tasks = Tasks::new(port, answers, meter.clone());
        log.quiet(!replay.is_over() || run.as_ref().is_some_and(|run| run.port.replaying()));
        if let Some(run) = run.as_ref().filter(|_| !log.is_quiet()) {
            run.port.live();
        }
        // It decides every random number.
        let seed = run.as_ref().map_or_else(|| RunSecret::by_id(id).seed(), |run| run.secret.seed());
        let mut half = [0; 16];
        half.copy_from_slice(&seed[..16]);
        let mut wasi = WasiCtx::builder();
        wasi.secure_random(ChaCha12Rng::from_seed(seed))
            .insecure_random(ChaCha12Rng::from_seed(seed))
            .insecure_random_seed(u128::from_le_bytes(half))
            .max_random_size(RANDOM_BYTES)
            .wall_clock(clock.clone())
            .monotonic_clock(clock.clone())
            .allow_tcp(false)
            .allow_udp(false)
            .stdout(Output::new("stdout", log.clone()))
            .stderr(stderr.clone());
        let mut table = ResourceTable::new();
        table.set_max_capacity(HANDLES);
        let memory = run.as_ref().and_then(|run| run.granted.as_ref()).map(|granted| granted.memory.clone());
        let memory = memory.unwrap_or_else(|| MemoryLimit { most: limits.memory, key: "limits.memory".to_owned() });
        let host_call = limits.host_call(run.as_ref().and_then(|run| run.granted.as_deref()));
        let generations = Generations::new(limits.models);
        Self {
            wasi: wasi.build(),
            table,
            limiter: Limiter::new(memory, meter.clone()),
            log,
            stderr,
            clock,
            replay,
            tasks,
            host_call,
            generations,
            scratch: Scratch::new(&meter),
            client_tools: None,
            run,
        }
    }

    /// The run; a trap while the component is only asked what it is.
    pub(super) fn active(&mut self, import: &str) -> wasmtime::Result<&mut RunContext> {
        self.run.as_mut().ok_or_else(|| Violation(format!("called `{import}` in `describe`")).into())
    }

    /// Gives the component a handle.
    pub(super) fn hold<T: Send + 'static>(&mut self, what: T) -> wasmtime::Result<Resource<T>> {
        self.table.push(what).map_err(|_| Violation(format!("held more than {HANDLES} handles at once")).into())
    }

    /// Does work on so many bytes of the component's, beside the threads that serve. Its time is the run's.
    pub(super) fn aside<T: Send + 'static, W: FnOnce() -> T + Send + 'static>(
        &self,
        bytes: usize,
        work: W,
    ) -> impl Future<Output = T> + Send + use<T, W> {
        let meter = self.run.as_ref().map(|run| run.meter.clone()).unwrap_or_default();
        aside(bytes, move || meter.aside(work))
    }

    /// Records what the agent says, and waits while there is no room for more.
    pub(super) async fn emit(&mut self, import: &str, emission: Emission<'_>) -> wasmtime::Result<Emitted> {
        let run = self.active(import)?;
        let emitted = match run.port.emit(emission) {
            Ok(emitted) => emitted,
            Err(EmitError::Diverged(why)) => return Err(Diverged(why).into()),
            Err(error) => return Err(Violation(error.to_string()).into()),
        };
        if let Some(room) = run.port.room() {
            room.await;
        }
        self.listen();
        Ok(emitted)
    }

    /// Waits while there is no room for more.
    pub(super) async fn wait_for_room(&mut self, import: &str) -> wasmtime::Result<()> {
        if let Some(room) = self.active(import)?.port.room() {
            room.await;
        }
        Ok(())
    }
}

impl WasiView for RunState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

/// The time as a component sees it: it begins with the run and stands still between the host calls that wait, so that
/// the same answers of the host make the same run.
#[derive(Clone, Debug, Default)]
pub(super) struct Clock {
    nanoseconds: Arc<AtomicU64>,
    /// Whether it goes on only when the component sleeps, which takes no time.
    pub(super) scripted: bool,
}

impl Clock {
    /// Sets the time to now. Called when a host call that waited returns.
    pub(super) fn advance(&self) {
        if !self.scripted {
            self.set(since_1970());
        }
    }

    /// Sets the time, since 1970; it never goes back.
    pub(super) fn set(&self, time: Duration) {
        self.nanoseconds.fetch_max(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The time, in nanoseconds since 1970.
    pub(super) fn nanoseconds(&self) -> u64 {
        self.nanoseconds.load(Ordering::Relaxed)
    }
}

impl HostWallClock for Clock {
    fn resolution(&self) -> Duration {
        Duration::from_millis(1)
    }

    fn now(&self) -> Duration {
        Duration::from_nanos(self.nanoseconds())
    }
}

impl HostMonotonicClock for Clock {
    fn resolution(&self) -> u64 {
        1_000_000
    }

    fn now(&self) -> u64 {
        self.nanoseconds()
    }
}

impl super::bindings::types::Host for RunState {}
