//! Black-box tests: the real binary, from outside, over both databases.
//!
//! One file for each thing that a user notices, one test for each behaviour. A test waits for conditions, never for
//! a time.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../harness/mod.rs"]
mod harness;

mod allocator;
mod assistant;
mod auth;
mod backup;
mod bad_input;
mod bodies;
mod browser;
mod cache;
mod cancel;
mod children;
mod chromium;
mod client_tools;
mod commands;
mod compact;
mod configuration;
mod connections;
mod contract;
mod conversations;
mod description;
mod disconnect;
mod docs;
mod drain;
mod encodings;
mod failures;
mod fields;
mod files;
mod foreseen;
mod forged;
mod functions;
mod grants;
mod health;
mod hostile;
mod http;
mod http2;
mod idempotency;
mod input_tokens;
mod keys;
mod latency;
mod lease;
mod limits;
mod lives;
mod log;
mod long_sessions;
mod mcp;
mod messages;
mod metrics;
mod models;
mod modes;
mod mutated;
mod nginx;
mod outage;
mod passivation;
mod paths;
mod plugin_inspect;
mod plugin_install;
mod plugin_new;
mod plugin_run;
mod plugin_test;
mod plugins;
mod poison;
mod properties;
mod quota;
mod realms;
mod registry;
mod reload;
mod restart;
mod resume;
mod retention;
mod retrieve;
mod runs;
mod sandbox;
mod secrets;
mod sent;
mod state;
mod stored;
mod subscribers;
mod takeover;
mod threshold;
mod tls;
mod tools;
mod trust;
mod webhooks;
mod websocket;
