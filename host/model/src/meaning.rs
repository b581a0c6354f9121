//! What a provider means by an error, told from its status, its code and its words.
//!
//! Providers have many words for few things. What clients act on is told apart here; everything else is a failure like
//! any other.

use serde_json::Value;

/// What clients act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The input is longer than the model can read.
    ContextLength,
    /// Paid for is used up: waiting is of no use.
    Quota,
    /// What was asked is not allowed.
    ContentPolicy,
    /// There is no such model.
    Model,
    /// Too many requests for now.
    RateLimit,
}

/// Codes and types of errors, in lower case.
const CODES: [(&str, Meaning); 27] = [
    ("context_length_exceeded", Meaning::ContextLength),
    ("context_window_exceeded", Meaning::ContextLength),
    ("exceed_context_size_error", Meaning::ContextLength),
    ("model_context_window_exceeded", Meaning::ContextLength),
    ("max_tokens_exceeded", Meaning::ContextLength),
    ("prompt_too_long", Meaning::ContextLength),
    ("insufficient_quota", Meaning::Quota),
    ("insufficient_balance", Meaning::Quota),
    ("insufficient_credits", Meaning::Quota),
    ("billing_hard_limit_reached", Meaning::Quota),
    ("billing_not_active", Meaning::Quota),
    ("exceeded_current_quota_error", Meaning::Quota),
    ("arrearage", Meaning::Quota),
    ("content_policy_violation", Meaning::ContentPolicy),
    ("content_filter", Meaning::ContentPolicy),
    ("responsibleaipolicyviolation", Meaning::ContentPolicy),
    ("data_inspection_failed", Meaning::ContentPolicy),
    ("datainspectionfailed", Meaning::ContentPolicy),
    ("moderation_blocked", Meaning::ContentPolicy),
    ("prohibited_content", Meaning::ContentPolicy),
    ("model_not_found", Meaning::Model),
    ("model_not_exist", Meaning::Model),
    ("rate_limit_exceeded", Meaning::RateLimit),
    ("rate_limit_reached_error", Meaning::RateLimit),
    ("rate_limit_error", Meaning::RateLimit),
    ("too_many_requests", Meaning::RateLimit),
    ("resource_exhausted", Meaning::RateLimit),
];

/// What stands in messages, in lower case, where there is no code.
const WORDS: [(&str, Meaning); 24] = [
    ("maximum context length", Meaning::ContextLength),
    ("maximum prompt length", Meaning::ContextLength),
    ("maximum input length", Meaning::ContextLength),
    ("context length exceeded", Meaning::ContextLength),
    ("context window", Meaning::ContextLength),
    ("available context size", Meaning::ContextLength),
    ("model's context length", Meaning::ContextLength),
    ("prompt is too long", Meaning::ContextLength),
    ("input is too long", Meaning::ContextLength),
    ("exceeds the maximum number of tokens", Meaning::ContextLength),
    ("too large for model with", Meaning::ContextLength),
    ("reduce the length of the messages", Meaning::ContextLength),
    ("range of input length", Meaning::ContextLength),
    ("exceeded your current quota", Meaning::Quota),
    ("insufficient balance", Meaning::Quota),
    ("insufficient credits", Meaning::Quota),
    ("credit balance is too low", Meaning::Quota),
    ("run out of credits", Meaning::Quota),
    ("requires more credits", Meaning::Quota),
    ("content management policy", Meaning::ContentPolicy),
    ("violates our usage policies", Meaning::ContentPolicy),
    ("model not exist", Meaning::Model),
    ("model does not exist", Meaning::Model),
    ("no such model", Meaning::Model),
];

/// How much of a message is looked at, in bytes.
const LOOKED_AT: usize = 4_096;

/// What an error means, if it is something that clients act on. `error` is the innermost object of the error, `words` its
/// message.
pub(super) fn meaning(status: Option<u16>, error: &Value, words: &str) -> Option<Meaning> {
    if status == Some(402) {
        return Some(Meaning::Quota);
    }
    let inner = &error["innererror"]["code"];
    let fields = [&error["code"], inner, &error["type"], &error["status"], &error["error_code"]];
    let codes = fields.into_iter().filter_map(Value::as_str).map(str::to_ascii_lowercase);
    let by_code = codes.filter_map(|code| find(&CODES, |known| known == code)).next();
    by_code.or_else(|| {
        // A server that is out of order may say anything.
        if status.is_some_and(|status| status >= 500) {
            return None;
        }
        let words: String = words.chars().take(LOOKED_AT).collect::<String>().to_ascii_lowercase();
        find(&WORDS, |known| words.contains(known))
    })
}

fn find(table: &[(&str, Meaning)], fits: impl Fn(&str) -> bool) -> Option<Meaning> {
    table.iter().find(|(known, _)| fits(known)).map(|(_, meaning)| *meaning)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_words_of_many_providers_mean_the_same() {
        let code = |code: &str| json!({"code": code, "message": ""});
        let words = |words: &str| json!({ "message": words });
        for (status, error, expected) in [
            (400, code("context_length_exceeded"), Some(Meaning::ContextLength)),
            (400, json!({"type": "exceed_context_size_error"}), Some(Meaning::ContextLength)),
            (400, words("This model's maximum context length is 8192 tokens."), Some(Meaning::ContextLength)),
            (400, words("prompt is too long: 200251 tokens > 200000 maximum"), Some(Meaning::ContextLength)),
            (400, words("This model's maximum prompt length is 131072"), Some(Meaning::ContextLength)),
            (
                400,
                words("The input token count exceeds the maximum number of tokens allowed"),
                Some(Meaning::ContextLength),
            ),
            (422, words("Prompt contains 40000 tokens, too large for model with 32768"), Some(Meaning::ContextLength)),
            (413, words("Please reduce the length of the messages or completion."), Some(Meaning::ContextLength)),
            (429, code("insufficient_quota"), Some(Meaning::Quota)),
            (402, json!(null), Some(Meaning::Quota)),
            (400, words("Your credit balance is too low"), Some(Meaning::Quota)),
            (400, json!({"code": "content_filter"}), Some(Meaning::ContentPolicy)),
            (400, json!({"innererror": {"code": "ResponsibleAIPolicyViolation"}}), Some(Meaning::ContentPolicy)),
            (400, code("data_inspection_failed"), Some(Meaning::ContentPolicy)),
            (400, words("Model Not Exist"), Some(Meaning::Model)),
            (200, code("rate_limit_exceeded"), Some(Meaning::RateLimit)),
            (
                429,
                json!({"status": "RESOURCE_EXHAUSTED", "message": "You exceeded your current quota"}),
                Some(Meaning::RateLimit),
            ),
            (400, words("temperature must be below 2"), None),
            (500, words("the context window of the browser"), None),
            (429, words("slow down"), None),
        ] {
            let said = error["message"].as_str().unwrap_or_default().to_owned();
            assert_eq!(meaning(Some(status), &error, &said), expected, "{error}");
        }
    }
}
