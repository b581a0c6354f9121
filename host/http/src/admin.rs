//! `/admin/runs`: the runs of all principals, for the operator.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Path, Query, Request, State},
    middleware::Next,
    response::Response,
};
use outlast_protocol::{ApiError, ErrorKind, ResponseId, Status, TerminalStatus};
use outlast_run::LoggedLine;
use outlast_store::{RunFilter, RunRow};
use serde::{Deserialize, Serialize};
use tracing::info;
use utoipa::{IntoParams, ToSchema};

use super::{
    Api, Caller, Principal,
    auth::turned_away,
    connections::Connection,
    error::Failure,
    page::Limit,
    query::{get, name, number, only},
};

/// A run, as an operator sees it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AdminRun {
    /// The id of its response.
    id: String,
    /// Always `run`.
    object: &'static str,
    /// Its agent.
    agent: String,
    /// The sha256 of the component that runs it, hexadecimal.
    component: String,
    /// Whose it is: the name of a key, or `local` without keys.
    principal: String,
    /// How far it is.
    #[schema(value_type = Status)]
    status: &'static str,
    /// The conversation that it belongs to.
    #[schema(required)]
    conversation: Option<String>,
    /// The response that it continues.
    #[schema(required)]
    previous_response_id: Option<String>,
    /// When it was accepted, in milliseconds since 1970.
    created_at_ms: i64,
    /// When it ended, in milliseconds since 1970.
    #[schema(required)]
    ended_at_ms: Option<i64>,
    /// How often a start of the server has resumed it since it last made progress.
    attempts: i64,
    /// CPU time that its agent used, in all attempts, including calls of the host.
    cpu_seconds: f64,
    /// The most memory that an instance of it had.
    memory_peak_bytes: i64,
    /// Tokens of the input of its model calls.
    input_tokens: i64,
    /// Tokens of the output of its model calls.
    output_tokens: i64,
    /// How many lines its log has.
    log_lines: i64,
    /// What the client was told of its failure; the log tells the operator more.
    #[schema(required)]
    error: Option<AdminError>,
}

/// What a client was told of a failure.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct AdminError {
    /// A word for programs.
    code: String,
    /// A sentence for people.
    message: String,
}

/// A page of runs, the latest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AdminRunList {
    /// Always `list`.
    object: &'static str,
    /// The runs. Their `error` is not told here.
    data: Vec<AdminRun>,
    /// The id of the last one: `after` of the next page.
    #[schema(required)]
    last_id: Option<String>,
    /// Whether the list continues after this page.
    has_more: bool,
}

/// Which runs are asked for.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code)]
pub(super) struct RunsQuery {
    /// Of this agent.
    agent: Option<String>,
    /// Of this principal.
    principal: Option<String>,
    /// With this status: `queued`, `in_progress`, `completed`, `failed`, `incomplete`, `cancelled`.
    status: Option<String>,
    /// How many. Default: 20.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u64>,
    /// The id of a run: those that are older.
    after: Option<String>,
}

/// A line of a log.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LogLine {
    /// Its number, from 0 on.
    number: u64,
    /// When it was written, in milliseconds since 1970.
    time_ms: i64,
    /// `error`, `warn`, `info`, `debug`, `trace`.
    level: String,
    /// Where it was written: `log`, `stdout`, `stderr`; `host` and other words for lines of the server.
    source: String,
    /// The line.
    text: String,
}

/// A page of a log, oldest line first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LogList {
    /// Always `list`.
    object: &'static str,
    /// The lines.
    data: Vec<LogLine>,
    /// The number that the next line has: `from` of the next page.
    next: u64,
    /// Whether there are more after this page by now.
    has_more: bool,
}

/// Which lines are asked for.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code)]
pub(super) struct LogQuery {
    /// The number of the first line. Default: 0.
    from: Option<u64>,
    /// How many. Default: 1000.
    #[param(minimum = 1, maximum = 10_000)]
    limit: Option<u64>,
}

/// Lets a request through whose key has the right, or answers 401, 403 or 429.
pub(super) async fn authenticate(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    match api.keys.admit_to_admin(Caller::of(request.headers(), request.extensions())) {
        Ok(principal) => {
            if let Some(connection) = request.extensions().get::<Arc<Connection>>() {
                connection.show_key();
            }
            request.extensions_mut().insert(principal);
            next.run(request).await
        }
        Err(error) => turned_away(error),
    }
}

/// Lists the runs of all principals.
///
/// The latest first. Runs with `store: false` are not stored and not listed. A key needs `admin = true` in its entry of
/// `[[keys]]`.
#[utoipa::path(
    get,
    path = "/admin/runs",
    operation_id = "listRuns",
    tag = "Operator",
    params(RunsQuery),
    responses(
        (status = 200, description = "A page of runs.", body = AdminRunList),
        (status = 403, description = "`admin_not_allowed`"),
    ),
)]
pub(super) async fn list(
    State(api): State<Api>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Json<AdminRunList>, Failure> {
    only(&query, &["agent", "principal", "status", "limit", "after"])?;
    let limit = Limit::parse(&query)?;
    let status = match get(&query, "status") {
        None => None,
        Some(word) => Some(Status::parse(word).ok_or_else(|| {
            let message = "'status' must be queued, in_progress, completed, failed, incomplete or cancelled.";
            ApiError::invalid("status", "invalid_value", message)
        })?),
    };
    let after = match get(&query, "after") {
        None => None,
        Some(id) => Some(ResponseId::parse(id).ok_or_else(|| {
            ApiError::invalid("after", "invalid_value", "'after' must be the id of a run, as `last_id` gives it.")
        })?),
    };
    let (agent, principal) = (name(&query, "agent")?, name(&query, "principal")?);
    let filter = RunFilter { agent, principal, status, after, limit: limit.asked() };
    let (runs, has_more) = limit.cut(api.manager.runs(&filter).await?);
    let last_id = runs.last().map(|run| run.id.to_string());
    Ok(Json(AdminRunList { object: "list", data: runs.into_iter().map(shown).collect(), last_id, has_more }))
}

/// Shows a run of any principal.
#[utoipa::path(
    get,
    path = "/admin/runs/{id}",
    operation_id = "getRun",
    tag = "Operator",
    params(("id" = String, Path, description = "The id of its response.")),
    responses(
        (status = 200, description = "The run.", body = AdminRun),
        (status = 403, description = "`admin_not_allowed`"),
        (status = 404, description = "`response_not_found`"),
    ),
)]
pub(super) async fn show(State(api): State<Api>, Path(id): Path<String>) -> Result<Json<AdminRun>, Failure> {
    let run = api.manager.run(&parse(&id)?).await?;
    Ok(Json(shown(run.ok_or_else(|| ApiError::response_not_found(&id))?)))
}

/// Shows the log of a run.
///
/// What its agent has logged and printed, and what the server has noted. While a run is active, ask again from `next`.
#[utoipa::path(
    get,
    path = "/admin/runs/{id}/logs",
    operation_id = "getRunLogs",
    tag = "Operator",
    params(("id" = String, Path, description = "The id of its response."), LogQuery),
    responses(
        (status = 200, description = "A page of lines.", body = LogList),
        (status = 403, description = "`admin_not_allowed`"),
        (status = 404, description = "`response_not_found`"),
    ),
)]
pub(super) async fn logs(
    State(api): State<Api>,
    Path(id): Path<String>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Json<LogList>, Failure> {
    let limit = number(&query, "limit", 1_000, 1..=10_000)?;
    let from = number(&query, "from", 0, 0..=u64::MAX >> 1)?;
    let most = usize::try_from(limit).unwrap_or(usize::MAX);
    let lines = api.manager.log(&parse(&id)?, from, most + 1).await?;
    let mut lines = lines.ok_or_else(|| ApiError::response_not_found(&id))?;
    let has_more = lines.len() > most;
    lines.truncate(most);
    let next = lines.last().map_or(from, |line| line.number + 1);
    let line =
        |LoggedLine { number, time, level, source, text }| LogLine { number, time_ms: time, level, source, text };
    Ok(Json(LogList { object: "list", data: lines.into_iter().map(line).collect(), next, has_more }))
}

/// Stops a run of any principal.
///
/// The answer is the run as it ended. A run that has ended otherwise cannot be cancelled: `response_not_cancellable`.
#[utoipa::path(
    post,
    path = "/admin/runs/{id}/cancel",
    operation_id = "cancelRun",
    tag = "Operator",
    params(("id" = String, Path, description = "The id of its response.")),
    responses(
        (status = 200, description = "The run.", body = AdminRun),
        (status = 403, description = "`admin_not_allowed`, `origin_not_allowed`"),
        (status = 404, description = "`response_not_found`"),
        (status = 503, description = "`shutting_down`, `storage_unavailable`"),
    ),
)]
pub(super) async fn cancel(
    State(api): State<Api>,
    Extension(Principal(operator)): Extension<Principal>,
    Extension(connection): Extension<Arc<Connection>>,
    Path(id): Path<String>,
) -> Result<Json<AdminRun>, Failure> {
    let run = parse(&id)?;
    info!(operator, address = %connection.address(), %run, "a run is cancelled by an operator");
    match api.manager.cancel_any(&run).await? {
        None => Err(ApiError::response_not_found(&id).into()),
        Some(Status::Terminal(TerminalStatus::Cancelled)) => show(State(api), Path(id)).await,
        Some(status) => {
            let message =
                format!("Cannot cancel the run of response '{run}': it has already ended with status {status}.");
            Err(ApiError::new(ErrorKind::InvalidRequest, "response_not_cancellable", message).into())
        }
    }
}

fn parse(id: &str) -> Result<ResponseId, ApiError> {
    ResponseId::parse(id).ok_or_else(|| ApiError::response_not_found(id))
}

fn shown(run: RunRow) -> AdminRun {
    #[derive(Deserialize)]
    struct Response {
        error: Option<AdminError>,
    }
    let response = run.response.as_deref().and_then(|json| serde_json::from_str::<Response>(json).ok());
    AdminRun {
        id: run.id.to_string(),
        object: "run",
        agent: run.agent,
        component: run.component,
        principal: run.principal,
        status: run.status.as_str(),
        conversation: run.conversation,
        previous_response_id: run.previous,
        created_at_ms: run.created_at,
        ended_at_ms: run.ended_at,
        attempts: run.attempts,
        cpu_seconds: run.usage.cpu as f64 / 1e6,
        memory_peak_bytes: run.usage.memory,
        input_tokens: run.usage.input_tokens,
        output_tokens: run.usage.output_tokens,
        log_lines: run.log_lines,
        error: response.and_then(|response| response.error),
    }
}
