//! `POST /v1/responses/compact`

use axum::{
    Extension, Json,
    extract::{Request, State},
};
use outlast_protocol::{CompactShape, Compaction, read_compact};

use super::{Access, Api, Principal, body, error::Failure};

/// Makes a conversation shorter. Nothing is stored.
#[utoipa::path(
    post,
    path = "/v1/responses/compact",
    operation_id = "compactResponse",
    tag = "Responses",
    request_body = CompactShape,
    responses(
        (status = 200, description = "The compacted conversation.", body = Compaction),
        (status = 404, description = "`model_not_found`, `conversation_not_found`"),
        (status = 409, description = "`conversation_response_not_completed`, `conversation_changed`"),
        (status = 502, description = "The agent made no summary: `compaction_failed`."),
        (status = 503, description = "`shutting_down`, `storage_unavailable`, `outcome_unknown`"),
    ),
)]
pub(super) async fn compact(
    State(api): State<Api>,
    Extension(Principal(principal)): Extension<Principal>,
    Extension(access): Extension<Access>,
    request: Request,
) -> Result<Json<Compaction>, Failure> {
    let body = body::read_json(request, &api).await?;
    let request = body.parse(|body| read_compact(body, &api.limits.request())).await?;
    access.check(&request, api.manager.agents())?;
    drop(body);
    Ok(Json(api.manager.compact(&principal, request).await?))
}
