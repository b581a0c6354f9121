//! What a run is.
//!
//! A run is one execution of an agent for one response. It belongs to the server (or, when nothing is kept, to
//! its connection), never to a subscriber:
//!
//! - [`recorder`](Recorder) turns what the agent says into events; pure.
//! - [`shared`](Run) is what its parts share; `port` is how its instance sees it.
//! - [`outbox`](Outbox) holds the events that are not committed yet, and with them the run's admission and end.
//! - [`writer`](Writer) commits the outboxes of many runs in one transaction, and publishes after the commit.
//! - [`feed`](Feed) hands committed frames to any number of subscribers.
//! - [`subscription`](Subscription) is one reader: from the log, from the feed, or from one to the other.
//! - [`manager`](Manager) finds, stops and drains runs; `create` checks a request, admits its run and starts it.
//! - [`expiry`](expire) removes what has been kept long enough.
//! - [`journal`](Journal) has what the imports of a run have answered; it is written with the events.
//! - [`resume`] makes, at a start, the runs go on that the last stop cut off; `replay` reads what they need for it.
//! - `logs` has what agents write for the operator.
//! - `state` is what agents keep beyond their runs; it is written with the events too.
//! - `life` is the task of a run: it is executed (`execution`), sleeps, is executed again, and ends (`ending`).
//! - `probation` keeps a run that brings the server down from doing so for ever.
//! - `compaction` makes a conversation shorter, with the help of a run; [`seal`](Seal) closes the result. `threshold` does
//!   so for a run whose request asks for it.
//! - [`secret`](RunSecrets) is behind the random numbers and the keys of runs.
//! - [`stored`](Quotas) knows how much principals keep.
//! - [`webhooks`](Webhooks) tells whoever wants to know that responses have ended.

#![deny(unsafe_code)]
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod admission;
mod compaction;
mod create;
mod ending;
mod events;
mod execution;
mod expiry;
mod feed;
mod health;
mod history;
mod journal;
mod life;
mod logs;
mod manager;
mod operator;
mod outbox;
mod port;
mod probation;
mod recorder;
mod replay;
mod request;
mod resume;
mod seal;
mod secret;
mod shared;
mod state;
mod stored;
mod subscription;
#[cfg(test)]
mod testing;
mod threshold;
mod together;
mod webhooks;
mod writer;

pub use admission::{Refusal, RunLimits, Shares};
pub use create::Created;
pub use expiry::{Retentions, expire};
pub use feed::{Ended, Feed, Next, Retention};
pub use health::Health;
pub use history::HistoryLimits;
pub use journal::{Journal, is_cancelled};
pub use manager::{Agents, Manager, Queues, Services};
pub use operator::LoggedLine;
pub use outbox::{Outbox, RunBytes, Write};
pub use recorder::{Ending, OutputLimits, Recorder};
pub use resume::resume;
pub use seal::{NoRandomness, ReasoningSeal, Seal};
pub use secret::RunSecrets;
pub use shared::{Ownership, Run, StopReason};
pub use stored::Quotas;
pub use subscription::{Broken, Subscription};
pub use webhooks::{ConfiguredWebhook, WebhookLimits, Webhooks, check_secret};
pub use writer::{Writer, WriterQueue};

/// JSON text of strings, numbers and lists, which always serializes.
fn to_json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
