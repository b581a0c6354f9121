//! What a plugin is.
//!
//! A plugin is a WebAssembly component that fits the world `outlast:agent/agent` of `wit/`. It is loaded once
//! ([`Registry`]), checked, asked what it is ([`Agent`]), and instantiated anew for every run: one wasmtime
//! `Store` a run, dropped at its end. While a run waits in a host call, its instance is a suspended fibre that
//! holds no thread.
//!
//! There is one file per WIT interface that is served: `respond`, `model`, `tasks`, `http`, `context`, `log`, and
//! `state` in `kept`.
//!
//! A plugin is hostile until proven otherwise. It has no files, no sockets, no environment and no real clock; its
//! memory, tables, handles and output are limited; a loop is interrupted every millisecond so that others go on
//! and a stop is heard. Whatever it does ends its own run and nothing else.

mod bindings;
mod cache;
mod component;
mod context;
mod engine;
mod failure;
mod fetched;
mod folder;
mod grants;
mod http;
mod instance;
mod journal;
mod kept;
mod limits;
mod log;
mod meter;
mod model;
mod oci;
mod output;
mod pool;
mod port;
mod registry;
mod respond;
mod signature;
mod source;
mod state;
mod tasks;

pub use cache::{CacheError, CodeCache};
pub use component::{Description, Refused};
pub use engine::Engine;
pub use failure::RunFailure;
pub use fetched::{Fetched, put, remove};
pub use folder::{Change, Folder, FolderError, Trust, components, read_component};
pub use grants::{
    AgentConfig, GrantError, Grants, HttpGrant, ModelGrant, ModelPattern, Pin, StateSize, Template, TimeLimit,
    WantedHost, Wants,
};
pub use http::{HostPattern, HttpLimits, PrivateNetworks};
pub use instance::{Agent, Outcome, RunContext};
pub use journal::Entry;
pub use limits::PluginLimits;
pub use meter::{Meter, Used};
pub use oci::{Artifact, FetchLimits, OciReference, SIGNATURE, pull};
pub use pool::{Allocator, Pool};
pub use port::{LogLine, LogPort, RunPort, StateChange, StateError, StatePort, StateSpot};
pub use registry::{BUNDLED, Registry};
pub use signature::{PublicKey, Signatures, SigningKey, read_signature, signature_path};
pub use source::Source;
pub(crate) use source::one_or_many;

/// What an entry of an agent's state counts beside its key and its value, in bytes.
pub const STATE_ENTRY: u32 = 100;
