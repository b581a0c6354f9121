//! One run, as its parts share it, and what it has to be written.
//!
//! A run puts its events into its outbox and its name into the writer's queue, once, until the writer has
//! emptied the outbox. So the queue is bounded by the number of runs, a busy run is written in large segments
//! and a quiet one at once, and nobody waits for a commit but those who must: when the outbox is full, the
//! instance is suspended.

use std::sync::{Arc, OnceLock};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use super::{Ended, Ending, Feed, Recorder, Refusal, WriterQueue};
use crate::{
    metrics::LiveRun,
    plugin::RunPort,
    protocol::{Emission, EmitError, Emitted, ResponseId, Segment},
    store::{EndedResponse, NewResponse},
};

/// Why a run is stopped from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// Somebody cancelled it.
    Cancelled,
    /// Its connection is gone, and nothing of it is kept.
    Disconnected,
    /// The server stops.
    Shutdown,
    /// Its events cannot be kept.
    Unwritable,
}

/// Which run it is, and whose.
#[derive(Clone, Debug)]
pub struct Ownership {
    /// The id of its response.
    pub id: ResponseId,
    /// Whose it is.
    pub principal: String,
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
    /// Whether it is kept.
    pub durable: bool,
    /// The ownership under which it writes.
    pub epoch: i64,
    /// Where its subscribers read.
    pub feed: Feed,
    outbox: Mutex<Outbox>,
    outbox_bytes: usize,
    /// The outbox was emptied, or the one reader has read.
    room: Notify,
    stop: CancellationToken,
    stop_reason: OnceLock<StopReason>,
    writer: WriterQueue,
}

/// What a run has to be written.
#[derive(Debug)]
pub struct Outbox {
    recorder: Recorder,
    queued: bool,
    admission: Option<(NewResponse, oneshot::Sender<Result<(), Refusal>>)>,
    ended: Option<(EndedResponse, Ended)>,
}

/// What the writer takes out of an outbox.
#[derive(Debug)]
pub struct Write {
    /// The run.
    pub run: Arc<Run>,
    /// Its admission, and who waits for it.
    pub admission: Option<(NewResponse, oneshot::Sender<Result<(), Refusal>>)>,
    /// Its new events.
    pub segment: Option<Segment>,
    /// Its end.
    pub ended: Option<(EndedResponse, Ended)>,
}

impl Run {
    /// A run that has not been admitted. Its instance is suspended while more than `outbox_bytes` wait to be
    /// written.
    pub fn new(
        ownership: Ownership,
        recorder: Recorder,
        feed: Feed,
        outbox_bytes: usize,
        writer: WriterQueue,
    ) -> Arc<Self> {
        let Ownership { id, principal, durable, epoch } = ownership;
        Arc::new(Self {
            id,
            principal,
            durable,
            epoch,
            feed,
            outbox: Mutex::new(Outbox { recorder, queued: false, admission: None, ended: None }),
            outbox_bytes,
            room: Notify::new(),
            stop: CancellationToken::new(),
            stop_reason: OnceLock::new(),
            writer,
        })
    }

    /// Records the first events and writes them together with the response's row. The receiver hears once the
    /// transaction is committed, or that it is not.
    pub fn admit(self: &Arc<Self>, row: NewResponse) -> oneshot::Receiver<Result<(), Refusal>> {
        let (sender, receiver) = oneshot::channel();
        let mut outbox = self.outbox.lock();
        outbox.recorder.start();
        outbox.admission = Some((row, sender));
        self.queue(&mut outbox);
        receiver
    }

    /// Records that the agent begins.
    pub fn begin(self: &Arc<Self>) {
        let mut outbox = self.outbox.lock();
        outbox.recorder.begin();
        if outbox.recorder.pending_bytes() > 0 {
            self.queue(&mut outbox);
        }
    }

    /// Records what the agent says.
    pub fn emit(self: &Arc<Self>, emission: Emission<'_>) -> Result<Emitted, EmitError> {
        let mut outbox = self.outbox.lock();
        let emitted = outbox.recorder.emit(emission)?;
        if outbox.recorder.pending_bytes() > 0 {
            self.queue(&mut outbox);
        }
        Ok(emitted)
    }

    /// Ends the run. The first call decides; later ones do nothing.
    pub fn end(self: &Arc<Self>, ending: Ending, now: std::time::SystemTime) {
        let mut outbox = self.outbox.lock();
        let Some(status) = outbox.recorder.end(ending, super::seconds(now)) else { return };
        // A response is made of strings, numbers and lists: it always serializes.
        let response = serde_json::to_string(outbox.recorder.response()).unwrap_or_default();
        let ended = Ended { status, response: response.clone().into() };
        let ended_at = super::milliseconds(now);
        let row = EndedResponse { id: self.id.clone(), epoch: self.epoch, status, ended_at, response };
        outbox.ended = Some((row, ended));
        self.queue(&mut outbox);
    }

    /// Empties the outbox.
    pub fn take(self: Arc<Self>) -> Write {
        let mut outbox = self.outbox.lock();
        outbox.queued = false;
        let (admission, segment, ended) = (outbox.admission.take(), outbox.recorder.take(), outbox.ended.take());
        drop(outbox);
        self.room.notify_waiters();
        Write { run: self, admission, segment, ended }
    }

    /// Takes the admission alone, to refuse it.
    pub fn take_admission(&self) -> Option<oneshot::Sender<Result<(), Refusal>>> {
        self.outbox.lock().admission.take().map(|(_, sender)| sender)
    }

    /// Asks the run to stop. The first reason stands. The run ends soon after, from its own task.
    pub fn stop(&self, reason: StopReason) {
        if self.stop_reason.set(reason).is_ok() {
            self.stop.cancel();
        }
    }

    /// Why the run was asked to stop, if it was.
    pub fn stop_reason(&self) -> Option<StopReason> {
        self.stop_reason.get().copied()
    }

    /// Is cancelled when the run is asked to stop.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stop
    }

    /// The one reader of an ephemeral run has read.
    pub fn has_read(&self) {
        self.room.notify_waiters();
    }

    fn queue(self: &Arc<Self>, outbox: &mut Outbox) {
        if !std::mem::replace(&mut outbox.queued, true) {
            self.writer.push(self.clone());
        }
    }

    fn has_room(&self) -> bool {
        self.outbox.lock().recorder.pending_bytes() + self.feed.unread() <= self.outbox_bytes
    }

    async fn wait_for_room(&self) {
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

/// The run as its instance sees it.
#[derive(Debug)]
pub(super) struct Port {
    pub run: Arc<Run>,
    pub live: Arc<LiveRun>,
}

impl RunPort for Port {
    fn emit(&self, emission: Emission<'_>) -> Result<Emitted, EmitError> {
        if matches!(emission, Emission::Text(..) | Emission::Summary(..) | Emission::Arguments(..)) {
            self.live.output();
        }
        self.run.emit(emission)
    }

    fn room(&self) -> Option<BoxFuture<'_, ()>> {
        (!self.run.has_room()).then(|| Box::pin(self.run.wait_for_room()) as _)
    }
}
