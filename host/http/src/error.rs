//! Errors as answers.

use std::any::Any;

use axum::{
    Extension, Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use outlast_protocol::{ApiError, ErrorKind};
use tracing::error;

/// The response that an error is about.
pub(super) const RESPONSE_ID: &str = "x-outlast-response-id";

/// The code of an error, beside its answer: what the refusals are counted by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Code(pub &'static str);

/// An error on its way to a client.
#[derive(Debug)]
pub(super) struct Failure(pub ApiError);

impl<E: Into<ApiError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Self(error) = self;
        let status = StatusCode::from_u16(error.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Extension(Code(error.code)), Json(error.envelope())).into_response();
        if let Some(seconds) = error.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        // An id has no characters that a header cannot hold.
        if let Some(id) = error.response_id.as_deref().and_then(|id| HeaderValue::from_str(id).ok()) {
            response.headers_mut().insert(RESPONSE_ID, id);
        }
        if error.never_retry {
            response.headers_mut().insert("x-should-retry", HeaderValue::from_static("false"));
        }
        response
    }
}

/// Puts the envelope around the errors that the router makes by itself: a path or a query that is no text.
pub(super) async fn enveloped(response: Response) -> Response {
    let status = response.status();
    let json = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    if json || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    if status.is_server_error() {
        return Failure(ApiError::internal()).into_response();
    }
    let message = "The path or the query of the request cannot be read: it is not percent-encoded UTF-8.";
    Failure(ApiError::new(ErrorKind::InvalidRequest, "invalid_url", message)).into_response()
}

/// The answer of a handler that panicked.
pub(super) fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
    error!(panic = text.unwrap_or("not a text"), "a handler panicked");
    Failure(ApiError::internal()).into_response()
}
