//! What the black-box tests, the chaos test and the load benchmark stand on.
//!
//! Everything here treats the server as a stranger: it starts the real binary, talks HTTP to it, and checks what
//! it says against the written contract, with code that shares nothing with the server's own.
//!
//! | module | what it is |
//! |---|---|
//! | [`server`] | the binary as a process: start, kill, stop, restart, measure |
//! | [`postgres`] | a throw-away PostgreSQL |
//! | [`pgbouncer`] | a throw-away PgBouncer in front of it |
//! | [`proxy`] | a connection that dies without being closed |
//! | [`database`] | which database a test runs on, and the macro that runs it on both |
//! | [`agents`] | agents in core WebAssembly, as text |
//! | [`cli`] | the binary's other subcommands |
//! | [`client`] | HTTP requests and their answers |
//! | [`events`] | server-sent events, read strictly |
//! | [`raw`] | HTTP over a bare socket: writes, slow readers, cut connections |
//! | [`websocket`] | the WebSocket form of `/v1/responses` |
//! | [`schema`] | the Open Responses schemas |
//! | [`description`] | the server's own description |
//! | [`fold`] | from events to the response they make |
//! | [`mcp`] | an MCP server that agents are granted tools of |
//! | [`metrics`] | what `/metrics` says, read strictly |
//! | [`keys`] | API keys |
//! | [`nginx`] | nginx in front of a server |
//! | [`page`] | a page in a real browser |
//! | [`plugins`] | components for the plugin folder |
//! | [`receiver`] | whoever is told by webhooks |
//! | [`registry`] | a throw-away OCI registry |
//! | [`tls`] | certificates, and clients that trust them |
//! | [`upstream`] | a model provider with a script |
//! | [`way`] | a way to a server that can be closed |
//! | [`web`] | a web server that agents send requests to |
//! | [`wait`] | conditions with deadlines |
//! | [`process`], [`scratch`] | processes and files that do not outlive the tests |

// Each of the programs that share this uses a part of it.
#![allow(dead_code, unused_imports, unused_macros)]

pub mod agents;
pub mod cli;
pub mod client;
pub mod database;
pub mod description;
pub mod events;
pub mod fold;
pub mod journal;
pub mod keys;
pub mod mcp;
pub mod metrics;
pub mod nginx;
pub mod notice;
pub mod page;
pub mod pgbouncer;
pub mod plugins;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod raw;
pub mod receiver;
pub mod registry;
pub mod schema;
pub mod scratch;
pub mod server;
pub mod tls;
pub mod upstream;
pub mod wait;
pub mod way;
pub mod web;
pub mod websocket;
