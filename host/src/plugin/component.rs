//! From a file to a component that fits, or to a sentence that says why it does not.

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use wasmtime::{Store, component::Component};

use super::{
    bindings::{self, AgentPre},
    engine::Engine,
    failure::RunFailure,
    grants::{SCHEMA_BYTES, Wants, validator},
    limits::PluginLimits,
    state::RunState,
};

/// The contract that this server serves: `outlast:agent@0.1.x`.
const CONTRACT: &str = "outlast:agent@0.1.0";
/// How long `describe` may take.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(1);

/// What a component says about itself, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// The agent's name: what clients send as `model`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What it does.
    pub about: String,
    /// The JSON Schema of its configuration.
    pub config_schema: Option<Value>,
    /// What it wants to be granted.
    pub wants: Wants,
}

/// Why a component is not served, in a sentence for the operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// A component that fits.
pub(super) struct Loaded {
    pub(super) pre: AgentPre<RunState>,
    pub(super) sha256: String,
    pub(super) description: Description,
    /// Whether it imports the interface `model`.
    pub(super) uses_models: bool,
    /// The names of its imports.
    pub(super) imports: Vec<String>,
}

impl Engine {
    /// Compiles a component, checks that it fits, and asks it what it is.
    pub(super) async fn load(&self, shown: &str, wasm: Bytes, limits: &PluginLimits) -> Result<Loaded, Refused> {
        check_header(&wasm)?;
        let sha256 = hex::encode(Sha256::digest(&wasm));
        let component = self.compiled(shown, wasm, &sha256, limits.compile_timeout).await?;
        self.check_contract(&component)?;
        let pre = self
            .linker
            .instantiate_pre(&component)
            .map_err(|error| Refused(format!("it does not fit the contract {CONTRACT}: {}", first_line(&error))))?;
        let pre = AgentPre::new(pre)
            .map_err(|error| Refused(format!("it does not fit the contract {CONTRACT}: {}", first_line(&error))))?;
        let description = self.describe(&pre, limits).await?;
        let shape = component.component_type();
        let imports: Vec<_> = shape.imports(&self.engine).map(|(name, _)| name.to_owned()).collect();
        let uses_models = imports.iter().any(|name| name.starts_with("outlast:agent/model@"));
        Ok(Loaded { pre, sha256, description, uses_models, imports })
    }

    /// Names the first import or export that does not fit, in words that an operator understands: the linker
    /// would only say that something is missing.
    fn check_contract(&self, component: &Component) -> Result<(), Refused> {
        let shape = component.component_type();
        for (name, _) in shape.imports(&self.engine) {
            // A name may be as long as its file.
            let name = super::failure::shorten(name, 200);
            if let Some((_, version)) = name.split_once('@')
                && name.starts_with("outlast:agent/")
                && !version.starts_with("0.1.")
            {
                let message = format!(
                    "it was built for the contract outlast:agent@{version}; this server serves {CONTRACT} \
                     (the first import that does not fit is `{name}`)"
                );
                return Err(Refused(message));
            }
            if !name.starts_with("outlast:agent/") && !name.starts_with("wasi:") {
                return Err(Refused(format!(
                    "it imports `{name}`, which this server does not provide: agents get {CONTRACT} and WASI 0.2"
                )));
            }
            if name.starts_with("wasi:http") {
                return Err(Refused(format!("it imports `{name}`: agents have no network of their own")));
            }
        }
        let exports: Vec<_> = shape.exports(&self.engine).map(|(name, _)| name.to_owned()).collect();
        for needed in ["describe", "run"] {
            if !exports.iter().any(|name| name == needed) {
                let message = format!(
                    "it does not export `{needed}`, so it is not an agent for {CONTRACT} (it exports: {})",
                    shown(&exports)
                );
                return Err(Refused(message));
            }
        }
        Ok(())
    }

    async fn describe(&self, pre: &AgentPre<RunState>, limits: &PluginLimits) -> Result<Description, Refused> {
        let mut store = self.store(RunState::new("describe", "describe", limits, None));
        let stderr = store.data().stderr.clone();
        let call = async {
            let agent = pre.instantiate_async(&mut store).await?;
            agent.call_describe(&mut store).await
        };
        match tokio::time::timeout(DESCRIBE_TIMEOUT, call).await {
            Ok(Ok(description)) => checked(description),
            Ok(Err(error)) => {
                let failure = RunFailure::from_trap(&error, &stderr.tail());
                Err(Refused(format!("its `describe` failed: {}", failure.operator)))
            }
            Err(_) => Err(Refused(format!("its `describe` did not return within {DESCRIBE_TIMEOUT:?}"))),
        }
    }

    /// A store whose component is interrupted with every tick and has its limits.
    pub(super) fn store(&self, state: RunState) -> Store<RunState> {
        let mut store = Store::new(&self.engine, state);
        store.limiter(|state| &mut state.limiter);
        store.set_epoch_deadline(1);
        store.epoch_deadline_async_yield_and_update(1);
        store
    }
}

fn check_header(wasm: &[u8]) -> Result<(), Refused> {
    match wasm {
        [0, b'a', b's', b'm', 0x0d, 0, 1, 0, ..] => Ok(()),
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => Err(Refused(
            "it is a core WebAssembly module, not a component; build it with `--target wasm32-wasip2`".to_owned(),
        )),
        [0, b'a', b's', b'm', ..] => {
            Err(Refused("it is WebAssembly of a version that this server does not know".to_owned()))
        }
        [] => Err(Refused("it is empty".to_owned())),
        _ => Err(Refused("it is not WebAssembly".to_owned())),
    }
}

fn checked(given: bindings::types::Description) -> Result<Description, Refused> {
    let refuse = |what: &str| Err(Refused(format!("its `describe` is wrong: {what}")));
    let name = given.name;
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let first = name.bytes().next().is_some_and(word);
    if !first || name.len() > 64 || !name.bytes().all(|byte| word(byte) || b"-_.".contains(&byte)) {
        let shown = super::failure::shorten(&name, 80);
        return refuse(&format!(
            "the name `{shown}` must be 1 to 64 of a-z, 0-9, `-`, `_`, `.`, and start with a letter or digit"
        ));
    }
    if given.version.len() > 64 || given.about.len() > 1_024 {
        return refuse("`version` may have 64 bytes and `about` 1,024");
    }
    let config_schema = match given.config_schema {
        None => None,
        Some(text) if text.len() > SCHEMA_BYTES => {
            return refuse(&format!("`config-schema` has {} bytes, and may have {SCHEMA_BYTES}", text.len()));
        }
        Some(text) => match serde_json::from_str(&text) {
            Ok(schema @ Value::Object(_)) => match validator(&schema) {
                Ok(_) => Some(schema),
                Err(why) => return refuse(&why),
            },
            _ => return refuse("`config-schema` is not a JSON object"),
        },
    };
    let wants = match given.wants.as_deref().map_or(Ok(Wants::default()), Wants::read) {
        Ok(wants) => wants,
        Err(why) => return refuse(&why),
    };
    Ok(Description { name, version: given.version, about: given.about, config_schema, wants })
}

/// Some of these names.
fn shown(names: &[String]) -> String {
    const MOST: usize = 10;
    let first = names.iter().take(MOST).map(|name| super::failure::shorten(name, 80)).collect::<Vec<_>>().join(", ");
    match names.len() {
        0 => "nothing".to_owned(),
        count if count > MOST => format!("{first} and {} more", count - MOST),
        _ => first,
    }
}

pub(super) fn first_line(error: &wasmtime::Error) -> String {
    let text = format!("{error:#}");
    super::failure::shorten(text.lines().next().unwrap_or_default(), 500)
}
