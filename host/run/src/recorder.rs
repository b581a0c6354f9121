//! From what an agent means to what the protocol says.
//!
//! A pure state machine: emissions go in, events with sequence numbers come out as frames, and the response
//! so far is kept beside them. An agent never writes an event, so it cannot produce an ill-formed stream:
//! whatever the order of emissions, every item is added once and done once, every part is opened before its
//! deltas and closed before its item, numbers grow by one, and there is one terminal event.

mod calls;
mod compaction;
mod tape;
mod texts;

use std::{borrow::Cow, collections::BTreeMap};

use bytes::Bytes;
use outlast_protocol::{
    Content, CustomInput, Emission, EmitError, Emitted, Event, Fold, FoldError, IncompleteDetails, Item, ItemIndex,
    ItemStatus, Response, ResponseError, ResponseId, Segment, Status, SummaryPart, TerminalStatus, Usage, frames,
    skip_frames,
};
use outlast_runtime::limits::{Count, MOST_BYTES, MOST_EVENTS, MOST_ITEMS, Number, Size};
use serde_json::Value;

use super::ReasoningSeal;
use tape::Tape;
use texts::{close_part, open_part};

outlast_runtime::limits! {
    /// How much a run may say. A run that goes beyond a limit is ended.
    pub struct OutputLimits {
        /// All text together, in bytes.
        output_bytes => output_bytes: Size = 16 << 20, 0 => MOST_BYTES;
        /// The most items.
        output_items => output_items: Count = 1_000, 1 => MOST_ITEMS;
        /// The most events.
        events => events: Number = 1_000_000, 0 => MOST_EVENTS;
    }
    besides {
        /// The largest single text, in bytes: `limits.event_bytes`, which the sandbox keeps to, too.
        event_bytes: usize = 1 << 20;
    }
}

/// How a run ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The agent finished.
    Completed,
    /// The agent finished, and the answer was cut short for this reason.
    Incomplete(String),
    /// Something failed.
    Failed(ResponseError),
    /// The run was cancelled.
    Cancelled,
}

impl Ending {
    /// A failure with the code that SDKs know for “the server's side failed”.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed(ResponseError::new("server_error", message))
    }

    /// The failure of a run that has something to be written that the database does not take.
    pub(super) fn unwritable() -> Self {
        Self::failed("The database refused the writes of this run.")
    }
}

/// How many events [`Recorder::start`] records.
const START: usize = 2;

/// The recorder of one run.
#[derive(Debug)]
pub struct Recorder {
    id: ResponseId,
    limits: OutputLimits,
    response: Response,
    usage: Usage,
    /// The usage that was reported before the run was executed again: some of it is to come again.
    earlier: Usage,
    text_bytes: usize,
    /// The inputs of open calls of custom tools.
    inputs: BTreeMap<ItemIndex, CustomInput>,
    /// The arguments of open calls of built-in tools, which are shown at their end.
    arguments: BTreeMap<ItemIndex, String>,
    tape: Tape,
    ended: bool,
    /// How likely the tokens of the next text are.
    logprobs: Vec<Value>,
    /// Where the client asks for its reasoning to be sealed.
    seal: Option<ReasoningSeal>,
}

impl Recorder {
    /// The recorder of a new run; `response` is what its first event shows.
    pub fn new(id: ResponseId, response: Response, limits: OutputLimits) -> Self {
        Self::resume(id, response, 0, limits)
    }

    /// The recorder of a run whose events before `next` were recorded earlier and fold to `response`.
    fn resume(id: ResponseId, response: Response, next: u64, limits: OutputLimits) -> Self {
        Self {
            id,
            limits,
            response,
            usage: Usage::default(),
            earlier: Usage::default(),
            text_bytes: 0,
            inputs: BTreeMap::new(),
            arguments: BTreeMap::new(),
            tape: Tape { next, first: next, ..Tape::default() },
            ended: false,
            logprobs: Vec::new(),
            seal: None,
        }
    }

    /// The same, which seals the reasoning.
    #[must_use]
    pub fn sealing(self, seal: Option<ReasoningSeal>) -> Self {
        Self { seal, ..self }
    }

    /// The recorder of a run that is executed again. `log` has the frames of its events so far: they are expected
    /// again, those of [`Recorder::start`] excepted, and nothing comes out before they have come.
    ///
    /// # Errors
    ///
    /// The log does not begin with the events of a response that was created.
    pub fn replay(id: ResponseId, log: Bytes, events: u64, limits: OutputLimits) -> Result<Self, FoldError> {
        let mut fold = Fold::new();
        for frame in frames(&log).take(START) {
            fold.apply(frame.map_err(|error| FoldError::Unreadable(0, error.to_string()))?)?;
        }
        let (response, next) = fold.into_parts();
        let mut recorder = Self::resume(id, response.ok_or(FoldError::Dangling(0))?, next, limits);
        recorder.tape.recorded = log.slice(skip_frames(&log, next)..);
        recorder.tape.log = (log, events);
        Ok(recorder)
    }

    /// So much usage was reported before the run was executed again. A run that is ended before that has come again has it.
    #[must_use]
    pub fn having_used(self, earlier: Usage) -> Self {
        Self { earlier, ..self }
    }

    /// The usage that was reported so far.
    pub fn usage(&self) -> Usage {
        self.usage.at_least(self.earlier)
    }

    /// Whether events that were recorded earlier are still to come again.
    pub fn replaying(&self) -> bool {
        !self.tape.recorded.is_empty()
    }

    /// The number of the next event.
    pub fn next(&self) -> u64 {
        self.tape.next
    }

    /// Takes recorded events as said, up to the event `to`, or all that are left: the host said them, and nobody says
    /// them again.
    pub fn skip(&mut self, to: Option<u64>) -> Result<(), FoldError> {
        let mut fold = Fold::resume(self.response.clone(), self.tape.next);
        let mut bytes = 0;
        let recorded = self.tape.recorded.clone();
        let mut rest = frames(&recorded);
        while fold.next() < to.unwrap_or(u64::MAX) {
            let Some(frame) = rest.next() else { break };
            let frame = frame.map_err(|error| FoldError::Unreadable(fold.next(), error.to_string()))?;
            bytes += frame.event.said();
            fold.apply(frame)?;
        }
        self.tape.skip(fold.next());
        if let Some(response) = fold.into_parts().0 {
            self.response = response;
        }
        self.text_bytes += bytes;
        Ok(())
    }

    /// The first events: the response was created, and is queued when it runs in the background, or in progress.
    pub fn start(&mut self) {
        // Two whole response objects: reserving them spares the vector four moves.
        self.tape.frames.reserve(2_560);
        let event = Event::Created { response: Cow::Borrowed(&self.response) };
        self.tape.record(&event);
        let response = Cow::Borrowed(&self.response);
        let event = if self.response.background { Event::Queued { response } } else { Event::InProgress { response } };
        self.tape.record(&event);
    }

    /// A queued response is in progress now.
    pub fn begin(&mut self) {
        if self.response.status == Status::QUEUED && !self.ended {
            self.response.status = Status::IN_PROGRESS;
            let event = Event::InProgress { response: Cow::Borrowed(&self.response) };
            self.tape.record(&event);
        }
    }

    /// The response so far.
    pub fn response(&self) -> &Response {
        &self.response
    }

    /// Whether the terminal event has been recorded.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// How many bytes of text the response and its unwritten events have.
    pub fn held_bytes(&self) -> usize {
        self.text_bytes + self.pending_bytes()
    }

    /// How many bytes of frames were not taken yet.
    pub fn pending_bytes(&self) -> usize {
        self.tape.frames.len()
    }

    /// Takes the frames recorded since the last call.
    pub fn take(&mut self) -> Option<Segment> {
        self.tape.take()
    }

    /// Records one emission.
    pub fn emit(&mut self, emission: Emission<'_>) -> Result<Emitted, EmitError> {
        if self.ended {
            return Err(EmitError::Ended);
        }
        check("recorded events", self.tape.next, self.limits.events, "limits.events")?;
        let emitted = self.apply(emission)?;
        match &self.tape.diverged {
            Some(why) => Err(EmitError::Diverged(why.clone())),
            None => Ok(emitted),
        }
    }

    fn apply(&mut self, emission: Emission<'_>) -> Result<Emitted, EmitError> {
        match emission {
            Emission::OpenMessage => {
                let id = self.child_id("msg");
                let role = "assistant".to_owned();
                self.open(Item::Message { id, status: ItemStatus::InProgress, role, content: Vec::new() })
            }
            Emission::OpenReasoning => {
                let id = self.child_id("rs");
                let status = Some(ItemStatus::InProgress);
                self.open(Item::Reasoning { id, summary: Vec::new(), encrypted_content: None, status })
            }
            Emission::Logprobs(index, likely) => self.hold_logprobs(index, likely),
            Emission::Text(index, text) => self.write_content(index, text, false),
            Emission::Refusal(index, text) => self.write_content(index, text, true),
            Emission::Summary(index, text) => self.write_summary(index, text),
            Emission::Finish(index) => {
                if self.is_open(index) {
                    self.close(index, ItemStatus::Completed);
                }
                Ok(Emitted::Done)
            }
            Emission::Abandon(index) => {
                if self.is_open(index) {
                    self.close(index, ItemStatus::Incomplete);
                }
                Ok(Emitted::Done)
            }
            Emission::OpenCall(tool) => self.open_call(tool),
            Emission::Arguments(index, text) => self.write_arguments(index, text),
            Emission::Compaction(sealed) => self.add_compaction(sealed),
            Emission::Usage(usage) => {
                self.usage = self.usage.plus(usage);
                Ok(Emitted::Done)
            }
        }
    }

    /// Ends the run: closes what is open as incomplete and records the terminal event. `now` is in seconds
    /// since 1970. A second call does nothing and returns none.
    pub fn end(&mut self, ending: Ending, now: i64) -> Option<TerminalStatus> {
        if std::mem::replace(&mut self.ended, true) {
            return None;
        }
        let ending = self.leave_replay(ending);
        for index in 0..self.response.output.len() {
            if self.is_open(index) {
                self.close(index, ItemStatus::Incomplete);
            }
        }
        self.response.usage = Some(self.usage());
        let status = match ending {
            Ending::Completed => {
                self.response.completed_at = Some(now);
                TerminalStatus::Completed
            }
            Ending::Incomplete(reason) => {
                self.response.incomplete_details = Some(IncompleteDetails { reason });
                TerminalStatus::Incomplete
            }
            Ending::Failed(error) => {
                self.response.error = Some(error);
                TerminalStatus::Failed
            }
            Ending::Cancelled => TerminalStatus::Cancelled,
        };
        self.response.status = Status::Terminal(status);
        if let Some(error) = &self.response.error {
            let event = Event::error(error);
            self.tape.record(&event);
        }
        let response = Cow::Borrowed(&self.response);
        let event = match status {
            TerminalStatus::Completed => Event::Completed { response },
            TerminalStatus::Incomplete => Event::Incomplete { response },
            // No client knows an event for `cancelled`; the status in the response tells.
            TerminalStatus::Failed | TerminalStatus::Cancelled => Event::Failed { response },
        };
        self.tape.record(&event);
        Some(status)
    }

    /// Goes on behind everything that was recorded. A run that ends by itself before it has come there has diverged.
    fn leave_replay(&mut self, ending: Ending) -> Ending {
        let early = self.replaying() && matches!(ending, Ending::Completed | Ending::Incomplete(_));
        let why = self.tape.diverged.take().or_else(|| {
            let next = self.tape.next;
            early.then(|| format!("diverged at event {next}: expected more events, got the end of the run"))
        });
        if self.replaying() || why.is_some() {
            let (log, next) = std::mem::take(&mut self.tape.log);
            let mut fold = Fold::new();
            // What can be read of the log is all there is to go on from.
            let _ = fold.extend(&log);
            self.tape = Tape { next, first: next, ..Tape::default() };
            self.inputs.clear();
            self.arguments.clear();
            if let Some(response) = fold.into_parts().0 {
                self.response = response;
            }
        }
        why.map_or(ending, |why| Ending::failed(format!("The run could not be resumed: it {why}.")))
    }

    fn child_id(&self, prefix: &str) -> String {
        self.id.child(prefix, self.response.output.len())
    }

    fn is_open(&self, index: ItemIndex) -> bool {
        self.response.output.get(index).is_some_and(|item| item.status() == ItemStatus::InProgress)
    }

    fn open(&mut self, item: Item) -> Result<Emitted, EmitError> {
        let index = self.response.output.len();
        check("opened items", index as u64 + 1, self.limits.output_items as u64, "limits.output_items")?;
        let event = Event::ItemAdded { output_index: index, item: Cow::Borrowed(&item) };
        self.tape.record(&event);
        self.response.output.push(item);
        Ok(Emitted::Item(index))
    }

    fn count_text(&mut self, text: &str) -> Result<(), EmitError> {
        check("wrote bytes in one call", text.len() as u64, self.limits.event_bytes as u64, "limits.event_bytes")?;
        self.text_bytes += text.len();
        check("wrote bytes in total", self.text_bytes as u64, self.limits.output_bytes as u64, "limits.output_bytes")
    }

    /// Closes the open part of an item and the item itself.
    fn close(&mut self, index: ItemIndex, status: ItemStatus) {
        self.end_input(index);
        let status = self.end_arguments(index, status);
        let tape = &mut self.tape;
        let Some(item) = self.response.output.get_mut(index) else { return };
        item.set_status(status);
        match item {
            Item::Message { id, content, .. } => {
                if content.is_empty() && status == ItemStatus::Completed {
                    content.push(Content::empty_text());
                    open_part(tape, id, index, content);
                }
                if let Some(part) = content.last() {
                    close_part(tape, id, index, content.len() - 1, part);
                }
            }
            Item::Reasoning { id, summary, encrypted_content, .. } => {
                if let (Some(seal), Some(SummaryPart::SummaryText { text })) = (&self.seal, summary.first()) {
                    *encrypted_content = seal.seal(id, text);
                }
                if let Some(part @ SummaryPart::SummaryText { text }) = summary.first() {
                    let (item_id, text) = (id.as_str().into(), text.as_str().into());
                    let event = Event::SummaryDone { item_id, output_index: index, summary_index: 0, text };
                    tape.record(&event);
                    let (item_id, part) = (id.as_str().into(), Cow::Borrowed(part));
                    let event = Event::SummaryPartDone { item_id, output_index: index, summary_index: 0, part };
                    tape.record(&event);
                }
            }
            Item::Compaction { .. } => {}
            _ => calls::close(tape, index, item),
        }
        let event = Event::ItemDone { output_index: index, item: Cow::Borrowed(&*item) };
        tape.record(&event);
    }
}

fn check(what: &'static str, got: u64, limit: u64, key: &'static str) -> Result<(), EmitError> {
    if got > limit { Err(EmitError::Limit { what, got, limit, key }) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
