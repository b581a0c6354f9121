//! `GET /openapi.json`: what is served, described from the handlers and the types.
//!
//! A route exists once, with its description: [`router`](super::router) is built from the same attributes. Here is added
//! what holds for all of them.

use axum::{Extension, http::header, response::IntoResponse};
use bytes::Bytes;
use outlast_protocol::{ErrorBody, ErrorEnvelope, Event};
use serde::Serialize;
use utoipa::{
    Modify, OpenApi, ToSchema,
    openapi::{
        self, ContentBuilder, HeaderBuilder, ObjectBuilder, RefOr, Response, ResponseBuilder, Type,
        path::Operation,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

use super::error::RESPONSE_ID;

/// What every stream and every WebSocket carries.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct StreamEvent {
    #[serde(flatten)]
    event: Event<'static>,
    /// 0, 1, 2, …: the place of the event among those of its response.
    #[schema(minimum = 0)]
    sequence_number: u64,
}

/// What a stream begins with that answers a repeated request: the response with the events up to `sequence_number`.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Snapshot {
    /// `response.snapshot`
    r#type: String,
    /// The number of the last event that is in the response.
    #[schema(minimum = 0)]
    sequence_number: u64,
    /// The response so far.
    response: outlast_protocol::Response,
}

/// The description without its routes.
#[derive(Debug, OpenApi)]
#[openapi(
    info(
        title = "Outlast",
        description = "The Responses API of OpenAI and Open Responses, served by agents that are WebAssembly components.",
    ),
    tags(
        (name = "Responses", description = "Responses, and the runs that produce them."),
        (name = "Conversations", description = "Items that many responses share."),
        (name = "Webhooks", description = "Who is told when responses end."),
        (name = "Models", description = "The agents."),
        (name = "Operator", description = "The runs and webhooks of all principals. A key needs the right to them."),
        (name = "Server", description = "Health, metrics and this description."),
    ),
    security(("key" = [])),
    components(schemas(ErrorEnvelope<'static>, ErrorBody<'static>, StreamEvent, Snapshot)),
    modifiers(&Key),
)]
pub(super) struct Description;

struct Key;

impl Modify for Key {
    fn modify(&self, document: &mut openapi::OpenApi) {
        let description = "An API key. A server without keys serves this machine alone and asks for none.";
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(description)).build();
        document.components.get_or_insert_default().add_security_scheme("key", SecurityScheme::Http(scheme));
    }
}

/// The description as it is served.
#[derive(Clone, Debug)]
pub(super) struct Document(Bytes);

impl Document {
    /// Completes the description of the routes.
    pub(super) fn new(mut routes: openapi::OpenApi) -> Self {
        let paths = std::mem::take(&mut routes.paths.paths);
        for (path, mut item) in paths {
            for (operation, changes) in [(&mut item.get, false), (&mut item.post, true), (&mut item.delete, true)] {
                if let Some(operation) = operation {
                    complete(operation, changes);
                }
            }
            // The router's way to write a parameter that may have slashes.
            routes.paths.paths.insert(path.replace("{*", "{"), item);
        }
        Self(serde_json::to_vec(&routes).unwrap_or_default().into())
    }
}

/// Describes this server.
///
/// OpenAPI 3.1, generated from what is served.
#[utoipa::path(
    get,
    path = "/openapi.json",
    operation_id = "getDescription",
    tag = "Server",
    security(()),
    responses((status = 200, description = "This document.", body = Object)),
)]
pub(super) async fn describe(Extension(Document(json)): Extension<Document>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], json)
}

/// Adds what every route of its kind answers.
fn complete(operation: &mut Operation, changes: bool) {
    let mut common = vec![
        ("400", "What is wrong with the request; `param` names the field."),
        (
            "421",
            "`host_not_allowed`: a server without keys was addressed by a name that is neither loopback nor in \
             `allowed_hosts`.",
        ),
        ("500", "`internal_error`: the server failed; its log says why."),
    ];
    if changes {
        common.push(("403", "`origin_not_allowed`: a page of another origin, on a server without keys."));
    }
    if operation.request_body.is_some() {
        common.push(("408", "`request_timeout`: the body took too long to arrive."));
        common.push(("413", "`request_too_large`"));
        common.push(("415", "`unsupported_media_type`: the body is not declared as JSON."));
    }
    // Where the security of the whole document holds.
    if operation.security.is_none() {
        common.push(("401", "`invalid_api_key`"));
        common.push((
            "429",
            "`rate_limit_exceeded`, `too_many_wrong_keys`: `retry-after` says when to retry. `storage_quota_exceeded`: \
             something must be deleted.",
        ));
        common.push(("503", "`storage_unavailable`: `retry-after` says when to retry."));
    }
    let responses = &mut operation.responses.responses;
    for (status, description) in common {
        let missing = || ResponseBuilder::new().description(description).build().into();
        responses.entry(status.to_owned()).or_insert_with(missing);
    }
    let runs = operation.operation_id.as_deref() == Some("createResponse");
    for (status, response) in responses {
        if let RefOr::T(response) = response {
            complete_response(status, response);
            let failed = runs && status.starts_with(['4', '5']);
            if failed {
                describe_header(
                    response,
                    "idempotency-replayed",
                    "`true` when no run was started: the request repeats an earlier one.",
                    Type::String,
                );
            }
            if failed || status == "409" {
                describe_header(
                    response,
                    RESPONSE_ID,
                    "The response that failed, or the active one that blocks this request.",
                    Type::String,
                );
            }
        }
    }
}

fn describe_header(response: &mut Response, name: &str, description: &str, kind: Type) {
    let schema = ObjectBuilder::new().schema_type(kind).build();
    let header = HeaderBuilder::new().schema(Some(schema)).description(Some(description)).build();
    response.headers.insert(name.to_owned(), header.into());
}

fn complete_response(status: &str, response: &mut Response) {
    let mut header = |name: &str, description: &str, kind: Type| describe_header(response, name, description, kind);
    header("x-request-id", "The `x-request-id` of the request, or a new one.", Type::String);
    match status {
        "401" => header("www-authenticate", "`Bearer`", Type::String),
        "409" | "429" | "502" | "504" => {
            header("x-should-retry", "`false` when a retry cannot succeed.", Type::String);
        }
        _ => {}
    }
    match status {
        "429" | "503" => header("retry-after", "The seconds to wait before a retry.", Type::Integer),
        _ => {}
    }
    if status.starts_with(['4', '5']) {
        let schema = openapi::Ref::from_schema_name("Error");
        let content = ContentBuilder::new().schema(Some(schema)).build();
        response.content.insert("application/json".to_owned(), content.into());
    }
}
