//! `/v1/responses`.

use std::sync::Arc;

use axum::{
    Extension, Json,
    body::Body,
    extract::{Path, Query, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use outlast_protocol::{
    self, ApiError, CreateRequest, CreateResponseShape, Deleted, ErrorKind, IdempotencyKey, ResponseError, ResponseId,
    Status, TerminalStatus, snapshot_frame,
};
use outlast_run::Created;
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    Access, Api, Principal, body,
    connections::Connection,
    error::Failure,
    page::{ItemList, Page, PageQuery},
    sse,
    transport::Patience,
};

/// The query and header of [`retrieve`], as they are described.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code)]
struct RetrieveQuery {
    /// Answers with the events. Default: false.
    stream: Option<bool>,
    /// Only the events after the one with this `sequence_number`. Without it, the header `last-event-id` counts.
    #[param(minimum = 0)]
    starting_after: Option<u64>,
}

/// Begins a run.
///
/// The answer is the response when it has ended; with `background`, as it is now; with `stream`, its events. If the run
/// fails, the answer is an error whose `response_id` names the response.
///
/// With an `idempotency-key`, a request that is repeated begins nothing, also after a restart of the server: its answer
/// is the response that the first one started. A stream then begins with a `response.snapshot`, unless it has ended.
#[utoipa::path(
    post,
    path = "/v1/responses",
    operation_id = "createResponse",
    tag = "Responses",
    params((
        "idempotency-key" = Option<String>, Header,
        description = "Makes it safe to repeat the request: 1 to 255 visible ASCII characters. Needs `store`.",
    )),
    request_body = CreateResponseShape,
    responses(
        (
            status = 200,
            description = "The response, or its events: frames whose `data` is a `StreamEvent`.",
            content((outlast_protocol::Response = "application/json"), (String = "text/event-stream")),
            headers(
                (
                    "idempotency-replayed" = Option<String>,
                    description = "`true` when no run was started: the request repeats an earlier one."
                ),
                (
                    "x-outlast-ignored" = Option<String>,
                    description = "The parts of the request that have no effect, such as `tools[8].type=web_search`."
                ),
            ),
        ),
        (status = 404, description = "`model_not_found`, `conversation_not_found`"),
        (status = 502, description = "The run failed: `server_error`."),
        (status = 504, description = "The run failed, because something took too long: `server_error`."),
        (
            status = 409,
            description = "`idempotency_key_conflict`, `conversation_response_not_completed`, `conversation_changed`",
        ),
        (status = 503, description = "`shutting_down`, `storage_unavailable`, `outcome_unknown`"),
    ),
)]
pub(super) async fn create(
    State(api): State<Api>,
    Extension(Principal(principal)): Extension<Principal>,
    Extension(access): Extension<Access>,
    request: Request,
) -> Result<Response, Failure> {
    let header = request.headers().get("idempotency-key").cloned();
    let connection = request.extensions().get::<Arc<Connection>>().cloned();
    let body = body::read_json(request, &api).await?;
    let request = body.parse(|body| CreateRequest::parse(body, &api.limits.request())).await?;
    access.check(&request, api.manager.agents())?;
    let key = match header {
        Some(key) => Some(body.parse(|body| IdempotencyKey::parse(key.as_bytes(), body)).await?),
        None => None,
    };
    if key.is_some() && !request.store {
        let message = "'Idempotency-Key' needs 'store': a response that is not stored cannot be returned again.";
        return Err(ApiError::invalid("store", "idempotency_requires_store", message).into());
    }
    drop(body);
    let ignored = ignored(&request);
    let mut answer = run(&api, &principal, request, key, connection).await?;
    if let Some(ignored) = ignored {
        answer.headers_mut().insert("x-outlast-ignored", ignored);
    }
    Ok(answer)
}

/// What the header tells of the things in a request that have no effect.
fn ignored(request: &CreateRequest) -> Option<HeaderValue> {
    let ignored = request.ignored().join(", ");
    let visible = |letter: char| if (' '..='~').contains(&letter) { letter } else { '?' };
    let ignored: String = ignored.chars().map(visible).collect();
    HeaderValue::from_str(&ignored).ok().filter(|ignored| !ignored.is_empty())
}

/// Begins a run and answers as its request wants it.
async fn run(
    api: &Api,
    principal: &str,
    request: CreateRequest,
    key: Option<IdempotencyKey>,
    connection: Option<Arc<Connection>>,
) -> Result<Response, Failure> {
    let (stream, background) = (request.stream, request.background);
    // A run that goes on without its client is waited for, also where the client only has closed its sending half.
    if let Some(connection) = connection
        && request.store
        && !stream
        && !api.manager.limits().cancel_on_disconnect
    {
        connection.wire.wait(Patience::Long);
    }
    let mut subscription = match api.manager.create(principal, request, key).await? {
        Created::Now(subscription) => subscription,
        Created::Before(id) => return replay(api, principal, &id, stream, background).await,
    };
    if stream {
        return Ok(sse::answer(api, None, subscription));
    }
    if background {
        // Not what is stored by now: a fast run may have ended, and `queued` is what a poll begins with.
        return match subscription.accepted().await? {
            Some(response) => Ok(Json(response).into_response()),
            None => stored(api, principal, subscription.id()).await,
        };
    }
    match subscription.ended().await? {
        Some(ended) if ended.status != TerminalStatus::Failed => Ok(json_bytes(ended.response.clone())),
        Some(ended) => waited(subscription.id(), ended.response.clone()),
        None => waited(subscription.id(), read(api, principal, subscription.id()).await?),
    }
}

/// The answer of a request that waited for a response: an error, if it failed.
fn waited(id: &ResponseId, response: Bytes) -> Result<Response, Failure> {
    #[derive(Deserialize)]
    struct Ended {
        error: Option<ResponseError>,
    }
    // What cannot be read is shown as it is.
    match serde_json::from_slice(&response).ok().and_then(|Ended { error }| error) {
        Some(error) => Err(error.answer(id.as_str()).into()),
        None => Ok(json_bytes(response)),
    }
}

/// The answer to a repeated request: the response that its idempotency key names. Nothing is begun.
async fn replay(
    api: &Api,
    principal: &str,
    id: &ResponseId,
    stream: bool,
    background: bool,
) -> Result<Response, Failure> {
    let mut answer = if stream {
        let (snapshot, subscription) =
            api.manager.reattach(principal, id).await?.ok_or_else(|| ApiError::response_not_found(id.as_str()))?;
        let first = snapshot.map(|(response, number)| snapshot_frame(&response, number));
        sse::answer(api, first, subscription)
    } else if background {
        stored(api, principal, id).await?
    } else {
        api.manager.wait(principal, id).await?;
        let failed = |failure: Failure| Failure(failure.0.never_retry()).into_response();
        waited(id, read(api, principal, id).await?).unwrap_or_else(failed)
    };
    answer.headers_mut().insert("idempotency-replayed", HeaderValue::from_static("true"));
    Ok(answer)
}

/// Shows a response as it is now, or its events.
///
/// With `stream=true` the answer is the events from a cursor on: those that were, and those that come, to the end.
#[utoipa::path(
    get,
    path = "/v1/responses/{id}",
    operation_id = "getResponse",
    tag = "Responses",
    params(("id" = String, Path, description = "The response's id."), RetrieveQuery),
    responses(
        (
            status = 200,
            description = "The response, or its events: frames whose `data` is a `StreamEvent`.",
            content((outlast_protocol::Response = "application/json"), (String = "text/event-stream")),
        ),
        (status = 404, description = "`response_not_found`"),
    ),
)]
pub(super) async fn retrieve(
    State(api): State<Api>,
    Extension(Principal(principal)): Extension<Principal>,
    Path(id): Path<String>,
    Query(query): Query<Vec<(String, String)>>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let get = |name: &str| query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let stream = match get("stream") {
        None | Some("false") => false,
        Some("true") => true,
        Some(other) => {
            let message = format!("Invalid value for 'stream': '{}'. It must be true or false.", shown(other));
            return Err(ApiError::invalid("stream", "invalid_value", message).into());
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
            return Err(ApiError::invalid("starting_after", "invalid_value", message).into());
        }
    };
    let Some(response) = ResponseId::parse(&id) else { return Err(ApiError::response_not_found(&id).into()) };
    if !stream {
        return stored(&api, &principal, &response).await;
    }
    match api.manager.subscribe(&principal, &response, cursor).await? {
        Some(subscription) => Ok(sse::answer(&api, None, subscription)),
        None => Err(ApiError::response_not_found(&id).into()),
    }
}

/// Stops a run.
///
/// The answer is the response as it ended. A run that has ended otherwise cannot be cancelled:
/// `response_not_cancellable`.
#[utoipa::path(
    post,
    path = "/v1/responses/{id}/cancel",
    operation_id = "cancelResponse",
    tag = "Responses",
    params(("id" = String, Path, description = "The response's id.")),
    responses(
        (status = 200, description = "The response.", body = outlast_protocol::Response),
        (status = 404, description = "`response_not_found`"),
        (status = 503, description = "`shutting_down`, `storage_unavailable`, `outcome_unknown`"),
    ),
)]
pub(super) async fn cancel(
    State(api): State<Api>,
    Extension(Principal(principal)): Extension<Principal>,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let Some(response) = ResponseId::parse(&id) else { return Err(ApiError::response_not_found(&id).into()) };
    match api.manager.cancel(&principal, &response).await? {
        None => Err(ApiError::response_not_found(&id).into()),
        Some(Status::Terminal(TerminalStatus::Cancelled)) => stored(&api, &principal, &response).await,
        Some(status) => {
            let message = format!("Cannot cancel response '{response}': it has already ended with status {status}.");
            Err(ApiError::new(ErrorKind::InvalidRequest, "response_not_cancellable", message).into())
        }
    }
}

/// Removes a response and all that belongs to it.
/// An active run is stopped.
#[utoipa::path(
    delete,
    path = "/v1/responses/{id}",
    operation_id = "deleteResponse",
    tag = "Responses",
    params(("id" = String, Path, description = "The response's id.")),
    responses(
        (status = 200, description = "It is removed.", body = Deleted),
        (status = 404, description = "`response_not_found`"),
        (status = 503, description = "`shutting_down`, `storage_unavailable`, `outcome_unknown`"),
    ),
)]
pub(super) async fn delete(
    State(api): State<Api>,
    Extension(Principal(principal)): Extension<Principal>,
    Path(id): Path<String>,
) -> Result<Json<Deleted>, Failure> {
    let Some(response) = ResponseId::parse(&id) else { return Err(ApiError::response_not_found(&id).into()) };
    if !api.manager.delete(&principal, &response).await? {
        return Err(ApiError::response_not_found(&id).into());
    }
    Ok(Json(Deleted::new(id, "response.deleted")))
}

/// Lists the input items of a response.
#[utoipa::path(
    get,
    path = "/v1/responses/{id}/input_items",
    operation_id = "listInputItems",
    tag = "Responses",
    params(("id" = String, Path, description = "The response's id."), PageQuery),
    responses(
        (status = 200, description = "A page of items.", body = ItemList),
        (status = 404, description = "`response_not_found`"),
    ),
)]
pub(super) async fn input_items(
    State(api): State<Api>,
    Extension(Principal(principal)): Extension<Principal>,
    Path(id): Path<String>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Json<ItemList>, Failure> {
    let page = Page::parse(&query)?;
    let Some(response) = ResponseId::parse(&id) else { return Err(ApiError::response_not_found(&id).into()) };
    match api.manager.input_items(&principal, &response).await? {
        Some(items) => Ok(Json(page.of(items)?)),
        None => Err(ApiError::response_not_found(&id).into()),
    }
}

async fn stored(api: &Api, principal: &str, id: &ResponseId) -> Result<Response, Failure> {
    read(api, principal, id).await.map(json_bytes)
}

async fn read(api: &Api, principal: &str, id: &ResponseId) -> Result<Bytes, Failure> {
    Ok(api.manager.response(principal, id).await?.ok_or_else(|| ApiError::response_not_found(id.as_str()))?)
}

fn json_bytes(body: Bytes) -> Response {
    (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], Body::from(body)).into_response()
}

/// A client's text, short enough for a message.
fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}
