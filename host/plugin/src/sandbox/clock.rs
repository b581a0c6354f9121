//! The time as a component sees it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use outlast_runtime::clock::{Clock, nanoseconds};
use wasmtime_wasi::{HostMonotonicClock, HostWallClock};

/// The time as a component sees it: it begins with the run and stands still between the host calls that wait, so that
/// the same answers of the host make the same run.
#[derive(Clone, Debug)]
pub(crate) struct LogicalClock {
    nanoseconds: Arc<AtomicU64>,
    /// Where the time comes from.
    source: Clock,
    /// Whether it goes on only when the component sleeps, which takes no time.
    pub(crate) scripted: bool,
}

impl LogicalClock {
    /// A clock that shows 1970.
    pub(crate) fn new(source: Clock, scripted: bool) -> Self {
        Self { nanoseconds: Arc::default(), source, scripted }
    }

    /// Sets the time to now. Called when a host call that waited returns.
    pub(crate) fn advance(&self) {
        if !self.scripted {
            self.set(self.source.since_1970());
        }
    }

    /// Sets the time, since 1970; it never goes back.
    pub(crate) fn set(&self, time: Duration) {
        self.nanoseconds.fetch_max(nanoseconds(time), Ordering::Relaxed);
    }

    /// The time that timers go by, since 1970: the server's, or a script's.
    pub(crate) fn now(&self) -> Duration {
        if self.scripted { Duration::from_nanos(self.nanoseconds()) } else { self.source.since_1970() }
    }

    /// The time, in nanoseconds since 1970.
    pub(crate) fn nanoseconds(&self) -> u64 {
        self.nanoseconds.load(Ordering::Relaxed)
    }
}

impl HostWallClock for LogicalClock {
    fn resolution(&self) -> Duration {
        Duration::from_millis(1)
    }

    fn now(&self) -> Duration {
        Duration::from_nanos(self.nanoseconds())
    }
}

impl HostMonotonicClock for LogicalClock {
    fn resolution(&self) -> u64 {
        1_000_000
    }

    fn now(&self) -> u64 {
        self.nanoseconds()
    }
}
