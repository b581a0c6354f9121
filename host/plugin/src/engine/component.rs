//! From a file to a component that fits, or to a sentence that says why it does not.

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use outlast_runtime::aside::aside;
use sha2::{Digest as _, Sha256};
use wasmtime::{Store, UpdateDeadline, component::Component};

use super::{
    Engine,
    description::{self, Description, read_description},
    outline::{Outline, may_have, outline},
};
use crate::{
    bindings::AgentPre,
    failure::{RunFailure, first_line, shorten},
    refused::Refused,
    sandbox::{MEMORIES, PluginLimits, RunState, TABLES, places},
};

/// The contract that this server serves: `outlast:agent@0.1.x`.
const CONTRACT: &str = "outlast:agent@0.1.0";
/// How long `describe` may take.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(1);

/// What tool components get of the contract.
const TOOL_IMPORTS: [&str; 5] = ["types", "tasks", "http", "config", "log"];

/// A component that fits one of the two worlds, as far as its imports and exports say.
pub(crate) struct Fitting {
    pub(crate) component: Component,
    pub(crate) sha256: String,
    /// The names of its imports.
    pub(crate) imports: Vec<String>,
    /// Whether it is a tool component, not an agent.
    pub(crate) is_tool: bool,
    /// How many places an instance of it takes.
    pub(crate) places: u32,
}

/// An agent's component that fits.
pub(crate) struct Loaded {
    pub(crate) pre: AgentPre<RunState>,
    pub(crate) sha256: String,
    pub(crate) description: Description,
    /// Whether it imports the interface `model`.
    pub(crate) uses_models: bool,
    /// The names of its imports.
    pub(crate) imports: Vec<String>,
    /// How many places an instance of it takes.
    pub(crate) places: u32,
}

impl Engine {
    /// Compiles a component, and checks what it imports and exports.
    pub(crate) async fn fitting(&self, shown: &str, wasm: Bytes, limits: &PluginLimits) -> Result<Fitting, Refused> {
        check_header(&wasm)?;
        let bytes = wasm.clone();
        let (sha256, outline) = aside(wasm.len(), move || (hex::encode(Sha256::digest(&bytes)), outline(&bytes))).await;
        let Outline { imports, exports, memories, tables, large_tables } = outline?;
        check_imports(imports.iter().map(String::as_str), is_tool(&exports))?;
        check_exports(&exports)?;
        let component = self.compiled(shown, wasm, &sha256, limits).await?;
        let shape = component.component_type();
        let imports = shape.imports(&self.engine).map(|(name, _)| name.to_owned()).collect();
        let exports: Vec<_> = shape.exports(&self.engine).map(|(name, _)| name.to_owned()).collect();
        let is_tool = is_tool(&exports);
        self.check_contract(&component, is_tool)?;
        // A module may be there once and be used several times.
        let needed = component.resources_required();
        let (memories, tables) =
            needed.map_or((memories, tables), |it| (it.num_memories as usize, it.num_tables as usize));
        may_have("memories", memories, MEMORIES)?;
        may_have("tables", tables, TABLES)?;
        let places = places(memories, if large_tables > 0 { tables } else { 0 });
        Ok(Fitting { component, sha256, imports, is_tool, places })
    }

    /// An agent's component, which is asked what it is.
    pub(crate) async fn load(&self, fitting: Fitting, limits: &PluginLimits) -> Result<Loaded, Refused> {
        let Fitting { component, sha256, imports, is_tool, places } = fitting;
        if is_tool {
            return Err(Refused("it is a tool component, not an agent: it exports `call`, not `run`".to_owned()));
        }
        let pre = self.linker.instantiate_pre(&component).and_then(AgentPre::new).map_err(misfit)?;
        let asked = self.described(limits, |store| {
            let pre = pre.clone();
            Box::pin(async move { pre.instantiate_async(&mut *store).await?.call_describe(store).await })
        });
        let given = asked.await?;
        let description = read_description(move || description::checked(given)).await?;
        let uses_models = imports.iter().any(|name| name.starts_with("outlast:agent/model@"));
        Ok(Loaded { pre, sha256, description, uses_models, imports, places })
    }

    /// Names the first import or export that does not fit, in words that an operator understands: the linker
    /// would only say that something is missing.
    fn check_contract(&self, component: &Component, is_tool: bool) -> Result<(), Refused> {
        let shape = component.component_type();
        check_imports(shape.imports(&self.engine).map(|(name, _)| name), is_tool)?;
        let exports: Vec<_> = shape.exports(&self.engine).map(|(name, _)| name.to_owned()).collect();
        check_exports(&exports)
    }

    /// What a component says of itself, in an instance of its own, with every import refused.
    pub(crate) async fn described<T>(
        &self,
        limits: &PluginLimits,
        ask: impl for<'a> FnOnce(&'a mut Store<RunState>) -> BoxFuture<'a, wasmtime::Result<T>> + Send,
    ) -> Result<T, Refused> {
        let mut store = self.store(RunState::new("describe", "describe", limits, None));
        let stderr = store.data().stderr.clone();
        match tokio::time::timeout(DESCRIBE_TIMEOUT, ask(&mut store)).await {
            Ok(Ok(description)) => Ok(description),
            Ok(Err(error)) => {
                let failure = RunFailure::from_trap("The agent", &error, &stderr.tail());
                Err(Refused(format!("its `describe` failed: {}", failure.operator)))
            }
            Err(_) => Err(Refused(format!("its `describe` did not return within {DESCRIBE_TIMEOUT:?}"))),
        }
    }

    /// A store whose component is interrupted with every tick and has its limits.
    pub(crate) fn store(&self, mut state: RunState) -> Store<RunState> {
        state.limiter.share(&self.memory);
        let mut store = Store::new(&self.engine, state);
        store.set_hostcall_fuel(store.data().host_call);
        store.limiter(|state| &mut state.limiter);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|store| {
            store.data().limiter.check()?;
            Ok(UpdateDeadline::Yield(1))
        });
        store
    }
}

/// Whether a component with these exports is a tool component.
fn is_tool(exports: &[String]) -> bool {
    let has = |export: &str| exports.iter().any(|name| name == export);
    has("call") && !has("run")
}

/// Names the first export that is missing.
fn check_exports(exports: &[String]) -> Result<(), Refused> {
    let (exported, what) = if is_tool(exports) { ("call", "a tool component") } else { ("run", "an agent") };
    for needed in ["describe", exported] {
        if !exports.iter().any(|name| name == needed) {
            let message = format!(
                "it does not export `{needed}`, so it is not {what} for {CONTRACT} (it exports: {})",
                shown(exports)
            );
            return Err(Refused(message));
        }
    }
    Ok(())
}

/// Names the first import that does not fit.
fn check_imports<'a>(imports: impl Iterator<Item = &'a str>, is_tool: bool) -> Result<(), Refused> {
    let who = if is_tool { "tool components" } else { "agents" };
    for name in imports {
        // A name may be as long as its file.
        let name = shorten(name, 200);
        if let Some((_, version)) = name.split_once('@')
            && name.starts_with("outlast:agent/")
            && !version.starts_with("0.1.")
        {
            let message = format!(
                "it was built for the contract outlast:agent@{version}; this server serves {CONTRACT} (the first \
                 import that does not match is `{name}`)"
            );
            return Err(Refused(message));
        }
        if !name.starts_with("outlast:agent/") && !name.starts_with("wasi:") {
            return Err(Refused(format!(
                "it imports `{name}`, which this server does not provide: {who} have {CONTRACT} and WASI 0.2"
            )));
        }
        if name.starts_with("wasi:http") {
            return Err(Refused(format!("it imports `{name}`: {who} have no network of their own")));
        }
        if let Some((interface, _)) = name.strip_prefix("outlast:agent/").and_then(|name| name.split_once('@'))
            && (is_tool && !TOOL_IMPORTS.contains(&interface) || !is_tool && interface == "config")
        {
            return Err(Refused(format!(
                "it imports `{name}`, which {who} do not have: by its exports it is a component of the world `{}` does",
                if is_tool { "tool" } else { "agent" }
            )));
        }
    }
    Ok(())
}

fn check_header(wasm: &[u8]) -> Result<(), Refused> {
    match wasm {
        [0, b'a', b's', b'm', 0x0d, 0, 1, 0, ..] => Ok(()),
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => Err(Refused(
            "it is a core WebAssembly module, not a component; build it with `--target wasm32-wasip2`".to_owned(),
        )),
        [0, b'a', b's', b'm', ..] => {
            Err(Refused("it is WebAssembly of a version that this server does not support".to_owned()))
        }
        [] => Err(Refused("it is empty".to_owned())),
        _ => Err(Refused("it is not WebAssembly".to_owned())),
    }
}

/// A component that the linker does not take.
pub(crate) fn misfit(error: wasmtime::Error) -> Refused {
    Refused(format!("it does not match the contract {CONTRACT}: {}", first_line(&error)))
}

/// Some of these names.
fn shown(names: &[String]) -> String {
    const MOST: usize = 10;
    let first = names.iter().take(MOST).map(|name| shorten(name, 80)).collect::<Vec<_>>().join(", ");
    match names.len() {
        0 => "nothing".to_owned(),
        count if count > MOST => format!("{first} and {} more", count - MOST),
        _ => first,
    }
}

/// The contract that a component with these imports was built for.
pub(crate) fn contract(imports: &[String]) -> String {
    let version = imports.iter().find_map(|name| name.strip_prefix("outlast:agent/")?.split_once('@'));
    version.map_or_else(|| "outlast:agent".to_owned(), |(_, version)| format!("outlast:agent@{version}"))
}
