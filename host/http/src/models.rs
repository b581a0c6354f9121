//! `/v1/models`: one for each agent, and one for each upstream model that an agent can be asked for.

use axum::{
    Extension, Json,
    extract::{Path, State},
};
use outlast_plugin::Agent;
use outlast_protocol::shown_id;
use outlast_run::Refusal;
use serde::Serialize;
use utoipa::ToSchema;

use super::{Access, Api, error::Failure};

/// The models of this server.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModelList {
    /// Always `list`.
    object: &'static str,
    /// All agents by name, each with the upstream models that the configuration lists.
    data: Vec<Model>,
}

/// A model, as a client names it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Model {
    /// The agent's name, or `agent/upstream-model`.
    id: String,
    /// Always `model`.
    object: &'static str,
    /// When the server loaded it, in seconds since 1970.
    created: i64,
    /// Always `outlast`.
    owned_by: &'static str,
}

/// Lists the models.
///
/// The agents that the key may use, and `agent/upstream-model` for each upstream model that the configuration lists, the
/// agent may call and the key is for.
#[utoipa::path(
    get,
    path = "/v1/models",
    operation_id = "listModels",
    tag = "Models",
    responses((status = 200, description = "The models.", body = ModelList)),
)]
pub(super) async fn list(State(api): State<Api>, Extension(access): Extension<Access>) -> Json<ModelList> {
    let agents = api.manager.agents();
    let served = agents.served();
    let seen = served.iter().filter(|agent| access.sees(&agent.description.name));
    let data = seen.flat_map(|agent| {
        let upstream = agent.upstream_models().into_iter().filter(|name| access.allows(Some(name), agents));
        let named = upstream.map(|name| model(agent, format!("{}/{name}", agent.description.name)));
        std::iter::once(model(agent, agent.description.name.clone())).chain(named)
    });
    Json(ModelList { object: "list", data: data.collect() })
}

/// Shows a model.
///
/// Every name that a request may have as its `model` has one.
#[utoipa::path(
    get,
    path = "/v1/models/{*id}",
    operation_id = "getModel",
    tag = "Models",
    params(("id" = String, Path, description = "The agent's name, or `agent/upstream-model`.", example = "echo")),
    responses(
        (status = 200, description = "The model.", body = Model),
        (status = 404, description = "`model_not_found`"),
    ),
)]
pub(super) async fn retrieve(
    State(api): State<Api>,
    Extension(access): Extension<Access>,
    Path(id): Path<String>,
) -> Result<Json<Model>, Failure> {
    let agents = api.manager.agents();
    let (name, upstream) = match id.split_once('/') {
        Some((name, upstream)) => (name, Some(upstream)),
        None => (id.as_str(), None),
    };
    // An agent without upstream models takes any name behind its own.
    let is_there = |agent: &Agent| {
        let known = upstream.is_none_or(|upstream| agents.upstream(Some(upstream)).is_some());
        upstream != Some("") && (!agent.uses_models || (known && access.allows(upstream, agents)))
    };
    match agents.get(name).filter(|agent| access.sees(name) && is_there(agent)) {
        Some(agent) => Ok(Json(model(&agent, id))),
        None => Err(Refusal::UnknownModel(shown_id(&id)).into()),
    }
}

fn model(agent: &Agent, id: String) -> Model {
    Model { id, object: "model", created: agent.loaded_at, owned_by: "outlast" }
}
