//! `/admin/webhooks`: the webhook endpoints of all principals and what is sent to them, for the operator.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Path, Query, Request, State},
};
use outlast_protocol::{ApiError, ErrorKind, ResponseId, TestWebhookShape, is_id, parse_webhook_test, shown_id};
use outlast_store::{DeliveryFilter, DeliveryRow, DeliveryState, WebhookRow};
use serde::Serialize;
use tracing::info;
use utoipa::{IntoParams, ToSchema};

use super::{
    Api, Principal, body,
    connections::Connection,
    error::Failure,
    page::Limit,
    query::{get, name, only},
    webhooks::{WebhookTestResult, known},
};

/// A webhook endpoint, as an operator sees it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AdminWebhook {
    /// `whe_…`
    id: String,
    /// Always `webhook_endpoint`.
    object: &'static str,
    /// Whose responses it is told of: the name of a key, or `local` without keys.
    principal: String,
    /// What it is called.
    name: String,
    /// Where events are sent.
    url: String,
    /// The types of events that it wants.
    event_types: Vec<String>,
    /// Of which responses it is told: those in the `background`, or `all` that are stored.
    runs: &'static str,
    /// Whether it stands in the configuration.
    configured: bool,
    /// When it was made, in milliseconds since 1970.
    created_at_ms: i64,
    /// Since when nothing is sent to it, in milliseconds since 1970.
    #[schema(required)]
    disabled_at_ms: Option<i64>,
}

/// A page of webhook endpoints, in the order of their ids.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AdminWebhookList {
    /// Always `list`.
    object: &'static str,
    /// The endpoints.
    data: Vec<AdminWebhook>,
    /// The id of the last one: `after` of the next page.
    #[schema(required)]
    last_id: Option<String>,
    /// Whether the list continues after this page.
    has_more: bool,
}

/// Which webhook endpoints are asked for.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code)]
pub(super) struct AdminWebhooksQuery {
    /// How many. Default: 20.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u64>,
    /// The id of an endpoint: those after it.
    after: Option<String>,
}

/// An event on its way to a webhook endpoint. Times are in milliseconds since 1970.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AdminDelivery {
    /// `whd_…`
    id: String,
    /// Always `webhook_delivery`.
    object: &'static str,
    /// The event: `webhook-id` of every attempt.
    event_id: String,
    /// The type of the event.
    event_type: String,
    /// The endpoint.
    endpoint_id: String,
    /// Whose endpoint it is.
    principal: String,
    /// The response that has ended.
    response_id: String,
    /// `pending`, `delivered`, or `dead`: given up.
    state: &'static str,
    /// How often it was tried.
    attempts: i64,
    /// When the response ended.
    created_at_ms: i64,
    /// When it is tried next.
    #[schema(required)]
    next_try_at_ms: Option<i64>,
    /// When it was tried last.
    #[schema(required)]
    last_try_at_ms: Option<i64>,
    /// The HTTP status of the last answer.
    #[schema(required)]
    last_status: Option<i64>,
    /// Why the last attempt failed.
    #[schema(required)]
    last_error: Option<String>,
    /// How the body of the last answer began: 1 KiB.
    #[schema(required)]
    last_answer: Option<String>,
    /// When it was delivered or given up.
    #[schema(required)]
    ended_at_ms: Option<i64>,
}

/// A page of deliveries, the latest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AdminDeliveryList {
    /// Always `list`.
    object: &'static str,
    /// The deliveries.
    data: Vec<AdminDelivery>,
    /// The id of the last one: `after` of the next page.
    #[schema(required)]
    last_id: Option<String>,
    /// Whether the list continues after this page.
    has_more: bool,
}

/// Which deliveries are asked for.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code)]
pub(super) struct DeliveriesQuery {
    /// To this endpoint.
    endpoint: Option<String>,
    /// Of this principal.
    principal: Option<String>,
    /// In this state: `pending`, `delivered`, `dead`.
    state: Option<String>,
    /// About this response.
    response: Option<String>,
    /// How many. Default: 20.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u64>,
    /// The id of a delivery: those that are older.
    after: Option<String>,
}

/// Lists the webhook endpoints of all principals and of the configuration.
///
/// A key needs `admin = true` in its entry of `[[keys]]`.
#[utoipa::path(
    get,
    path = "/admin/webhooks",
    operation_id = "listWebhooks",
    tag = "Operator",
    params(AdminWebhooksQuery),
    responses(
        (status = 200, description = "A page of endpoints.", body = AdminWebhookList),
        (status = 403, description = "`admin_not_allowed`"),
    ),
)]
pub(super) async fn list(
    State(api): State<Api>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Json<AdminWebhookList>, Failure> {
    let limit = Limit::parse(&query)?;
    let after = id(&query, "after", "whe_")?.unwrap_or_default();
    let (rows, has_more) = limit.cut(api.manager.store().all_webhooks(&after, limit.asked()).await?);
    let last_id = rows.last().map(|row| row.id.clone());
    Ok(Json(AdminWebhookList { object: "list", data: rows.into_iter().map(webhook).collect(), last_id, has_more }))
}

/// Sends a sample event to a webhook endpoint of any principal.
#[utoipa::path(
    post,
    path = "/admin/webhooks/{id}/test",
    operation_id = "testWebhook",
    tag = "Operator",
    params(("id" = String, Path, description = "The endpoint's id.")),
    request_body = TestWebhookShape,
    responses(
        (status = 200, description = "The endpoint has answered.", body = WebhookTestResult),
        (status = 403, description = "`admin_not_allowed`, `origin_not_allowed`"),
        (status = 404, description = "`webhook_endpoint_not_found`"),
        (status = 502, description = "`webhook_endpoint_failed`: it has not answered."),
    ),
)]
pub(super) async fn test(
    State(api): State<Api>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Json<WebhookTestResult>, Failure> {
    known(&id)?;
    let body = body::read_json(request, &api).await?;
    let kind = body.parse(parse_webhook_test).await?;
    let status = api.webhooks.test_any(&id, &kind).await?;
    Ok(Json(WebhookTestResult::new(id, kind, status)))
}

/// Lists what is sent to webhooks.
///
/// The latest first. What has ended stays for the server's `retention`.
#[utoipa::path(
    get,
    path = "/admin/webhooks/deliveries",
    operation_id = "listWebhookDeliveries",
    tag = "Operator",
    params(DeliveriesQuery),
    responses(
        (status = 200, description = "A page of deliveries.", body = AdminDeliveryList),
        (status = 403, description = "`admin_not_allowed`"),
    ),
)]
pub(super) async fn deliveries(
    State(api): State<Api>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Json<AdminDeliveryList>, Failure> {
    only(&query, &["endpoint", "principal", "state", "response", "limit", "after"])?;
    let limit = Limit::parse(&query)?;
    let wrong =
        |name: &'static str, what: &str| ApiError::invalid(name, "invalid_value", format!("'{name}' must be {what}."));
    let state = match get(&query, "state") {
        None => None,
        Some(word) => Some(DeliveryState::parse(word).ok_or_else(|| wrong("state", "pending, delivered or dead"))?),
    };
    let response = match get(&query, "response") {
        None => None,
        Some(id) => Some(ResponseId::parse(id).ok_or_else(|| wrong("response", "the id of a response"))?),
    };
    let principal = name(&query, "principal")?;
    let filter = DeliveryFilter {
        endpoint: id(&query, "endpoint", "whe_")?,
        principal,
        state,
        response,
        after: id(&query, "after", "whd_")?,
        limit: limit.asked(),
    };
    let (rows, has_more) = limit.cut(api.manager.store().deliveries(&filter).await?);
    let last_id = rows.last().map(|row| row.id.clone());
    Ok(Json(AdminDeliveryList { object: "list", data: rows.into_iter().map(delivery).collect(), last_id, has_more }))
}

/// Delivers an event again.
///
/// From now on, as if it was new and with the id that it had, whether it was delivered, given up or waits.
#[utoipa::path(
    post,
    path = "/admin/webhooks/deliveries/{id}/redeliver",
    operation_id = "redeliverWebhook",
    tag = "Operator",
    params(("id" = String, Path, description = "The delivery's id.")),
    responses(
        (status = 200, description = "The delivery.", body = AdminDelivery),
        (status = 403, description = "`admin_not_allowed`, `origin_not_allowed`"),
        (status = 404, description = "`webhook_delivery_not_found`"),
        (status = 409, description = "`webhook_delivery_busy`: it is being tried, or its endpoint is disabled."),
    ),
)]
pub(super) async fn redeliver(
    State(api): State<Api>,
    Extension(Principal(operator)): Extension<Principal>,
    Extension(connection): Extension<Arc<Connection>>,
    Path(id): Path<String>,
) -> Result<Json<AdminDelivery>, Failure> {
    let not_found = || {
        let shown = shown_id(&id);
        let message = format!("Webhook delivery with id '{shown}' not found.");
        ApiError::new(ErrorKind::NotFound, "webhook_delivery_not_found", message)
    };
    if !is_id(&id, "whd_") {
        return Err(not_found().into());
    }
    let again = api.webhooks.redeliver(&id).await?;
    let row = api.manager.store().delivery(&id).await?.ok_or_else(not_found)?;
    if !again {
        let message = "The delivery is being tried at this moment, or its endpoint is disabled. Repeat the request later, \
                       or enable the endpoint.";
        return Err(ApiError::new(ErrorKind::Conflict, "webhook_delivery_busy", message).never_retry().into());
    }
    info!(operator, address = %connection.address(), delivery = id, "a delivery to a webhook is repeated by an operator");
    Ok(Json(delivery(row)))
}

/// An id in the query.
fn id(query: &[(String, String)], name: &'static str, prefix: &str) -> Result<Option<String>, ApiError> {
    match get(query, name) {
        Some(id) if !is_id(id, prefix) => {
            let message = format!("'{name}' must be an id that begins with `{prefix}`, as a list gives it.");
            Err(ApiError::invalid(name, "invalid_value", message))
        }
        id => Ok(id.map(str::to_owned)),
    }
}

fn webhook(row: WebhookRow) -> AdminWebhook {
    AdminWebhook {
        id: row.id,
        object: "webhook_endpoint",
        principal: row.principal,
        name: row.name,
        url: row.url,
        event_types: row.event_types,
        runs: if row.all_runs { "all" } else { "background" },
        configured: row.configured,
        created_at_ms: row.created_at,
        disabled_at_ms: row.disabled_at,
    }
}

fn delivery(row: DeliveryRow) -> AdminDelivery {
    AdminDelivery {
        id: row.id,
        object: "webhook_delivery",
        event_id: row.event_id,
        event_type: row.event_type,
        endpoint_id: row.endpoint_id,
        principal: row.principal,
        response_id: row.response_id,
        state: row.state.as_str(),
        attempts: row.attempts,
        created_at_ms: row.created_at,
        next_try_at_ms: row.next_try_at,
        last_try_at_ms: row.last_try_at,
        last_status: row.last_status,
        last_error: row.last_error,
        last_answer: row.last_answer,
        ended_at_ms: row.ended_at,
    }
}
