//! `GET /metrics`, and what is measured of every request.

use std::{sync::Arc, time::Instant};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{Method, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use outlast_metrics::{CONTENT_TYPE, Metrics, StorageFigures, Transport};
use outlast_store::{StoreError, StoreSize};

use super::{Api, Caller, auth::turned_away, error::Code};

/// The route of a request that has none, and the method of one that is not of HTTP's own: a client may invent both.
const OTHER: &str = "other";

/// The metrics, in the format of Prometheus.
///
/// A key needs `metrics = true` in its entry of `[[keys]]`.
#[utoipa::path(
    get,
    path = "/metrics",
    operation_id = "getMetrics",
    tag = "Server",
    security(("key" = [])),
    responses(
        (status = 200, description = "All metrics.", body = String, content_type = "text/plain; version=0.0.4"),
        (status = 401, description = "`invalid_api_key`"),
        (status = 403, description = "`metrics_not_allowed`"),
        (status = 429, description = "`rate_limit_exceeded`, `too_many_wrong_keys`: `retry-after` says when to retry."),
    ),
)]
pub(super) async fn show(State(api): State<Api>, request: Request) -> Response {
    if let Err(error) = api.keys.admit_to_metrics(Caller::of(request.headers(), request.extensions())) {
        return turned_away(error);
    }
    let kept = async {
        let size = api.manager.store().size().await?;
        let StoreSize { responses, bytes, oldest, pending_deliveries, oldest_delivery } = size;
        Ok::<_, StoreError>(StorageFigures { responses, bytes, oldest, pending_deliveries, oldest_delivery })
    };
    api.metrics.storage.refresh(kept).await;
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], api.metrics.text()).into_response()
}

/// Counts a request, how long it took, and its refusal.
pub(super) async fn measure(State(metrics): State<Arc<Metrics>>, request: Request, next: Next) -> Response {
    let start = Instant::now();
    let method = method(request.method());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    // `{*id}` is the router's way to write a parameter that may have slashes.
    let route = route.map_or_else(|| OTHER.to_owned(), |route| route.as_str().replace("{*", "{"));
    metrics.http.answered(route, method, response.status().as_u16(), start.elapsed());
    if let Some(Code(code)) = response.extensions().get() {
        metrics.http.refused(Transport::Http, code);
    }
    response
}

fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => OTHER,
    }
}
