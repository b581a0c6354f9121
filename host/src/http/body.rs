//! Reading a request's body, within its limits.

use axum::{body::Body, extract::Request, http::header};
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};

use super::ApiLimits;
use crate::protocol::{ApiError, ErrorKind};

/// Reads a JSON body as bytes.
///
/// # Errors
///
/// 415 when it is not declared as JSON, 413 when it is too large, 408 when it takes too long, 400 when it is cut.
pub(super) async fn read_json(request: Request, limits: &ApiLimits) -> Result<Bytes, ApiError> {
    let media_type = request.headers().get(header::CONTENT_TYPE).map(|value| value.as_bytes());
    if !media_type.is_some_and(is_json) {
        let message = "The body must be JSON: send `content-type: application/json`.";
        return Err(ApiError::new(ErrorKind::UnsupportedMediaType, "unsupported_media_type", message));
    }
    let too_large = || {
        let message = format!("The body is larger than {} bytes (limits.body_bytes).", limits.body_bytes);
        ApiError::new(ErrorKind::TooLarge, "request_too_large", message)
    };
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: u64| length > limits.body_bytes as u64) {
        return Err(too_large());
    }
    let body = Limited::<Body>::new(request.into_body(), limits.body_bytes).collect();
    match tokio::time::timeout(limits.body_timeout, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => {
            Err(ApiError::new(ErrorKind::InvalidRequest, "incomplete_body", "The body ended before it was complete."))
        }
        Err(_) => {
            let message = "The body took too long to arrive (limits.body_timeout).";
            Err(ApiError::new(ErrorKind::RequestTimeout, "request_timeout", message))
        }
    }
}

/// `application/json`, with or without parameters, and `application/….+json`.
fn is_json(media_type: &[u8]) -> bool {
    let essence = media_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii().to_ascii_lowercase();
    essence == b"application/json" || (essence.starts_with(b"application/") && essence.ends_with(b"+json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_json_with_and_without_a_charset() {
        for right in ["application/json", "Application/JSON; charset=utf-8", "application/vnd.x+json"] {
            assert!(is_json(right.as_bytes()), "{right}");
        }
        for wrong in ["", "text/json", "application/x-www-form-urlencoded", "application/jsonp"] {
            assert!(!is_json(wrong.as_bytes()), "{wrong}");
        }
    }
}
