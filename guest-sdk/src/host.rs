//! What answers the calls of this crate: the server in a component, and [`mock`](crate::mock) everywhere else.

#[cfg(target_arch = "wasm32")]
pub(crate) use crate::bindings::outlast::agent::{context, http, log, model, respond, state, tasks};
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use crate::mock::{context, http, log, model, respond, state, tasks};
