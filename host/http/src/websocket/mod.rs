//! `GET /v1/responses` as a WebSocket: many turns over one connection.
//!
//! A client sends `response.create` and gets the events of the response, one message each, the same bytes that a
//! stream carries. A socket is one subscriber at a time: a response that is kept goes on when the socket closes, one
//! that is not ends with it. What a `store: false` turn leaves behind lies in the socket's [`Memory`] and nowhere else,
//! so that the next turn on this socket can go on from it; after a reconnect there is no such response.
//!
//! - One response at a time. A second `response.create` meanwhile is refused with an error message, not queued.
//! - An error is a message and leaves the socket open, except where the stream of messages itself is broken: a message
//!   larger than `limits.body_bytes`, one that is begun and not ended within `limits.body_timeout`, or one that is no
//!   WebSocket message at all.
//! - A turn that cannot begin makes the socket forget the response that it would have gone on from, as the
//!   specification asks.
//! - Nothing is buffered for a slow reader beyond [`BUFFER`] and one event: the subscription waits, and the run with it
//!   where its events are nowhere else.
//! - On a server without keys, a browser's page must come from this machine.
//! - While nothing is sent, a ping every `limits.keep_alive`. A pong is not insisted on: blocking clients answer only
//!   while they read.
//! - When the key that it was opened with ceases to be one, it is closed with code 1008.
//! - After `limits.websocket_lifetime` no turn begins; the one that goes on may end. When the server stops, the last
//!   events are sent before the close.

mod memory;
mod session;
mod wire;

use std::{sync::Arc, time::Duration};

use axum::{
    Extension,
    extract::{
        State,
        ws::{WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse as _, Response},
};
use outlast_protocol::{ApiError, ErrorKind};
use outlast_run::Refusal;
use outlast_runtime::limits::{Count, DAY, HOUR, MOMENT, MOST_BYTES, MOST_ITEMS, Size, Time};

use super::{Access, Api, Principal, connections::Connection, error::Failure};
use memory::Memory;
use session::Session;

/// How much a socket reads and writes at once, in bytes.
const BUFFER: usize = 8 * 1_024;
/// How long a client may take to answer a close.
const LINGER: Duration = Duration::from_secs(1);

outlast_runtime::limits! {
    /// Limits of WebSockets.
    pub struct WebSocketLimits {
        /// How long one may stay open.
        websocket_lifetime => lifetime: Time = HOUR, MOMENT => DAY;
        /// The most responses with `store: false` that one remembers.
        websocket_responses => responses: Count = 16, 0 => MOST_ITEMS;
        /// How large their history may be together, as JSON, in bytes.
        websocket_bytes => bytes: Size = 4 << 20, 0 => MOST_BYTES;
    }
}

/// Opens a WebSocket: many responses over one connection.
///
/// The client sends `response.create` with the body of a request and gets the events of the response, a message each,
/// and errors as `{"type":"error","status":…,"error":{…}}`.
#[utoipa::path(
    get,
    path = "/v1/responses",
    operation_id = "openWebSocket",
    tag = "Responses",
    responses(
        (status = 101, description = "The socket is open."),
        (status = 403, description = "`origin_not_allowed`: a page of another origin, on a server without keys."),
        (status = 426, description = "`upgrade_required`: the headers of an upgrade are missing."),
        (status = 503, description = "`shutting_down`"),
    ),
)]
pub(super) async fn open(
    State(api): State<Api>,
    Extension(Principal(principal)): Extension<Principal>,
    Extension(access): Extension<Access>,
    Extension(connection): Extension<Arc<Connection>>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Failure> {
    let Ok(upgrade) = upgrade else { return Ok(upgrade_required()) };
    api.origins.admit_to_socket(&headers)?;
    if api.manager.draining() {
        return Err(Refusal::Draining.into());
    }
    let largest = api.limits.body_bytes;
    let upgrade = upgrade.max_message_size(largest).max_frame_size(largest);
    let limits = api.limits.websocket;
    let memory = Memory::new(limits.responses, limits.bytes);
    // Reached only by a client that stops reading, or the run's own limit would have come first.
    let longest = limits.lifetime.saturating_add(api.manager.limits().longest_run).saturating_add(LINGER);
    let session = Session { api, principal, access, connection, memory };
    Ok(upgrade.read_buffer_size(BUFFER).write_buffer_size(BUFFER).on_upgrade(move |socket| async move {
        let _ = tokio::time::timeout(longest, session.serve(socket)).await;
    }))
}

/// The answer to a `GET` that does not ask for a WebSocket.
fn upgrade_required() -> Response {
    let message = "GET /v1/responses opens a WebSocket (version 13) and needs its upgrade headers. \
                   Send POST for a single response, or GET /v1/responses/{id} to read one.";
    let error = ApiError::new(ErrorKind::UpgradeRequired, "upgrade_required", message);
    let mut answer = Failure(error).into_response();
    answer.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    answer.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    answer
}
