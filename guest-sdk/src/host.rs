//! What answers the calls of this crate: the server in a component, and [`mock`](crate::mock) everywhere else.

#[cfg(target_arch = "wasm32")]
pub(crate) use crate::bindings::outlast::agent::{context, log, model, respond, tasks};
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use crate::mock::{context, log, model, respond, tasks};
