//! `/v1/models`: one for each agent.

use axum::{
    Extension, Json,
    extract::{Path, State},
};
use outlast_plugin::Agent;
use outlast_run::Refusal;
use serde::Serialize;
use utoipa::ToSchema;

use super::{Access, Api, error::Failure};

/// The agents of this server.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModelList {
    /// Always `list`.
    object: &'static str,
    /// All of them, by name.
    data: Vec<Model>,
}

/// An agent, as a client sees it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Model {
    /// The agent's name.
    id: String,
    /// Always `model`.
    object: &'static str,
    /// When the server loaded it, in seconds since 1970.
    created: i64,
    /// Always `outlast`.
    owned_by: &'static str,
}

/// Lists the agents.
///
/// Those that the key may use.
#[utoipa::path(
    get,
    path = "/v1/models",
    operation_id = "listModels",
    tag = "Models",
    responses((status = 200, description = "The agents.", body = ModelList)),
)]
pub(super) async fn list(State(api): State<Api>, Extension(access): Extension<Access>) -> Json<ModelList> {
    let served = api.manager.agents().served();
    let data = served.iter().filter(|agent| access.sees(&agent.description.name)).map(|agent| model(agent)).collect();
    Json(ModelList { object: "list", data })
}

/// Shows an agent.
#[utoipa::path(
    get,
    path = "/v1/models/{*id}",
    operation_id = "getModel",
    tag = "Models",
    params(("id" = String, Path, description = "The agent's name.", example = "echo")),
    responses(
        (status = 200, description = "The agent.", body = Model),
        (status = 404, description = "`model_not_found`"),
    ),
)]
pub(super) async fn retrieve(
    State(api): State<Api>,
    Extension(access): Extension<Access>,
    Path(id): Path<String>,
) -> Result<Json<Model>, Failure> {
    match api.manager.agents().get(&id).filter(|_| access.sees(&id)) {
        Some(agent) => Ok(Json(model(&agent))),
        None => Err(Refusal::UnknownModel(id.chars().take(80).collect()).into()),
    }
}

fn model(agent: &Agent) -> Model {
    Model { id: agent.description.name.clone(), object: "model", created: agent.loaded_at, owned_by: "outlast" }
}
