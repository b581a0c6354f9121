//! Calls of the client's tools: functions with arguments, and custom tools with a text.

use std::borrow::Cow;

use outlast_protocol::{ClientTool, CustomInput, EmitError, Emitted, Event, Item, ItemIndex, ItemStatus, ToolKind};

use super::{Recorder, Tape};

impl Recorder {
    /// Opens a call of this tool.
    pub(super) fn open_call(&mut self, tool: &ClientTool) -> Result<Emitted, EmitError> {
        self.count_text(&tool.name)?;
        let call_id = self.child_id("call");
        let id = self.child_id(match tool.kind {
            ToolKind::Function => "fc",
            ToolKind::Custom => "ctc",
            ToolKind::BuiltIn(built_in) => built_in.prefix(),
        });
        let ClientTool { name, namespace, kind } = tool.clone();
        let (shown, status) = (call_id.clone(), ItemStatus::InProgress);
        let item = match kind {
            ToolKind::Function => Item::FunctionCall { id, call_id, name, namespace, arguments: String::new(), status },
            ToolKind::Custom => Item::CustomToolCall { id, call_id, name, namespace, input: String::new(), status },
            ToolKind::BuiltIn(tool) => Item::built_in_call(tool, id, call_id),
        };
        match self.open(item)? {
            Emitted::Item(index) => {
                match kind {
                    ToolKind::Function => {}
                    ToolKind::Custom => drop(self.inputs.insert(index, CustomInput::default())),
                    ToolKind::BuiltIn(_) => drop(self.arguments.insert(index, String::new())),
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
        if !self.response.output.get(index).is_some_and(Item::is_call) {
            return Err(EmitError::WrongKind("arguments"));
        }
        if let Some(arguments) = self.arguments.get_mut(&index) {
            arguments.push_str(text);
            return Ok(Emitted::Done);
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

    /// Shows what a call of a built-in tool is to do, which its arguments say. One that says nothing of it is not complete.
    pub(super) fn end_arguments(&mut self, index: ItemIndex, status: ItemStatus) -> ItemStatus {
        let arguments = self.arguments.remove(&index);
        let Some((tool, said)) = self.response.output.get_mut(index).and_then(Item::built_in_mut) else {
            return status;
        };
        match arguments.as_deref().and_then(|arguments| tool.meant(arguments)) {
            Some(meant) => {
                *said = meant;
                status
            }
            None => ItemStatus::Incomplete,
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
