//! `/v1/models`: one for each agent.

use axum::{
    Json,
    extract::{Path, State},
};
use serde_json::{Value, json};

use super::Api;
use crate::{plugin::Agent, protocol::ApiError, run::Refusal};

/// `GET /v1/models`
pub(super) async fn list(State(api): State<Api>) -> Json<Value> {
    let data: Vec<Value> = api.manager.agents().iter().map(|agent| model(agent)).collect();
    Json(json!({"object": "list", "data": data}))
}

/// `GET /v1/models/{id}`
pub(super) async fn retrieve(State(api): State<Api>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    match api.manager.agents().get(&id) {
        Some(agent) => Ok(Json(model(&agent))),
        None => Err(Refusal::UnknownModel(id.chars().take(80).collect()).into()),
    }
}

fn model(agent: &Agent) -> Value {
    json!({
        "id": agent.description.name,
        "object": "model",
        "created": agent.loaded_at,
        "owned_by": "outlast",
    })
}
