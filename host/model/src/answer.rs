//! The answer of a Chat Completions stream, put together from its chunks. Pure: no I/O, no clocks.
//!
//! Servers differ, and what they say is taken in the most forgiving reading that loses nothing: function calls by
//! index, by id or by order; usage in any chunk; reasoning under three names; a whole message instead of deltas.
//! What is not forgiven: an end without a finish reason or `[DONE]`, which is a broken connection in disguise.

use serde_json::Value;

use super::{
    conversation::FunctionCall,
    error::ModelError,
    piece::{CallDelta, End, Piece, Usage},
};

/// An answer under way.
#[derive(Debug, Default)]
pub(super) struct Answer {
    model: Option<String>,
    finish_reason: Option<String>,
    usage: Usage,
    /// With the index that the provider gave them.
    calls: Vec<(Option<u64>, FunctionCall)>,
}

impl Answer {
    /// Takes in one chunk and says what is new in it. A whole completion is a chunk as well.
    pub(super) fn take(&mut self, provider: &str, mut chunk: Value) -> Result<Vec<Piece>, ModelError> {
        if let Some(error) = chunk.get("error").filter(|error| !error.is_null()) {
            return Err(ModelError::reported(provider, error));
        }
        if let Some(model) = chunk["model"].as_str().filter(|model| !model.is_empty()) {
            self.model.get_or_insert_with(|| model.to_owned());
        }
        for usage in [&chunk["usage"], &chunk["x_groq"]["usage"]] {
            if usage.is_object() {
                self.usage = read_usage(usage);
            }
        }
        let Some(choice) = chunk.get_mut("choices").and_then(|choices| choices.get_mut(0)) else {
            return Ok(Vec::new());
        };
        let mut pieces = Vec::new();
        let name = if choice["delta"].is_object() { "delta" } else { "message" };
        let delta = choice[name].take();
        // Some servers send the same thoughts under both names.
        let thoughts = [&delta["reasoning_content"], &delta["reasoning"]];
        if let Some(thoughts) = thoughts.into_iter().find_map(|text| text.as_str().filter(|text| !text.is_empty())) {
            pieces.push(Piece::Reasoning(thoughts.to_owned()));
        }
        content(&delta["content"], &mut pieces);
        content(&delta["refusal"], &mut pieces);
        for (position, call) in delta["tool_calls"].as_array().into_iter().flatten().enumerate() {
            // A whole message has no indexes.
            let index = call["index"].as_u64().or((name == "message").then_some(position as u64));
            pieces.push(self.call(index, call));
        }
        if let Some(reason) = choice["finish_reason"].as_str().filter(|reason| !reason.is_empty()) {
            self.finish_reason = Some(reason.to_owned());
        }
        Ok(pieces)
    }

    /// Whether the model has said that it is finished. Usage may still follow.
    pub(super) fn is_finished(&self) -> bool {
        self.finish_reason.is_some()
    }

    /// The end, after `[DONE]` or the last byte.
    pub(super) fn end(self) -> End {
        let mut calls: Vec<FunctionCall> = self.calls.into_iter().map(|(_, call)| call).collect();
        for call in calls.iter_mut().filter(|call| call.arguments.is_empty()) {
            call.arguments = "{}".to_owned();
        }
        let finish_reason = match self.finish_reason.as_deref() {
            Some("tool_calls" | "function_call") => "tool_calls",
            // Some servers call it a stop, and so does OpenAI when the function was forced.
            Some("stop") | None if !calls.is_empty() => "tool_calls",
            Some("stop" | "eos") | None => "stop",
            Some("length" | "max_tokens" | "model_length") => "length",
            Some(other) => other,
        };
        let finish_reason = finish_reason.chars().take(64).collect();
        End { finish_reason, usage: self.usage, model: self.model, calls }
    }

    /// Takes in a piece of a function call.
    fn call(&mut self, index: Option<u64>, delta: &Value) -> Piece {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (id, name) = (text(&delta["id"]), text(&delta["function"]["name"]));
        // Some servers send an object where JSON text belongs.
        let arguments = match &delta["function"]["arguments"] {
            arguments @ Value::Object(_) => arguments.to_string(),
            arguments => text(arguments),
        };
        let size = id.len() + name.len() + arguments.len();
        let known = match index {
            Some(_) => self.calls.iter().rposition(|(known, _)| *known == index),
            None => self.calls.len().checked_sub(1),
        };
        // The same index with another id is another call: some servers number them all zero.
        let same = |call: &FunctionCall| id.is_empty() || call.call_id.is_empty() || call.call_id == id;
        let place = known.filter(|place| same(&self.calls[*place].1)).unwrap_or_else(|| {
            self.calls.push((index, FunctionCall::default()));
            self.calls.len() - 1
        });
        let call = &mut self.calls[place].1;
        let known = !call.name.is_empty();
        if call.call_id.is_empty() {
            call.call_id = id;
        }
        if call.name.is_empty() {
            call.name = name;
        }
        call.arguments.push_str(&arguments);
        if call.name.is_empty() {
            return Piece::Call(size, None);
        }
        // With the name comes what came before it.
        let arguments = if known { arguments } else { call.arguments.clone() };
        Piece::Call(size, Some(CallDelta { place, name: call.name.clone(), arguments }))
    }
}

/// A text, or Mistral's list of texts and thoughts.
fn content(content: &Value, pieces: &mut Vec<Piece>) {
    match content {
        Value::String(text) if !text.is_empty() => pieces.push(Piece::Text(text.clone())),
        Value::Array(parts) => {
            for part in parts {
                self::content(&part["text"], pieces);
                let mut thoughts = Vec::new();
                self::content(&part["thinking"], &mut thoughts);
                pieces.extend(thoughts.into_iter().map(|piece| match piece {
                    Piece::Text(text) => Piece::Reasoning(text),
                    other => other,
                }));
            }
        }
        _ => {}
    }
}

fn read_usage(usage: &Value) -> Usage {
    let count = |value: &Value| value.as_u64().unwrap_or_default();
    let (input, output) = (&usage["prompt_tokens_details"], &usage["completion_tokens_details"]);
    let input_tokens = count(&usage["prompt_tokens"]);
    let reasoning_tokens = count(&output["reasoning_tokens"]);
    let mut output_tokens = count(&usage["completion_tokens"]);
    // xAI counts the reasoning beside the output; the total tells.
    if reasoning_tokens > 0 && count(&usage["total_tokens"]) == input_tokens + output_tokens + reasoning_tokens {
        output_tokens += reasoning_tokens;
    }
    Usage {
        input_tokens,
        // The second is DeepSeek's.
        cached_tokens: count(&input["cached_tokens"]).max(count(&usage["prompt_cache_hit_tokens"])),
        cache_write_tokens: count(&input["cache_write_tokens"]).max(count(&input["cache_creation_tokens"])),
        output_tokens,
        reasoning_tokens,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fold(deltas: &[Value], finish: &str) -> End {
        let mut answer = Answer::default();
        for delta in deltas {
            answer.take("up", json!({"choices": [{"delta": delta}]})).unwrap();
        }
        answer.take("up", json!({"choices": [{"delta": {}, "finish_reason": finish}]})).unwrap();
        answer.end()
    }

    fn call(index: Value, id: Value, name: Value, arguments: &str) -> Value {
        json!({"tool_calls": [{"index": index, "id": id, "function": {"name": name, "arguments": arguments}}]})
    }

    fn calls(end: &End) -> Vec<(&str, &str, &str)> {
        end.calls.iter().map(|call| (&*call.call_id, &*call.name, &*call.arguments)).collect()
    }

    #[test]
    fn interleaved_calls_are_kept_apart_by_index() {
        let end = fold(
            &[
                call(json!(0), json!("a"), json!("f"), ""),
                call(json!(1), json!("b"), json!("g"), "{"),
                call(json!(0), Value::Null, Value::Null, "{\"z\": 1, "),
                call(json!(1), json!(""), json!(""), "}"),
                call(json!(0), json!("a"), json!("f"), "\"a\": 2}"),
            ],
            "tool_calls",
        );
        assert_eq!(calls(&end), [("a", "f", "{\"z\": 1, \"a\": 2}"), ("b", "g", "{}")]);
    }

    #[test]
    fn a_call_is_told_piece_by_piece_from_its_name_on() {
        let mut answer = Answer::default();
        let mut take = |delta: Value| {
            let pieces = answer.take("up", json!({"choices": [{"delta": delta}]})).unwrap();
            pieces
                .into_iter()
                .map(|piece| if let Piece::Call(_, delta) = piece { delta } else { None })
                .collect::<Vec<_>>()
        };
        let told = |place: usize, name: &str, arguments: &str| {
            vec![Some(CallDelta { place, name: name.to_owned(), arguments: arguments.to_owned() })]
        };
        assert_eq!(take(call(json!(0), json!("a"), json!("f"), "")), told(0, "f", ""));
        assert_eq!(take(call(json!(0), Value::Null, Value::Null, "{\"a\"")), told(0, "f", "{\"a\""));
        assert_eq!(take(call(json!(1), json!("b"), Value::Null, "{")), [None]);
        assert_eq!(take(call(json!(1), json!("b"), json!("g"), "}")), told(1, "g", "{}"));
        assert_eq!(take(call(json!(0), Value::Null, Value::Null, ":1}")), told(0, "f", ":1}"));
    }

    #[test]
    fn calls_without_honest_indexes_are_kept_apart_by_id() {
        let end = fold(
            &[call(json!(0), json!("a"), json!("f"), "{}"), call(json!(0), json!("b"), json!("f"), "{\"x\":1}")],
            "stop",
        );
        assert_eq!(calls(&end), [("a", "f", "{}"), ("b", "f", "{\"x\":1}")]);
        assert_eq!(end.finish_reason, "tool_calls");
        let end = fold(
            &[call(Value::Null, Value::Null, json!("f"), ""), call(Value::Null, Value::Null, Value::Null, "")],
            "stop",
        );
        assert_eq!(calls(&end), [("", "f", "{}")]);
    }

    #[test]
    fn a_whole_message_is_an_answer_too() {
        let mut answer = Answer::default();
        let message = json!({"content": "hi", "tool_calls": [
            {"function": {"name": "f", "arguments": {"a": 1}}}, {"id": "2", "function": {"name": "g", "arguments": ""}},
        ]});
        let pieces =
            answer.take("up", json!({"model": "m", "choices": [{"message": message, "finish_reason": "stop"}]}));
        assert_eq!(pieces.unwrap()[0], Piece::Text("hi".to_owned()));
        let end = answer.end();
        assert_eq!(calls(&end), [("", "f", "{\"a\":1}"), ("2", "g", "{}")]);
        assert_eq!(end.model.as_deref(), Some("m"));
    }

    #[test]
    fn thoughts_are_found_under_all_their_names() {
        for delta in [
            json!({"reasoning_content": "hm"}),
            json!({"reasoning": "hm", "content": ""}),
            json!({"reasoning": "hm", "reasoning_content": "hm"}),
            json!({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]}),
        ] {
            let pieces = Answer::default().take("up", json!({"choices": [{"delta": delta}]})).unwrap();
            assert_eq!(pieces, [Piece::Reasoning("hm".to_owned())], "{delta}");
        }
    }

    #[test]
    fn reasoning_is_counted_into_the_output_once() {
        let usage = |total: u64, output: u64| {
            read_usage(&json!({"prompt_tokens": 10, "completion_tokens": output, "total_tokens": total,
                "completion_tokens_details": {"reasoning_tokens": 4}}))
        };
        assert_eq!(usage(15, 5).output_tokens, 5);
        assert_eq!(usage(15, 1).output_tokens, 5);
        assert_eq!(read_usage(&json!({"prompt_tokens": 3, "prompt_cache_hit_tokens": 2})).cached_tokens, 2);
    }
}
