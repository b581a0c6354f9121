//! The item that a run begins with whose conversation was compacted.

use std::borrow::Cow;

use outlast_protocol::{EmitError, Emitted, Event, Item, frames};

use super::Recorder;

/// How many events come at most after those of [`Recorder::start`] until a compaction item is complete: the run is in
/// progress, and the item is added, and done.
const BEGINNING: usize = 3;

impl Recorder {
    /// Adds an item that is whole.
    pub(super) fn add_compaction(&mut self, sealed: &str) -> Result<Emitted, EmitError> {
        self.count_text(sealed)?;
        let id = self.child_id("cmp");
        let opened = self.open(Item::Compaction { id: id.clone(), encrypted_content: String::new() })?;
        let item = Item::Compaction { id, encrypted_content: sealed.to_owned() };
        if let Some(place) = self.response.output.last_mut() {
            *place = item;
        }
        let output_index = self.response.output.len() - 1;
        if let Some(item) = self.response.output.last() {
            let event = Event::ItemDone { output_index, item: Cow::Borrowed(item) };
            self.tape.record(&event);
        }
        Ok(opened)
    }

    /// The content of the compaction item that the run began with before it was executed again.
    pub(crate) fn recorded_compaction(&self) -> Option<String> {
        let mut first = frames(&self.tape.recorded).take(BEGINNING).map_while(Result::ok);
        first.find_map(|frame| match frame.event {
            Event::ItemDone { output_index: 0, item } => match item.into_owned() {
                Item::Compaction { encrypted_content, .. } => Some(encrypted_content),
                _ => None,
            },
            _ => None,
        })
    }

    /// Whether its agent has said something.
    pub(crate) fn has_begun(&self) -> bool {
        let mut first = frames(&self.tape.recorded).take(BEGINNING).map_while(Result::ok);
        !self.response.output.is_empty() || first.any(|frame| matches!(frame.event, Event::ItemAdded { .. }))
    }
}
