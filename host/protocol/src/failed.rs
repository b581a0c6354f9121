//! A failed run as an error: in its stream, and as the answer of a request that waited for it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    error::{ApiError, ErrorKind},
    response::ResponseError,
};

/// When a rate-limited request may be repeated, in seconds, where the provider does not say.
const RETRY_AFTER: u64 = 5;

impl ResponseError {
    /// A failure with a code and a message.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), retry_after: None, timed_out: false }
    }

    /// The error that answers a request that waited for the response `id`.
    ///
    /// The host has repeated what can be repeated, and a second run may do things twice: SDKs are told to repeat only what
    /// the provider asked to repeat.
    pub fn answer(&self, id: impl Into<String>) -> ApiError {
        let new = |kind, code| ApiError::new(kind, code, self.message.clone());
        let error = match self.code.as_str() {
            "rate_limit_exceeded" => new(ErrorKind::RateLimited, "rate_limit_exceeded")
                .with_retry_after(self.retry_after.unwrap_or(RETRY_AFTER)),
            "insufficient_quota" => new(ErrorKind::RateLimited, "insufficient_quota").never_retry(),
            "context_length_exceeded" => new(ErrorKind::InvalidRequest, "context_length_exceeded").with_param("input"),
            "content_policy_violation" => new(ErrorKind::InvalidRequest, "content_policy_violation"),
            "model_not_found" => new(ErrorKind::NotFound, "model_not_found").with_param("model"),
            _ if self.timed_out => new(ErrorKind::GatewayTimeout, "server_error").never_retry(),
            _ => new(ErrorKind::BadGateway, "server_error").never_retry(),
        };
        error.about(id)
    }

    /// The error of the event `error`.
    pub(super) fn in_stream(&self) -> StreamError {
        let ApiError { kind, code, param, .. } = self.answer("");
        let (kind, code, message) = (kind.type_name().to_owned(), code.to_owned(), self.message.clone());
        StreamError { kind, code, message, param }
    }
}

/// The `error` of the event `error`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StreamError {
    /// `invalid_request_error`, `rate_limit_error` or `server_error`.
    #[serde(rename = "type")]
    pub kind: String,
    /// As in the response.
    pub code: String,
    /// For people.
    pub message: String,
    /// The field of the request that is wrong.
    #[schema(required)]
    pub param: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_keeps_its_meaning_as_an_answer() {
        for (code, status, told, retry_after, never) in [
            ("rate_limit_exceeded", 429, "rate_limit_exceeded", Some(RETRY_AFTER), false),
            ("insufficient_quota", 429, "insufficient_quota", None, true),
            ("context_length_exceeded", 400, "context_length_exceeded", None, false),
            ("content_policy_violation", 400, "content_policy_violation", None, false),
            ("model_not_found", 404, "model_not_found", None, false),
            ("server_error", 502, "server_error", None, true),
            ("a word of an earlier version", 502, "server_error", None, true),
        ] {
            let error = ResponseError::new(code, "why").answer("resp_1");
            assert_eq!((error.kind.status(), error.code, error.message.as_str()), (status, told, "why"));
            assert_eq!((error.retry_after, error.never_retry), (retry_after, never), "{code}");
            assert_eq!(error.response_id.as_deref(), Some("resp_1"));
        }
        let late = ResponseError { timed_out: true, ..ResponseError::new("server_error", "too slow") };
        assert_eq!(late.answer("resp_1").kind.status(), 504);
        let slow = ResponseError { retry_after: Some(30), ..ResponseError::new("rate_limit_exceeded", "slow down") };
        assert_eq!(slow.answer("resp_1").retry_after, Some(30));
    }
}
