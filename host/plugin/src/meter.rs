//! What a run uses.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

/// What a run has used so far, all attempts together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Time of a processor, for the component and for its calls of the host. What a stop of the server made it do once
    /// more is not the run's.
    pub cpu: Duration,
    /// The most memory that an instance had, with what the host held for it, in bytes.
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
    /// The time of this execution alone, whatever made it necessary.
    execution: AtomicU64,
    /// Whether what is done now was done before a stop of the server.
    repeating: AtomicBool,
    /// How long this execution has slept in memory that would have left it.
    napped: AtomicU64,
    memory: AtomicU64,
    /// The largest instance of this execution, in bytes.
    instance: AtomicU64,
    /// What the host holds, in bytes.
    held: AtomicU64,
    input_tokens: AtomicU64,
    output_tokens: AtomicU64,
}

impl Meter {
    /// What has been used so far.
    pub fn used(&self) -> Used {
        Used {
            cpu: read(&self.nanoseconds),
            memory: self.memory.load(Relaxed),
            input_tokens: self.input_tokens.load(Relaxed),
            output_tokens: self.output_tokens.load(Relaxed),
        }
    }

    /// Adds what an earlier server has counted.
    pub fn add(&self, used: Used) {
        add(&self.nanoseconds, used.cpu);
        self.memory.fetch_max(used.memory, Relaxed);
        self.tokens(used.input_tokens, used.output_tokens);
    }

    /// The run is executed anew. `repeating` says that a stop of the server made that necessary: until it is
    /// [where it was](Self::is_live), what it spends is not the run's.
    pub fn begin(&self, repeating: bool) {
        for count in [&self.execution, &self.napped, &self.instance] {
            count.store(0, Relaxed);
        }
        self.repeating.store(repeating, Relaxed);
    }

    /// The run is where it was before.
    pub fn is_live(&self) {
        self.repeating.store(false, Relaxed);
    }

    /// Adds time of a processor.
    pub fn spend(&self, cpu: Duration) {
        add(&self.execution, cpu);
        if !self.repeating.load(Relaxed) {
            add(&self.nanoseconds, cpu);
        }
    }

    /// The time of a processor that this execution took so far, and so about what it would take to come here again.
    pub(crate) fn execution(&self) -> Duration {
        read(&self.execution)
    }

    /// The run sleeps for this long, and stays in memory though it could leave it.
    pub(crate) fn nap(&self, time: Duration) {
        add(&self.napped, time);
    }

    /// How long this execution has slept so.
    pub fn napped(&self) -> Duration {
        read(&self.napped)
    }

    /// Does work in another thread than that which polls the run, and adds its time.
    pub(crate) fn aside<T>(&self, work: impl FnOnce() -> T) -> T {
        let start = thread_time();
        let done = work();
        let spent = thread_time().saturating_sub(start);
        self.spend(spent);
        add(&self.aside, spent);
        done
    }

    /// Takes the time that was spent in other threads since this was called last.
    pub fn take_aside(&self) -> Duration {
        Duration::from_nanos(self.aside.swap(0, Relaxed))
    }

    /// An instance has so much memory now.
    pub(crate) fn grow(&self, bytes: u64) {
        let instance = self.instance.fetch_max(bytes, Relaxed).max(bytes);
        self.memory.fetch_max(instance.saturating_add(self.held.load(Relaxed)), Relaxed);
    }

    /// The host holds so many bytes for the run, until what this returns is dropped. They count in its peak; what bounds
    /// them is a limit of their own.
    pub fn hold(self: &Arc<Self>, bytes: usize) -> Held {
        let mut held = Held { meter: self.clone(), bytes: 0 };
        held.resize(bytes);
        held
    }

    /// A model call has ended that took these tokens.
    pub fn tokens(&self, input: u64, output: u64) {
        self.input_tokens.fetch_add(input, Relaxed);
        self.output_tokens.fetch_add(output, Relaxed);
    }
}

/// Memory of the host that is held for a run.
#[derive(Debug)]
pub struct Held {
    meter: Arc<Meter>,
    bytes: u64,
}

impl Held {
    /// It is so much now.
    pub fn resize(&mut self, bytes: usize) {
        let (meter, bytes) = (&self.meter, bytes as u64);
        let before = std::mem::replace(&mut self.bytes, bytes);
        if bytes > before {
            let held = meter.held.fetch_add(bytes - before, Relaxed).saturating_add(bytes - before);
            meter.memory.fetch_max(meter.instance.load(Relaxed).saturating_add(held), Relaxed);
        } else {
            meter.held.fetch_sub(before - bytes, Relaxed);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.resize(0);
    }
}

fn read(nanoseconds: &AtomicU64) -> Duration {
    Duration::from_nanos(nanoseconds.load(Relaxed))
}

fn add(nanoseconds: &AtomicU64, time: Duration) {
    nanoseconds.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_host_holds_shows_in_the_peak() {
        let meter = Arc::<Meter>::default();
        meter.grow(100);
        let mut first = meter.hold(10);
        drop(meter.hold(20));
        assert_eq!(meter.used().memory, 130);
        first.resize(15);
        meter.grow(120);
        assert_eq!(meter.used().memory, 135);
        drop(first);
        // The next instance is a small one.
        meter.begin(false);
        meter.grow(1);
        let _held = meter.hold(136);
        assert_eq!(meter.used().memory, 137);
    }

    #[test]
    fn what_a_stop_made_it_repeat_is_not_the_runs() {
        let meter = Meter::default();
        let second = Duration::from_secs(1);
        meter.begin(false);
        meter.spend(second);
        meter.begin(true);
        meter.spend(second);
        meter.is_live();
        meter.spend(second);
        assert_eq!((meter.used().cpu, meter.execution()), (second * 2, second * 2));
    }
}
