//! What can go wrong with a model call, by what can be done about it.
//!
//! Every failure has a kind (what the caller can do), a code (for programs; it does not change) and a message (for
//! people). The message is ours: what the provider said, its hosts and organisations, is for the operator alone and stands
//! in `detail`, at most 500 characters of it, never the key.
//!
//! | code | kind | repeated | when |
//! |---|---|---|---|
//! | `no_provider` | not found | | nothing is configured |
//! | `model_not_found` | not found | | no such model, here or upstream |
//! | `invalid_input` | invalid | | an item or an option that cannot be sent |
//! | `context_length_exceeded` | limit | | the input is longer than the model can read |
//! | `insufficient_quota` | limit | | what was paid for is used up |
//! | `content_policy_violation` | invalid | | the provider does not allow the request |
//! | `upstream_rejected` | invalid, other | | 4xx: the provider does not take the call |
//! | `upstream_refused_key` | other | | 401, 403 |
//! | `upstream_rate_limited` | rate limited | yes | 429 |
//! | `upstream_unavailable` | unavailable | yes | 5xx |
//! | `upstream_unreachable` | unavailable | yes | no connection |
//! | `upstream_cut` | unavailable | before the first token | the answer broke off |
//! | `upstream_failed` | unavailable | before the first token | the provider reported an error in its answer |
//! | `upstream_unreadable` | unavailable | | what came is not an answer |
//! | `upstream_timeout` | timeout | 408 only | one of the time limits |
//! | `upstream_too_large` | limit | | `max_response_bytes` |
//! | `upstream_error` | other | | anything else |
//! | `not_finished` | invalid | | asked for the whole answer before its end |

use std::time::{Duration, SystemTime};

use reqwest::header::HeaderMap;
use serde_json::Value;

use super::{
    config::Secret,
    meaning::{Meaning, meaning},
};

/// How many characters of a provider's own message are kept.
const SAID: usize = 500;

/// How many characters of a finish reason are shown.
const WORD: usize = 64;

/// What the caller can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelErrorKind {
    /// The call is wrong and will stay wrong.
    Invalid,
    /// Not granted.
    Denied,
    /// No such model.
    NotFound,
    /// Too large.
    Limit,
    /// The provider asks to slow down.
    RateLimited,
    /// It took too long.
    Timeout,
    /// The provider failed or cannot be reached.
    Unavailable,
    /// The run is being cancelled.
    Cancelled,
    /// Anything else.
    Other,
}

/// A failed model call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ModelError {
    /// What the caller can do.
    pub kind: ModelErrorKind,
    /// A stable word for programs.
    pub code: &'static str,
    /// What happened, for people. Nothing of it is the provider's own.
    pub message: String,
    /// What the provider said, for the operator. Empty where there is no more to say; holds no key.
    pub detail: String,
    /// When the provider wants to be asked again.
    pub retry_after: Option<Duration>,
    /// Whether the same call may work a moment later.
    pub(super) repeatable: bool,
}

impl ModelError {
    pub(super) fn new(kind: ModelErrorKind, code: &'static str, message: impl Into<String>) -> Self {
        let (message, detail) = (message.into(), String::new());
        Self { kind, code, message, detail, retry_after: None, repeatable: false }
    }

    fn repeatable(mut self) -> Self {
        self.repeatable = true;
        self
    }

    fn detailed(mut self, detail: &str) -> Self {
        self.detail = shorten(detail);
        self
    }

    /// What the operator reads.
    pub fn in_full(&self) -> String {
        if self.detail.is_empty() { self.message.clone() } else { format!("{} {}", self.message, self.detail) }
    }

    /// A call that cannot be sent.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ModelErrorKind::Invalid, "invalid_input", message)
    }

    /// An HTTP answer that is not a success.
    pub(super) fn answered(provider: &str, status: u16, headers: Option<&HeaderMap>, body: &str) -> Self {
        use ModelErrorKind::{Invalid, Other, Timeout, Unavailable};
        let json: Option<Value> = serde_json::from_str(body).ok();
        let words = said(json.as_ref(), body);
        let retry_after = headers.and_then(|headers| retry_after(headers, SystemTime::now()));
        let new = Self::new;
        let whose = format!("The model provider {provider}");
        let meant = meaning(Some(status), json.as_ref().map_or(&Value::Null, innermost), &words);
        let error = match (meant, status) {
            (Some(Meaning::RateLimit), _) | (None, 429) => Self::rate_limited(provider, retry_after),
            (Some(meant), _) => Self::meant(provider, meant),
            (None, 401 | 403) => {
                new(Other, "upstream_refused_key", format!("{whose} does not accept the key of this server."))
            }
            (None, 404) if json.is_some() => Self::meant(provider, Meaning::Model),
            (None, 404) => new(Other, "upstream_rejected", format!("{whose} does not know this request (404)."))
                .detailed("is base_url right?"),
            (None, 408) => {
                new(Timeout, "upstream_timeout", format!("{whose} did not answer in time (408).")).repeatable()
            }
            (None, 500..) => {
                new(Unavailable, "upstream_unavailable", format!("{whose} is not available ({status}).")).repeatable()
            }
            (None, _) => {
                let kind = if matches!(status, 400 | 413 | 415 | 422) { Invalid } else { Other };
                new(kind, "upstream_rejected", format!("{whose} does not accept this request ({status})."))
            }
        };
        let detail = format!("It answered {status}: {words} {}", error.detail);
        Self { retry_after, ..error }.detailed(&detail)
    }

    /// An error that the provider reported inside of its answer. Some gateways send every error this way.
    pub(super) fn reported(provider: &str, error: &Value) -> Self {
        let inner = innermost(error);
        if let Some(status @ 400..=599) = inner_status(inner) {
            return Self::answered(provider, status, None, &error.to_string());
        }
        let words = said(Some(error), "");
        let error = match meaning(None, inner, &words) {
            Some(Meaning::RateLimit) => Self::rate_limited(provider, None),
            Some(meant) => Self::meant(provider, meant),
            None => {
                let message = format!("The model provider {provider} reported an error in its answer.");
                Self::new(ModelErrorKind::Unavailable, "upstream_failed", message).repeatable()
            }
        };
        error.detailed(&format!("It said: {words}"))
    }

    /// Something that clients act on.
    fn meant(provider: &str, meant: Meaning) -> Self {
        use ModelErrorKind::{Invalid, Limit, NotFound};
        match meant {
            Meaning::ContextLength => {
                // LangChain and LiteLLM recognise it by these words.
                let message = "The prompt is too long: it exceeds the context window of the model. Shorten it, or compact \
                               the conversation.";
                Self::new(Limit, "context_length_exceeded", message)
            }
            Meaning::Quota => {
                let message = format!("The quota of this server at the model provider {provider} is used up.");
                Self::new(Limit, "insufficient_quota", message)
            }
            Meaning::ContentPolicy => {
                let message =
                    format!("The content policy of the model provider {provider} does not allow this request.");
                Self::new(Invalid, "content_policy_violation", message)
            }
            Meaning::Model => {
                let message = format!("The model provider {provider} does not have this model.");
                Self::new(NotFound, "model_not_found", message)
            }
            Meaning::RateLimit => Self::rate_limited(provider, None),
        }
    }

    fn rate_limited(provider: &str, retry_after: Option<Duration>) -> Self {
        // Clients read the time from these words.
        let when = retry_after.map(|wait| format!(" Please try again in {}s.", wait.as_secs_f64().ceil()));
        let message = format!("The model provider {provider} asks to slow down.{}", when.unwrap_or_default());
        Self::new(ModelErrorKind::RateLimited, "upstream_rate_limited", message).repeatable()
    }

    /// An answer that ended with a finish reason that is no success.
    pub(super) fn ended(provider: &str, word: &str) -> Self {
        let plain = |letter: &char| letter.is_ascii_alphanumeric() || "_-. ".contains(*letter);
        let word: String = word.chars().filter(plain).take(WORD).collect();
        let message = format!("The model provider {provider} ended its answer with the finish reason `{word}`.");
        Self::new(ModelErrorKind::Unavailable, "upstream_failed", message).repeatable()
    }

    /// An answer that ended before it said that it was finished.
    pub(super) fn cut(provider: &str, cause: &str) -> Self {
        let cause = if cause.is_empty() { "The stream ended without a finish reason." } else { cause };
        let message = format!("The model provider {provider} broke off its answer.");
        Self::new(ModelErrorKind::Unavailable, "upstream_cut", message).repeatable().detailed(cause)
    }

    /// Something that is not an answer.
    pub(super) fn unreadable(provider: &str, what: &str) -> Self {
        let message = format!("The model provider {provider} sent something that is not an answer.");
        Self::new(ModelErrorKind::Unavailable, "upstream_unreadable", message).detailed(what)
    }

    /// A limit of time, named as the configuration names it.
    pub(super) fn timed_out(provider: &str, limit: &str, length: Duration) -> Self {
        let message = format!("The model provider {provider} did not answer in time: {limit} is {length:?}.");
        Self::new(ModelErrorKind::Timeout, "upstream_timeout", message)
    }

    /// An answer that is larger than allowed.
    pub(super) fn too_large(provider: &str, most: usize) -> Self {
        let message =
            format!("The answer of the model provider {provider} is larger than max_response_bytes ({most}).");
        Self::new(ModelErrorKind::Limit, "upstream_too_large", message)
    }

    /// A failure that is none of the others.
    pub(super) fn other(provider: &str, what: &str) -> Self {
        let message = format!("The call of the model provider {provider} failed.");
        Self::new(ModelErrorKind::Other, "upstream_error", message).detailed(what)
    }

    /// A failure of the connection, told from its chain of causes.
    pub(super) fn transport(provider: &str, error: &(dyn std::error::Error + 'static)) -> Self {
        let (mut timeout, mut connect) = (false, false);
        let (mut next, mut last) = (Some(error), String::new());
        while let Some(cause) = next {
            if let Some(cause) = cause.downcast_ref::<reqwest::Error>() {
                timeout |= cause.is_timeout();
                connect |= cause.is_connect();
            }
            last = cause.to_string();
            next = cause.source();
        }
        match (connect, timeout) {
            (true, _) => {
                let message = format!("The model provider {provider} cannot be reached.");
                Self::new(ModelErrorKind::Unavailable, "upstream_unreachable", message).repeatable().detailed(&last)
            }
            (false, true) => {
                let message = format!("The model provider {provider} did not answer in time.");
                Self::new(ModelErrorKind::Timeout, "upstream_timeout", message).detailed(&last)
            }
            (false, false) => Self::cut(provider, &last),
        }
    }

    /// The same error without the key, should the provider have echoed it.
    pub(super) fn without(mut self, key: Option<&Secret>) -> Self {
        if let Some(key) = key.map(Secret::reveal).filter(|key| !key.is_empty()) {
            self.detail = self.detail.replace(key, "[secret]");
        }
        self
    }
}

/// What an envelope holds, also a list of one (Google's) and an error in an error.
fn innermost<'a>(mut json: &'a Value) -> &'a Value {
    const ENVELOPES: [&str; 6] = ["error", "errors", "Error", "base_resp", "fault", "detail"];
    let within = |json: &'a Value| {
        let inner = json.get(0).or_else(|| ENVELOPES.into_iter().find_map(|name| json.get(name)));
        inner.filter(|inner| inner.is_object() || inner.is_array())
    };
    while let Some(inner) = within(json) {
        json = inner;
    }
    json
}

/// The HTTP status that an error in an answer stands for.
fn inner_status(error: &Value) -> Option<u16> {
    let number = |value: &Value| value.as_u64().or_else(|| value.as_str()?.parse().ok());
    let fields = ["code", "status", "status_code", "statusCode"];
    fields.into_iter().find_map(|name| number(&error[name])).and_then(|status| u16::try_from(status).ok())
}

/// The provider's own words: the message of its error, or its body.
fn said(json: Option<&Value>, body: &str) -> String {
    let Some(json) = json else { return body.to_owned() };
    let inner = innermost(json);
    let fields = ["message", "error", "detail", "msg", "error_msg", "status_msg"];
    let message = fields.into_iter().find_map(|name| inner[name].as_str()).or_else(|| inner.as_str());
    message.map_or_else(|| inner.to_string(), str::to_owned)
}

fn shorten(text: &str) -> String {
    let words =
        text.split(|character: char| character.is_control() || character == ' ').filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ").chars().take(SAID).collect()
}

/// `retry-after-ms`, or `retry-after` in seconds or as a date.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let number = |name: &str| text(name)?.parse::<f64>().ok();
    if let Some(seconds) = number("retry-after-ms").map(|ms| ms / 1_000.0).or_else(|| number("retry-after")) {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date = httpdate::parse_http_date(text("retry-after")?).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn retry_after_is_understood_in_all_its_forms() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_445_412_420);
        for (name, value, expected) in [
            ("retry-after", "2", Some(Duration::from_secs(2))),
            ("retry-after", "0.5", Some(Duration::from_millis(500))),
            ("retry-after-ms", "20", Some(Duration::from_millis(20))),
            ("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT", Some(Duration::from_secs(60))),
            ("retry-after", "Wed, 21 Oct 2015 07:26:00 GMT", Some(Duration::ZERO)),
            ("retry-after", "-1", None),
            ("retry-after", "soon", None),
        ] {
            let headers = HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())]);
            assert_eq!(retry_after(&headers, now), expected, "{name}: {value}");
        }
    }

    #[test]
    fn the_providers_own_words_are_for_the_operator() {
        for (body, expected) in [
            (json!({"error": {"message": "no such key", "code": null}}), "no such key"),
            (json!({"error": "model not loaded"}), "model not loaded"),
            (json!([{"error": {"message": "bad"}}]), "bad"),
            (json!({"detail": "Not Found"}), "Not Found"),
            (json!({"error": {"odd": 1}}), "{\"odd\":1}"),
        ] {
            let error = ModelError::answered("up", 400, None, &body.to_string());
            assert_eq!(error.message, "The model provider up does not accept this request (400).");
            assert_eq!(error.detail, format!("It answered 400: {expected}"));
        }
        let error = ModelError::answered("up", 502, None, &format!("<html>\n{}", "x".repeat(10_000)));
        assert!(error.detail.len() < 600 && error.detail.contains("<html> xxx"), "{error:?}");
    }

    #[test]
    fn only_what_may_pass_is_repeated() {
        for (status, body, repeatable) in [
            (429, json!({}), true),
            (429, json!({"error": {"code": "insufficient_quota"}}), false),
            (408, json!({}), true),
            (500, json!({}), true),
            (529, json!({}), true),
            (400, json!({}), false),
            (401, json!({}), false),
            (404, json!({}), false),
        ] {
            let error = ModelError::answered("up", status, None, &body.to_string());
            assert_eq!(error.repeatable, repeatable, "{error:?}");
        }
        assert_eq!(ModelError::reported("up", &json!({"code": 429, "message": "x"})).code, "upstream_rate_limited");
        assert_eq!(ModelError::reported("up", &json!({"type": "server_error"})).code, "upstream_failed");
    }
}
