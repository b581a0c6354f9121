//! HTTP: translates between requests and runs, and decides nothing.
//!
//! One file per resource. Every answer that is not 2xx has the one error envelope, every answer has an
//! `x-request-id`, and `x-content-type-options: nosniff`: none is what a browser could take it for.

#![deny(unsafe_code)]
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod access;
mod admin;
mod admin_webhooks;
mod auth;
mod bodies;
mod body;
mod compact;
mod connections;
mod conversations;
mod encoding;
mod error;
mod framing;
mod guesses;
mod health;
mod host;
mod input_tokens;
mod key;
mod message;
mod metrics;
mod models;
mod openapi;
mod origin;
mod page;
mod path;
mod places;
mod protocol;
mod query;
mod responses;
mod sse;
mod stream;
mod tls;
mod transport;
mod webhooks;
mod websocket;

use std::{sync::Arc, time::Duration};

use self::error::Failure;
use axum::{
    Extension, Router,
    http::{HeaderValue, header},
    middleware,
    response::{IntoResponse as _, Response},
};
use outlast_metrics::Metrics;
use outlast_protocol::{ApiError, ErrorKind, MAX_INPUT_ITEMS, RequestLimits};
use outlast_run::{Manager, Webhooks};
use outlast_runtime::limits::{Count, HOUR, MOMENT, MOST_BYTES, MOST_ITEMS, Size, Time};
use tower_http::{
    catch_panic::CatchPanicLayer,
    request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer},
    set_header::SetResponseHeaderLayer,
};
use utoipa::OpenApi as _;
use utoipa_axum::{router::OpenApiRouter, routes};

pub use access::{Access, Rights};
pub use auth::{Caller, Exchanged, Keys, LOCAL, Principal};
pub use bodies::Bodies;
pub use connections::{ConnectionLimits, serve};
pub use host::{Hosts, is_host_name};
pub use key::{Key, check_keys};
pub use origin::Origins;
pub use tls::{Certificates, TlsConfig};
pub use websocket::WebSocketLimits;

/// What the handlers share.
#[derive(Clone, Debug)]
pub struct Api {
    /// The runs.
    pub manager: Arc<Manager>,
    /// Who is told when they end.
    pub webhooks: Arc<Webhooks>,
    /// Who may come in.
    pub keys: Arc<Keys>,
    /// The names that it is called by.
    pub hosts: Hosts,
    /// The pages that may use it.
    pub origins: Origins,
    /// The bodies that it holds.
    pub bodies: Arc<Bodies>,
    /// Limits of requests.
    pub limits: ApiLimits,
    /// What is measured.
    pub metrics: Arc<Metrics>,
}

outlast_runtime::limits! {
    /// Limits of requests and streams.
    pub struct ApiLimits {
        /// The largest body, in bytes, in its plain form.
        body_bytes => body_bytes: Size = 32 << 20, 1 => MOST_BYTES;
        /// All bodies that the server holds at the same time, in bytes; with keys, half of it of one principal. At least
        /// twice the largest.
        bodies_bytes => bodies_bytes: Size = 128 << 20, 0 => MOST_BYTES;
        /// How long a body may take to arrive, or a message over a WebSocket.
        body_timeout => body_timeout: Time = Duration::from_secs(60), MOMENT => HOUR;
        /// The largest text part of a request, in bytes.
        text_bytes => text_bytes: Size = 10 << 20, 0 => MOST_BYTES;
        /// The most input items of a request.
        input_items => input_items: Count = MAX_INPUT_ITEMS, 1 => MOST_ITEMS;
        /// How long a stream may be silent before a comment line is sent, and a WebSocket before a ping.
        keep_alive => keep_alive: Time = Duration::from_secs(15), Duration::from_millis(10) => Duration::from_secs(15);
    }
    within {
        /// WebSockets.
        websocket: WebSocketLimits;
    }
}

impl ApiLimits {
    /// What is in a body.
    pub fn request(&self) -> RequestLimits {
        RequestLimits { text_bytes: self.text_bytes, input_items: self.input_items }
    }
}

/// All routes.
pub fn router(api: Api) -> Router {
    let authenticated = OpenApiRouter::new()
        .routes(routes!(responses::create, websocket::open))
        .routes(routes!(compact::compact))
        .routes(routes!(input_tokens::count))
        .routes(routes!(responses::retrieve, responses::delete))
        .routes(routes!(responses::input_items))
        .routes(routes!(responses::cancel))
        .routes(routes!(conversations::create))
        .routes(routes!(conversations::retrieve, conversations::update, conversations::delete))
        .routes(routes!(conversations::items, conversations::create_items))
        .routes(routes!(conversations::item, conversations::delete_item))
        .routes(routes!(webhooks::create, webhooks::list))
        .routes(routes!(webhooks::retrieve, webhooks::update, webhooks::delete))
        .routes(routes!(webhooks::rotate_secret))
        .routes(routes!(webhooks::test))
        .routes(routes!(webhooks::event_types))
        .routes(routes!(models::list))
        .routes(routes!(models::retrieve))
        .route_layer(middleware::from_fn_with_state(api.clone(), auth::authenticate));
    let admin = OpenApiRouter::new()
        .routes(routes!(admin::list))
        .routes(routes!(admin::show))
        .routes(routes!(admin::logs))
        .routes(routes!(admin::cancel))
        .routes(routes!(admin_webhooks::list))
        .routes(routes!(admin_webhooks::test))
        .routes(routes!(admin_webhooks::deliveries))
        .routes(routes!(admin_webhooks::redeliver))
        .route_layer(middleware::from_fn_with_state(api.clone(), admin::authenticate));
    let (routes, description) = OpenApiRouter::with_openapi(openapi::Description::openapi())
        .merge(authenticated)
        .merge(admin)
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
        .routes(routes!(metrics::show))
        .routes(routes!(openapi::describe))
        .split_for_parts();
    let mut routes = routes
        .layer(Extension(openapi::Document::new(description)))
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method);
    // From the inside out: what comes later sees a request earlier.
    if let Some(guard) = api.origins.guard() {
        routes = routes.layer(guard);
    }
    routes = routes
        .layer(middleware::from_fn_with_state(api.hosts.clone(), host::check))
        .layer(middleware::from_fn(message::unrepeated))
        .layer(middleware::map_response(error::enveloped))
        .layer(CatchPanicLayer::custom(error::panicked))
        .layer(middleware::from_fn_with_state(api.metrics.clone(), metrics::measure));
    if let Some(cors) = api.origins.cors() {
        routes = routes.layer(cors);
    }
    routes
        .layer(middleware::from_fn(message::closing))
        .layer(SetResponseHeaderLayer::overriding(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")))
        .layer(PropagateRequestIdLayer::x_request_id())
        .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
        .with_state(api)
}

async fn unknown_route(method: axum::http::Method, uri: axum::http::Uri) -> Failure {
    let path: String = uri.path().chars().take(200).collect();
    // Clients made for Chat Completions or Completions begin here.
    let instead = if path.trim_end_matches('/').ends_with("/completions") {
        "This server has the Responses API instead: POST /v1/responses. Most clients can be set to use it."
    } else {
        "GET /openapi.json lists what there is."
    };
    let message = format!("Unknown request URL: {method} {path}. {instead}");
    Failure(ApiError::new(ErrorKind::NotFound, "unknown_url", message))
}

/// The answer for a method that a path does not have. axum adds the `allow` header, which is all that `OPTIONS` asks for.
async fn wrong_method(method: axum::http::Method, uri: axum::http::Uri) -> Response {
    if method == axum::http::Method::OPTIONS {
        return axum::http::StatusCode::NO_CONTENT.into_response();
    }
    let path: String = uri.path().chars().take(200).collect();
    let message = format!("{method} is not allowed for {path}; the `allow` header names what is.");
    Failure(ApiError::new(ErrorKind::MethodNotAllowed, "method_not_allowed", message)).into_response()
}
