//! The engine that compiles and runs components, and the clock that interrupts them.

use std::{
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use bytesize::ByteSize;
use tokio::sync::Semaphore;
use tracing::info;
use wasmtime::{
    Config,
    component::{Component, Linker},
};

use super::{
    bindings,
    cache::{CacheError, CodeCache},
    component::{Refused, first_line},
    pool::Pool,
    state::RunState,
};

/// How often a running component is interrupted. It then goes to the end of the queue of its runtime, so this
/// is about the longest that one component keeps another one waiting.
const TICK: Duration = Duration::from_millis(1);
/// The pause between two lines in the log about one component that is being compiled.
const TELL: Duration = Duration::from_secs(5);

/// Compiles components and knows what they may import.
#[derive(Clone)]
pub struct Engine {
    pub(super) engine: wasmtime::Engine,
    pub(super) linker: Arc<Linker<RunState>>,
    /// For tool components, which get less.
    pub(super) tool_linker: Arc<Linker<RunState>>,
    /// Where compiled code is kept.
    cache: Option<Arc<CodeCache>>,
    /// For compiling: as many as there are cores.
    places: Arc<Semaphore>,
}

impl Engine {
    /// The engine, and its clock in a thread of its own that ends with it.
    ///
    /// # Errors
    ///
    /// The machine cannot run WebAssembly as it must be run here.
    pub fn new() -> wasmtime::Result<Self> {
        Self::made(Config::new())
    }

    /// The same, with a pool for the memory of instances.
    ///
    /// # Errors
    ///
    /// Also: the pool does not fit into the addresses of a process.
    pub fn pooled(pool: Pool) -> wasmtime::Result<Self> {
        let mut config = Config::new();
        pool.configure(&mut config).map_err(wasmtime::Error::msg)?;
        Self::made(config)
    }

    fn made(mut config: Config) -> wasmtime::Result<Self> {
        config.epoch_interruption(true);
        // Only blocking functions cross the border so far; without support for others, calls are cheaper.
        config.concurrency_support(false);
        // The same component with the same answers from its imports does the same, on every machine.
        config.cranelift_nan_canonicalization(true);
        config.relaxed_simd_deterministic(true);
        let engine = wasmtime::Engine::new(&config)?;
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        bindings::Agent::add_to_linker::<_, wasmtime::component::HasSelf<_>>(&mut linker, |state| state)?;
        let mut tool_linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut tool_linker)?;
        bindings::tool::Tool::add_to_linker::<_, wasmtime::component::HasSelf<_>>(&mut tool_linker, |state| state)?;
        let weak = engine.weak();
        thread::Builder::new().name("outlast-epoch".to_owned()).spawn(move || {
            while let Some(engine) = weak.upgrade() {
                engine.increment_epoch();
                drop(engine);
                thread::sleep(TICK);
            }
        })?;
        let places = Arc::new(Semaphore::new(cores()));
        Ok(Self { engine, linker: linker.into(), tool_linker: tool_linker.into(), cache: None, places })
    }

    /// Keeps compiled code in a folder, and takes it from there.
    ///
    /// # Errors
    ///
    /// The folder is not fit for it: see [`CodeCache`].
    pub fn cached_in(mut self, folder: &Path) -> Result<Self, CacheError> {
        self.cache = Some(Arc::new(CodeCache::open(folder, &self.engine)?));
        Ok(self)
    }

    /// The compiled component, from the cache or made now, in a thread that may block. `shown` is its name in the log.
    ///
    /// A thread that compiles cannot be stopped. One that takes longer than `most` is not waited for, and others take its
    /// place; what it makes is kept for the next start.
    pub(super) async fn compiled(
        &self,
        shown: &str,
        wasm: Bytes,
        sha256: &str,
        most: Duration,
    ) -> Result<Component, Refused> {
        let gone = |_| Refused("compiling it was cut off".to_owned());
        let _place = self.places.acquire().await.map_err(gone)?;
        let size = ByteSize::b(wasm.len() as u64).display().iec().to_string();
        let (this, name, sha256) = (self.clone(), shown.to_owned(), sha256.to_owned());
        let mut compiled = tokio::task::spawn_blocking(move || this.compile(&name, &wasm, &sha256));
        let began = Instant::now();
        loop {
            let left = most.saturating_sub(began.elapsed());
            match tokio::time::timeout(TELL.min(left), &mut compiled).await {
                Ok(done) => return done.map_err(|error| Refused(format!("compiling it failed: {error}")))?,
                Err(_) if began.elapsed() >= most => {
                    return Err(Refused(format!(
                        "compiling it takes longer than {most:?} (limits.plugin_compile_timeout); its {size} are being \
                         compiled still, for the next start"
                    )));
                }
                Err(_) => info!(plugin = shown, seconds = began.elapsed().as_secs(), "compiling {size}, still"),
            }
        }
    }

    fn compile(&self, shown: &str, wasm: &[u8], sha256: &str) -> Result<Component, Refused> {
        if let Some(component) = self.cache.as_ref().and_then(|cache| cache.get(&self.engine, sha256)) {
            return Ok(component);
        }
        info!(plugin = shown, bytes = wasm.len(), "compiling");
        let began = Instant::now();
        let component = Component::new(&self.engine, wasm)
            .map_err(|error| Refused(format!("it is not a valid component: {}", first_line(&error))))?;
        info!(plugin = shown, ms = began.elapsed().as_millis(), "compiled");
        if let Some(cache) = &self.cache {
            cache.put(sha256, &component);
        }
        Ok(component)
    }
}

/// How many components are loaded at once.
pub(super) fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Engine")
    }
}
