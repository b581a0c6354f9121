//! From the events of a response to the response: what `GET` shows while a run goes on.
//!
//! The events are the truth and the log has them, so “the response so far” is not kept anywhere else: it is
//! folded from the log when somebody asks. Cost: the parsing of the log so far.

use super::{
    event::{Event, Frame, frames},
    item::{Content, Item, SummaryPart},
    response::Response,
};

/// Events that do not make a response: the log is damaged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FoldError {
    /// A frame is not an event.
    #[error("event {0} of the log cannot be read: {1}")]
    Unreadable(u64, String),
    /// A number is missing or doubled.
    #[error("event {expected} of the log is missing: {found} follows")]
    Gap {
        /// The number that should come.
        expected: u64,
        /// The number that came.
        found: u64,
    },
    /// An event refers to something that is not there.
    #[error("event {0} of the log refers to an item or part that was never added")]
    Dangling(u64),
}

/// A response and how many of its events are in it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fold {
    response: Option<Response>,
    next: u64,
}

impl Fold {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// What the events before `next` have made.
    pub fn resume(response: Response, next: u64) -> Self {
        Self { response: Some(response), next }
    }

    /// The response so far; none before the first event.
    pub fn response(&self) -> Option<&Response> {
        self.response.as_ref()
    }

    /// The response so far, and the number that the next event will have.
    pub fn into_parts(self) -> (Option<Response>, u64) {
        (self.response, self.next)
    }

    /// The number that the next event will have.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Adds a row of frames.
    pub fn extend(&mut self, bytes: &[u8]) -> Result<(), FoldError> {
        for frame in frames(bytes) {
            let frame = frame.map_err(|error| FoldError::Unreadable(self.next, error.to_string()))?;
            self.apply(frame)?;
        }
        Ok(())
    }

    /// Adds one event.
    pub fn apply(&mut self, frame: Frame) -> Result<(), FoldError> {
        if frame.sequence_number != self.next {
            return Err(FoldError::Gap { expected: self.next, found: frame.sequence_number });
        }
        self.absorb(frame.event).ok_or(FoldError::Dangling(self.next))?;
        self.next += 1;
        Ok(())
    }

    fn absorb(&mut self, event: Event<'_>) -> Option<()> {
        match event {
            Event::Created { response }
            | Event::Queued { response }
            | Event::InProgress { response }
            | Event::Completed { response }
            | Event::Failed { response }
            | Event::Incomplete { response } => self.response = Some(response.into_owned()),
            // The response that follows has it.
            Event::Error { .. } => {}
            Event::ItemAdded { output_index, item } => {
                let output = &mut self.response.as_mut()?.output;
                (output.len() == output_index).then(|| output.push(item.into_owned()))?;
            }
            Event::ItemDone { output_index, item } => *self.item(output_index)? = item.into_owned(),
            Event::PartAdded { output_index, content_index, part, .. } => {
                let content = self.content(output_index)?;
                (content.len() == content_index).then(|| content.push(part.into_owned()))?;
            }
            Event::PartDone { output_index, content_index, part, .. } => {
                *self.content(output_index)?.get_mut(content_index)? = part.into_owned();
            }
            Event::TextDelta { output_index, content_index, delta, logprobs, .. } => {
                let Content::OutputText { text, logprobs: all, .. } =
                    self.content(output_index)?.get_mut(content_index)?
                else {
                    return None;
                };
                text.push_str(&delta);
                all.extend(logprobs);
            }
            Event::TextDone { output_index, content_index, text: whole, .. }
            | Event::RefusalDone { output_index, content_index, refusal: whole, .. } => {
                *self.text(output_index, content_index)? = whole.into_owned();
            }
            Event::RefusalDelta { output_index, content_index, delta, .. } => {
                self.text(output_index, content_index)?.push_str(&delta);
            }
            Event::SummaryPartAdded { output_index, summary_index, part, .. } => {
                let summary = self.summary(output_index)?;
                (summary.len() == summary_index).then(|| summary.push(part.into_owned()))?;
            }
            Event::SummaryPartDone { output_index, summary_index, part, .. } => {
                *self.summary(output_index)?.get_mut(summary_index)? = part.into_owned();
            }
            Event::SummaryDelta { output_index, summary_index, delta, .. } => {
                let SummaryPart::SummaryText { text } = self.summary(output_index)?.get_mut(summary_index)?;
                text.push_str(&delta);
            }
            Event::SummaryDone { output_index, summary_index, text: whole, .. } => {
                let SummaryPart::SummaryText { text } = self.summary(output_index)?.get_mut(summary_index)?;
                *text = whole.into_owned();
            }
            Event::ArgumentsDelta { output_index, delta, .. } => self.arguments(output_index)?.push_str(&delta),
            Event::ArgumentsDone { output_index, arguments, .. } => {
                *self.arguments(output_index)? = arguments.into_owned();
            }
            Event::InputDelta { output_index, delta, .. } => self.input(output_index)?.push_str(&delta),
            Event::InputDone { output_index, input, .. } => *self.input(output_index)? = input.into_owned(),
        }
        Some(())
    }

    fn item(&mut self, index: usize) -> Option<&mut Item> {
        self.response.as_mut()?.output.get_mut(index)
    }

    fn content(&mut self, index: usize) -> Option<&mut Vec<Content>> {
        match self.item(index)? {
            Item::Message { content, .. } => Some(content),
            _ => None,
        }
    }

    fn text(&mut self, index: usize, part: usize) -> Option<&mut String> {
        match self.content(index)?.get_mut(part)? {
            Content::OutputText { text, .. } => Some(text),
            Content::Refusal { refusal } => Some(refusal),
        }
    }

    fn summary(&mut self, index: usize) -> Option<&mut Vec<SummaryPart>> {
        match self.item(index)? {
            Item::Reasoning { summary, .. } => Some(summary),
            _ => None,
        }
    }

    fn arguments(&mut self, index: usize) -> Option<&mut String> {
        match self.item(index)? {
            Item::FunctionCall { arguments, .. } => Some(arguments),
            _ => None,
        }
    }

    fn input(&mut self, index: usize) -> Option<&mut String> {
        match self.item(index)? {
            Item::CustomToolCall { input, .. } => Some(input),
            _ => None,
        }
    }
}
