//! `POST /v1/responses/input_tokens`

use axum::{
    Extension, Json,
    extract::{Request, State},
};
use serde_json::{Value, json};

use super::{Api, Principal, body};
use crate::protocol::{ApiError, CreateRequest};

/// Says how many tokens a request would give to its agent, estimated. Nothing is started and nothing is kept.
pub(super) async fn count(
    State(api): State<Api>,
    Extension(Principal(principal)): Extension<Principal>,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let body = body::read_json(request, &api.limits).await?;
    let request = CreateRequest::parse(&body, &api.limits.request)?;
    drop(body);
    let tokens = api.manager.input_tokens(&principal, request).await?;
    Ok(Json(json!({"object": "response.input_tokens", "input_tokens": tokens})))
}
