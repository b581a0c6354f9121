//! Commits: what the writers publish, and the transactions of the durable one.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use super::durations;

/// Why a transaction failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitFailure {
    /// The database does not take writes.
    Unavailable,
    /// It did not answer in time.
    TimedOut,
    /// It does not take these data.
    Rejected,
    /// Anything else.
    Other,
}

impl CommitFailure {
    const ALL: [Self; 4] = [Self::Unavailable, Self::TimedOut, Self::Rejected, Self::Other];

    fn label(self) -> Reason {
        let reason = match self {
            Self::Unavailable => "unavailable",
            Self::TimedOut => "timed_out",
            Self::Rejected => "rejected",
            Self::Other => "other",
        };
        Reason { reason }
    }
}

/// Events and transactions.
#[derive(Clone, Debug)]
pub struct CommitMetrics {
    events: Family<Writer, Counter>,
    bytes: Family<Writer, Counter>,
    batch_runs: Histogram,
    batch_events: Histogram,
    duration: Histogram,
    failures: Family<Reason, Counter>,
}

/// Which of the two writers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriterKind {
    /// Of the runs that are kept.
    Durable,
    /// Of the runs of which nothing is kept.
    Ephemeral,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Writer {
    writer: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

impl Default for CommitMetrics {
    fn default() -> Self {
        let failures = Family::<Reason, Counter>::default();
        for failure in CommitFailure::ALL {
            drop(failures.get_or_create(&failure.label()));
        }
        Self {
            events: Family::default(),
            bytes: Family::default(),
            batch_runs: Histogram::new(exponential_buckets(1.0, 2.0, 11)),
            batch_events: Histogram::new(exponential_buckets(1.0, 4.0, 10)),
            duration: durations(),
            failures,
        }
    }
}

impl CommitMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "events_committed",
            "Events shown to subscribers: durable, after the transaction that stores them; ephemeral, not stored",
            self.events.clone(),
        );
        registry.register("event_bytes_committed", "The frames of those events, in bytes", self.bytes.clone());
        registry.register("commit_runs", "Runs in one transaction", self.batch_runs.clone());
        registry.register("commit_events", "Events in one transaction", self.batch_events.clone());
        registry.register(
            "commit_duration_seconds",
            "How long a transaction took that was committed",
            self.duration.clone(),
        );
        registry.register(
            "commit_failures",
            "Transactions that failed. What is in them is written again, or refused",
            self.failures.clone(),
        );
    }

    /// What a writer publishes.
    pub fn published(&self, writer: WriterKind) -> Published {
        let writer = Writer {
            writer: match writer {
                WriterKind::Durable => "durable",
                WriterKind::Ephemeral => "ephemeral",
            },
        };
        Published { events: self.events.get_or_create_owned(&writer), bytes: self.bytes.get_or_create_owned(&writer) }
    }

    /// A transaction was committed.
    pub fn committed(&self, runs: usize, events: u64, duration: Duration) {
        // Exact up to 2^53.
        self.batch_runs.observe(runs as f64);
        self.batch_events.observe(events as f64);
        self.duration.observe(duration.as_secs_f64());
    }

    /// A transaction failed.
    pub fn failed(&self, failure: CommitFailure) {
        self.failures.get_or_create(&failure.label()).inc();
    }
}

/// What one writer has shown to subscribers.
#[derive(Clone, Debug)]
pub struct Published {
    events: Counter,
    bytes: Counter,
}

impl Published {
    /// Adds a batch.
    pub fn add(&self, events: u64, bytes: u64) {
        self.events.inc_by(events);
        self.bytes.inc_by(bytes);
    }
}
