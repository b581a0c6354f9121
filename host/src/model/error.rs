//! What can go wrong with a model call, by what can be done about it.

use std::time::Duration;

use genai::{Error, webc};

use super::config::Secret;

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

    pub(super) fn repeatable(mut self) -> Self {
        self.repeatable = true;
        self
    }

    /// What `genai` reports of `provider`, without the key should the provider have echoed it.
    pub(super) fn from_upstream(provider: &str, error: &Error, key: Option<&Secret>) -> Self {
        let mut translated = translate(provider, error);
        if let Some(key) = key.map(Secret::reveal).filter(|key| !key.is_empty()) {
            translated.message = translated.message.replace(key, "[secret]");
        }
        translated
    }
}

fn translate(provider: &str, error: &Error) -> ModelError {
    use ModelErrorKind::{Invalid, NotFound, Other, RateLimited, Timeout, Unavailable};
    let refused = match error {
        Error::HttpError { status, body, .. } => Some((status.as_u16(), body.as_str())),
        Error::WebModelCall { webc_error: webc::Error::ResponseFailedStatus { status, body, .. }, .. } => {
            Some((status.as_u16(), body.as_str()))
        }
        Error::WebStream { error, .. } => match error.downcast_ref::<Error>() {
            Some(Error::HttpError { status, body, .. }) => Some((status.as_u16(), body.as_str())),
            _ => None,
        },
        _ => None,
    };
    if let Some((status, body)) = refused {
        let message = format!("upstream {provider} answered {status}: {}", said(body));
        let mut translated = match status {
            404 => ModelError::new(NotFound, "model_not_found", message),
            408 => ModelError::new(Timeout, "upstream_timeout", message).repeatable(),
            429 => ModelError::new(RateLimited, "upstream_rate_limited", message).repeatable(),
            500.. => ModelError::new(Unavailable, "upstream_unavailable", message).repeatable(),
            401 | 403 => ModelError::new(Other, "upstream_refused_key", message),
            _ => ModelError::new(Invalid, "upstream_rejected", message),
        };
        translated.retry_after = retry_after(error);
        return translated;
    }
    match error {
        Error::ChatResponse { body, .. } => {
            let message = body["message"].as_str().map_or_else(|| body.to_string(), str::to_owned);
            let message = format!("upstream {provider} failed in the middle: {}", shorten(&message));
            ModelError::new(Unavailable, "upstream_failed", message)
        }
        Error::StreamParse { .. } => {
            let message = format!("upstream {provider} sent something that is not an answer");
            ModelError::new(Unavailable, "upstream_unreadable", message)
        }
        Error::WebStream { error, .. } => transport(provider, error.as_ref()),
        Error::WebModelCall { webc_error: webc::Error::Reqwest(error), .. } => transport(provider, error),
        Error::MessageContentTypeNotSupported { cause, .. } => {
            ModelError::new(Invalid, "unsupported_content", format!("upstream {provider}: {cause}"))
        }
        other => {
            ModelError::new(Other, "upstream_error", format!("upstream {provider}: {}", shorten(&other.to_string())))
        }
    }
}

/// A failure of the connection, told from its chain of causes.
fn transport(provider: &str, error: &(dyn std::error::Error + 'static)) -> ModelError {
    let mut causes = Vec::new();
    let mut next = Some(error);
    let mut timeout = false;
    let mut connect = false;
    while let Some(cause) = next {
        if let Some(cause) = cause.downcast_ref::<reqwest::Error>() {
            timeout |= cause.is_timeout();
            connect |= cause.is_connect();
        }
        causes.push(cause.to_string());
        next = cause.source();
    }
    let cause = shorten(causes.last().map_or("", String::as_str));
    if timeout {
        let message = format!("upstream {provider} did not answer in time: {cause}");
        ModelError::new(ModelErrorKind::Timeout, "upstream_timeout", message).repeatable()
    } else if connect {
        let message = format!("upstream {provider} cannot be reached: {cause}");
        ModelError::new(ModelErrorKind::Unavailable, "upstream_unreachable", message).repeatable()
    } else {
        let message = format!("upstream {provider} broke off its answer: {cause}");
        ModelError::new(ModelErrorKind::Unavailable, "upstream_cut", message).repeatable()
    }
}

/// The provider's own words: the message of its error envelope, or its body.
fn said(body: &str) -> String {
    let json: Option<serde_json::Value> = serde_json::from_str(body).ok();
    let message = json.as_ref().and_then(|json| {
        let error = &json["error"];
        error["message"].as_str().or(error.as_str()).or(json["message"].as_str())
    });
    shorten(message.unwrap_or(body))
}

fn shorten(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(500).collect()
}

/// `retry-after-ms`, or `retry-after` in seconds.
fn retry_after(error: &Error) -> Option<Duration> {
    let inner = match error {
        Error::WebStream { error, .. } => error.downcast_ref::<Error>()?.headers(),
        other => other.headers(),
    };
    let number = |name: &str| inner?.get(name)?.to_str().ok()?.trim().parse::<f64>().ok();
    let seconds = number("retry-after-ms").map(|ms| ms / 1_000.0).or_else(|| number("retry-after"))?;
    Duration::try_from_secs_f64(seconds).ok()
}
