//! The time as a component sees it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use outlast_runtime::clock::since_1970;
use wasmtime_wasi::{HostMonotonicClock, HostWallClock};

/// The time as a component sees it: it begins with the run and stands still between the host calls that wait, so that
/// the same answers of the host make the same run.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    nanoseconds: Arc<AtomicU64>,
    /// Whether it goes on only when the component sleeps, which takes no time.
    pub(crate) scripted: bool,
}

impl Clock {
    /// A clock that shows 1970.
    pub(crate) fn new(scripted: bool) -> Self {
        Self { nanoseconds: Arc::default(), scripted }
    }

    /// Sets the time to now. Called when a host call that waited returns.
    pub(crate) fn advance(&self) {
        if !self.scripted {
            self.set(since_1970());
        }
    }

    /// Sets the time, since 1970; it never goes back.
    pub(crate) fn set(&self, time: Duration) {
        self.nanoseconds.fetch_max(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The time, in nanoseconds since 1970.
    pub(crate) fn nanoseconds(&self) -> u64 {
        self.nanoseconds.load(Ordering::Relaxed)
    }
}

impl HostWallClock for Clock {
    fn resolution(&self) -> Duration {
        Duration::from_millis(1)
    }

    fn now(&self) -> Duration {
        Duration::from_nanos(self.nanoseconds())
    }
}

impl HostMonotonicClock for Clock {
    fn resolution(&self) -> u64 {
        1_000_000
    }

    fn now(&self) -> u64 {
        self.nanoseconds()
    }
}
