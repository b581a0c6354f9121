//! One socket, from its first turn to its close.

use std::{sync::Arc, time::Duration};

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use outlast_metrics::Transport;
use outlast_protocol::{
    ApiError, CreateRequest, ErrorKind, ResponseId, TerminalStatus, check_message, identify, is_end, is_half_call,
    read_message,
};
use outlast_run::{Broken, Created, Ending, Recorder, Refusal, Subscription};
use serde_json::{Map, Value};
use tokio::{
    sync::mpsc,
    time::{Instant, Interval, MissedTickBehavior},
};
use tracing::debug;

use super::{
    super::{Access, Api, auth::not_valid, connections::Connection},
    LINGER,
    memory::{Chain, Memory},
    wire::{Close, Disconnected, Received, Receiver, Sender, feed, receive, send, send_error},
};

/// The close of a server that stops.
const SHUTTING_DOWN: Close = Close(close_code::AWAY, "the server is shutting down");

/// The close of one whose key is none any more.
const REVOKED: Close = Close(close_code::POLICY, "the API key is no longer valid");

/// One WebSocket.
pub(super) struct Session {
    pub api: Api,
    pub principal: String,
    pub access: Access,
    pub connection: Arc<Connection>,
    pub memory: Memory,
}

/// One turn on a socket.
struct Exchange {
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
    pub async fn serve(mut self, socket: WebSocket) {
        let _open = self.api.metrics.http.websocket();
        let (sink, stream) = socket.split();
        let connection = self.connection.clone();
        // What came before was no message.
        connection.wire.message_came();
        let room = self.api.bodies.room(&self.principal);
        let mut receiver = Receiver { stream, connection, message_timeout: self.api.limits.body_timeout, room };
        let mut sender = Sender { sink, metrics: self.api.metrics.clone() };
        let revoked = self.access.revoked.clone();
        let closed = tokio::select! {
            closed = self.turns(&mut sender, &mut receiver) => closed,
            // What is on its way are whole messages: the error comes after one of them.
            () = revoked.cancelled() => {
                let told = tokio::time::timeout(LINGER, send_error(&mut sender, &not_valid())).await;
                told.unwrap_or(Err(Disconnected)).map(|()| REVOKED)
            }
        };
        let Ok(Close(code, reason)) = closed else {
            // Answers the client's close, if that is what came.
            let _ = tokio::time::timeout(LINGER, sender.sink.close()).await;
            return;
        };
        debug!(code, reason, "closing a WebSocket");
        let frame = CloseFrame { code, reason: reason.into() };
        let closing = async {
            if sender.sink.send(Message::Close(Some(frame))).await.is_err() {
                return;
            }
            // Whoever is still sending would otherwise see a broken connection where the close should be.
            while receiver.stream.next().await.is_some_and(|message| message.is_ok()) {}
            if code == close_code::SIZE {
                tokio::time::sleep(LINGER).await;
            }
        };
        let _ = tokio::time::timeout(LINGER, closing).await;
    }

    /// Does one turn after the other, until the socket is to be closed.
    async fn turns(&mut self, sender: &mut Sender, receiver: &mut Receiver) -> Result<Close, Disconnected> {
        let old = tokio::time::sleep(self.api.limits.websocket.lifetime);
        tokio::pin!(old);
        let mut silence = silence(self.api.limits.keep_alive);
        let closing = self.connection.closing.clone();
        loop {
            let text = tokio::select! {
                biased;
                () = closing.cancelled() => return Ok(SHUTTING_DOWN),
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
    async fn begin(&mut self, text: &str) -> Result<Exchange, ApiError> {
        let fields = self.api.bodies.parse(text.as_bytes(), |_| read_message(text)).await?;
        let previous = fields.get("previous_response_id").and_then(Value::as_str).map(str::to_owned);
        let begun = self.create(fields).await;
        if let (Err(_), Some(previous)) = (&begun, previous) {
            self.memory.forget(&previous);
        }
        begun
    }

    async fn create(&self, mut fields: Map<String, Value>) -> Result<Exchange, ApiError> {
        check_message(&fields)?;
        let generate = match fields.remove("generate") {
            None | Some(Value::Bool(true)) => true,
            Some(Value::Bool(false)) => false,
            Some(_) => return Err(ApiError::invalid("generate", "invalid_type", "'generate' must be a boolean.")),
        };
        let mut request = CreateRequest::from_fields(fields, &self.api.limits.request())?;
        self.access.check(&request, self.api.manager.agents())?;
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
            return Ok(Exchange { answer: self.warm_up(&request)?, remembered });
        }
        match manager.create(&self.principal, request, None).await? {
            Created::Now(subscription) => Ok(Exchange { answer: Answer::Run(subscription), remembered }),
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
        let (id, now) = (ResponseId::new(manager.clock().id()), manager.clock().seconds());
        let mut recorder = Recorder::new(id.clone(), request.response(&id, now), manager.limits().output);
        recorder.start();
        recorder.end(Ending::Completed, now);
        let frames = recorder.take().map(|segment| segment.frames).unwrap_or_default();
        Ok(Answer::Warm(id, frames))
    }

    /// Sends the events of a turn to its end, and refuses whatever the client asks for meanwhile.
    async fn follow(
        &mut self,
        turn: Exchange,
        sender: &mut Sender,
        receiver: &mut Receiver,
    ) -> Result<Option<Close>, Disconnected> {
        let Exchange { answer, remembered } = turn;
        let mut subscription = match answer {
            Answer::Run(subscription) => subscription,
            Answer::Warm(id, frames) => {
                feed(sender, &frames).await?;
                self.remember(&id, remembered, Vec::new());
                return Ok(None);
            }
        };
        let subscriber = self.api.metrics.http.subscriber(Transport::WebSocket);
        // One error may wait to be sent. While it does, nothing more is read.
        let (errors, mut refused) = mpsc::channel(1);
        let keep_alive = self.api.limits.keep_alive;
        let broken = tokio::select! {
            sent = deliver(sender, &mut subscription, &mut refused, keep_alive) => match sent? {
                Some(close) => return Ok(Some(close)),
                None => None,
            },
            broken = refuse(receiver, errors) => Some(broken?),
        };
        if let Some((error, close)) = broken {
            // The events that are on their way are whole messages: the error comes after one of them.
            send_error(sender, &error).await?;
            return Ok(Some(close));
        }
        subscriber.finish();
        if let Ok(error) = refused.try_recv() {
            send_error(sender, &error).await?;
        }
        if remembered.is_some()
            && let Ok(Some(ended)) = subscription.ended().await
            && matches!(ended.status, TerminalStatus::Completed | TerminalStatus::Incomplete)
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

/// Sends all events of a subscription, errors between them, and pings while there are none. Says why the socket is to be
/// closed, if it is: the server stops, and the run goes on after the next start.
async fn deliver(
    sender: &mut Sender,
    subscription: &mut Subscription,
    errors: &mut mpsc::Receiver<ApiError>,
    keep_alive: Duration,
) -> Result<Option<Close>, Disconnected> {
    let mut silence = silence(keep_alive);
    loop {
        tokio::select! {
            frames = subscription.next() => match frames {
                Ok(Some(frames)) => {
                    feed(sender, &frames).await?;
                    // Now, not when the feed is closed: the client may ask for the next turn at once.
                    if is_end(&frames) {
                        return Ok(None);
                    }
                }
                Ok(None) => return Ok(None),
                Err(Broken::Suspended) => return Ok(Some(SHUTTING_DOWN)),
                Err(error) => {
                    send_error(sender, &error.into()).await?;
                    return Ok(None);
                }
            },
            Some(error) = errors.recv() => send_error(sender, &error).await?,
            _ = silence.tick() => send(sender, Message::Ping(Bytes::new())).await?,
        }
        silence.reset();
    }
}

/// Reads what comes during a turn: every message is refused. Returns when nothing more can be read.
async fn refuse(receiver: &mut Receiver, errors: mpsc::Sender<ApiError>) -> Result<(ApiError, Close), Disconnected> {
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

fn too_old() -> ApiError {
    let message = "This WebSocket has reached its maximum age (limits.websocket_lifetime). Open another one to \
                   continue.";
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
    let mut output = serde_json::from_slice::<Ended>(response).map(|ended| ended.output).unwrap_or_default();
    output.retain(|item| !is_half_call(item));
    output
}
