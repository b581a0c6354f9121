//! Sleeping, which takes no time.

use std::time::Duration;

use super::with;
use crate::{Failure, bindings};

pub(crate) fn sleep(milliseconds: u64) -> Result<(), bindings::Failure> {
    match with("tasks::sleep", |host| host.clock.sleep(Duration::from_millis(milliseconds))) {
        true => Ok(()),
        false => Err(cancelled()),
    }
}

/// What every call that waits answers when the run is cancelled.
pub(super) fn cancelled() -> bindings::Failure {
    Failure::cancelled("cancelled", "the run is being cancelled").into()
}
