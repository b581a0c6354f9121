//! The items of a conversation, typed.
//!
//! Items travel as JSON in the shapes of the Responses API. The types here name the fields that agents use
//! and keep the others in `rest`, so that an item that is read and written again is still whole. An item of
//! a type that this crate does not know is [`Item::Other`].

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::Failure;

/// One item of a conversation.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Item {
    /// A message of the user, the assistant or the developer.
    Message(Message),
    /// A function call that the client was asked to make.
    FunctionCall(FunctionCall),
    /// What the function returned.
    FunctionCallOutput(FunctionCallOutput),
    /// A summary of a model's thoughts.
    Reasoning(Reasoning),
    /// Anything else, as it came.
    #[serde(untagged)]
    Other(Value),
}

impl Item {
    /// A message of the user.
    pub fn user(text: impl Into<String>) -> Self {
        Self::message(Role::User, Part::input_text(text))
    }

    /// A message of the developer: instructions that stand in the conversation.
    pub fn developer(text: impl Into<String>) -> Self {
        Self::message(Role::Developer, Part::input_text(text))
    }

    /// A message of the assistant.
    pub fn assistant(text: impl Into<String>) -> Self {
        Self::message(Role::Assistant, Part::output_text(text))
    }

    fn message(role: Role, part: Part) -> Self {
        Self::Message(Message { role, content: vec![part], rest: Map::new() })
    }

    /// The message, if it is one.
    pub fn as_message(&self) -> Option<&Message> {
        match self {
            Self::Message(message) => Some(message),
            _ => None,
        }
    }

    /// The function call, if it is one.
    pub fn as_function_call(&self) -> Option<&FunctionCall> {
        match self {
            Self::FunctionCall(call) => Some(call),
            _ => None,
        }
    }
}

/// A message of the user.
impl From<&str> for Item {
    fn from(text: &str) -> Self {
        Self::user(text)
    }
}

/// A message of the user.
impl From<String> for Item {
    fn from(text: String) -> Self {
        Self::user(text)
    }
}

/// An object without `type` is a message, as in the protocol. What does not fit its type is `Other`.
impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut value = Value::deserialize(deserializer)?;
        let Some(object) = value.as_object_mut() else {
            return Ok(Self::Other(value));
        };
        let kind = object.remove("type");
        let typed = match kind.as_ref().map_or(Some("message"), Value::as_str) {
            Some("message") => Message::deserialize(&value).map(Self::Message).ok(),
            Some("function_call") => FunctionCall::deserialize(&value).map(Self::FunctionCall).ok(),
            Some("function_call_output") => FunctionCallOutput::deserialize(&value).map(Self::FunctionCallOutput).ok(),
            Some("reasoning") => Reasoning::deserialize(&value).map(Self::Reasoning).ok(),
            _ => None,
        };
        Ok(typed.unwrap_or_else(|| {
            if let (Some(object), Some(kind)) = (value.as_object_mut(), kind) {
                object.insert("type".into(), kind);
            }
            Self::Other(value)
        }))
    }
}

/// A message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// The author.
    pub role: Role,
    /// What is said, in parts.
    pub content: Vec<Part>,
    /// The other fields: `id`, `status` and so on.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

impl Message {
    /// The text parts, joined exactly.
    pub fn text(&self) -> String {
        join(&self.content)
    }
}

/// The author of a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The person or program that uses the agent.
    User,
    /// The agent, or a model.
    Assistant,
    /// Who wrote the application.
    Developer,
    /// The older word for instructions above the conversation.
    System,
    /// Another role.
    #[serde(untagged)]
    Other(String),
}

/// One part of a message or of a summary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Part {
    /// Text of the user, developer or system.
    InputText {
        /// The text.
        text: String,
        /// The other fields.
        #[serde(flatten)]
        rest: Map<String, Value>,
    },
    /// Text of the assistant.
    OutputText {
        /// The text.
        text: String,
        /// The other fields: `annotations` and so on.
        #[serde(flatten)]
        rest: Map<String, Value>,
    },
    /// Text of a reasoning summary.
    SummaryText {
        /// The text.
        text: String,
        /// The other fields.
        #[serde(flatten)]
        rest: Map<String, Value>,
    },
    /// Why the model does not answer.
    Refusal {
        /// The model's words.
        refusal: String,
        /// The other fields.
        #[serde(flatten)]
        rest: Map<String, Value>,
    },
    /// Anything else, an image or a file for example, as it came.
    #[serde(untagged)]
    Other(Value),
}

impl Part {
    /// Text of the user, developer or system.
    pub fn input_text(text: impl Into<String>) -> Self {
        Self::InputText { text: text.into(), rest: Map::new() }
    }

    /// Text of the assistant.
    pub fn output_text(text: impl Into<String>) -> Self {
        Self::OutputText { text: text.into(), rest: Map::new() }
    }

    /// The text, if the part is text. A refusal is not.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::InputText { text, .. } | Self::OutputText { text, .. } | Self::SummaryText { text, .. } => Some(text),
            Self::Refusal { .. } | Self::Other(_) => None,
        }
    }
}

/// A function call that the client was asked to make.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FunctionCall {
    /// What the call's output will refer to.
    pub call_id: String,
    /// The function.
    pub name: String,
    /// The arguments, as JSON text.
    pub arguments: String,
    /// The other fields: `id`, `status` and so on.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

impl FunctionCall {
    /// The arguments, parsed.
    ///
    /// # Errors
    ///
    /// `invalid_json` when they do not fit `T`: models make mistakes.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        Ok(serde_json::from_str(&self.arguments)?)
    }
}

/// What a function returned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FunctionCallOutput {
    /// The call that it answers.
    pub call_id: String,
    /// The output: a string, or a list of parts.
    pub output: Value,
    /// The other fields: `id`, `status` and so on.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// A summary of a model's thoughts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reasoning {
    /// The summary, in parts.
    pub summary: Vec<Part>,
    /// The other fields: `id`, `encrypted_content` and so on.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

impl Reasoning {
    /// The text parts of the summary, joined exactly.
    pub fn text(&self) -> String {
        join(&self.summary)
    }
}

fn join(parts: &[Part]) -> String {
    parts.iter().filter_map(Part::text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn item(value: Value) -> Item {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn an_item_read_and_written_is_still_whole() {
        let items = [
            json!({"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [
                {"type": "output_text", "text": "hi", "annotations": [{"type": "url_citation"}], "logprobs": []},
                {"type": "refusal", "refusal": "no"},
                {"type": "output_audio", "data": "…"}
            ]}),
            json!({"type": "message", "role": "critic", "content": []}),
            json!({"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": "{}"}),
            json!({"type": "function_call_output", "call_id": "call_1", "output": [{"type": "input_text", "text": "1"}]}),
            json!({"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}], "encrypted_content": null}),
            json!({"type": "item_reference", "id": "msg_0"}),
            json!({"type": "function_call", "name": "without arguments"}),
            json!({"type": 7, "role": "user", "content": []}),
            json!("not an object"),
        ];
        for value in items {
            assert_eq!(serde_json::to_value(item(value.clone())).unwrap(), value);
        }
    }

    #[test]
    fn known_types_are_typed_and_others_are_not() {
        assert!(matches!(item(json!({"type": "reasoning", "summary": []})), Item::Reasoning(_)));
        assert!(matches!(
            item(json!({"type": "function_call", "call_id": "c", "name": "f", "arguments": ""})),
            Item::FunctionCall(_)
        ));
        assert!(matches!(
            item(json!({"type": "function_call_output", "call_id": "c", "output": "1"})),
            Item::FunctionCallOutput(_)
        ));
        assert!(matches!(item(json!({"type": "web_search_call"})), Item::Other(_)));
        assert!(matches!(item(json!({"type": "message", "role": "user", "content": "a string"})), Item::Other(_)));
    }

    #[test]
    fn an_object_without_type_is_a_message() {
        let message = item(json!({"role": "user", "content": [{"type": "input_text", "text": "hi"}]}));
        assert_eq!(message, Item::user("hi"));
        assert_eq!(serde_json::to_value(message).unwrap()["type"], "message");
    }
}
