//! What a plugin is.
//!
//! A plugin is a WebAssembly component that fits a world of `wit/`: `agent`, or `tool` for functions that agents call.
//! It is loaded once ([`Registry`]), checked, asked what it is ([`Agent`], [`ToolComponent`]), and instantiated anew for
//! every run, or every call of a tool: one wasmtime `Store` each, dropped at its end. While a run waits in a host call,
//! its instance is a suspended fibre that holds no thread.
//!
//! The crate is made of rooms, each of which knows only those below it; the test in `floors` keeps it so. From the top:
//!
//! - `supply`: where plugins come from, whether they are trusted, and which of them serve.
//! - `agent`: an agent, what it is granted, and the execution of a run.
//! - `toolbox`: the tools that agents may call: components, MCP servers.
//! - `engine`: compiles and instantiates components, and asks them what they are.
//! - `imports`: the host's side of `wit/`, one file or folder per interface, named as there.
//! - `sandbox`: one instance: its data, limits and replay, and the ports to its run, its log, its state and its tools.
//! - `outbound`: HTTP requests of components, and webhooks, as far as the operator allows.
//! - `grants`: what the operator says, and what a component wants.
//! - `bindings`: generated from `wit/`, with what is behind the handles.
//!
//! A plugin is hostile until proven otherwise. It has no files, no sockets, no environment and no real clock; its
//! memory, tables, handles and output are limited; a loop is interrupted every millisecond so that others go on
//! and a stop is heard. Whatever it does ends its own run and nothing else.

#![deny(unsafe_code)]
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod agent;
mod bindings;
mod engine;
mod failure;
#[cfg(test)]
mod floors;
mod grants;
mod imports;
mod json;
mod meter;
mod outbound;
mod refused;
mod sandbox;
mod supply;
mod toolbox;

pub use agent::{Agent, BUNDLED, Grants, Outcome};
pub use bindings::BINDINGS;
pub use engine::{
    Allocator, COMMAND, CacheError, ChildLimits, CodeCache, Description, Engine, Pool, Settings, compile,
    compile_in_children, private_folder,
};
pub use failure::RunFailure;
pub use grants::{
    AgentConfig, GrantError, HostGrant, HostPattern, HttpGrant, ModelGrant, ModelPattern, Pin, PrivateNetworks,
    Section, StateSize, Template, ToolConfig, ToolPattern, WantedHost, Wants,
};
pub use meter::{Held, Meter, Used, thread_time};
pub use outbound::{Courier, HttpLimits, NoReply, Reply, WrongUrl};
pub use refused::Refused;
pub use sandbox::{
    CallLimits, Entry, LogLine, LogPort, PluginLimits, RunContext, RunPort, RunSecret, STATE_ENTRY, StateChange,
    StateError, StatePort, StateSpot, TimeLimit, ToolLimits,
};
pub use supply::{
    Artifact, Change, FetchLimits, Fetched, Folder, FolderError, OciReference, Plugin, PluginVersion, PublicKey,
    Registry, SIGNATURE, Serving, Signatures, SigningKey, Source, Trust, components, one_or_many, pull, put,
    read_component, read_signature, remove, signature_path,
};
pub use toolbox::{
    McpConfig, ScriptedTool, ToolComponent, ToolDescription, ToolFunction, ToolGrant, ToolScript, Toolbox, ToolsConfig,
};
