//! What an agent asks a model, and its items as turns of a conversation.
//!
//! The Responses API has a flat list of items; every provider has turns, in which an assistant's text and all the
//! functions that it called at once are one. Both clients start from these turns, so that an item means the same
//! everywhere. An item that cannot be sent is an error that names it. `reasoning` belongs to the turn that follows it, and
//! is left out where nothing does; so are items of types that models do not know, and the client is told.

use serde_json::{Map, Value};

use super::{error::ModelError, offer, order::ordered};

/// One model call, as an agent asks for it.
#[derive(Clone, Debug, Default)]
pub struct Call {
    /// `provider/model`, or a model of the default provider; none: the default model.
    pub model: Option<String>,
    /// What stands before the conversation.
    pub instructions: Option<String>,
    /// Items of the Responses API, oldest first.
    pub input: Vec<Value>,
    /// What the model had said when it was cut off, to go on from.
    pub partial: Option<String>,
    /// Sampling and more, with the Responses API's own names. What is not known is ignored.
    pub options: Map<String, Value>,
    /// How long the texts are that it was read from, in bytes: what is long is written beside the threads that serve.
    pub bytes: usize,
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Message {
    /// From `system` and `developer`.
    System(String),
    /// From the user. Has at least one part.
    User(Vec<Part>),
    /// From the model: what it thought and said, and the functions that it called.
    Assistant { text: String, reasoning: String, calls: Vec<FunctionCall> },
    /// What a function returned: text, and what is none.
    Output { call_id: String, text: String, parts: Vec<Part> },
}

/// A part of what a user says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Part {
    /// Text.
    Text(String),
    /// An image: an `https:` or `data:` URL, and how closely to look.
    Image { url: String, detail: Option<String> },
    /// A file as `data:` URL.
    File { name: Option<String>, data: String },
    /// A recording in base64; the format is `wav`, `mp3`…
    Audio { data: String, format: String },
}

/// A function that a model called.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct FunctionCall {
    /// What the output will refer to.
    pub call_id: String,
    /// The function.
    pub name: String,
    /// Its arguments, in the model's own bytes: JSON, if the model kept to it.
    pub arguments: String,
}

impl Call {
    /// The conversation, the instructions first.
    pub(super) fn turns(&self) -> Result<Vec<Message>, ModelError> {
        let instructions = self.instructions.clone().filter(|text| !text.is_empty());
        let mut turns: Vec<Message> = instructions.map(Message::System).into_iter().collect();
        let answers = offer::Answers::of(&self.input);
        let untold = offer::untold(&self.input, &answers);
        let mut thoughts = String::new();
        for (index, item) in self.input.iter().enumerate() {
            if item["call_id"].as_str().is_some_and(|id| untold.contains(id)) {
                continue;
            }
            if let Some(answered) = answers.answered(item) {
                let output =
                    |(id, text): (&str, _)| Message::Output { call_id: id.to_owned(), text, parts: Vec::new() };
                turns.extend(answered.map(output));
                continue;
            }
            let appended = append(&mut turns, &mut thoughts, item);
            appended.map_err(|what| ModelError::invalid(format!("input[{index}]: {what}")))?;
        }
        let mut turns = ordered(turns);
        if let Some(text) = self.partial.clone().filter(|text| !text.is_empty()) {
            turns.push(Message::Assistant { text, reasoning: String::new(), calls: Vec::new() });
        }
        if turns.is_empty() {
            return Err(ModelError::invalid("both `input` and `instructions` are empty"));
        }
        Ok(turns)
    }
}

/// Adds an item. `thoughts` wait for the turn that they belong to.
fn append(turns: &mut Vec<Message>, thoughts: &mut String, item: &Value) -> Result<(), String> {
    if !item.is_object() {
        return Err("an item must be an object".to_owned());
    }
    if let Some(call) = offer::called(item) {
        let (call, thought) = (call?, std::mem::take(thoughts));
        match turns.last_mut() {
            Some(Message::Assistant { calls, reasoning, .. }) => {
                reasoning.push_str(&thought);
                calls.push(call);
            }
            _ => turns.push(Message::Assistant { text: String::new(), reasoning: thought, calls: vec![call] }),
        }
        return Ok(());
    }
    match item["type"].as_str().unwrap_or("message") {
        "message" => message(turns, thoughts, item)?,
        "function_call_output" | "custom_tool_call_output" => {
            let (texts, parts) =
                parts(&item["output"], "output")?.into_iter().partition(|part| matches!(part, Part::Text(_)));
            turns.push(Message::Output { call_id: text(item, "call_id")?, text: only_text(texts, "\n")?, parts });
        }
        "reasoning" => thoughts.push_str(&reasoning(item)),
        "item_reference" => return Err("an item of type `item_reference` cannot be sent to a model".to_owned()),
        _ => {}
    }
    Ok(())
}

/// The text of a reasoning item: all of it where it is there, else its summary.
fn reasoning(item: &Value) -> String {
    let texts = |field: &str| -> String {
        item[field].as_array().into_iter().flatten().filter_map(|part| part["text"].as_str()).collect()
    };
    Some(texts("content")).filter(|text| !text.is_empty()).unwrap_or_else(|| texts("summary"))
}

fn message(turns: &mut Vec<Message>, thoughts: &mut String, item: &Value) -> Result<(), String> {
    let parts = parts(&item["content"], "content")?;
    if item["role"] != "assistant" {
        // What was thought led to nothing.
        thoughts.clear();
    }
    match item["role"].as_str() {
        Some("user") if parts.is_empty() => turns.push(Message::User(vec![Part::Text(String::new())])),
        Some("user") => turns.push(Message::User(parts)),
        Some("system" | "developer") => turns.push(Message::System(only_text(parts, "\n")?)),
        Some("assistant") => {
            let said = only_text(parts, "")?;
            if said.is_empty() {
                return Ok(());
            }
            match turns.last_mut() {
                // What is said between a call and its output belongs to the turn of the call.
                Some(Message::Assistant { text, reasoning, calls }) if !calls.is_empty() => {
                    reasoning.push_str(&std::mem::take(thoughts));
                    text.push_str(&said);
                }
                _ => {
                    let reasoning = std::mem::take(thoughts);
                    turns.push(Message::Assistant { text: said, reasoning, calls: Vec::new() });
                }
            }
        }
        _ => return Err("`role` must be user, assistant, system or developer".to_owned()),
    }
    Ok(())
}

fn only_text(parts: Vec<Part>, between: &str) -> Result<String, String> {
    let texts = parts.into_iter().map(|part| match part {
        Part::Text(text) => Ok(text),
        _ => Err("only a user's message can hold more than text".to_owned()),
    });
    Ok(texts.collect::<Result<Vec<_>, _>>()?.join(between))
}

fn parts(value: &Value, field: &str) -> Result<Vec<Part>, String> {
    match value {
        Value::String(text) => Ok(vec![Part::Text(text.clone())]),
        Value::Array(parts) => parts.iter().map(part).collect(),
        _ => Err(format!("`{field}` is neither a text nor a list of parts")),
    }
}

fn part(part: &Value) -> Result<Part, String> {
    let optional = |field: &str| part[field].as_str().map(str::to_owned);
    match part["type"].as_str() {
        Some("input_text" | "output_text" | "text") => Ok(Part::Text(text(part, "text")?)),
        Some("refusal") => Ok(Part::Text(text(part, "refusal")?)),
        Some("input_image") => {
            let url = optional("image_url").ok_or("an image must come as `image_url`: an https: or data: URL")?;
            Ok(Part::Image { url, detail: optional("detail").filter(|detail| detail != "auto") })
        }
        Some("input_file") => match optional("file_data") {
            Some(data) if data_url(&data).is_some() => Ok(Part::File { name: optional("filename"), data }),
            _ => Err("a file must come as `file_data`: a data: URL in base64".to_owned()),
        },
        Some("input_audio") => {
            let audio = &part["input_audio"];
            Ok(Part::Audio { data: text(audio, "data")?, format: text(audio, "format")? })
        }
        Some(other) => Err(format!("a part of type `{other}` cannot be sent to a model")),
        None => Err("a part without `type`".to_owned()),
    }
}

fn text(value: &Value, field: &str) -> Result<String, String> {
    value[field].as_str().map(str::to_owned).ok_or_else(|| format!("`{field}` is not a text"))
}

/// The media type and the base64 text of `data:…;base64,…`.
pub(super) fn data_url(url: &str) -> Option<(&str, &str)> {
    url.strip_prefix("data:")?.split_once(";base64,")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn turns(input: Value) -> Result<Vec<Message>, ModelError> {
        Call { input: input.as_array().unwrap().clone(), ..Call::default() }.turns()
    }

    fn call(name: &str) -> FunctionCall {
        FunctionCall {
            call_id: format!("call_{name}"),
            name: name.to_owned(),
            arguments: "{\"b\":1, \"a\":2}".to_owned(),
        }
    }

    fn call_item(name: &str) -> Value {
        let call = call(name);
        json!({"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments})
    }

    #[test]
    fn what_was_said_and_called_at_once_is_one_turn() {
        let turns = turns(json!([
            {"role": "assistant", "content": [{"type": "output_text", "text": "Let me "}, {"type": "output_text", "text": "see."}]},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
            call_item("x"),
            call_item("y"),
            {"type": "function_call_output", "call_id": "call_x", "output": "1"},
            {"type": "function_call_output", "call_id": "call_y", "output": [{"type": "input_text", "text": "2"}]},
            call_item("z"),
        ]))
        .unwrap();
        let output =
            |id: &str, text: &str| Message::Output { call_id: id.to_owned(), text: text.to_owned(), parts: Vec::new() };
        let assistant = |text: &str, reasoning: &str, calls: Vec<FunctionCall>| Message::Assistant {
            text: text.to_owned(),
            reasoning: reasoning.to_owned(),
            calls,
        };
        assert_eq!(
            turns,
            [
                assistant("Let me see.", "hm", vec![call("x"), call("y")]),
                output("call_x", "1"),
                output("call_y", "2"),
                assistant("", "", vec![call("z")]),
            ]
        );
    }

    #[test]
    fn thoughts_belong_to_the_turn_that_follows_them() {
        let thought = |text: &str| json!({"type": "reasoning", "summary": [{"type": "summary_text", "text": text}]});
        let said = json!({"role": "assistant", "content": "42"});
        let whole = json!({"type": "reasoning", "summary": [{"text": "short"}], "content": [{"type": "reasoning_text", "text": "all"}]});
        for (items, expected) in [
            (json!([thought("hm"), said]), "hm"),
            (json!([whole, said]), "all"),
            (json!([thought("lost"), {"role": "user", "content": "hi"}, said]), ""),
            (json!([thought("a"), thought("b"), call_item("x")]), "ab"),
        ] {
            let turns = turns(items).unwrap();
            let Some(Message::Assistant { reasoning, .. }) = turns.last() else { panic!("{turns:?}") };
            assert_eq!(reasoning, expected);
        }
    }

    #[test]
    fn what_cannot_be_sent_is_named_with_its_place() {
        for (item, expected) in [
            (json!({"type": "item_reference", "id": "x"}), "input[1]: an item of type `item_reference`"),
            (json!({"role": "tool", "content": ""}), "input[1]: `role` must be"),
            (json!({"role": "user"}), "input[1]: `content` is neither"),
            (json!({"role": "user", "content": [{"type": "input_video"}]}), "a part of type `input_video`"),
            (json!({"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}), "`image_url`"),
            (json!({"type": "function_call", "call_id": "c", "name": "n"}), "`arguments` is not a text"),
            (json!("hello"), "an item must be an object"),
        ] {
            let error = turns(json!([{"role": "user", "content": "hi"}, item])).unwrap_err();
            assert!(error.message.contains(expected), "{error}");
        }
        assert!(turns(json!([])).is_err());
    }
}
