//! `POST /v1/responses/input_tokens`

use axum::{
    Extension, Json,
    extract::{Request, State},
};
use outlast_protocol::{CreateRequest, CreateResponseShape};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Access, Api, Principal, body, error::Failure};

/// How many tokens a request has.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct InputTokens {
    /// Always `response.input_tokens`.
    object: &'static str,
    /// What the agent would be given, in tokens, estimated.
    input_tokens: u64,
}

/// Counts the tokens that a request would give to its agent.
/// An estimate. Nothing is started and nothing is stored.
#[utoipa::path(
    post,
    path = "/v1/responses/input_tokens",
    operation_id = "countInputTokens",
    tag = "Responses",
    request_body = CreateResponseShape,
    responses(
        (status = 200, description = "The number of tokens.", body = InputTokens),
        (status = 404, description = "`model_not_found`, `conversation_not_found`"),
        (status = 409, description = "`conversation_response_not_completed`"),
        (status = 503, description = "`storage_unavailable`"),
    ),
)]
pub(super) async fn count(
    State(api): State<Api>,
    Extension(Principal(principal)): Extension<Principal>,
    Extension(access): Extension<Access>,
    request: Request,
) -> Result<Json<InputTokens>, Failure> {
    let body = body::read_json(request, &api).await?;
    let request = body.parse(|body| CreateRequest::parse(body, &api.limits.request())).await?;
    access.check(&request, api.manager.agents())?;
    drop(body);
    let tokens = api.manager.input_tokens(&principal, request).await?;
    Ok(Json(InputTokens { object: "response.input_tokens", input_tokens: tokens }))
}
