//! What a run is.
//!
//! A run is one execution of an agent for one response. It belongs to the server (or, when nothing is kept, to
//! its connection), never to a subscriber:
//!
//! - [`recorder`](Recorder) turns what the agent says into events; pure.
//! - [`outbox`](Outbox) holds the events that are not committed yet, and with them the run's admission and end.
//! - [`writer`](Writer) commits the outboxes of many runs in one transaction, and publishes after the commit.
//! - [`feed`](Feed) hands committed frames to any number of subscribers.
//! - [`subscription`](Subscription) is one reader: from the log, from the feed, or from one to the other.
//! - [`manager`](Manager) admits, starts, finds, stops and drains runs.
//! - [`expiry`](expire) removes what has been kept long enough.
//! - `compaction` makes a conversation shorter, with the help of a run; [`seal`](Seal) closes the result.
//! - [`recovery`](recover) ends, at a start, the runs that the last stop cut off.
//!
//! The journal, from which a run that was cut off will be resumed, has its place between the instance's imports
//! and the outbox: an entry is one more thing that the same transaction writes.

mod admission;
mod compaction;
mod execution;
mod expiry;
mod feed;
mod history;
mod manager;
mod outbox;
mod recorder;
mod recovery;
mod seal;
mod subscription;
mod writer;

pub use admission::{Refusal, RunLimits};
pub use expiry::expire;
pub use feed::{Ended, Feed, Next, Retention};
pub use manager::{Agents, Created, Manager, Queues, Services};
pub use outbox::{Outbox, Ownership, Run, StopReason, Write};
pub use recorder::{Ending, OutputLimits, Recorder};
pub use recovery::recover;
pub use seal::{NoRandomness, Seal};
pub use subscription::Subscription;
pub use writer::{Writer, WriterQueue};

/// Seconds since 1970.
pub(crate) fn seconds(time: std::time::SystemTime) -> i64 {
    milliseconds(time) / 1_000
}

/// Milliseconds since 1970.
pub(crate) fn milliseconds(time: std::time::SystemTime) -> i64 {
    let since = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
