//! Outlast: a server that runs agents as sandboxed WebAssembly components and never loses a run.
//!
//! The host owns HTTP, streaming, the life of a run and persistence; an agent's logic is a component behind the
//! WIT contract in `wit/`. This crate puts the rooms together and is the `outlast` program; each room is a crate:
//!
//! - [`protocol`]: the words of the Responses API. Pure data.
//! - [`http`]: translates between HTTP and runs. Decides nothing.
//! - [`run`]: what a run is: recorder, outbox, writer, feed, manager, journal, resume.
//! - [`plugin`]: what an agent is: engine, registry, instance; one file per WIT interface.
//! - [`model`]: upstream model providers.
//! - [`store`]: what is kept. The only place with SQL.
//! - [`metrics`]: what an operator watches. Known to every room that measures itself.
//!
//! And here:
//!
//! - [`config`], [`cli`]: how an operator talks to it.
//! - `descriptors`: what this process was given, and its children are not.
//! - `heap`: what is large goes back to the system when it is free.
//! - `log`: the server's log, which no run waits for.
//! - [`sandbox`]: what the process gives up before it serves.
//! - [`reconfigure`]: exchanges the keys while the server runs.
//! - `reload`: follows the plugin folder while the server runs.
//! - [`server`]: puts the rooms together; `local`: the same without HTTP, for the terminal.

#![deny(unsafe_code)]
// They panic where nobody reads them: `cli::output` and `log` do not.
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod cli;
pub mod config;
mod descriptors;
mod heap;
mod local;
mod log;
mod machine;
pub mod reconfigure;
mod reload;
pub mod sandbox;
pub mod server;

pub use outlast_http as http;
pub use outlast_metrics as metrics;
pub use outlast_model as model;
pub use outlast_plugin as plugin;
pub use outlast_protocol as protocol;
pub use outlast_run as run;
pub use outlast_store as store;
