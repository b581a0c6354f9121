//! The engine that compiles and runs components, and the clock that interrupts them.

use std::{sync::Arc, thread, time::Duration};

use wasmtime::{Config, component::Linker};

use super::{bindings, state::RunState};

/// How often a running component is interrupted. It then goes to the end of the queue of its runtime, so this
/// is about the longest that one component keeps another one waiting.
const TICK: Duration = Duration::from_millis(1);

/// Compiles components and knows what they may import.
#[derive(Clone)]
pub struct Engine {
    pub(super) engine: wasmtime::Engine,
    pub(super) linker: Arc<Linker<RunState>>,
}

impl Engine {
    /// The engine, and its clock in a thread of its own that ends with it.
    ///
    /// # Errors
    ///
    /// The machine cannot run WebAssembly as it must be run here.
    pub fn new() -> wasmtime::Result<Self> {
        let mut config = Config::new();
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
        let weak = engine.weak();
        thread::Builder::new().name("outlast-epoch".to_owned()).spawn(move || {
            while let Some(engine) = weak.upgrade() {
                engine.increment_epoch();
                drop(engine);
                thread::sleep(TICK);
            }
        })?;
        Ok(Self { engine, linker: linker.into() })
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Engine")
    }
}
