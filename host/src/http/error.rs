//! Errors as answers.

use std::any::Any;

use axum::{
    Extension, Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use tracing::{error, warn};

use crate::{
    protocol::{ApiError, ErrorKind},
    store::StoreError,
};

/// The code of an error, beside its answer: what the refusals are counted by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Code(pub &'static str);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Extension(Code(self.code)), Json(self.envelope())).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.never_retry {
            response.headers_mut().insert("x-should-retry", HeaderValue::from_static("false"));
        }
        response
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) | StoreError::TimedOut(_) => {
                warn!(%error, "a request failed because of the database");
                let message = "The database is not available right now. Repeat the request.";
                Self::new(ErrorKind::Unavailable, "storage_unavailable", message).with_retry_after(1)
            }
            error => {
                error!(%error, "a request failed");
                internal()
            }
        }
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
        return internal().into_response();
    }
    let message = "The path or the query of the request cannot be read: it is not percent-encoded UTF-8.";
    ApiError::new(ErrorKind::InvalidRequest, "invalid_url", message).into_response()
}

/// The answer of a handler that panicked.
pub(super) fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
    error!(panic = text.unwrap_or("not a text"), "a handler panicked");
    internal().into_response()
}

fn internal() -> ApiError {
    ApiError::new(ErrorKind::Internal, "internal_error", "The server failed. The log of the server says why.")
}
