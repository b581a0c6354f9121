//! A clock that stands still but for sleeping.

use std::time::{Duration, SystemTime};

use super::{Mock, with};

/// 2026-01-01T00:00:00Z.
const BEGIN: Duration = Duration::from_secs(1_767_225_600);

#[derive(Debug)]
pub(super) struct State {
    begin: SystemTime,
    cancel_after: Option<Duration>,
    pub(super) slept: Duration,
}

impl Default for State {
    fn default() -> Self {
        Self { begin: SystemTime::UNIX_EPOCH + BEGIN, cancel_after: None, slept: Duration::ZERO }
    }
}

impl State {
    pub(super) fn now(&self) -> SystemTime {
        self.begin + self.slept
    }

    pub(super) fn cancelled(&self) -> bool {
        self.cancel_after.is_some_and(|after| after <= self.slept)
    }

    /// Sleeps; false when the run is cancelled meanwhile.
    pub(super) fn sleep(&mut self, duration: Duration) -> bool {
        let end = self.slept.saturating_add(duration);
        self.slept = self.cancel_after.map_or(end, |after| end.min(after.max(self.slept)));
        !self.cancelled()
    }
}

impl Mock {
    /// What [`clock::now`](crate::clock::now) shows when the run begins.
    pub fn now(mut self, now: SystemTime) -> Self {
        self.state.clock.begin = now;
        self
    }

    /// Cancels the run when it has slept for so long; zero: from the beginning.
    pub fn cancel_after(mut self, slept: Duration) -> Self {
        self.state.clock.cancel_after = Some(slept);
        self
    }
}

pub(crate) fn now() -> SystemTime {
    with("clock::now", |host| host.clock.now())
}
