//! The most frequent chunk of all: it says a piece of the text, and nothing else.
//!
//! It is read without keeping what is not needed of it. Whatever else there may be to a chunk is left to
//! [`Answer`](super::answer::Answer), which reads all of them.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};

/// A chunk that says a piece of the text, and nothing else.
#[derive(Debug)]
pub(super) struct Plain<'a> {
    /// In the provider's words.
    pub model: Option<&'a str>,
    /// The piece, not empty.
    pub text: String,
}

impl<'a> Plain<'a> {
    /// Reads a chunk; none when it is another one, or cannot be read.
    pub fn read(chunk: &'a str) -> Option<Self> {
        let Chunk { model, choices: [Choice { delta: Delta { content: text, .. }, .. }], .. } =
            serde_json::from_str(chunk).ok()?;
        (!text.is_empty()).then_some(Self { model, text })
    }
}

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow, default)]
    model: Option<&'a str>,
    choices: [Choice; 1],
    #[serde(default, rename = "usage")]
    _usage: (),
    #[serde(default, rename = "x_groq")]
    _x_groq: (),
    #[serde(default, rename = "base_resp")]
    _base_resp: (),
    #[serde(default, rename = "error")]
    _error: Nothing,
    #[serde(default, rename = "errors")]
    _errors: Nothing,
    #[serde(default, rename = "Error")]
    _capital_error: Nothing,
}

#[derive(Deserialize)]
struct Choice {
    delta: Delta,
    #[serde(default, rename = "usage")]
    _usage: (),
    #[serde(default, rename = "error")]
    _error: Nothing,
    #[serde(default, rename = "finish_reason")]
    _finish_reason: Nothing,
    #[serde(default, rename = "finishReason")]
    _camel_finish_reason: Nothing,
}

#[derive(Deserialize)]
struct Delta {
    content: String,
    #[serde(default, rename = "reasoning_content")]
    _reasoning_content: Nothing,
    #[serde(default, rename = "reasoning")]
    _reasoning: Nothing,
    #[serde(default, rename = "reasoning_text")]
    _reasoning_text: Nothing,
    #[serde(default, rename = "thinking")]
    _thinking: Nothing,
    #[serde(default, rename = "thoughts")]
    _thoughts: Nothing,
    #[serde(default, rename = "reasoning_details")]
    _reasoning_details: Nothing,
    #[serde(default, rename = "thinking_blocks")]
    _thinking_blocks: Nothing,
    #[serde(default, rename = "thought")]
    _thought: Nothing,
    #[serde(default, rename = "extra_content")]
    _extra_content: Nothing,
    #[serde(default, rename = "refusal")]
    _refusal: Nothing,
    #[serde(default, rename = "tool_calls")]
    _tool_calls: Nothing,
    #[serde(default, rename = "function_call")]
    _function_call: Nothing,
}

/// A value that says nothing: null, or an empty one.
#[derive(Default)]
struct Nothing;

impl<'de> Deserialize<'de> for Nothing {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Nothing {
    type Value = Self;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("nothing")
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self, E> {
        if text.is_empty() { Ok(self) } else { Err(E::custom("a text")) }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self, A::Error> {
        match list.next_element::<()>()? {
            None => Ok(self),
            Some(()) => Err(A::Error::custom("a list")),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self, A::Error> {
        match fields.next_key::<&str>()? {
            None => Ok(self),
            Some(_) => Err(A::Error::custom("an object")),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{answer::Answer, piece::Piece};

    fn chunk(delta: Value) -> Value {
        json!({"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [{"index": 0, "delta": delta}]})
    }

    /// What is read of a chunk without the short way.
    fn said(chunk: &Value) -> Option<Vec<Piece>> {
        Answer::new([].into(), false).take("p", chunk.clone()).ok()
    }

    #[test]
    fn the_short_way_reads_what_the_long_way_reads() {
        let mut usual = chunk(json!({"role": "assistant", "content": "a\n\u{e9}", "refusal": null, "tool_calls": []}));
        usual["usage"] = Value::Null;
        usual["choices"][0]["finish_reason"] = Value::Null;
        usual["choices"][0]["logprobs"] = Value::Null;
        let text = usual.to_string();
        let plain = Plain::read(&text).unwrap();
        assert_eq!((plain.model, plain.text.as_str()), (Some("m"), "a\n\u{e9}"));
        assert_eq!(said(&usual), Some(vec![Piece::Text(plain.text)]));
        let nameless = r#"{"choices":[{"delta":{"content":"a"}}]}"#;
        assert_eq!(Plain::read(nameless).unwrap().model, None);
    }

    #[test]
    fn whatever_says_more_is_left_to_the_long_way() {
        let mut others: Vec<_> = ["", "null", "{}", "[]", "7"].map(str::to_owned).into();
        for (name, value) in [
            ("reasoning_content", json!("t")),
            ("reasoning", json!("t")),
            ("reasoning_text", json!("t")),
            ("thinking", json!("t")),
            ("thoughts", json!(["t"])),
            ("reasoning_details", json!([{"text": "t"}])),
            ("thinking_blocks", json!([{"thinking": "t"}])),
            ("thought", json!(true)),
            ("extra_content", json!({"google": {"thought": true}})),
            ("refusal", json!("no")),
            ("tool_calls", json!([{"index": 0, "id": "1", "function": {"name": "f", "arguments": "{}"}}])),
            ("function_call", json!({"name": "f", "arguments": "{}"})),
            ("content", json!("")),
            ("content", json!([{"type": "text", "text": "a"}])),
            ("content", Value::Null),
        ] {
            let mut delta = json!({"content": "a"});
            delta[name] = value;
            others.push(chunk(delta).to_string());
        }
        for (name, value) in [
            ("usage", json!({"prompt_tokens": 1})),
            ("x_groq", json!({"usage": {"prompt_tokens": 1}})),
            ("base_resp", json!({"status_code": 1000})),
            ("error", json!({"message": "no"})),
            ("errors", json!(["no"])),
            ("Error", json!("no")),
            ("choices", json!([])),
            ("choices", json!([{"delta": {"content": "a"}}, {"delta": {"content": "b"}}])),
        ] {
            let mut whole = chunk(json!({"content": "a"}));
            whole[name] = value;
            others.push(whole.to_string());
        }
        for (name, value) in [
            ("finish_reason", json!("stop")),
            ("finishReason", json!("stop")),
            ("usage", json!({"prompt_tokens": 1})),
            ("error", json!({"message": "no"})),
            ("delta", Value::Null),
        ] {
            let mut whole = chunk(json!({"content": "a"}));
            whole["choices"][0][name] = value;
            others.push(whole.to_string());
        }
        others.push(r#"{"choices":[{"delta":{"content":"a","content":"b"}}]}"#.to_owned());
        others.push(r#"{"choices":[{"delta":{"content":"\ud83d"}}]}"#.to_owned());
        for other in others {
            assert!(Plain::read(&other).is_none(), "{other}");
        }
    }
}
