//! MCP servers, whose tools agents may call like those of components.
//!
//! A server is another program: a child of this one, or somewhere on the network. It is connected to when this server
//! starts, and again whenever the connection is lost, with pauses that grow; a call does not wait for the end of a pause.
//! What it offers is read once, and again when it says that this has changed. A server that is not there keeps nobody
//! from starting: its tools are those that it had, and calls of them fail.
//!
//! - `config` is what the operator says.
//! - `server` keeps the connection and makes the calls.
//! - `gate` is where calls leave, as long as the lease holds.
//! - `connect` is the way there: a child's standard input and output, or HTTP.
//! - `pin` is what the operator has seen of it.
//! - `offer` is what it offers and answers, in the words of the interface `tools`.

mod config;
mod connect;
mod gate;
mod offer;
mod pin;
mod server;

pub use config::McpConfig;
pub(super) use server::{McpServer, UNAVAILABLE};
