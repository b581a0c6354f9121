//! The host's side of the contract: one file per interface of `wit/`, each of which is named as there.

use crate::{bindings::types, sandbox::RunState};

mod config;
mod context;
mod http;
mod log;
mod model;
mod respond;
mod state;
mod tasks;
mod tools;

impl types::Host for RunState {}
