//! Reading a request's body, within its limits.

use std::time::Duration;

use axum::{body::Body, extract::Request, http::header};
use bytes::Bytes;
use futures::StreamExt as _;
use http_body::Body as _;
use outlast_protocol::{ApiError, ErrorKind};

use super::{
    Api, Principal,
    bodies::{ReadBody, Room},
    encoding::{Encoding, Pieces},
};

/// How long the rest of a body that is too large is waited for.
const LINGER: Duration = Duration::from_secs(1);

/// Reads a JSON body as bytes.
///
/// # Errors
///
/// 415 when it is not declared as JSON or its encoding is not known or wrong, 413 when it is too large, 429 or 503 when there is no room for it now, 408 when it
/// takes too long, 400 when it is cut.
pub(super) async fn read_json(request: Request, api: &Api) -> Result<ReadBody, ApiError> {
    let limits = &api.limits;
    let media_type = request.headers().get(header::CONTENT_TYPE).map(|value| value.as_bytes());
    if !media_type.is_some_and(is_json) {
        let message = "The body must be JSON: send `content-type: application/json`.";
        return Err(ApiError::new(ErrorKind::UnsupportedMediaType, "unsupported_media_type", message));
    }
    let encoding = Encoding::of(request.headers())?;
    let principal = request.extensions().get::<Principal>().map_or("", |principal| &principal.0);
    let mut room = api.bodies.room(principal);
    match tokio::time::timeout(
        limits.body_timeout,
        collect(encoding, request.into_body(), limits.body_bytes, &mut room),
    )
    .await
    {
        Ok(Ok(bytes)) => Ok(ReadBody { bytes, room }),
        Ok(Err(error)) => Err(error),
        Err(_) => {
            let message = "The body took too long to arrive (limits.body_timeout).";
            Err(ApiError::new(ErrorKind::RequestTimeout, "request_timeout", message))
        }
    }
}

/// The same, of a request that may have no body: that is an empty one.
///
/// # Errors
///
/// As above.
pub(super) async fn read_json_or_nothing(request: Request, api: &Api) -> Result<ReadBody, ApiError> {
    if !request.headers().contains_key(header::CONTENT_TYPE) && request.body().is_end_stream() {
        let room = api.bodies.room("");
        return Ok(ReadBody { bytes: Bytes::new(), room });
    }
    read_json(request, api).await
}

/// The whole body, of at most `most` bytes in its plain form.
async fn collect(encoding: Encoding, body: Body, most: usize, room: &mut Room) -> Result<Bytes, ApiError> {
    let mut collected = Vec::new();
    let mut pieces = encoding.pieces(body);
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        let length = collected.len() + piece.len();
        let refused = if length > most {
            let message = format!("The body is larger than {most} bytes (limits.body_bytes).");
            Some(ApiError::new(ErrorKind::TooLarge, "request_too_large", message))
        } else {
            room.grow(length + encoding.window()).err()
        };
        if let Some(refused) = refused {
            drop(collected);
            // The answer stands; whether the rest comes in time does not matter.
            let _ = tokio::time::timeout(LINGER, discard(pieces, most)).await;
            return Err(refused);
        }
        collected.extend_from_slice(&piece);
    }
    Ok(collected.into())
}

/// Reads `most` bytes and throws them away: a client that is still sending would otherwise see a broken connection
/// where the answer should be.
async fn discard(mut pieces: Pieces, most: usize) {
    let mut seen = 0;
    while seen <= most
        && let Some(Ok(piece)) = pieces.next().await
    {
        seen += piece.len();
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
