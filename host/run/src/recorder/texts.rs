//! Texts: the parts of messages, and the summaries of reasoning.

use std::borrow::Cow;

use outlast_protocol::{Content, EmitError, Emitted, Event, Item, ItemIndex, SummaryPart};
use serde_json::Value;

use super::{Recorder, Tape};

impl Recorder {
    pub(super) fn hold_logprobs(&mut self, index: ItemIndex, likely: &[Value]) -> Result<Emitted, EmitError> {
        if !self.is_open(index) {
            return Err(EmitError::Closed);
        }
        for token in likely {
            self.count_text(&token.to_string())?;
        }
        self.logprobs = likely.to_vec();
        Ok(Emitted::Done)
    }

    pub(super) fn write_content(&mut self, index: ItemIndex, text: &str, refusal: bool) -> Result<Emitted, EmitError> {
        if !self.is_open(index) {
            return Err(EmitError::Closed);
        }
        self.count_text(text)?;
        let Some(Item::Message { id, content, .. }) = self.response.output.get_mut(index) else {
            return Err(EmitError::WrongKind(if refusal { "a refusal" } else { "text" }));
        };
        if text.is_empty() {
            return Ok(Emitted::Done);
        }
        let tape = &mut self.tape;
        let same = content.last().map(|part| matches!(part, Content::Refusal { .. }) == refusal);
        if same != Some(true) {
            if let Some(part) = content.last() {
                close_part(tape, id, index, content.len() - 1, part);
            }
            content.push(if refusal { Content::empty_refusal() } else { Content::empty_text() });
            open_part(tape, id, index, content);
        }
        let content_index = content.len() - 1;
        let (item_id, delta) = (id.as_str().into(), text.into());
        match content.last_mut() {
            Some(Content::OutputText { text: whole, logprobs: all, .. }) => {
                whole.push_str(text);
                let logprobs = std::mem::take(&mut self.logprobs);
                all.extend_from_slice(&logprobs);
                let event = Event::TextDelta { item_id, output_index: index, content_index, delta, logprobs };
                tape.record(&event);
            }
            Some(Content::Refusal { refusal: whole }) => {
                whole.push_str(text);
                tape.record(&Event::RefusalDelta { item_id, output_index: index, content_index, delta });
            }
            None => {}
        }
        Ok(Emitted::Done)
    }

    pub(super) fn write_summary(&mut self, index: ItemIndex, text: &str) -> Result<Emitted, EmitError> {
        if !self.is_open(index) {
            return Err(EmitError::Closed);
        }
        self.count_text(text)?;
        let Some(Item::Reasoning { id, summary, .. }) = self.response.output.get_mut(index) else {
            return Err(EmitError::WrongKind("a summary"));
        };
        if text.is_empty() {
            return Ok(Emitted::Done);
        }
        let tape = &mut self.tape;
        let item_id = || id.as_str().into();
        if summary.is_empty() {
            summary.push(SummaryPart::SummaryText { text: String::new() });
            let part = Cow::Borrowed(&summary[0]);
            let event = Event::SummaryPartAdded { item_id: item_id(), output_index: index, summary_index: 0, part };
            tape.record(&event);
        }
        let SummaryPart::SummaryText { text: whole } = &mut summary[0];
        whole.push_str(text);
        let delta = text.into();
        let event = Event::SummaryDelta { item_id: item_id(), output_index: index, summary_index: 0, delta };
        tape.record(&event);
        Ok(Emitted::Done)
    }
}

/// The last part of `content` was added.
pub(super) fn open_part(tape: &mut Tape, item_id: &str, output_index: ItemIndex, content: &[Content]) {
    let Some(part) = content.last() else { return };
    let (item_id, content_index, part) = (item_id.into(), content.len() - 1, Cow::Borrowed(part));
    tape.record(&Event::PartAdded { item_id, output_index, content_index, part });
}

/// A part of a message is complete.
pub(super) fn close_part(tape: &mut Tape, id: &str, output_index: ItemIndex, content_index: usize, part: &Content) {
    let item_id = || id.into();
    let done = match part {
        Content::OutputText { text, logprobs, .. } => {
            let (text, logprobs) = (text.as_str().into(), logprobs.clone());
            Event::TextDone { item_id: item_id(), output_index, content_index, text, logprobs }
        }
        Content::Refusal { refusal } => {
            Event::RefusalDone { item_id: item_id(), output_index, content_index, refusal: refusal.as_str().into() }
        }
    };
    tape.record(&done);
    tape.record(&Event::PartDone { item_id: item_id(), output_index, content_index, part: Cow::Borrowed(part) });
}
