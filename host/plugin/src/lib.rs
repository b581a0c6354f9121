//! What a plugin is.
//!
//! A plugin is a WebAssembly component that fits a world of `wit/`: `agent`, or `tool` for functions that agents call.
//! It is loaded once ([`Registry`]), checked, asked what it is ([`Agent`], [`ToolComponent`]), and instantiated anew for
//! every run, or every call of a tool: one wasmtime `Store` each, dropped at its end. While a run waits in a host call,
//! its instance is a suspended fibre that holds no thread.
//!
//! There is one file or folder per WIT interface that is served: `respond`, `model`, `tasks`, `http`, `tools`, `context`,
//! `log`, and `state` in `kept`.
//!
//! A plugin is hostile until proven otherwise. It has no files, no sockets, no environment and no real clock; its
//! memory, tables, handles and output are limited; a loop is interrupted every millisecond so that others go on
//! and a stop is heard. Whatever it does ends its own run and nothing else.

#![deny(unsafe_code)]
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod bindings;
mod cache;
mod compiler;
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
mod json;
mod kept;
mod limits;
mod log;
mod memory;
mod meter;
mod model;
mod oci;
mod outline;
mod output;
mod pool;
mod port;
mod pull;
mod registry;
mod respond;
mod rollback;
mod secret;
mod signature;
mod source;
mod state;
mod tasks;
mod tools;

pub use bindings::BINDINGS;
pub use cache::private_folder;
pub use cache::{CacheError, CodeCache};
pub use compiler::{COMMAND, ChildLimits, Settings, compile, compile_in_children};
pub use component::{Description, Refused};
pub use engine::Engine;
pub use failure::RunFailure;
pub use fetched::{Fetched, put, remove};
pub use folder::{Change, Folder, FolderError, Serving, Trust, components, read_component};
pub use grants::{
    AgentConfig, GrantError, Grants, HostGrant, HttpGrant, ModelGrant, ModelPattern, Pin, Section, StateSize, Template,
    TimeLimit, WantedHost, Wants,
};
pub use http::{HostPattern, HttpLimits, PrivateNetworks};
pub use instance::{Agent, Outcome, RunContext};
pub use journal::Entry;
pub use limits::{CallLimits, PluginLimits};
pub use meter::{Held, Meter, Used, thread_time};
pub use oci::{Artifact, FetchLimits, OciReference, SIGNATURE};
pub use pool::{Allocator, Pool};
pub use port::{LogLine, LogPort, RunPort, StateChange, StateError, StatePort, StateSpot};
pub use pull::pull;
pub use registry::{BUNDLED, Plugin, Registry};
pub use rollback::PluginVersion;
pub use secret::RunSecret;
pub use signature::{PublicKey, Signatures, SigningKey, read_signature, signature_path};
pub use source::{Source, one_or_many};
pub use tools::{
    McpConfig, ScriptedTool, ToolComponent, ToolConfig, ToolDescription, ToolFunction, ToolGrant, ToolLimits,
    ToolPattern, ToolScript, Toolbox, ToolsConfig,
};

/// What an entry of an agent's state counts beside its key and its value, in bytes.
pub const STATE_ENTRY: u32 = 100;
