//! The engine that compiles and runs components, and the clock that interrupts them.

mod cache;
mod compiler;
mod component;
mod description;
mod outline;
mod pool;

use std::{
    path::Path,
    pin::pin,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use bytesize::ByteSize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::info;
use wasmtime::{
    Config,
    component::{Component, Linker},
};

use self::{cache::deserialize, compiler::too_long};
pub use self::{
    cache::{CacheError, CodeCache, private_folder},
    compiler::{COMMAND, ChildLimits, Settings, compile, compile_in_children},
    description::Description,
    pool::{Allocator, Pool},
};
pub(crate) use self::{
    component::{Fitting, Loaded, contract, misfit},
    description::{check_words, config_schema, read_description, wants},
};
use crate::{
    bindings,
    failure::first_line,
    refused::Refused,
    sandbox::{Budget, PluginLimits, RunState},
};

/// How often a running component is interrupted. It then goes to the end of the queue of its runtime, so this
/// is about the longest that one component keeps another one waiting.
const TICK: Duration = Duration::from_millis(1);
/// The pause between two lines in the log about one component that is being compiled.
const TELL: Duration = Duration::from_secs(5);
/// How many components that take longer than that are compiled beside the others.
const SLOW: usize = 4;

/// Compiles components and knows what they may import.
#[derive(Clone)]
pub struct Engine {
    pub(super) engine: wasmtime::Engine,
    pub(super) linker: Arc<Linker<RunState>>,
    /// For tool components, which get less.
    pub(super) tool_linker: Arc<Linker<RunState>>,
    /// How code is made.
    settings: Settings,
    /// Where compiled code is kept.
    cache: Option<Arc<CodeCache>>,
    /// For compiling: as many as there are cores.
    permits: Arc<Semaphore>,
    /// For compiling what takes long: the others do not wait for it.
    slow: Arc<Semaphore>,
    /// What all instances have together.
    pub(super) memory: Arc<Budget>,
}

impl Engine {
    /// The engine, and its clock in a thread of its own that ends with it.
    ///
    /// # Errors
    ///
    /// The machine cannot run WebAssembly as it must be run here.
    pub fn new() -> wasmtime::Result<Self> {
        Self::made(Config::new(), Settings::default())
    }

    /// The same, with a pool for the memory of instances.
    ///
    /// # Errors
    ///
    /// Also: the pool does not fit into the addresses of a process.
    pub fn pooled(pool: Pool) -> wasmtime::Result<Self> {
        let mut config = Config::new();
        let settings = pool.configure(&mut config).map_err(wasmtime::Error::msg)?;
        Self::made(config, settings)
    }

    fn made(mut config: Config, settings: Settings) -> wasmtime::Result<Self> {
        settings.configure(&mut config);
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
        Ok(Self {
            engine,
            linker: linker.into(),
            tool_linker: tool_linker.into(),
            settings,
            cache: None,
            permits: Arc::new(Semaphore::new(cores())),
            slow: Arc::new(Semaphore::new(SLOW)),
            memory: Budget::new(usize::MAX),
        })
    }

    /// All instances together have at most this much memory, in bytes: `limits.instances_memory`.
    #[must_use]
    pub fn with_memory(mut self, most: usize) -> Self {
        self.memory = Budget::new(most);
        self
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

    /// The compiled component, from the cache or made now, by a process of its own. `shown` is its name in the log.
    pub(super) async fn compiled(
        &self,
        shown: &str,
        wasm: Bytes,
        sha256: &str,
        limits: &PluginLimits,
    ) -> Result<Component, Refused> {
        let gone = |_| Refused("compiling it was interrupted".to_owned());
        let permit = self.permits.clone().acquire_owned().await.map_err(gone)?;
        let (this, digest) = (self.clone(), sha256.to_owned());
        let kept = blocking(move || this.cache.as_ref().and_then(|cache| cache.get(&this.engine, &digest)));
        if let Some(component) = kept.await? {
            return Ok(component);
        }
        info!(plugin = shown, bytes = wasm.len(), "compiling");
        let began = Instant::now();
        let code = self.code(shown, wasm, limits, permit).await?;
        info!(plugin = shown, ms = began.elapsed().as_millis(), "compiled");
        let (this, digest) = (self.clone(), sha256.to_owned());
        let component = blocking(move || {
            let component = deserialize(&this.engine, &code);
            if let (Ok(_), Some(cache)) = (&component, &this.cache) {
                cache.put(&digest, &code);
            }
            component
        });
        component
            .await?
            .map_err(|error| Refused(format!("its code does not match this server: {}", first_line(&error))))
    }

    /// The code of a component, made now. Gives its `place` to others when it takes long.
    async fn code(
        &self,
        shown: &str,
        wasm: Bytes,
        limits: &PluginLimits,
        permit: OwnedSemaphorePermit,
    ) -> Result<Vec<u8>, Refused> {
        let size = ByteSize::b(wasm.len() as u64).display().iec().to_string();
        let (began, most) = (Instant::now(), limits.compile_timeout);
        let mut made = pin!(compiler::code(&self.engine, self.settings, wasm, limits));
        let (mut permit, mut slow) = (Some(permit), None);
        loop {
            let left = most.saturating_sub(began.elapsed());
            match tokio::time::timeout(TELL.min(left), &mut made).await {
                Ok(made) => return made,
                Err(_) if began.elapsed() >= most => return Err(too_long(most)),
                Err(_) => info!(plugin = shown, seconds = began.elapsed().as_secs(), "still compiling {size}"),
            }
            if slow.is_none() {
                slow = self.slow.clone().try_acquire_owned().ok();
                permit.take_if(|_| slow.is_some());
            }
        }
    }
}

/// Does what may block a thread.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refused> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Refused(format!("loading it failed: {error}")))
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
