//! Why a model stopped, from the provider's word for it.

/// Words for an answer that is whole.
const STOP: [&str; 16] = [
    "stop",
    "stop_sequence",
    "stop_token",
    "eos",
    "eos_token",
    "end",
    "end_turn",
    "end_of_turn",
    "complete",
    "completed",
    "done",
    "finish",
    "finished",
    "normal",
    "natural",
    "success",
];

/// Words for an answer that calls functions.
const TOOL_CALLS: [&str; 6] = ["tool_calls", "tool_call", "tool_use", "function_call", "function_calls", "tool"];

/// Words for an answer that was cut at a number of tokens.
const LENGTH: [&str; 11] = [
    "length",
    "max_tokens",
    "max_output_tokens",
    "max_completion_tokens",
    "max_length",
    "model_length",
    "token_limit",
    "context_length",
    "context_window_exceeded",
    "model_context_window_exceeded",
    "incomplete",
];

/// Words for an answer of which something was held back.
const CONTENT_FILTER: [&str; 17] = [
    "content_filter",
    "content_filtered",
    "content_policy",
    "safety",
    "recitation",
    "blocklist",
    "blocked",
    "prohibited_content",
    "spii",
    "sensitive",
    "refusal",
    "guardrail_intervened",
    "moderation",
    "image_safety",
    "image_prohibited_content",
    "language",
    "error_toxic",
];

/// `stop`, `length`, `tool_calls` or `content_filter`; none for a word that is no success. `called`: the answer has
/// function calls.
pub(super) fn reason(word: &str, called: bool) -> Option<&'static str> {
    let word = word.trim().to_ascii_lowercase();
    let is = |words: &[&str]| words.contains(&word.as_str());
    if is(&TOOL_CALLS) {
        Some("tool_calls")
    } else if is(&STOP) {
        // Some servers call it a stop, and so does OpenAI when the function was forced.
        Some(if called { "tool_calls" } else { "stop" })
    } else if is(&LENGTH) {
        Some("length")
    } else if is(&CONTENT_FILTER) {
        Some("content_filter")
    } else {
        None
    }
}
