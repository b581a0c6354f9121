//! `/v1/webhook_endpoints` and `/v1/webhook_event_types`.

use axum::{
    Extension, Json,
    extract::{Path, Query, Request, State},
};
use outlast_protocol::{
    ApiError, CreateWebhook, CreateWebhookShape, Deleted, RotateWebhookSecretShape, TestWebhookShape, UpdateWebhook,
    UpdateWebhookShape, WEBHOOK_EVENT_TYPES, WebhookEndpoint, is_id, parse_rotation, parse_webhook_test,
    webhook_not_found,
};
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use super::{Api, Principal, body, error::Failure, page::Limit, query::get};

/// A page of webhook endpoints, the latest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WebhookEndpointList {
    /// Always `list`.
    object: &'static str,
    /// The endpoints.
    data: Vec<WebhookEndpoint>,
    /// The id of the first one.
    #[schema(required)]
    first_id: Option<String>,
    /// The id of the last one: `after` of the next page.
    #[schema(required)]
    last_id: Option<String>,
    /// Whether the list continues after this page.
    has_more: bool,
}

/// Which endpoints are asked for.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code)]
pub(super) struct WebhooksQuery {
    /// How many. Default: 20.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u64>,
    /// The id of an endpoint: those that are older.
    after: Option<String>,
}

/// The types of events that are sent.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WebhookEventTypeList {
    /// Always `list`.
    object: &'static str,
    /// The types.
    data: [&'static str; 4],
}

/// How an endpoint has answered a sample event.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WebhookTestResult {
    /// Always `webhook_endpoint.test`.
    object: &'static str,
    /// The endpoint.
    webhook_endpoint_id: String,
    /// The type of the event.
    event_type: String,
    /// The HTTP status of the answer.
    status_code: u16,
    /// Always true: there was an answer.
    success: bool,
}

impl WebhookTestResult {
    pub fn new(webhook_endpoint_id: String, event_type: String, status_code: u16) -> Self {
        Self { object: "webhook_endpoint.test", webhook_endpoint_id, event_type, status_code, success: true }
    }
}

/// Creates a webhook endpoint.
///
/// It is sent an event when a response of its owner has ended. The answer has its secret, which is not shown again.
#[utoipa::path(
    post,
    path = "/v1/webhook_endpoints",
    operation_id = "createWebhookEndpoint",
    tag = "Webhooks",
    request_body = CreateWebhookShape,
    responses(
        (status = 200, description = "The endpoint, with its secret.", body = WebhookEndpoint),
        (status = 429, description = "`too_many_webhook_endpoints`, `rate_limit_exceeded`, `too_many_wrong_keys`"),
    ),
)]
pub(super) async fn create(
    State(api): State<Api>,
    Extension(Principal(principal)): Extension<Principal>,
    request: Request,
) -> Result<Json<WebhookEndpoint>, Failure> {
    let body = body::read_json(request, &api).await?;
    let wanted = body.parse(CreateWebhook::parse).await?;
    Ok(Json(api.webhooks.create(&principal, wanted).await?))
}

/// Lists the webhook endpoints.
#[utoipa::path(
    get,
    path = "/v1/webhook_endpoints",
    operation_id = "listWebhookEndpoints",
    tag = "Webhooks",
    params(WebhooksQuery),
    responses((status = 200, description = "A page of endpoints.", body = WebhookEndpointList)),
)]
pub(super) async fn list(
    State(api): State<Api>,
    Extension(Principal(principal)): Extension<Principal>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Json<WebhookEndpointList>, Failure> {
    let limit = Limit::parse(&query)?;
    let after = get(&query, "after");
    if after.is_some_and(|after| !is_id(after, "whe_")) {
        let message = "'after' must be the id of a webhook endpoint, as `last_id` gives it.";
        return Err(ApiError::invalid("after", "invalid_value", message).into());
    }
    let (data, has_more) = limit.cut(api.webhooks.list(&principal, after, limit.asked()).await?);
    let id = |endpoint: Option<&WebhookEndpoint>| endpoint.map(|endpoint| endpoint.id.clone());
    let (first_id, last_id) = (id(data.first()), id(data.last()));
    Ok(Json(WebhookEndpointList { object: "list", data, first_id, last_id, has_more }))
}

/// Shows a webhook endpoint.
#[utoipa::path(
    get,
    path = "/v1/webhook_endpoints/{id}",
    operation_id = "getWebhookEndpoint",
    tag = "Webhooks",
    params(("id" = String, Path, description = "The endpoint's id.")),
    responses(
        (status = 200, description = "The endpoint.", body = WebhookEndpoint),
        (status = 404, description = "`webhook_endpoint_not_found`"),
    ),
)]
pub(super) async fn retrieve(
    State(api): State<Api>,
    Extension(Principal(principal)): Extension<Principal>,
    Path(id): Path<String>,
) -> Result<Json<WebhookEndpoint>, Failure> {
    Ok(Json(api.webhooks.retrieve(&principal, known(&id)?).await?))
}

/// Changes a webhook endpoint.
///
/// What the request does not have stays as it is. With another URL, or `disabled: false`, an endpoint that was disabled is
/// sent events again.
#[utoipa::path(
    post,
    path = "/v1/webhook_endpoints/{id}",
    operation_id = "updateWebhookEndpoint",
    tag = "Webhooks",
    params(("id" = String, Path, description = "The endpoint's id.")),
    request_body = UpdateWebhookShape,
    responses(
        (status = 200, description = "The endpoint.", body = WebhookEndpoint),
        (status = 404, description = "`webhook_endpoint_not_found`"),
    ),
)]
pub(super) async fn update(
    State(api): State<Api>,
    Extension(Principal(principal)): Extension<Principal>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Json<WebhookEndpoint>, Failure> {
    let id = known(&id)?;
    let body = body::read_json_or_nothing(request, &api).await?;
    let changes = body.parse(UpdateWebhook::parse).await?;
    Ok(Json(api.webhooks.update(&principal, id, changes).await?))
}

/// Removes a webhook endpoint.
///
/// What waits for it is removed with it.
#[utoipa::path(
    delete,
    path = "/v1/webhook_endpoints/{id}",
    operation_id = "deleteWebhookEndpoint",
    tag = "Webhooks",
    params(("id" = String, Path, description = "The endpoint's id.")),
    responses(
        (status = 200, description = "It is removed.", body = Deleted),
        (status = 404, description = "`webhook_endpoint_not_found`"),
    ),
)]
pub(super) async fn delete(
    State(api): State<Api>,
    Extension(Principal(principal)): Extension<Principal>,
    Path(id): Path<String>,
) -> Result<Json<Deleted>, Failure> {
    api.webhooks.delete(&principal, known(&id)?).await?;
    Ok(Json(Deleted::new(id, "webhook_endpoint.deleted")))
}

/// Replaces the secret of a webhook endpoint.
///
/// The answer has the new secret, which is not shown again.
#[utoipa::path(
    post,
    path = "/v1/webhook_endpoints/{id}/rotate_secret",
    operation_id = "rotateWebhookSecret",
    tag = "Webhooks",
    params(("id" = String, Path, description = "The endpoint's id.")),
    request_body(content = RotateWebhookSecretShape),
    responses(
        (status = 200, description = "The endpoint, with its new secret.", body = WebhookEndpoint),
        (status = 404, description = "`webhook_endpoint_not_found`"),
    ),
)]
pub(super) async fn rotate_secret(
    State(api): State<Api>,
    Extension(Principal(principal)): Extension<Principal>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Json<WebhookEndpoint>, Failure> {
    let id = known(&id)?;
    let body = body::read_json_or_nothing(request, &api).await?;
    let overlap = body.parse(parse_rotation).await?;
    Ok(Json(api.webhooks.rotate(&principal, id, overlap).await?))
}

/// Sends a sample event to a webhook endpoint.
///
/// Once, now, and signed as any other event.
#[utoipa::path(
    post,
    path = "/v1/webhook_endpoints/{id}/test",
    operation_id = "testWebhookEndpoint",
    tag = "Webhooks",
    params(("id" = String, Path, description = "The endpoint's id.")),
    request_body = TestWebhookShape,
    responses(
        (status = 200, description = "The endpoint has answered.", body = WebhookTestResult),
        (status = 404, description = "`webhook_endpoint_not_found`"),
        (status = 502, description = "`webhook_endpoint_failed`: it has not answered."),
    ),
)]
pub(super) async fn test(
    State(api): State<Api>,
    Extension(Principal(principal)): Extension<Principal>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Json<WebhookTestResult>, Failure> {
    known(&id)?;
    let body = body::read_json(request, &api).await?;
    let kind = body.parse(parse_webhook_test).await?;
    let status = api.webhooks.test(&principal, &id, &kind).await?;
    Ok(Json(WebhookTestResult::new(id, kind, status)))
}

/// Lists the types of events that are sent to webhooks.
#[utoipa::path(
    get,
    path = "/v1/webhook_event_types",
    operation_id = "listWebhookEventTypes",
    tag = "Webhooks",
    responses((status = 200, description = "The types.", body = WebhookEventTypeList)),
)]
pub(super) async fn event_types() -> Json<WebhookEventTypeList> {
    Json(WebhookEventTypeList { object: "list", data: WEBHOOK_EVENT_TYPES })
}

/// A text that has the form of an endpoint's id.
pub(super) fn known(id: &str) -> Result<&str, ApiError> {
    if is_id(id, "whe_") { Ok(id) } else { Err(webhook_not_found(id)) }
}
