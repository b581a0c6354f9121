//! One run, as its parts share it, and what it has to be written.
//!
//! A run puts its events into its outbox and its name into the writer's queue, once, until the writer has
//! emptied the outbox. So the queue is bounded by the number of runs, a busy run is written in large segments
//! and a quiet one at once, and nobody waits for a commit but those who must: when the outbox is full, the
//! instance is suspended.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::{
    Ended, Ending, Feed, Recorder, Refusal, WriterQueue,
    journal::Journal,
    logs::{KeptLog, Logs},
    state::KeptWrite,
};
use crate::{
    metrics::LiveRun,
    plugin::{LogLine, LogPort, Meter, RunPort, Used},
    protocol::{Emission, EmitError, Emitted, FoldError, Item, ItemIndex, ResponseId, Segment},
    store::{EndedResponse, JournalSegment, LogSegment, NewResponse, RunUsage},
};

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
    /// What is measured of it.
    pub metrics: LiveRun,
    /// Counts what it uses.
    pub meter: Arc<Meter>,
    outbox: Mutex<Outbox>,
    outbox_bytes: usize,
    /// The outbox was emptied, or the one reader has read.
    room: Notify,
    /// How many entries of the journal are committed.
    committed: watch::Sender<u64>,
    stop: CancellationToken,
    /// The same for the instance, which notices nothing of a stop after which its run goes on.
    cancel: CancellationToken,
    stop_reason: OnceLock<StopReason>,
    passive: AtomicBool,
    writer: WriterQueue,
}

/// What a run has to be written.
#[derive(Debug)]
pub struct Outbox {
    recorder: Recorder,
    journal: Journal,
    state: Vec<KeptWrite>,
    logs: Logs,
    /// What was written last: the time of a processor, and how many lines were heard.
    accounted: (Duration, u64),
    queued: bool,
    admission: Option<(NewResponse, oneshot::Sender<Result<(), Refusal>>)>,
    ended: Option<(EndedResponse, Ended)>,
    suspended: bool,
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
    /// The new entries of its journal.
    pub entries: Option<JournalSegment>,
    /// The new lines of its log.
    pub logs: Option<LogSegment>,
    /// What it has used so far.
    pub usage: Option<RunUsage>,
    /// What its agent keeps beyond it.
    pub state: Vec<KeptWrite>,
    /// Its end.
    pub ended: Option<(EndedResponse, Ended)>,
    /// Whether nothing more will come before the next start.
    pub suspended: bool,
}

/// How much of a run is held.
#[derive(Clone, Copy, Debug)]
pub struct RunBytes {
    /// The most that may wait to be written before its instance is suspended: `limits.outbox_bytes`.
    pub outbox: usize,
    /// The most of its log that is kept: `limits.log_bytes`.
    pub log: usize,
}

/// How much time of a processor a run may use before that is written.
const ACCOUNT: Duration = Duration::from_millis(100);

impl Run {
    /// A run that has not been admitted.
    pub fn new(
        ownership: Ownership,
        recorder: Recorder,
        journal: Journal,
        feed: Feed,
        RunBytes { outbox: outbox_bytes, log: log_bytes }: RunBytes,
        writer: WriterQueue,
        metrics: LiveRun,
    ) -> Arc<Self> {
        let Ownership { id, principal, durable, epoch } = ownership;
        let committed = watch::Sender::new(journal.next());
        Arc::new(Self {
            id,
            principal,
            durable,
            epoch,
            feed,
            metrics,
            meter: Arc::default(),
            outbox: Mutex::new(Outbox {
                recorder,
                journal,
                state: Vec::new(),
                logs: Logs::new(log_bytes),
                accounted: Default::default(),
                queued: false,
                admission: None,
                ended: None,
                suspended: false,
            }),
            outbox_bytes,
            room: Notify::new(),
            committed,
            stop: CancellationToken::new(),
            cancel: CancellationToken::new(),
            stop_reason: OnceLock::new(),
            passive: AtomicBool::new(false),
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

    /// Goes back to the begin: the run is executed again. `recorder` and `journal` have what is committed.
    pub fn rewind(&self, recorder: Recorder, journal: Journal) {
        let mut outbox = self.outbox.lock();
        outbox.recorder = recorder;
        outbox.journal = journal;
    }

    /// The numbers of the next event and of the next entry of the journal.
    pub fn reached(&self) -> (u64, u64) {
        let outbox = self.outbox.lock();
        (outbox.recorder.next(), outbox.journal.next())
    }

    /// Whether the run sleeps without an instance.
    pub fn is_passive(&self) -> bool {
        self.passive.load(Ordering::Relaxed)
    }

    /// Says whether the run sleeps without an instance.
    pub fn set_passive(&self, passive: bool) {
        self.passive.store(passive, Ordering::Relaxed);
    }

    /// Records that the agent begins.
    pub fn begin(self: &Arc<Self>) {
        let mut outbox = self.outbox.lock();
        outbox.recorder.begin();
        if outbox.recorder.pending_bytes() > 0 {
            self.queue(&mut outbox);
        }
    }

    /// Leaves the run as it is, for the next start to go on with.
    pub fn suspend(self: &Arc<Self>) {
        let mut outbox = self.outbox.lock();
        outbox.suspended = true;
        self.queue(&mut outbox);
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

    /// Writes what the agent keeps beyond the run, in one transaction with the entry of the journal that says so.
    pub fn keep(self: &Arc<Self>, entry: &str, write: KeptWrite) -> Result<(), EmitError> {
        let mut outbox = self.outbox.lock();
        outbox.journal.append(entry)?;
        outbox.state.push(write);
        self.queue(&mut outbox);
        Ok(())
    }

    /// Ends the run. The first call decides; later ones do nothing.
    pub fn end(self: &Arc<Self>, ending: Ending, now: std::time::SystemTime) {
        let mut outbox = self.outbox.lock();
        let Some(status) = outbox.recorder.end(ending, super::seconds(now)) else { return };
        // A response is made of strings, numbers and lists: it always serializes.
        let response = serde_json::to_string(outbox.recorder.response()).unwrap_or_default();
        let ended = Ended { status, response: response.clone().into() };
        let ended_at = super::milliseconds(now);
        let journaled = outbox.journal.is_used();
        let row = EndedResponse { id: self.id.clone(), epoch: self.epoch, status, ended_at, response, journaled };
        outbox.ended = Some((row, ended));
        self.queue(&mut outbox);
    }

    /// Empties the outbox.
    pub fn take(self: Arc<Self>) -> Write {
        let mut outbox = self.outbox.lock();
        outbox.queued = false;
        let (admission, ended) = (outbox.admission.take(), outbox.ended.take());
        let suspended = outbox.suspended;
        let (segment, entries, state) =
            (outbox.recorder.take(), outbox.journal.take(), std::mem::take(&mut outbox.state));
        let (logs, usage) = match self.durable {
            true => (outbox.logs.take(), self.account(&mut outbox, ended.is_some())),
            false => (None, None),
        };
        drop(outbox);
        self.room.notify_waiters();
        Write { run: self, admission, segment, entries, logs, usage, state, ended, suspended }
    }

    /// What the run has used so far, if it has to be written. It is, when lines of the log are: `heard` belongs to them.
    fn account(&self, outbox: &mut Outbox, ended: bool) -> Option<RunUsage> {
        let used = self.meter.used();
        let heard = outbox.logs.heard();
        let spent = used.cpu.saturating_sub(outbox.accounted.0) >= ACCOUNT;
        if !(ended || outbox.suspended || spent || heard > outbox.accounted.1) {
            return None;
        }
        outbox.accounted = (used.cpu, heard);
        let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        Some(RunUsage {
            cpu: i64::try_from(used.cpu.as_micros()).unwrap_or(i64::MAX),
            memory: whole(used.memory),
            input_tokens: whole(used.input_tokens),
            output_tokens: whole(used.output_tokens),
            heard: whole(heard),
        })
    }

    /// Goes on from what an earlier server has counted and logged.
    pub fn recall(&self, used: Used, log: KeptLog) {
        self.meter.add(used);
        self.metrics.recall(used.input_tokens, used.output_tokens);
        let mut outbox = self.outbox.lock();
        outbox.accounted = (used.cpu, log.heard);
        outbox.logs.resume(log);
    }

    /// Adds a line to the log; false when it was there before.
    pub fn log(self: &Arc<Self>, line: LogLine<'_>) -> bool {
        if !self.durable {
            return true;
        }
        let mut outbox = self.outbox.lock();
        let new = outbox.logs.append(line, super::milliseconds(SystemTime::now()));
        if new {
            self.queue(&mut outbox);
        }
        new
    }

    /// Adds a line of the host to the log.
    pub fn note(self: &Arc<Self>, level: &'static str, text: &str) {
        self.log(LogLine { number: None, level, source: "host", text });
    }

    /// How many lines the log has.
    pub fn log_lines(&self) -> u64 {
        self.outbox.lock().logs.count()
    }

    /// The entries of the journal are committed up to this one.
    pub fn has_committed(&self, last: u64) {
        self.committed.send_replace(last + 1);
    }

    /// Takes the admission alone, to refuse it.
    pub fn take_admission(&self) -> Option<oneshot::Sender<Result<(), Refusal>>> {
        self.outbox.lock().admission.take().map(|(_, sender)| sender)
    }

    /// Asks the run to stop. The first reason stands. The run ends soon after, from its own task.
    pub fn stop(self: &Arc<Self>, reason: StopReason) {
        if self.stop_reason.set(reason).is_err() {
            return;
        }
        if self.durable && matches!(reason, StopReason::Cancelled | StopReason::Disconnected) {
            let mut outbox = self.outbox.lock();
            if !outbox.recorder.ended() {
                outbox.journal.cancel();
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

    fn queue(self: &Arc<Self>, outbox: &mut Outbox) {
        if !std::mem::replace(&mut outbox.queued, true) {
            self.writer.push(self.clone());
        }
    }

    fn has_room(&self) -> bool {
        let outbox = self.outbox.lock();
        let state: usize = outbox.state.iter().map(KeptWrite::bytes).sum();
        let pending = outbox.recorder.pending_bytes() + outbox.journal.pending_bytes() + state;
        drop(outbox);
        pending + self.feed.unread() <= self.outbox_bytes
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
pub(super) struct Port(pub Arc<Run>);

impl LogPort for Port {
    fn line(&self, line: LogLine<'_>) -> bool {
        self.0.log(line)
    }
}

impl RunPort for Port {
    fn emit(&self, emission: Emission<'_>) -> Result<Emitted, EmitError> {
        if matches!(emission, Emission::Text(..) | Emission::Summary(..) | Emission::Arguments(..)) {
            self.0.metrics.output();
        }
        self.0.emit(emission)
    }

    fn room(&self) -> Option<BoxFuture<'_, ()>> {
        (!self.0.has_room()).then(|| Box::pin(self.0.wait_for_room()) as _)
    }

    fn journal(&self, entry: &str) -> Result<(), EmitError> {
        let mut outbox = self.0.outbox.lock();
        outbox.journal.append(entry)?;
        self.0.queue(&mut outbox);
        Ok(())
    }

    fn committed(&self) -> BoxFuture<'static, ()> {
        let run = self.0.clone();
        let entries = run.outbox.lock().journal.next();
        Box::pin(async move {
            let mut committed = run.committed.subscribe();
            // Fails when the run is gone, which this holds.
            let _ = committed.wait_for(|committed| *committed >= entries).await;
        })
    }

    fn replaying(&self) -> bool {
        self.0.outbox.lock().recorder.replaying()
    }

    fn position(&self) -> (u64, ItemIndex) {
        let outbox = self.0.outbox.lock();
        (outbox.recorder.next(), outbox.recorder.response().output.len())
    }

    fn skip(&self, to: Option<u64>) -> Result<(), FoldError> {
        self.0.outbox.lock().recorder.skip(to)
    }

    fn output(&self) -> Vec<Item> {
        self.0.outbox.lock().recorder.response().output.clone()
    }
}
