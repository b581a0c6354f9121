//! The interface `tasks`: waiting.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{
    bindings::{
        tasks::Host,
        types::{Failure, FailureKind},
    },
    failure::Asleep,
    journal::digest,
    state::RunState,
};

impl Host for RunState {
    async fn sleep(&mut self, milliseconds: u64) -> wasmtime::Result<Result<(), Failure>> {
        const IMPORT: &str = "tasks.sleep";
        let stop = self.active(IMPORT)?.stop.clone();
        let arguments = digest(&[&milliseconds.to_le_bytes()]);
        // A durable timer: it goes off when it was meant to, also after a restart.
        let until = match self.replayed(IMPORT, &arguments)? {
            Some(until) => Duration::from_nanos(until),
            None => {
                self.clock.advance();
                let until = self.clock.nanoseconds().saturating_add(milliseconds.saturating_mul(1_000_000));
                self.record(IMPORT, arguments, &until).await?;
                Duration::from_nanos(until)
            }
        };
        if self.clock.scripted && !stop.is_cancelled() {
            self.clock.set(until);
            return Ok(Ok(()));
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let left = until.saturating_sub(since);
        if self.active(IMPORT)?.idle_after.is_some_and(|least| left >= least) {
            return Err(Asleep(until).into());
        }
        let timer = tokio::time::sleep(left);
        if stop.run_until_cancelled(timer).await.is_none() {
            return Ok(Err(cancelled()));
        }
        self.clock.set(until);
        Ok(Ok(()))
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
