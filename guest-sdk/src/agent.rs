use serde_json::Value;

use crate::Failure;
use crate::bindings;
use crate::item::{Item, Role};
use crate::wants::Wants;

/// An agent: a name, a description and what to do in a turn. [`agent!`](crate::agent!) makes a component
/// of it.
pub trait Agent {
    /// The name, which clients send as `model`: 1 to 64 characters of `a-z`, `0-9`, `-`, `_` and `.`,
    /// starting with a letter or digit.
    const NAME: &'static str;

    /// One or two sentences on what the agent does: at most 1,024 characters.
    const ABOUT: &'static str;

    /// The JSON Schema of the configuration that the agent reads with [`context::config`](crate::context::config),
    /// usually [`schema`](crate::schema()) of the type that it reads; none when it takes no configuration. The server
    /// calls this once at load, when nothing else can be called.
    fn config_schema() -> Option<Value> {
        None
    }

    /// What the agent wants the operator to grant. Called like [`config_schema`](Self::config_schema). Nothing by default.
    fn wants() -> Wants {
        Wants::new()
    }

    /// Answers one turn. What is said through [`respond`](crate::respond) goes to the client while this
    /// runs; the result says how the response ends.
    ///
    /// # Errors
    ///
    /// A failure ends the response as `failed`. The client sees its code and message: no secrets.
    fn run(turn: Turn) -> Result<Outcome, Failure>;
}

/// One turn: what the agent is asked to answer. The turns before it are in
/// [`context::history`](crate::context::history).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Turn {
    /// The id of the response that this run writes, for example `resp_0197…`.
    pub response_id: String,
    /// What the client wrote after the first `/` of `model`: `gpt-4o` for `chat/gpt-4o`. None when it
    /// named only the agent.
    pub model: Option<String>,
    /// The input items of this turn, oldest first.
    pub input: Vec<Item>,
}

impl Turn {
    /// The text of the last message of the user, exactly as sent; empty when there is none.
    pub fn user_text(&self) -> String {
        let messages = self.input.iter().rev().filter_map(Item::as_message);
        messages.filter(|message| message.role == Role::User).map(|message| message.text()).next().unwrap_or_default()
    }
}

/// How a run ended, when it did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The response is `completed`.
    Completed,
    /// The response is `incomplete`: what was said stands, but something is missing.
    Incomplete(IncompleteReason),
}

/// Why a response is `incomplete`: the reasons that the protocol knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IncompleteReason {
    /// `max_output_tokens`: the output was cut at its permitted length.
    MaxOutputTokens,
    /// `content_filter`: content was held back.
    ContentFilter,
}

impl IncompleteReason {
    /// The protocol's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MaxOutputTokens => "max_output_tokens",
            Self::ContentFilter => "content_filter",
        }
    }
}

impl From<Outcome> for bindings::Outcome {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Completed => Self::Completed,
            Outcome::Incomplete(reason) => Self::Incomplete(reason.as_str().into()),
        }
    }
}

impl TryFrom<bindings::Turn> for Turn {
    type Error = Failure;

    fn try_from(turn: bindings::Turn) -> Result<Self, Failure> {
        Ok(Self { response_id: turn.response_id, model: turn.model, input: serde_json::from_str(&turn.input)? })
    }
}

/// The export `describe`.
pub fn describe<A: Agent>(version: &str) -> bindings::Description {
    bindings::Description {
        name: A::NAME.into(),
        version: version.into(),
        about: A::ABOUT.into(),
        config_schema: A::config_schema().map(|schema| schema.to_string()),
        wants: A::wants().to_json(),
    }
}

/// The export `run`.
pub fn run<A: Agent>(turn: bindings::Turn) -> Result<bindings::Outcome, bindings::Failure> {
    Ok(A::run(Turn::try_from(turn)?)?.into())
}

/// Refuses at compile time what the server would refuse at load.
pub const fn check<A: Agent>(version: &str) {
    assert!(is_name(A::NAME), "NAME is 1 to 64 of a-z 0-9 - _ . and starts with a letter or digit");
    assert!(characters(A::ABOUT) <= 1024, "ABOUT is at most 1,024 characters");
    assert!(characters(version) <= 64, "the crate's version is at most 64 characters");
}

pub(crate) const fn is_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'a'..=b'z' | b'0'..=b'9' => {}
            b'-' | b'_' | b'.' if at > 0 => {}
            _ => return false,
        }
        at += 1;
    }
    1 <= at && at <= 64
}

/// Counts every byte but the second and later ones of a UTF-8 sequence.
pub(crate) const fn characters(text: &str) -> usize {
    let bytes = text.as_bytes();
    let (mut at, mut count) = (0, 0);
    while at < bytes.len() {
        if bytes[at] & 0b1100_0000 != 0b1000_0000 {
            count += 1;
        }
        at += 1;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(input: &str) -> Turn {
        Turn { input: serde_json::from_str(input).unwrap(), ..Turn::default() }
    }

    #[test]
    fn the_user_text_is_the_last_user_message_joined_exactly() {
        let turn = turn(
            r#"[
                {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "first"}]},
                {"type": "message", "role": "user", "content": [
                    {"type": "input_text", "text": " a "},
                    {"type": "input_image", "image_url": "data:,"},
                    {"type": "input_text", "text": "\nb"}
                ]},
                {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "later"}]},
                {"type": "function_call_output", "call_id": "call_1", "output": "42"}
            ]"#,
        );
        assert_eq!(turn.user_text(), " a \nb");
    }

    #[test]
    fn without_a_user_message_the_user_text_is_empty() {
        assert_eq!(turn("[]").user_text(), "");
    }

    #[test]
    fn names_are_checked_as_the_contract_says() {
        for name in ["a", "0", "chat", "my-agent_2.0", &"x".repeat(64)] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "-a", ".a", "_a", "Chat", "a/b", "a b", "é", &"x".repeat(65)] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn characters_are_counted_not_bytes() {
        for text in ["", "abc", "aé€😀"] {
            assert_eq!(characters(text), text.chars().count());
        }
    }
}
