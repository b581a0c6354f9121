//! What a run uses.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

/// What a run has used so far, all attempts together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Time of a processor, for the component and for its calls of the host.
    pub cpu: Duration,
    /// The most memory that an instance had, in bytes.
    pub memory: u64,
    /// Tokens that upstream models were given.
    pub input_tokens: u64,
    /// Tokens that upstream models have given.
    pub output_tokens: u64,
}

/// The time of a processor that this thread has taken.
pub fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// Counts what a run uses.
#[derive(Debug, Default)]
pub struct Meter {
    nanoseconds: AtomicU64,
    aside: AtomicU64,
    memory: AtomicU64,
    input_tokens: AtomicU64,
    output_tokens: AtomicU64,
}

impl Meter {
    /// What has been used so far.
    pub fn used(&self) -> Used {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Used {
            cpu: Duration::from_nanos(read(&self.nanoseconds)),
            memory: read(&self.memory),
            input_tokens: read(&self.input_tokens),
            output_tokens: read(&self.output_tokens),
        }
    }

    /// Adds what an earlier server has counted.
    pub fn add(&self, used: Used) {
        self.spend(used.cpu);
        self.grow(used.memory);
        self.tokens(used.input_tokens, used.output_tokens);
    }

    /// Adds time of a processor.
    pub fn spend(&self, cpu: Duration) {
        let nanoseconds = u64::try_from(cpu.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// Does work in another thread than that which polls the run, and adds its time.
    pub(super) fn aside<T>(&self, work: impl FnOnce() -> T) -> T {
        let start = thread_time();
        let done = work();
        let spent = thread_time().saturating_sub(start);
        self.spend(spent);
        self.aside.fetch_add(u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        done
    }

    /// Takes the time that was spent in other threads since this was called last.
    pub fn take_aside(&self) -> Duration {
        Duration::from_nanos(self.aside.swap(0, Ordering::Relaxed))
    }

    /// The instance has so much memory now.
    pub(super) fn grow(&self, bytes: u64) {
        self.memory.fetch_max(bytes, Ordering::Relaxed);
    }

    /// A model call has ended that took these tokens.
    pub(super) fn tokens(&self, input: u64, output: u64) {
        self.input_tokens.fetch_add(input, Ordering::Relaxed);
        self.output_tokens.fetch_add(output, Ordering::Relaxed);
    }
}
