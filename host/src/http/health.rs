//! `GET /healthz` and `GET /readyz`.

use axum::{Json, extract::State};
use serde_json::{Value, json};

use super::Api;
use crate::protocol::{ApiError, ErrorKind};

/// The process answers.
pub(super) async fn live() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

/// New runs can begin: the server is not stopping, and its database answers.
pub(super) async fn ready(State(api): State<Api>) -> Result<Json<Value>, ApiError> {
    if api.manager.draining() {
        return Err(ApiError::new(ErrorKind::Unavailable, "shutting_down", "The server is shutting down."));
    }
    api.manager.store().ping().await?;
    Ok(Json(json!({"status": "ok", "runs": api.manager.live_runs()})))
}
