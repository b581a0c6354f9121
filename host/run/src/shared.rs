//! One run, as its parts share it.

use std::sync::{Arc, OnceLock};

use outlast_metrics::LiveRun;
use outlast_plugin::Meter;
use outlast_protocol::ResponseId;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::{Feed, Outbox, Recorder, RunBytes, WriterQueue, journal::Journal};

/// Why a run is stopped from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// Somebody cancelled it.
    Cancelled,
    /// Its connection is gone, and nothing of it is kept.
    Disconnected,
    /// The server stops, and nothing of the run is kept.
    Shutdown,
    /// The server stops, and the run goes on after the next start.
    Suspended,
    /// The database does not take what it has to be written.
    Unwritable,
}

/// Which run it is, and whose.
#[derive(Clone, Debug)]
pub struct Ownership {
    /// The id of its response.
    pub id: ResponseId,
    /// Whose it is.
    pub principal: String,
    /// The name of its agent.
    pub agent: String,
    /// Whether it is kept.
    pub durable: bool,
    /// The ownership under which it writes.
    pub epoch: i64,
}

/// A run, shared by its task, the writer and its subscribers.
#[derive(Debug)]
pub struct Run {
    /// The id of its response.
    pub id: ResponseId,
    /// Whose it is.
    pub principal: String,
    /// The name of its agent.
    pub agent: String,
    /// Whether it is kept.
    pub durable: bool,
    /// The ownership under which it writes.
    pub epoch: i64,
    /// Where its subscribers read.
    pub feed: Feed,
    /// What is measured of it.
    pub metrics: LiveRun,
    /// Counts what it uses.
    pub meter: Arc<Meter>,
    pub(super) outbox: Mutex<Outbox>,
    outbox_bytes: usize,
    /// The outbox was emptied, or the one reader has read.
    pub(super) room: Notify,
    /// How many entries of the journal are committed.
    committed: watch::Sender<u64>,
    stop: CancellationToken,
    /// The same for the instance, which notices nothing of a stop after which its run goes on.
    cancel: CancellationToken,
    stop_reason: OnceLock<StopReason>,
    pub(super) writer: WriterQueue,
}

impl Run {
    /// A run that has not been admitted.
    pub fn new(
        ownership: Ownership,
        recorder: Recorder,
        journal: Journal,
        feed: Feed,
        bytes: RunBytes,
        writer: WriterQueue,
        metrics: LiveRun,
    ) -> Arc<Self> {
        Self::made(ownership, Some(Box::new(recorder)), 0, journal, feed, bytes, writer, metrics)
    }

    /// A run that was cut off, or sleeps. It has so many events; they and all else are in the database.
    pub fn taken(
        ownership: Ownership,
        events: u64,
        journal: Journal,
        feed: Feed,
        bytes: RunBytes,
        writer: WriterQueue,
        metrics: LiveRun,
    ) -> Arc<Self> {
        feed.begin_at(events);
        Self::made(ownership, None, events, journal, feed, bytes, writer, metrics)
    }

    #[expect(clippy::too_many_arguments, reason = "the two ways to make a run meet here, and nowhere else")]
    fn made(
        Ownership { id, principal, agent, durable, epoch }: Ownership,
        recorder: Option<Box<Recorder>>,
        events: u64,
        journal: Journal,
        feed: Feed,
        RunBytes { outbox: outbox_bytes, log: log_bytes }: RunBytes,
        writer: WriterQueue,
        metrics: LiveRun,
    ) -> Arc<Self> {
        let (committed, meter) = (watch::Sender::new(journal.next()), Arc::default());
        Arc::new(Self {
            id,
            principal,
            agent,
            durable,
            epoch,
            feed,
            metrics,
            outbox: Mutex::new(Outbox::new(recorder, events, journal, log_bytes, &meter)),
            meter,
            outbox_bytes,
            room: Notify::new(),
            committed,
            stop: CancellationToken::new(),
            cancel: CancellationToken::new(),
            stop_reason: OnceLock::new(),
            writer,
        })
    }

    /// Waits until every entry of the journal that was kept so far is committed.
    pub fn committed(self: Arc<Self>) -> impl Future<Output = ()> + Send {
        let entries = self.outbox.lock().entries();
        async move {
            let mut committed = self.committed.subscribe();
            // Fails when the run is gone, which this holds.
            let _ = committed.wait_for(|committed| *committed >= entries).await;
        }
    }

    /// The entries of the journal are committed up to this one.
    pub fn has_committed(&self, last: u64) {
        self.committed.send_replace(last + 1);
    }

    /// Asks the run to stop. The first reason stands. The run ends soon after, from its own task.
    pub fn stop(self: &Arc<Self>, reason: StopReason) {
        if self.stop_reason.set(reason).is_err() {
            return;
        }
        if self.durable && matches!(reason, StopReason::Cancelled | StopReason::Disconnected) {
            let mut outbox = self.outbox.lock();
            if outbox.cancel() {
                self.queue(&mut outbox);
            }
        }
        if reason != StopReason::Suspended {
            self.cancel.cancel();
        }
        self.stop.cancel();
    }

    /// Why the run was asked to stop, if it was.
    pub fn stop_reason(&self) -> Option<StopReason> {
        self.stop_reason.get().copied()
    }

    /// Is cancelled when the run is asked to stop.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stop
    }

    /// Is cancelled when the run is asked to stop for good: what its instance may know.
    pub fn cancelling(&self) -> &CancellationToken {
        &self.cancel
    }

    /// The one reader of an ephemeral run has read.
    pub fn has_read(&self) {
        self.room.notify_waiters();
    }

    pub(super) fn has_room(&self) -> bool {
        let outbox = self.outbox.lock();
        outbox.together || outbox.pending_bytes() + self.feed.unread() <= self.outbox_bytes
    }

    pub(super) async fn wait_for_room(&self) {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            if self.has_room() {
                return;
            }
            tokio::select! {
                () = room => {}
                () = self.stop.cancelled() => return,
            }
        }
    }
}
