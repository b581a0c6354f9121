//! What is kept.
//!
//! One code path for SQLite and PostgreSQL, and the only place with SQL. The store knows rows and bytes; it
//! knows no run and no HTTP. Reads use a pool. All writes of runs go through the one [`WriteConnection`],
//! many runs' writes in one transaction: that is what makes a durable event cheap.
//!
//! A store is owned by one server process at a time: see `ownership`. A second server that is pointed at the same
//! database refuses to start.

#![deny(unsafe_code)]
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod backup;
mod batch;
mod commit;
mod commit_log;
mod connect;
mod conversations;
mod diagnose;
mod error;
mod events;
mod file;
mod health;
mod journal;
mod lives;
mod open;
mod ownership;
mod pool;
mod recovery;
mod responses;
mod runs;
mod secrets;
mod segments;
mod served;
mod size;
mod sql;
mod state;
mod transaction;
mod wal;
mod webhooks;

pub use backup::{BackupError, Copied, backup, restore};
pub use batch::{Batch, Committed, ConversationItem, EndedResponse, NewResponse, Uncommitted};
pub use commit::WriteConnection;
pub use conversations::{ConversationHead, ItemRange, NewItem, Written};
pub use diagnose::{Diagnosis, diagnose};
pub use error::{Outage, StoreError};
pub use events::MOST_SEGMENTS;
pub use file::sqlite_path;
pub use journal::JournalSegment;
pub use lives::{ActiveRun, Phase, TakenOver, TakenRun};
pub use open::{Backend, LEASE, Store};
pub use responses::{PastResponse, StoredResponse, Swept};
pub use runs::{LogSegment, RunFilter, RunRow, RunUsage};
pub use served::ServedPlugin;
pub use size::{STORED_ROW, StoreSize};
pub use state::{StateOwner, StatePlace, StateWrite};
pub use webhooks::{Claim, Claimed, DeliveryFilter, DeliveryRow, DeliveryState, Tried, TryOutcome, WebhookRow};

#[cfg(test)]
mod tests;
