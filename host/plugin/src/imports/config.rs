//! The interface `config`: what a tool component is told.

use crate::{bindings::tool::config::Host, sandbox::RunState};

impl Host for RunState {
    async fn get(&mut self) -> wasmtime::Result<String> {
        Ok(self.active("config.get")?.granted()?.config.clone())
    }
}
