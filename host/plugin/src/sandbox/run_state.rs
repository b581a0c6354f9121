//! What the host keeps for one instance: the data of its `Store`.

use std::{sync::Arc, time::Duration};

use outlast_protocol::{ClientTools, Emission, EmitError, Emitted};
use outlast_runtime::aside::aside;
use rand_chacha::{ChaCha12Rng, rand_core::SeedableRng as _};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use wasmtime::component::{Resource, ResourceTable};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::{
    clock::LogicalClock,
    context::RunContext,
    generations::Generations,
    granted::host_call,
    limiter::Limiter,
    limits::{HANDLES, MemoryLimit, PluginLimits, RANDOM_BYTES},
    output::Output,
    replay::{Replay, digest, line},
    run_log::RunLog,
    scratch::Scratch,
    secret::RunSecret,
    tasks::Tasks,
};
use crate::{
    bindings::types::Failure,
    failure::{Diverged, Violation, cancelled},
};

/// The data of one instance's `Store`.
pub(crate) struct RunState {
    wasi: WasiCtx,
    pub(crate) table: ResourceTable,
    pub(crate) limiter: Limiter,
    pub(crate) log: Arc<RunLog>,
    pub(crate) stderr: Output,
    pub(crate) clock: LogicalClock,
    pub(crate) replay: Replay,
    /// What goes on beside the component.
    pub(crate) tasks: Tasks,
    /// How many tools were called.
    pub(crate) tools_called: u64,
    /// The most that the component may hand over in one call, in bytes.
    pub(crate) host_call: usize,
    /// The longest text of an event, in bytes: `limits.event_bytes`.
    pub(crate) event_bytes: usize,
    /// What it holds of calls of models.
    pub(crate) generations: Generations,
    /// What the component keeps for this run alone.
    pub(crate) scratch: Scratch,
    /// The tools that the client offers, once they were asked for.
    pub(crate) client_tools: Option<Arc<ClientTools>>,
    /// None while the component is only asked what it is.
    pub(crate) run: Option<RunContext>,
}

impl RunState {
    /// The state for a run, or for `describe` when there is none. `id` is how it is called in the log.
    pub(crate) fn new(agent: &str, id: &str, limits: &PluginLimits, mut run: Option<RunContext>) -> Self {
        let port = run.as_ref().and_then(|run| run.log.clone());
        let meter = run.as_ref().map(|run| run.meter.clone()).unwrap_or_default();
        let log = Arc::new(RunLog::new(agent, id, limits, port));
        let stderr = Output::new("stderr", log.clone());
        let source = run.as_ref().map(|run| run.clock.clone()).unwrap_or_default();
        let clock = LogicalClock::new(source.clone(), run.as_ref().is_some_and(|run| run.scripted_time.is_some()));
        let entries = run.as_mut().map(|run| {
            clock.set(run.scripted_time.unwrap_or(Duration::from_nanos(run.began)));
            std::mem::take(&mut run.entries)
        });
        let (replay, answers) = Replay::new(entries.unwrap_or_default(), &meter);
        let port = run.as_ref().filter(|run| run.journaled).map(|run| run.port.clone());
        let tasks = Tasks::new(port, source, answers, meter.clone());
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
        let host_call = host_call(limits, run.as_ref().and_then(|run| run.granted.as_deref()));
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
            tools_called: 0,
            host_call,
            event_bytes: limits.event_bytes,
            generations,
            scratch: Scratch::new(&meter),
            client_tools: None,
            run,
        }
    }

    /// The run; a trap while the component is only asked what it is.
    pub(crate) fn active(&mut self, import: &str) -> wasmtime::Result<&mut RunContext> {
        self.run.as_mut().ok_or_else(|| Violation(format!("called `{import}` in `describe`")).into())
    }

    /// Gives the component a handle.
    pub(crate) fn hold<T: Send + 'static>(&mut self, what: T) -> wasmtime::Result<Resource<T>> {
        self.table.push(what).map_err(|_| Violation(format!("held more than {HANDLES} open handles")).into())
    }

    /// Does work on so many bytes of the component's, beside the threads that serve. Its time is the run's.
    pub(crate) fn aside<T: Send + 'static, W: FnOnce() -> T + Send + 'static>(
        &self,
        bytes: usize,
        work: W,
    ) -> impl Future<Output = T> + Send + use<T, W> {
        let meter = self.run.as_ref().map(|run| run.meter.clone()).unwrap_or_default();
        aside(bytes, move || meter.aside(work))
    }

    /// Records what the agent says, and waits while there is no room for more.
    pub(crate) async fn emit(&mut self, import: &str, emission: Emission<'_>) -> wasmtime::Result<Emitted> {
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
    pub(crate) async fn wait_for_room(&mut self, import: &str) -> wasmtime::Result<()> {
        if let Some(room) = self.active(import)?.port.room() {
            room.await;
        }
        Ok(())
    }

    /// What this import answered before; none when it has to be asked. The time of the run becomes what it was.
    pub(crate) fn replayed<T: for<'a> Deserialize<'a>>(
        &mut self,
        name: &str,
        digest: &str,
    ) -> wasmtime::Result<Option<T>> {
        let Some(entry) = self.replay.take(name, digest)? else {
            if let Some(run) = self.run.as_ref().filter(|run| run.port.replaying()) {
                let next = run.port.position().0;
                return Err(Diverged(format!("diverged at event {next}: expected more events, got `{name}`")).into());
            }
            return Ok(None);
        };
        self.clock.set(Duration::from_nanos(entry.time));
        self.listen();
        let wrong = |error| Diverged(format!("has an entry `{name}` that cannot be read: {error}"));
        Ok(Some(serde_json::from_value(entry.answer).map_err(wrong)?))
    }

    /// Whether the answer of this import to these arguments comes next.
    pub(crate) fn is_next(&self, name: &str, digest: &str) -> bool {
        self.replay.peek().is_some_and(|entry| entry.name == name && entry.digest == digest)
    }

    /// The same, where something else may come next: none when it does.
    pub(crate) fn replayed_if_next<T: for<'a> Deserialize<'a>>(&mut self, name: &str) -> wasmtime::Result<Option<T>> {
        match self.replay.peek() {
            Some(entry) if entry.name == name => self.replayed(name, ""),
            _ => Ok(None),
        }
    }

    /// Keeps what an import has answered, and waits while there is no room for more.
    pub(crate) async fn record(
        &mut self,
        name: &str,
        digest: String,
        answer: &(impl Serialize + Sync),
    ) -> wasmtime::Result<()> {
        self.listen();
        if !self.active(name)?.journaled {
            return Ok(());
        }
        let entry = self.entry(name, &digest, answer)?;
        self.active(name)?.port.journal(&entry).map_err(|error| Violation(error.to_string()))?;
        self.wait_for_room(name).await
    }

    /// The line that says what an import answers now.
    pub(crate) fn entry(&self, name: &str, digest: &str, answer: &impl Serialize) -> wasmtime::Result<String> {
        Ok(line(name, digest, self.clock.nanoseconds(), answer)?)
    }

    /// Lets the run be heard in the log again once all of it has been replayed.
    pub(crate) fn listen(&self) {
        if self.log.is_quiet() && self.replay.is_over() && self.run.as_ref().is_none_or(|run| !run.port.replaying()) {
            self.log.quiet(false);
            if let Some(run) = &self.run {
                run.port.live();
            }
        }
    }

    /// Waits for the answer of a task and takes it. The failure is that the run is being cancelled.
    pub(crate) async fn take_answer<T: DeserializeOwned>(
        &mut self,
        import: &str,
        number: u64,
    ) -> wasmtime::Result<Result<T, Failure>> {
        let which = digest(&[&number.to_le_bytes()]);
        let stop = self.active(import)?.stop.clone();
        let before = self.replayed::<()>(import, &which)?.is_some();
        let there = self.tasks.there(number).ok_or_else(|| wasmtime::Error::msg("a task whose answer was received"))?;
        if !before {
            if stop.run_until_cancelled(there.cancelled()).await.is_none() {
                return Ok(Err(cancelled()));
            }
            self.clock.advance();
            self.record(import, which, &()).await?;
        }
        match self.tasks.take(number) {
            Some(Ok(answer)) => Ok(Ok(serde_json::from_value(answer)
                .map_err(|error| Diverged(format!("has an answer of task {number} that cannot be read: {error}")))?)),
            Some(Err(why)) => Err(Violation(why).into()),
            None => Err(Diverged(format!("received the answer of task {number}, which is not in its journal")).into()),
        }
    }
}

impl WasiView for RunState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}
