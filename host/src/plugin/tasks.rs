//! The interface `tasks`: waiting.

use std::time::Duration;

use super::{
    bindings::{
        tasks::Host,
        types::{Failure, FailureKind},
    },
    state::RunState,
};

impl Host for RunState {
    async fn sleep(&mut self, milliseconds: u64) -> wasmtime::Result<Result<(), Failure>> {
        let stop = self.active("tasks.sleep")?.stop.clone();
        let slept = tokio::select! {
            biased;
            () = stop.cancelled() => Err(cancelled()),
            () = tokio::time::sleep(Duration::from_millis(milliseconds)) => Ok(()),
        };
        self.clock.advance();
        Ok(slept)
    }
}

/// What a waiting call answers when the run is being stopped.
pub(super) fn cancelled() -> Failure {
    Failure {
        kind: FailureKind::Cancelled,
        code: "cancelled".to_owned(),
        message: "The run is being cancelled.".to_owned(),
        retry_after_ms: None,
    }
}
