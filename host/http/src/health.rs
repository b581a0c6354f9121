//! `GET /healthz` and `GET /readyz`.

use axum::{Json, extract::State};
use outlast_protocol::{ApiError, ErrorKind};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Api, error::Failure};

/// The server is well.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Health {
    /// Always `ok`.
    status: &'static str,
}

/// The server accepts new runs.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Readiness {
    /// Always `ok`.
    status: &'static str,
    /// How many runs are active.
    runs: usize,
}

/// Tells whether the process is alive.
#[utoipa::path(
    get,
    path = "/healthz",
    operation_id = "getHealth",
    tag = "Server",
    security(()),
    responses((status = 200, description = "The process is alive.", body = Health)),
)]
pub(super) async fn live() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// Tells whether new runs can start: the server is not shutting down, and its database accepts writes. When the last
/// write was a while ago, one is made.
#[utoipa::path(
    get,
    path = "/readyz",
    operation_id = "getReadiness",
    tag = "Server",
    security(()),
    responses(
        (status = 200, description = "The server accepts new runs.", body = Readiness),
        (status = 503, description = "`shutting_down`, `storage_unavailable`"),
    ),
)]
pub(super) async fn ready(State(api): State<Api>) -> Result<Json<Readiness>, Failure> {
    if api.manager.draining() {
        return Err(ApiError::new(ErrorKind::Unavailable, "shutting_down", "The server is shutting down.").into());
    }
    api.manager.ready().await?;
    Ok(Json(Readiness { status: "ok", runs: api.manager.live_runs() }))
}
