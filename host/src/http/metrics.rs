//! `GET /metrics`, and what is measured of every request.

use std::{sync::Arc, time::Instant};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, Method, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};

use super::{Api, auth::turned_away, error::Code};
use crate::metrics::{CONTENT_TYPE, Metrics, Transport};

/// The route of a request that has none, and the method of one that is not of HTTP's own: a client may invent both.
const OTHER: &str = "other";

/// All metrics, for a scraper.
pub(super) async fn show(State(api): State<Api>, headers: HeaderMap) -> Response {
    if let Err(error) = api.keys.admit_to_metrics(&headers) {
        return turned_away(error);
    }
    api.metrics.storage.refresh(api.manager.store()).await;
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], api.metrics.text()).into_response()
}

/// Counts a request, how long it took, and its refusal.
pub(super) async fn measure(State(metrics): State<Arc<Metrics>>, request: Request, next: Next) -> Response {
    let start = Instant::now();
    let method = method(request.method());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    let route = route.as_ref().map_or(OTHER, MatchedPath::as_str);
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
