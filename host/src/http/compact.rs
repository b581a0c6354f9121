//! `POST /v1/responses/compact`

use axum::{
    Extension, Json,
    extract::{Request, State},
};
use serde_json::Value;

use super::{Api, Principal, body};
use crate::protocol::{ApiError, compaction_resource, read_compact};

/// Makes a conversation shorter. Nothing is kept.
pub(super) async fn compact(
    State(api): State<Api>,
    Extension(Principal(principal)): Extension<Principal>,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let body = body::read_json(request, &api.limits).await?;
    let request = read_compact(&body, &api.limits.request)?;
    drop(body);
    let compaction = api.manager.compact(&principal, request).await?;
    let id = compaction.id.as_str();
    Ok(Json(compaction_resource(id, compaction.created_at, &compaction.output, compaction.usage)))
}
