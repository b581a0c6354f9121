//! Errors inside of an answer whose HTTP status is 200.
//!
//! There is no standard for them, and a server that fails in the middle of a stream has no other way to say so.

use serde_json::Value;

/// Fields that tell of an error wherever they say something.
const ALWAYS: [&str; 3] = ["error", "errors", "Error"];

/// Fields that tell of an error where there is no answer beside them.
const ALONE: [&str; 10] = [
    "detail",
    "error_msg",
    "error_message",
    "error_code",
    "errorMessage",
    "errorCode",
    "exception",
    "fault",
    "message",
    "msg",
];

/// The error in a chunk, with its envelope.
pub(super) fn reported(chunk: &Value) -> Option<&Value> {
    let choice = &chunk["choices"][0];
    if says(&choice["error"]) {
        return Some(choice);
    }
    let status = &chunk["base_resp"]["status_code"];
    let failed = !status.is_null() && status != 0 && status != "0";
    if failed || ALWAYS.iter().any(|name| says(&chunk[name])) {
        return Some(chunk);
    }
    if !choice.is_null() || chunk["usage"].is_object() {
        return None;
    }
    let is = |name: &str, words: &[&str]| chunk[name].as_str().is_some_and(|word| words.contains(&word));
    let marked = is("object", &["error"])
        || is("type", &["error", "response.failed"])
        || is("status", &["error", "failed", "fail"])
        || chunk["success"] == false;
    (marked || ALONE.iter().any(|name| says(&chunk[name]))).then_some(chunk)
}

/// Whether a value says something.
fn says(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(yes) => *yes,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.trim().is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}
