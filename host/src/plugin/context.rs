//! The interface `context`: what surrounds this turn.

use super::{bindings::context::Host, state::RunState};

impl Host for RunState {
    async fn request(&mut self) -> wasmtime::Result<String> {
        Ok(self.active("context.request")?.request.clone())
    }

    async fn history(&mut self) -> wasmtime::Result<String> {
        Ok(self.active("context.history")?.history.clone())
    }

    async fn config(&mut self) -> wasmtime::Result<String> {
        Ok(self.active("context.config")?.config.clone())
    }

    async fn cancelled(&mut self) -> wasmtime::Result<bool> {
        Ok(self.active("context.cancelled")?.stop.is_cancelled())
    }
}
