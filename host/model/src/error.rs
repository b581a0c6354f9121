//! What can go wrong with a model call, by what can be done about it.
//!
//! Every failure has a kind (what the caller can do), a code (for programs; it does not change) and a message (for
//! people: the provider's own words, at most 500 characters, never the key).
//!
//! | code | kind | repeated | when |
//! |---|---|---|---|
//! | `no_provider` | not found | | nothing is configured |
//! | `model_not_found` | not found | | no such model, here or upstream |
//! | `invalid_input` | invalid | | an item or an option that cannot be sent |
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

use super::config::Secret;

/// How many characters of a provider's own message are kept.
const SAID: usize = 500;

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
    /// What happened, for people. Holds no key.
    pub message: String,
    /// When the provider wants to be asked again.
    pub retry_after: Option<Duration>,
    /// Whether the same call may work a moment later.
    pub(super) repeatable: bool,
}

impl ModelError {
    pub(super) fn new(kind: ModelErrorKind, code: &'static str, message: impl Into<String>) -> Self {
        Self { kind, code, message: message.into(), retry_after: None, repeatable: false }
    }

    fn repeatable(mut self) -> Self {
        self.repeatable = true;
        self
    }

    /// A call that cannot be sent.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ModelErrorKind::Invalid, "invalid_input", message)
    }

    /// An HTTP answer that is not a success.
    pub(super) fn answered(provider: &str, status: u16, headers: Option<&HeaderMap>, body: &str) -> Self {
        use ModelErrorKind::{Invalid, NotFound, Other, RateLimited, Timeout, Unavailable};
        let json: Option<Value> = serde_json::from_str(body).ok();
        let message = format!("upstream {provider} answered {status}: {}", shorten(&said(json.as_ref(), body)));
        let new = |kind, code| Self::new(kind, code, message.clone());
        let mut error = match status {
            401 | 403 => new(Other, "upstream_refused_key"),
            404 if json.is_some() => new(NotFound, "model_not_found"),
            404 => Self::new(Other, "upstream_rejected", format!("{message} (is base_url right?)")),
            408 => new(Timeout, "upstream_timeout").repeatable(),
            // No money is no matter of patience.
            429 if json.is_some_and(|json| json["error"]["code"] == "insufficient_quota") => {
                new(RateLimited, "upstream_rate_limited")
            }
            429 => new(RateLimited, "upstream_rate_limited").repeatable(),
            500.. => new(Unavailable, "upstream_unavailable").repeatable(),
            400 | 413 | 415 | 422 => new(Invalid, "upstream_rejected"),
            _ => new(Other, "upstream_rejected"),
        };
        error.retry_after = headers.and_then(|headers| retry_after(headers, SystemTime::now()));
        error
    }

    /// An error that the provider reported inside of its answer. Some gateways send every error this way.
    pub(super) fn reported(provider: &str, error: &Value) -> Self {
        let envelope = if error.get("error").is_some() { error } else { &serde_json::json!({ "error": error }) };
        let status = envelope["error"]["code"].as_u64().and_then(|code| u16::try_from(code).ok());
        if let Some(status @ 400..=599) = status {
            return Self::answered(provider, status, None, &envelope.to_string());
        }
        let message = shorten(&said(Some(envelope), ""));
        let message = format!("upstream {provider} failed while it answered: {message}");
        Self::new(ModelErrorKind::Unavailable, "upstream_failed", message).repeatable()
    }

    /// An answer that ended before it said that it was finished.
    pub(super) fn cut(provider: &str, cause: &str) -> Self {
        let cause = if cause.is_empty() { "the stream ended without a finish reason" } else { cause };
        let message = format!("upstream {provider} broke off its answer: {}", shorten(cause));
        Self::new(ModelErrorKind::Unavailable, "upstream_cut", message).repeatable()
    }

    /// Something that is not an answer.
    pub(super) fn unreadable(provider: &str, what: &str) -> Self {
        let message = format!("upstream {provider} sent something that is not an answer: {}", shorten(what));
        Self::new(ModelErrorKind::Unavailable, "upstream_unreadable", message)
    }

    /// A limit of time, named as the configuration names it.
    pub(super) fn late(provider: &str, limit: &str, length: Duration) -> Self {
        let message = format!("upstream {provider} did not answer in time: {limit} is {length:?}");
        Self::new(ModelErrorKind::Timeout, "upstream_timeout", message)
    }

    /// An answer that is larger than allowed.
    pub(super) fn too_large(provider: &str, most: usize) -> Self {
        let message = format!("the answer of upstream {provider} is larger than max_response_bytes ({most})");
        Self::new(ModelErrorKind::Limit, "upstream_too_large", message)
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
        let cause = shorten(&last);
        match (connect, timeout) {
            (true, _) => {
                let message = format!("upstream {provider} cannot be reached: {cause}");
                Self::new(ModelErrorKind::Unavailable, "upstream_unreachable", message).repeatable()
            }
            (false, true) => {
                let message = format!("upstream {provider} did not answer in time: {cause}");
                Self::new(ModelErrorKind::Timeout, "upstream_timeout", message)
            }
            (false, false) => Self::cut(provider, &cause),
        }
    }

    /// The same error without the key, should the provider have echoed it.
    pub(super) fn without(mut self, key: Option<&Secret>) -> Self {
        if let Some(key) = key.map(Secret::reveal).filter(|key| !key.is_empty()) {
            self.message = self.message.replace(key, "[secret]");
        }
        self
    }
}

/// The provider's own words: the message of its error envelope, or its body.
fn said(json: Option<&Value>, body: &str) -> String {
    let Some(json) = json else { return body.to_owned() };
    // Google wraps its envelope into a list.
    let json = json.get(0).unwrap_or(json);
    let error = &json["error"];
    let places = [&error["message"], error, &json["message"], &json["detail"]];
    let message = places.into_iter().find_map(Value::as_str).map(str::to_owned);
    message.unwrap_or_else(|| if error.is_null() { json.to_string() } else { error.to_string() })
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
    fn the_providers_own_words_are_found() {
        for (body, expected) in [
            (json!({"error": {"message": "no such key", "code": null}}), "no such key"),
            (json!({"error": "model not loaded"}), "model not loaded"),
            (json!([{"error": {"message": "bad"}}]), "bad"),
            (json!({"detail": "Not Found"}), "Not Found"),
            (json!({"error": {"odd": 1}}), "{\"odd\":1}"),
        ] {
            let error = ModelError::answered("up", 400, None, &body.to_string());
            assert_eq!(error.message, format!("upstream up answered 400: {expected}"));
        }
        let error = ModelError::answered("up", 502, None, &format!("<html>\n{}", "x".repeat(10_000)));
        assert!(error.message.len() < 600 && error.message.contains("<html> xxx"), "{error}");
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
