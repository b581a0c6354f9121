//! `GET /v1/responses` as a WebSocket: many turns over one connection.
//!
//! A client sends `response.create` and gets the events of the response, one message each, the same bytes that a
//! stream carries. A socket is one subscriber at a time: a response that is kept goes on when the socket closes, one
//! that is not ends with it. What a `store: false` turn leaves behind lies in the socket's [`Memory`] and nowhere else,
//! so that the next turn on this socket can go on from it; after a reconnect there is no such response.
//!
//! - One response at a time. A second `response.create` meanwhile is refused with an error message, not queued.
//! - An error is a message and leaves the socket open, except where the stream of messages itself is broken: a message
//!   larger than `limits.body_bytes`, or one that is no WebSocket message at all.
//! - A turn that cannot begin makes the socket forget the response that it would have gone on from, as the
//!   specification asks.
//! - Nothing is buffered for a slow reader beyond [`BUFFER`] and one event: the subscription waits, and the run with it
//!   where its events are nowhere else.
//! - On a server without keys, a browser's page must come from this machine.
//! - While nothing is sent, a ping every `limits.keep_alive`. A pong is not insisted on: blocking clients answer only
//!   while they read.
//! - After `limits.websocket_lifetime` no turn begins; the one that goes on may end. When the server stops, the last
//!   events are sent before the close.

mod memory;

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    Extension,
    extract::{
        State, WebSocketUpgrade,
        ws::{CloseCode, CloseFrame, Message, Utf8Bytes, WebSocket, close_code, rejection::WebSocketUpgradeRejection},
    },
    http::{HeaderMap, HeaderValue, Uri, header},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use serde_json::{Map, Value};
use tokio::{
    sync::mpsc,
    time::{Instant, Interval, MissedTickBehavior},
};
use tracing::debug;
use uuid::Uuid;

use super::{Api, LOCAL, Principal, connections::Connection};
use crate::{
    protocol::{
        ApiError, CreateRequest, ErrorKind, ResponseId, TerminalStatus, check_message, error_message, identify,
        payloads, read_message,
    },
    run::{Created, Ending, Recorder, Refusal, Subscription, seconds},
};
use memory::{Chain, Memory};

/// How much a socket reads and writes at once, in bytes.
const BUFFER: usize = 8 * 1_024;
/// How long a client may take to answer a close.
const LINGER: Duration = Duration::from_secs(1);

/// Limits of WebSockets, from the configuration.
#[derive(Clone, Copy, Debug)]
pub struct WebSocketLimits {
    /// How long one may stay open: `limits.websocket_lifetime`.
    pub lifetime: Duration,
    /// The most responses that one remembers: `limits.websocket_responses`.
    pub responses: usize,
    /// How large their turns may be together: `limits.websocket_bytes`.
    pub bytes: usize,
}

/// `GET /v1/responses`: opens a WebSocket.
pub(super) async fn open(
    State(api): State<Api>,
    Extension(Principal(principal)): Extension<Principal>,
    Extension(connection): Extension<Arc<Connection>>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let Ok(upgrade) = upgrade else { return Ok(upgrade_required()) };
    if principal == LOCAL && headers.get(header::ORIGIN).is_some_and(|origin| !is_local(origin)) {
        let message = "A page of another origin cannot open a WebSocket to a server without keys.";
        return Err(ApiError::new(ErrorKind::Forbidden, "origin_not_allowed", message));
    }
    if api.manager.draining() {
        return Err(Refusal::Draining.into());
    }
    let largest = api.limits.body_bytes;
    let upgrade = upgrade.max_message_size(largest).max_frame_size(largest);
    let limits = api.limits.websocket;
    let memory = Memory::new(limits.responses, limits.bytes);
    // Reached only by a client that stops reading, or the run's own limit would have come first.
    let longest = limits.lifetime.saturating_add(api.manager.limits().run_timeout).saturating_add(LINGER);
    let session = Session { api, principal, connection, memory };
    Ok(upgrade.read_buffer_size(BUFFER).write_buffer_size(BUFFER).on_upgrade(move |socket| async move {
        let _ = tokio::time::timeout(longest, session.serve(socket)).await;
    }))
}

/// Whether a page of this origin comes from this machine. A browser lets every page open a WebSocket to every address,
/// this machine's own too, and where there are no keys nothing else would stop it.
fn is_local(origin: &HeaderValue) -> bool {
    let origin: Option<Uri> = origin.to_str().ok().and_then(|origin| origin.parse().ok());
    let host = origin.as_ref().and_then(Uri::host).unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || host.ends_with(".localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// The answer to a `GET` that does not ask for a WebSocket.
fn upgrade_required() -> Response {
    let message = "GET /v1/responses opens a WebSocket (version 13) and needs its upgrade headers. \
                   Send POST for a single response, or GET /v1/responses/{id} to read one.";
    let mut answer = ApiError::new(ErrorKind::UpgradeRequired, "upgrade_required", message).into_response();
    answer.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    answer.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    answer
}

type Sender = SplitSink<WebSocket, Message>;
type Receiver = SplitStream<WebSocket>;

/// The client is gone.
struct Gone;

/// Why a socket is closed.
struct Close(CloseCode, &'static str);

/// What came over a socket.
enum Received {
    /// A message to act on.
    Text(Utf8Bytes),
    /// A message of another kind; the socket is in order.
    Refused(ApiError),
    /// No message; nothing more can be read.
    Broken(ApiError, Close),
}

/// One WebSocket.
struct Session {
    api: Api,
    principal: String,
    connection: Arc<Connection>,
    memory: Memory,
}

/// One turn on a socket.
struct Turn {
    answer: Answer,
    /// For a response that is not kept: what it goes on from, and its input.
    remembered: Option<(Chain, Vec<Value>)>,
}

enum Answer {
    /// A run.
    Run(Subscription),
    /// A response without a run (`generate: false`), and its frames.
    Warm(ResponseId, Bytes),
}

impl Session {
    /// Serves the socket until one of both sides closes it.
    async fn serve(mut self, socket: WebSocket) {
        let (mut sender, mut receiver) = socket.split();
        let Ok(Close(code, reason)) = self.turns(&mut sender, &mut receiver).await else {
            // Answers the client's close, if that is what came.
            let _ = tokio::time::timeout(LINGER, sender.close()).await;
            return;
        };
        debug!(code, reason, "closing a WebSocket");
        let frame = CloseFrame { code, reason: reason.into() };
        let closing = async {
            if sender.send(Message::Close(Some(frame))).await.is_err() {
                return;
            }
            // Whoever is still sending would otherwise see a broken connection where the close should be.
            while receiver.next().await.is_some_and(|message| message.is_ok()) {}
            if code == close_code::SIZE {
                tokio::time::sleep(LINGER).await;
            }
        };
        let _ = tokio::time::timeout(LINGER, closing).await;
    }

    /// Does one turn after the other, until the socket is to be closed.
    async fn turns(&mut self, sender: &mut Sender, receiver: &mut Receiver) -> Result<Close, Gone> {
        let old = tokio::time::sleep(self.api.limits.websocket.lifetime);
        tokio::pin!(old);
        let mut silence = silence(self.api.limits.keep_alive);
        let closing = self.connection.closing.clone();
        loop {
            let text = tokio::select! {
                biased;
                () = closing.cancelled() => return Ok(Close(close_code::AWAY, "the server is shutting down")),
                () = &mut old => {
                    send_error(sender, &too_old()).await?;
                    return Ok(Close(close_code::NORMAL, "websocket_connection_limit_reached"));
                }
                received = receive(receiver) => match received? {
                    Received::Text(text) => text,
                    Received::Refused(error) => {
                        send_error(sender, &error).await?;
                        continue;
                    }
                    Received::Broken(error, close) => {
                        send_error(sender, &error).await?;
                        return Ok(close);
                    }
                },
                _ = silence.tick() => {
                    send(sender, Message::Ping(Bytes::new())).await?;
                    continue;
                }
            };
            match self.begin(&text).await {
                Ok(turn) => {
                    drop(text);
                    if let Some(close) = self.follow(turn, sender, receiver).await? {
                        return Ok(close);
                    }
                }
                Err(error) => send_error(sender, &error).await?,
            }
            silence.reset();
        }
    }

    /// Begins what a message asks for.
    async fn begin(&mut self, text: &str) -> Result<Turn, ApiError> {
        let fields = read_message(text)?;
        let previous = fields.get("previous_response_id").and_then(Value::as_str).map(str::to_owned);
        let begun = self.create(fields).await;
        if let (Err(_), Some(previous)) = (&begun, previous) {
            self.memory.forget(&previous);
        }
        begun
    }

    async fn create(&self, mut fields: Map<String, Value>) -> Result<Turn, ApiError> {
        check_message(&fields)?;
        let generate = match fields.remove("generate") {
            None | Some(Value::Null | Value::Bool(true)) => true,
            Some(Value::Bool(false)) => false,
            Some(_) => return Err(ApiError::invalid("generate", "invalid_type", "'generate' must be a boolean.")),
        };
        let mut request = CreateRequest::from_fields(fields, &self.api.limits.request)?;
        request.stream = true;
        let known = request.previous.as_ref().and_then(|previous| self.memory.get(previous.as_str())).cloned();
        if let Some(chain) = &known {
            request.earlier = chain.items();
            request.previous = chain.stored.clone();
        }
        let manager = &self.api.manager;
        let mut remembered = None;
        if !request.store {
            // What is remembered has the items themselves where the input refers to them.
            let history = manager.history(&self.principal, &mut request).await?;
            let chain = match known {
                Some(chain) => chain,
                // A conversation goes on; this is what it is now.
                None if request.conversation.is_some() => Chain::default().with(&history),
                None => Chain::after(request.previous.clone()),
            };
            remembered = Some((chain, request.input.clone()));
        }
        if !generate {
            return Ok(Turn { answer: self.warm_up(&request)?, remembered });
        }
        match manager.create(&self.principal, request, None).await? {
            Created::Now(subscription) => Ok(Turn { answer: Answer::Run(subscription), remembered }),
            // Only an idempotency key names an earlier response.
            Created::Before(_) => Err(Refusal::Defect.into()),
        }
    }

    /// A response without a run: the input is checked and remembered, and nothing is said to it.
    fn warm_up(&self, request: &CreateRequest) -> Result<Answer, ApiError> {
        if request.store {
            let message = "'generate' can only be false together with 'store': false.";
            return Err(ApiError::invalid("generate", "unsupported_value", message));
        }
        let manager = &self.api.manager;
        if manager.agents().get(request.agent()).is_none() {
            return Err(Refusal::UnknownModel(request.model.clone()).into());
        }
        let (id, now) = (ResponseId::new(Uuid::now_v7()), seconds(SystemTime::now()));
        let mut recorder = Recorder::new(id.clone(), request.response(&id, now), manager.limits().output);
        recorder.start();
        recorder.end(Ending::Completed, now);
        let frames = recorder.take().map(|segment| segment.frames).unwrap_or_default();
        Ok(Answer::Warm(id, frames))
    }

    /// Sends the events of a turn to its end, and refuses whatever the client asks for meanwhile.
    async fn follow(
        &mut self,
        turn: Turn,
        sender: &mut Sender,
        receiver: &mut Receiver,
    ) -> Result<Option<Close>, Gone> {
        let Turn { answer, remembered } = turn;
        let mut subscription = match answer {
            Answer::Run(subscription) => subscription,
            Answer::Warm(id, frames) => {
                feed(sender, &frames).await?;
                self.remember(&id, remembered, Vec::new());
                return Ok(None);
            }
        };
        // One error may wait to be sent. While it does, nothing more is read.
        let (errors, mut refused) = mpsc::channel(1);
        let keep_alive = self.api.limits.keep_alive;
        let broken = tokio::select! {
            sent = deliver(sender, &mut subscription, &mut refused, keep_alive) => { sent?; None }
            broken = refuse(receiver, errors) => Some(broken?),
        };
        if let Some((error, close)) = broken {
            // The events that are on their way are whole messages: the error comes after one of them.
            send_error(sender, &error).await?;
            return Ok(Some(close));
        }
        if let Ok(error) = refused.try_recv() {
            send_error(sender, &error).await?;
        }
        if remembered.is_some()
            && let Some(ended) = subscription.ended().await
            && ended.status == TerminalStatus::Completed
        {
            self.remember(&subscription.id().clone(), remembered, output(&ended.response));
        }
        Ok(None)
    }

    fn remember(&mut self, id: &ResponseId, remembered: Option<(Chain, Vec<Value>)>, output: Vec<Value>) {
        let Some((chain, mut turn)) = remembered else { return };
        identify(&mut turn, |prefix, index| id.input_child(prefix, index));
        turn.extend(output);
        self.memory.keep(id, chain.with(&turn));
    }
}

/// Sends all events of a subscription, errors between them, and pings while there are none.
async fn deliver(
    sender: &mut Sender,
    subscription: &mut Subscription,
    errors: &mut mpsc::Receiver<ApiError>,
    keep_alive: Duration,
) -> Result<(), Gone> {
    let mut silence = silence(keep_alive);
    loop {
        tokio::select! {
            frames = subscription.next() => match frames {
                Ok(Some(frames)) => feed(sender, &frames).await?,
                Ok(None) => return Ok(()),
                Err(error) => return send_error(sender, &error.into()).await,
            },
            Some(error) = errors.recv() => send_error(sender, &error).await?,
            _ = silence.tick() => send(sender, Message::Ping(Bytes::new())).await?,
        }
        silence.reset();
    }
}

/// Reads what comes during a turn: every message is refused. Returns when nothing more can be read.
async fn refuse(receiver: &mut Receiver, errors: mpsc::Sender<ApiError>) -> Result<(ApiError, Close), Gone> {
    loop {
        let error = match receive(receiver).await? {
            Received::Text(_) => {
                let message =
                    "A response is in progress on this WebSocket. Wait for its last event, or open another one.";
                ApiError::new(ErrorKind::Conflict, "response_already_in_flight", message)
            }
            Received::Refused(error) => error,
            Received::Broken(error, close) => return Ok((error, close)),
        };
        // The other end lives as long as this is polled.
        let _ = errors.send(error).await;
    }
}

/// The next message that means something.
async fn receive(receiver: &mut Receiver) -> Result<Received, Gone> {
    loop {
        return match receiver.next().await {
            Some(Ok(Message::Text(text))) => Ok(Received::Text(text)),
            Some(Ok(Message::Binary(_))) => {
                let message = "Messages are JSON in text frames; this one was binary.";
                Ok(Received::Refused(ApiError::new(ErrorKind::InvalidRequest, "invalid_message", message)))
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
            Some(Ok(Message::Close(_))) | None => Err(Gone),
            Some(Err(error)) => broken(error),
        };
    }
}

/// What a socket's error means for the client.
fn broken(error: axum::Error) -> Result<Received, Gone> {
    use tungstenite::Error;
    let Ok(error) = error.into_inner().downcast::<Error>() else { return Err(Gone) };
    match *error {
        Error::Capacity(_) => {
            let message = "The message is larger than limits.body_bytes.";
            let error = ApiError::new(ErrorKind::TooLarge, "request_too_large", message);
            Ok(Received::Broken(error, Close(close_code::SIZE, "the message is too large")))
        }
        Error::Utf8(_) => {
            let message = "The message is in a text frame, and is not UTF-8.";
            let error = ApiError::new(ErrorKind::InvalidRequest, "invalid_message", message);
            Ok(Received::Broken(error, Close(close_code::INVALID, "the message is not UTF-8")))
        }
        Error::Protocol(_) => {
            let error = ApiError::new(ErrorKind::InvalidRequest, "invalid_message", "This is no WebSocket message.");
            Ok(Received::Broken(error, Close(close_code::PROTOCOL, "no WebSocket message")))
        }
        _ => Err(Gone),
    }
}

/// Sends each event in `frames` as a message.
async fn feed(sender: &mut Sender, frames: &Bytes) -> Result<(), Gone> {
    for json in payloads(frames) {
        // Events are made of strings.
        let Ok(text) = Utf8Bytes::try_from(json) else { continue };
        sender.feed(Message::Text(text)).await.map_err(|_| Gone)?;
    }
    sender.flush().await.map_err(|_| Gone)
}

async fn send_error(sender: &mut Sender, error: &ApiError) -> Result<(), Gone> {
    send(sender, Message::Text(error_message(error).into())).await
}

async fn send(sender: &mut Sender, message: Message) -> Result<(), Gone> {
    sender.send(message).await.map_err(|_| Gone)
}

fn too_old() -> ApiError {
    let message = "This WebSocket is as old as limits.websocket_lifetime allows. Open another one to go on.";
    ApiError::new(ErrorKind::InvalidRequest, "websocket_connection_limit_reached", message)
}

/// Ticks after every `period` without [`Interval::reset`].
fn silence(period: Duration) -> Interval {
    let mut silence = tokio::time::interval_at(Instant::now() + period, period);
    silence.set_missed_tick_behavior(MissedTickBehavior::Delay);
    silence
}

/// The output of a response, JSON.
fn output(response: &[u8]) -> Vec<Value> {
    #[derive(serde::Deserialize)]
    struct Ended {
        output: Vec<Value>,
    }
    serde_json::from_slice::<Ended>(response).map(|ended| ended.output).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_of_this_machine_are_local() {
        for (origin, local) in [
            ("http://localhost", true),
            ("http://localhost:3000", true),
            ("https://app.localhost", true),
            ("http://127.0.0.1:8642", true),
            ("http://[::1]:8642", true),
            ("https://example.com", false),
            ("http://127.0.0.1.example.com", false),
            ("http://localhost.example.com", false),
            ("http://10.0.0.1", false),
            ("null", false),
            ("", false),
        ] {
            assert_eq!(is_local(&HeaderValue::from_static(origin)), local, "{origin}");
        }
    }
}
