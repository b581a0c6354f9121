//! `/v1/responses`.

use axum::{
    Extension, Json,
    body::Body,
    extract::{Path, Query, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;

use serde_json::{Value, json};

use super::{Api, Principal, body, page::Page, sse};
use crate::{
    protocol::{
        ApiError, CreateRequest, ErrorKind, IdempotencyKey, ResponseId, Status, TerminalStatus, snapshot_frame,
    },
    run::Created,
};

/// `POST /v1/responses`: begins a run. The answer is a subscription to it: its frames, or its end.
pub(super) async fn create(
    State(api): State<Api>,
    Extension(Principal(principal)): Extension<Principal>,
    request: Request,
) -> Result<Response, ApiError> {
    let header = request.headers().get("idempotency-key").cloned();
    let body = body::read_json(request, &api.limits).await?;
    let request = CreateRequest::parse(&body, &api.limits.request)?;
    let key = header.map(|key| IdempotencyKey::parse(key.as_bytes(), &body)).transpose()?;
    if key.is_some() && !request.store {
        let message = "'Idempotency-Key' needs 'store': a response that is not kept cannot be given again.";
        return Err(ApiError::invalid("store", "idempotency_requires_store", message));
    }
    drop(body);
    let (stream, background) = (request.stream, request.background);
    let mut subscription = match api.manager.create(&principal, request, key).await? {
        Created::Now(subscription) => subscription,
        Created::Before(id) => return replay(&api, &principal, &id, stream, background).await,
    };
    if stream {
        return Ok(sse::answer(&api, None, subscription));
    }
    if background {
        return stored(&api, &principal, subscription.id()).await;
    }
    match subscription.ended().await {
        Some(ended) => Ok(json_bytes(ended.response.clone())),
        None => stored(&api, &principal, subscription.id()).await,
    }
}

/// The answer to a repeated request: the response that its idempotency key names. Nothing is begun.
async fn replay(
    api: &Api,
    principal: &str,
    id: &ResponseId,
    stream: bool,
    background: bool,
) -> Result<Response, ApiError> {
    let mut answer = if stream {
        let (snapshot, subscription) =
            api.manager.reattach(principal, id).await?.ok_or_else(|| ApiError::response_not_found(id.as_str()))?;
        let first = snapshot.map(|(response, number)| snapshot_frame(&response, number));
        sse::answer(api, first, subscription)
    } else {
        if !background {
            api.manager.wait(principal, id).await;
        }
        stored(api, principal, id).await?
    };
    answer.headers_mut().insert("idempotency-replayed", HeaderValue::from_static("true"));
    Ok(answer)
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
        Some(subscription) => Ok(sse::answer(&api, None, subscription)),
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

/// `DELETE /v1/responses/{id}`: removes a response and all that belongs to it.
pub(super) async fn delete(
    State(api): State<Api>,
    Extension(Principal(principal)): Extension<Principal>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let Some(response) = ResponseId::parse(&id) else { return Err(ApiError::response_not_found(&id)) };
    if !api.manager.delete(&principal, &response).await? {
        return Err(ApiError::response_not_found(&id));
    }
    Ok(Json(json!({"id": id, "object": "response.deleted", "deleted": true})).into_response())
}

/// `GET /v1/responses/{id}/input_items`: what the response answers.
pub(super) async fn input_items(
    State(api): State<Api>,
    Extension(Principal(principal)): Extension<Principal>,
    Path(id): Path<String>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Json<Value>, ApiError> {
    let page = Page::parse(&query)?;
    let Some(response) = ResponseId::parse(&id) else { return Err(ApiError::response_not_found(&id)) };
    match api.manager.input_items(&principal, &response).await? {
        Some(items) => page.of(items).map(Json),
        None => Err(ApiError::response_not_found(&id)),
    }
}

async fn stored(api: &Api, principal: &str, id: &ResponseId) -> Result<Response, ApiError> {
    match api.manager.response(principal, id).await? {
        Some(response) => Ok(json_bytes(response)),
        None => Err(ApiError::response_not_found(id.as_str())),
    }
}

fn json_bytes(body: Bytes) -> Response {
    (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], Body::from(body)).into_response()
}

/// A client's text, short enough for a message.
fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}
