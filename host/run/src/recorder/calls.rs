//! Calls of the client's tools: functions with arguments, and custom tools with a text.

use std::borrow::Cow;

use outlast_protocol::{ClientTool, CustomInput, EmitError, Emitted, Event, Item, ItemIndex, ItemStatus};

use super::{Recorder, Tape};

impl Recorder {
    /// Opens a call of this tool.
    pub(super) fn open_call(&mut self, tool: &ClientTool) -> Result<Emitted, EmitError> {
        self.count_text(&tool.name)?;
        let call_id = self.child_id("call");
        let id = self.child_id(if tool.custom { "ctc" } else { "fc" });
        let ClientTool { name, namespace, .. } = tool.clone();
        let (shown, status) = (call_id.clone(), ItemStatus::InProgress);
        let item = match tool.custom {
            true => Item::CustomToolCall { id, call_id, name, namespace, input: String::new(), status },
            false => Item::FunctionCall { id, call_id, name, namespace, arguments: String::new(), status },
        };
        match self.open(item)? {
            Emitted::Item(index) => {
                if tool.custom {
                    self.inputs.insert(index, CustomInput::default());
                }
                Ok(Emitted::Call(index, shown))
            }
            other => Ok(other),
        }
    }

    /// Adds to the arguments of a call, or to the text that they stand for.
    pub(super) fn write_arguments(&mut self, index: ItemIndex, text: &str) -> Result<Emitted, EmitError> {
        if !self.is_open(index) {
            return Err(EmitError::Closed);
        }
        self.count_text(text)?;
        let delta = match self.inputs.get_mut(&index) {
            Some(input) => Cow::Owned(input.push(text)),
            None => Cow::Borrowed(text),
        };
        if !matches!(self.response.output.get(index), Some(Item::FunctionCall { .. } | Item::CustomToolCall { .. })) {
            return Err(EmitError::WrongKind("arguments"));
        }
        self.add_to_call(index, &delta);
        Ok(Emitted::Done)
    }

    /// Adds what only the end of the arguments tells of the text of a custom tool.
    pub(super) fn end_input(&mut self, index: ItemIndex) {
        if let Some(mut input) = self.inputs.remove(&index) {
            let rest = input.finish();
            self.add_to_call(index, &rest);
        }
    }

    fn add_to_call(&mut self, output_index: ItemIndex, text: &str) {
        if text.is_empty() {
            return;
        }
        let event = match self.response.output.get_mut(output_index) {
            Some(Item::FunctionCall { id, arguments, .. }) => {
                arguments.push_str(text);
                Event::ArgumentsDelta { item_id: id.as_str().into(), output_index, delta: text.into() }
            }
            Some(Item::CustomToolCall { id, input, .. }) => {
                input.push_str(text);
                Event::InputDelta { item_id: id.as_str().into(), output_index, delta: text.into() }
            }
            _ => return,
        };
        self.tape.record(&event);
    }
}

/// The arguments of a call are complete.
pub(super) fn close(tape: &mut Tape, output_index: ItemIndex, item: &Item) {
    let event = match item {
        Item::FunctionCall { id, name, arguments, .. } => Event::ArgumentsDone {
            item_id: id.as_str().into(),
            output_index,
            name: name.as_str().into(),
            arguments: arguments.as_str().into(),
        },
        Item::CustomToolCall { id, input, .. } => {
            Event::InputDone { item_id: id.as_str().into(), output_index, input: input.as_str().into() }
        }
        _ => return,
    };
    tape.record(&event);
}
