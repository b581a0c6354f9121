//! `/v1/responses`.

use axum::{
    Extension,
    body::Body,
    extract::{Path, Query, Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;

use super::{Api, Principal, body, sse};
use crate::protocol::{ApiError, CreateRequest, ErrorKind, ResponseId, Status, TerminalStatus};

/// `POST /v1/responses`: begins a run. The answer is a subscription to it: its frames, or its end.
pub(super) async fn create(
    State(api): State<Api>,
    Extension(Principal(principal)): Extension<Principal>,
    request: Request,
) -> Result<Response, ApiError> {
    if request.headers().contains_key("idempotency-key") {
        let message = "'Idempotency-Key' is not supported by this server yet.";
        return Err(ApiError::new(ErrorKind::InvalidRequest, "unsupported_header", message));
    }
    let body = body::read_json(request, &api.limits).await?;
    let request = CreateRequest::parse(&body, &api.limits.request)?;
    drop(body);
    let stream = request.stream;
    let mut subscription = api.manager.create(&principal, request).await?;
    if stream {
        return Ok(sse::answer(subscription, api.limits.keep_alive));
    }
    match subscription.ended().await {
        Some(ended) => Ok(json(ended.response.clone())),
        None => stored(&api, &principal, subscription.id()).await,
    }
}

/// `GET /v1/responses/{id}`: the response as it is now, or with `stream=true` its events from a cursor on.
pub(super) async fn retrieve(
    State(api): State<Api>,
    Extension(Principal(principal)): Extension<Principal>,
    Path(id): Path<String>,
    Query(query): Query<Vec<(String, String)>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let get = |name: &str| query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let stream = match get("stream") {
        None | Some("false") => false,
        Some("true") => true,
        Some(other) => {
            let message = format!("Invalid value for 'stream': '{}'. It must be true or false.", shown(other));
            return Err(ApiError::invalid("stream", "invalid_value", message));
        }
    };
    let after = get("starting_after").or(headers.get("last-event-id").and_then(|value| value.to_str().ok()));
    let cursor = match after.map(str::parse::<u64>) {
        None => 0,
        Some(Ok(number)) => number.saturating_add(1),
        Some(Err(_)) => {
            let message = format!(
                "Invalid value for 'starting_after': '{}'. It must be the sequence number of an event, 0 or more.",
                shown(after.unwrap_or_default())
            );
            return Err(ApiError::invalid("starting_after", "invalid_value", message));
        }
    };
    let Some(response) = ResponseId::parse(&id) else { return Err(ApiError::response_not_found(&id)) };
    if !stream {
        return stored(&api, &principal, &response).await;
    }
    match api.manager.subscribe(&principal, &response, cursor).await? {
        Some(subscription) => Ok(sse::answer(subscription, api.limits.keep_alive)),
        None => Err(ApiError::response_not_found(&id)),
    }
}

/// `POST /v1/responses/{id}/cancel`: stops a run. The answer is the response as it ended.
pub(super) async fn cancel(
    State(api): State<Api>,
    Extension(Principal(principal)): Extension<Principal>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let Some(response) = ResponseId::parse(&id) else { return Err(ApiError::response_not_found(&id)) };
    match api.manager.cancel(&principal, &response).await? {
        None => Err(ApiError::response_not_found(&id)),
        Some(Status::Terminal(TerminalStatus::Cancelled)) => stored(&api, &principal, &response).await,
        Some(status) => {
            let message = format!("Cannot cancel response '{response}': it has ended already, as {status}.");
            Err(ApiError::new(ErrorKind::InvalidRequest, "response_not_cancellable", message))
        }
    }
}

async fn stored(api: &Api, principal: &str, id: &ResponseId) -> Result<Response, ApiError> {
    match api.manager.response(principal, id).await? {
        Some(response) => Ok(json(response)),
        None => Err(ApiError::response_not_found(id.as_str())),
    }
}

fn json(body: Bytes) -> Response {
    (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], Body::from(body)).into_response()
}

/// A client's text, short enough for a message.
fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}
