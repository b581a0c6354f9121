//! What a run has to be written.
//!
//! A run puts its events into its outbox and its name into the writer's queue, once, until the writer has
//! emptied the outbox. So the queue is bounded by the number of runs, a busy run is written in large segments
//! and a quiet one at once, and nobody waits for a commit but those who must: when the outbox is full, the
//! instance is suspended.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use outlast_plugin::{Held, LogLine, Meter, Used};
use outlast_protocol::{Emission, EmitError, Emitted, Response, Segment, TerminalStatus, Usage};
use outlast_runtime::clock::{milliseconds, seconds};
use outlast_store::{
    ConversationItem, EndedResponse, JournalSegment, LogSegment, NewResponse, Phase, RunUsage, STORED_ROW,
};
use tokio::sync::oneshot;

use super::{
    Ended, Ending, Recorder, Refusal, Run, StopReason,
    journal::Journal,
    logs::{KeptLog, Logs},
    state::KeptWrite,
};

/// What a run has to be written.
#[derive(Debug)]
pub struct Outbox {
    /// None while the run has no instance and does not need it: the log has its events.
    recorder: Option<Box<Recorder>>,
    /// What the recorder takes.
    said: Held,
    /// The number of the next event, while there is no recorder.
    events: u64,
    journal: Journal,
    state: Vec<KeptWrite>,
    logs: Logs,
    /// Whether what earlier lives have used and logged is known.
    recalled: bool,
    /// What was written last: the time of a processor, how many lines were heard, and the usage that was reported.
    accounted: (Duration, u64, Usage),
    /// The input of the run, where it is a turn of a conversation.
    turn: Option<Vec<ConversationItem>>,
    queued: bool,
    /// Whether what is said now is written together: nothing is taken meanwhile.
    pub(super) together: bool,
    admission: Option<Admission>,
    /// Where the run stands, if that has changed, and who waits until that is committed.
    phase: Option<(Phase, Option<oneshot::Sender<()>>)>,
    /// Whether it has been anywhere else than where it began: see [`EndedResponse::lived`].
    lived: bool,
    /// Whether it has no instance: it sleeps, or waits for a place.
    passive: bool,
    /// Whether the recorder is not needed any more once it is empty.
    shelving: bool,
    /// Whether nothing is written, because the database does not take it.
    broken: bool,
    ended: Option<(EndedResponse, Ended)>,
    suspended: bool,
}

impl Outbox {
    /// An empty one, of a run that has a recorder, or `events` events that are all in the database.
    pub(super) fn new(
        recorder: Option<Box<Recorder>>,
        events: u64,
        journal: Journal,
        log_bytes: usize,
        meter: &Arc<Meter>,
    ) -> Self {
        let new = recorder.is_some();
        Self {
            recorder,
            said: meter.hold(0),
            events,
            journal,
            state: Vec::new(),
            logs: Logs::new(log_bytes),
            recalled: new,
            accounted: Default::default(),
            turn: None,
            queued: false,
            together: false,
            admission: None,
            phase: None,
            lived: !new,
            passive: !new,
            shelving: false,
            broken: false,
            ended: None,
            suspended: false,
        }
    }

    /// Takes down that somebody wants the run to stop for good, before it has.
    pub(super) fn cancel(&mut self) -> bool {
        if self.recorder.as_ref().is_some_and(|recorder| recorder.ended()) {
            return false;
        }
        self.journal.cancel();
        if self.passive {
            // Should the server end now, the next one does not let it sleep on.
            self.phase = Some((Phase::Waiting, None));
        }
        true
    }

    /// How many bytes wait to be written.
    pub(super) fn pending_bytes(&self) -> usize {
        let state: usize = self.state.iter().map(KeptWrite::bytes).sum();
        let frames = self.recorder.as_ref().map_or(0, |recorder| recorder.pending_bytes());
        frames + self.journal.pending_bytes() + state
    }

    /// How many entries the journal has.
    pub(super) fn entries(&self) -> u64 {
        self.journal.next()
    }
}

/// The admission of a run.
#[derive(Debug)]
pub struct Admission {
    /// Its row.
    pub row: NewResponse,
    /// Who waits to hear whether it was made.
    pub waiting: oneshot::Sender<Result<(), Refusal>>,
    /// Since when it has not been known whether it was made.
    pub unknown_since: Option<Instant>,
}

impl Admission {
    /// Says that it was made, or why it was not.
    pub fn answer(self, result: Result<(), Refusal>) {
        // Nobody waits any more: the server ends.
        let _ = self.waiting.send(result);
    }
}

/// What the writer takes out of an outbox.
#[derive(Debug)]
pub struct Write {
    /// The run.
    pub run: Arc<Run>,
    /// Its admission.
    pub admission: Option<Admission>,
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
    /// Where it stands, and who waits until that is committed.
    pub phase: Option<(Phase, Option<oneshot::Sender<()>>)>,
    /// Its end.
    pub ended: Option<(EndedResponse, Ended)>,
    /// Whether nothing more will come before the next start.
    pub suspended: bool,
    /// Whether the run has no instance any more, and nothing more comes for long.
    pub shelved: bool,
}

impl Write {
    /// About how many bytes it has.
    pub fn bytes(&self) -> usize {
        self.admission.as_ref().map_or(0, |admission| admission.row.request.len())
            + self.segment.as_ref().map_or(0, |segment| segment.frames.len())
            + self.entries.as_ref().map_or(0, |entries| entries.lines.len())
            + self.logs.as_ref().map_or(0, |logs| logs.lines.len())
            + self.state.iter().map(KeptWrite::bytes).sum::<usize>()
            + self.ended.as_ref().map_or(0, |(row, _)| row.response.len())
    }

    /// How much it keeps beyond its admission and beyond its run.
    pub(super) fn stored_bytes(&self) -> u64 {
        let items = self.ended.iter().flat_map(|(row, _)| &row.items).map(|item| item.item.len() as u64 + STORED_ROW);
        let rows = [
            self.segment.as_ref().map(|segment| segment.frames.len()),
            self.logs.as_ref().map(|logs| logs.lines.len()),
        ];
        let rows: u64 = rows.into_iter().flatten().map(|bytes| bytes as u64 + STORED_ROW).sum();
        rows + items.sum::<u64>() + self.ended.as_ref().map_or(0, |(row, _)| row.response.len() as u64)
    }
}

/// The end of a run, as it is to be written: see [`EndedResponse`].
struct End {
    status: TerminalStatus,
    response: String,
    background: bool,
    items: Vec<ConversationItem>,
    given_up: bool,
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
    /// Records the first events and writes them together with the response's row. The receiver hears once the
    /// transaction is committed, or that it is not.
    pub fn admit(self: &Arc<Self>, row: NewResponse) -> oneshot::Receiver<Result<(), Refusal>> {
        let (sender, receiver) = oneshot::channel();
        let mut outbox = self.outbox.lock();
        if let Some(recorder) = &mut outbox.recorder {
            recorder.start();
        }
        outbox.admission = Some(Admission { row, waiting: sender, unknown_since: None });
        self.queue(&mut outbox);
        receiver
    }

    /// The run is a turn of a conversation, with this input.
    pub fn set_input(&self, input: Vec<ConversationItem>) {
        self.outbox.lock().turn = Some(input);
    }

    /// Goes back to the beginning: the run is executed again, or ended. `recorder` and `journal` have what is committed.
    pub fn rewind(&self, recorder: Recorder, journal: Journal) {
        let mut outbox = self.outbox.lock();
        outbox.recorder = Some(Box::new(recorder));
        outbox.journal = journal;
        (outbox.shelving, outbox.broken) = (false, false);
    }

    /// The numbers of the next event and of the next entry of the journal.
    pub fn reached(&self) -> (u64, u64) {
        let outbox = self.outbox.lock();
        (outbox.recorder.as_ref().map_or(outbox.events, |recorder| recorder.next()), outbox.journal.next())
    }

    /// Whether the run has no recorder: all of it is in the database, and nowhere else.
    pub fn is_shelved(&self) -> bool {
        self.outbox.lock().recorder.is_none()
    }

    /// Whether the run has no instance: it sleeps, or waits for a place.
    pub fn is_passive(&self) -> bool {
        self.outbox.lock().passive
    }

    /// The run has no instance any more, until this time in milliseconds since 1970. Once that and all that it has said is
    /// on its way to the database, only what its subscribers need stays in memory.
    pub fn shelve(self: &Arc<Self>, until: i64) {
        let mut outbox = self.outbox.lock();
        (outbox.passive, outbox.lived, outbox.shelving) = (true, true, true);
        outbox.phase = Some((Phase::Asleep(until), None));
        self.queue(&mut outbox);
    }

    /// The run is about to have an instance. The receiver hears once that is committed.
    pub fn unshelve(self: &Arc<Self>) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        let mut outbox = self.outbox.lock();
        (outbox.passive, outbox.lived) = (false, true);
        outbox.phase = Some((Phase::Executing, Some(sender)));
        self.queue(&mut outbox);
        receiver
    }

    /// Records that the agent begins.
    pub fn begin(self: &Arc<Self>) {
        let mut outbox = self.outbox.lock();
        let Some(recorder) = &mut outbox.recorder else { return };
        recorder.begin();
        if recorder.pending_bytes() > 0 {
            self.queue(&mut outbox);
        }
    }

    /// Leaves the run as it is, for the next start to go on with.
    pub fn suspend(self: &Arc<Self>) {
        let mut outbox = self.outbox.lock();
        outbox.suspended = true;
        // It was stopped in order: that it had an instance is no reproach.
        if self.durable && !outbox.passive {
            outbox.lived = true;
            outbox.phase = Some((Phase::Waiting, None));
        }
        self.queue(&mut outbox);
    }

    /// Records what the agent says.
    pub fn emit(self: &Arc<Self>, emission: Emission<'_>) -> Result<Emitted, EmitError> {
        let mut outbox = self.outbox.lock();
        let recorder = outbox.recorder.as_mut().ok_or(EmitError::Ended)?;
        let emitted = recorder.emit(emission)?;
        let (held, pending) = (recorder.held_bytes(), recorder.pending_bytes() > 0);
        outbox.said.resize(held);
        if pending {
            self.queue(&mut outbox);
        }
        Ok(emitted)
    }

    /// Asks the recorder; none while there is none.
    pub(super) fn recorder<T>(&self, ask: impl FnOnce(&mut Recorder) -> T) -> Option<T> {
        self.outbox.lock().recorder.as_deref_mut().map(ask)
    }

    /// Keeps an entry of the journal, one line of JSON.
    pub fn journal(self: &Arc<Self>, entry: &str) -> Result<(), EmitError> {
        let mut outbox = self.outbox.lock();
        outbox.journal.append(entry)?;
        self.queue(&mut outbox);
        Ok(())
    }

    /// Writes what the agent keeps beyond the run, in one transaction with the entry of the journal that says so.
    pub fn keep(self: &Arc<Self>, entry: &str, write: KeptWrite) -> Result<(), EmitError> {
        let mut outbox = self.outbox.lock();
        outbox.journal.append(entry)?;
        outbox.state.push(write);
        self.queue(&mut outbox);
        Ok(())
    }

    /// Ends the run. The first call decides; later ones do nothing, nor does one while it is [shelved](Self::is_shelved).
    pub fn end(self: &Arc<Self>, ending: Ending, now: SystemTime) {
        let mut outbox = self.outbox.lock();
        let Some(recorder) = &mut outbox.recorder else { return };
        let Some(status) = recorder.end(ending, seconds(now)) else { return };
        let (response, background) = (super::to_json(recorder.response()), recorder.response().background);
        let output = match status {
            TerminalStatus::Completed | TerminalStatus::Incomplete => recorder.response().output.as_slice(),
            _ => &[],
        };
        let output: Vec<_> = output
            .iter()
            .filter(|item| !item.is_half_call())
            .map(|item| ConversationItem { id: item.id().to_owned(), item: super::to_json(item) })
            .collect();
        let items = outbox.turn.take().map(|input| input.into_iter().chain(output).collect());
        let end = End { status, response, background, items: items.unwrap_or_default(), given_up: false };
        self.write_end(&mut outbox, end, now);
    }

    /// Ends the run without an event that says so: what it has said cannot be read, or nothing more of it can be written.
    pub fn end_unrecorded(self: &Arc<Self>, response: &Response, now: SystemTime) {
        let mut outbox = self.outbox.lock();
        outbox.broken = false;
        let (background, response) = (response.background, super::to_json(response));
        let end = End { status: TerminalStatus::Failed, response, background, items: Vec::new(), given_up: true };
        self.write_end(&mut outbox, end, now);
    }

    fn write_end(self: &Arc<Self>, outbox: &mut Outbox, end: End, now: SystemTime) {
        let End { status, response, background, items, given_up } = end;
        let ended = Ended { status, response: response.clone().into() };
        let (journaled, lived) = (outbox.journal.is_used(), outbox.lived);
        let (id, epoch, ended_at) = (self.id.clone(), self.epoch, milliseconds(now));
        let row =
            EndedResponse { id, epoch, status, ended_at, response, background, journaled, given_up, lived, items };
        outbox.ended = Some((row, ended));
        self.queue(outbox);
    }

    /// The database does not take what this run has to be written: nothing more is written before it is
    /// [rewound](Self::rewind) to what is committed.
    pub fn break_off(self: &Arc<Self>) {
        self.outbox.lock().broken = true;
        self.stop(StopReason::Unwritable);
        self.feed.break_off();
    }

    /// Empties the outbox.
    pub fn take(self: Arc<Self>) -> Write {
        let mut outbox = self.outbox.lock();
        outbox.queued = false;
        if outbox.together {
            drop(outbox);
            return Write::nothing(self);
        }
        let (admission, ended) = (outbox.admission.take(), outbox.ended.take());
        let suspended = outbox.suspended;
        let segment = outbox.recorder.as_mut().and_then(|recorder| recorder.take());
        let (entries, state, phase) = (outbox.journal.take(), std::mem::take(&mut outbox.state), outbox.phase.take());
        let (logs, usage) = if self.durable && outbox.recalled {
            (outbox.logs.take(), self.account(&mut outbox, ended.is_some()))
        } else {
            (None, None)
        };
        let shelved = std::mem::take(&mut outbox.shelving);
        if shelved {
            outbox.events = outbox.recorder.take().map_or(outbox.events, |recorder| recorder.next());
            outbox.turn = None;
            outbox.said.resize(0);
        }
        let broken = outbox.broken;
        drop(outbox);
        self.room.notify_waiters();
        if broken {
            state.iter().for_each(|state| state.settle(true));
            return Write::nothing(self);
        }
        Write { run: self, admission, segment, entries, logs, usage, state, phase, ended, suspended, shelved }
    }

    /// What the run has used so far, if it has to be written. It is, when lines of the log are: `heard` belongs to them.
    fn account(&self, outbox: &mut Outbox, ended: bool) -> Option<RunUsage> {
        let used = self.meter.used();
        let heard = outbox.logs.heard();
        let spent = used.cpu.saturating_sub(outbox.accounted.0) >= ACCOUNT;
        let reported = outbox.recorder.as_ref().map_or(outbox.accounted.2, |recorder| recorder.usage());
        let more = heard > outbox.accounted.1 || reported != outbox.accounted.2;
        if !(ended || outbox.suspended || outbox.shelving || spent || more) {
            return None;
        }
        outbox.accounted = (used.cpu, heard, reported);
        let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        Some(RunUsage {
            cpu: i64::try_from(used.cpu.as_micros()).unwrap_or(i64::MAX),
            memory: whole(used.memory),
            input_tokens: whole(used.input_tokens),
            output_tokens: whole(used.output_tokens),
            heard: whole(heard),
            reported,
        })
    }

    /// Writes what the run has used so far, so that it does not begin anew after a stop.
    pub fn save_usage(self: &Arc<Self>) {
        if self.durable {
            self.queue(&mut self.outbox.lock());
        }
    }

    /// Goes on from what an earlier server has counted and logged, unless that is known.
    pub fn recall(&self, used: Used, reported: Usage, log: KeptLog) {
        let mut outbox = self.outbox.lock();
        if std::mem::replace(&mut outbox.recalled, true) {
            return;
        }
        self.meter.add(used);
        self.metrics.recall(used.input_tokens, used.output_tokens);
        outbox.accounted = (used.cpu, log.heard, reported);
        outbox.logs.resume(log);
    }

    /// Adds a line to the log; false when it was there before.
    pub fn log(self: &Arc<Self>, line: LogLine<'_>) -> bool {
        if !self.durable {
            return true;
        }
        let mut outbox = self.outbox.lock();
        let new = outbox.logs.append(line, self.writer.clock().milliseconds());
        if new {
            self.queue(&mut outbox);
        }
        new
    }

    /// Adds a line of the host to the log.
    pub fn note(self: &Arc<Self>, level: &'static str, text: &str) {
        self.log(LogLine { number: None, level, source: "host", text });
    }

    /// Takes the admission alone, to refuse it.
    pub fn take_admission(&self) -> Option<Admission> {
        self.outbox.lock().admission.take()
    }

    pub(super) fn queue(self: &Arc<Self>, outbox: &mut Outbox) {
        if !outbox.together && !std::mem::replace(&mut outbox.queued, true) {
            self.writer.push(self.clone());
        }
    }
}

impl Write {
    fn nothing(run: Arc<Run>) -> Self {
        Self {
            run,
            admission: None,
            segment: None,
            entries: None,
            logs: None,
            usage: None,
            state: Vec::new(),
            phase: None,
            ended: None,
            suspended: false,
            shelved: false,
        }
    }
}
