//! What answers the calls of this crate: the server in a component, and [`mock`](crate::mock) everywhere else.

#[cfg(target_arch = "wasm32")]
pub(crate) use crate::bindings::outlast::agent::{context, http, log, model, respond, state, tasks, tools};
#[cfg(target_arch = "wasm32")]
pub(crate) use crate::bindings::tool::outlast::agent::config;
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use crate::mock::{config, context, http, log, model, respond, state, tasks, tools};
