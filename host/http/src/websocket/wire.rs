//! Messages: what comes over a socket, and what goes.

use std::{sync::Arc, time::Duration};

use axum::extract::ws::{CloseCode, Message, Utf8Bytes, WebSocket, close_code};
use bytes::Bytes;
use futures::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use outlast_metrics::{Metrics, Transport};
use outlast_protocol::{ApiError, ErrorKind, error_message, payloads};

use super::super::{bodies::Room, connections::Connection};

/// The sending half of a socket.
pub(super) struct Sender {
    pub sink: SplitSink<WebSocket, Message>,
    pub metrics: Arc<Metrics>,
}

/// The receiving half of a socket.
pub(super) struct Receiver {
    pub stream: SplitStream<WebSocket>,
    pub connection: Arc<Connection>,
    /// How long a message may take from its first byte to its last: `limits.body_timeout`.
    pub message_timeout: Duration,
    /// What the message takes that comes, or that came last.
    pub room: Room,
}

/// The client is gone.
pub(super) struct Disconnected;

/// Why a socket is closed.
pub(super) struct Close(pub CloseCode, pub &'static str);

/// What came over a socket.
pub(super) enum Received {
    /// A message to act on.
    Text(Utf8Bytes),
    /// A message of another kind; the socket is in order.
    Refused(ApiError),
    /// No message; nothing more can be read.
    Broken(ApiError, Close),
}

/// The next message that means something.
pub(super) async fn receive(receiver: &mut Receiver) -> Result<Received, Disconnected> {
    loop {
        let (wire, room) = (&receiver.connection.wire, &mut receiver.room);
        if wire.unfinished() == 0 {
            room.release();
        }
        let message = tokio::select! {
            biased;
            message = receiver.stream.next() => message,
            refused = wire.message_overdue(receiver.message_timeout, |bytes| room.grow(bytes)) => {
                return Ok(refused.map_or_else(no_room, |()| overdue()));
            }
        };
        match &message {
            Some(Ok(Message::Ping(payload) | Message::Pong(payload))) => wire.control_came(payload.len()),
            _ => wire.message_came(),
        }
        return match message {
            Some(Ok(Message::Text(text))) => {
                Ok(room.grow(text.len()).map_or_else(Received::Refused, |()| Received::Text(text)))
            }
            Some(Ok(Message::Binary(_))) => {
                let message = "Messages are JSON in text frames; this one was binary.";
                Ok(Received::Refused(ApiError::new(ErrorKind::InvalidRequest, "invalid_message", message)))
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
            Some(Ok(Message::Close(_))) | None => Err(Disconnected),
            Some(Err(error)) => broken(error),
        };
    }
}

/// There is no room for the rest of a message.
fn no_room(error: ApiError) -> Received {
    Received::Broken(error, Close(close_code::AGAIN, "there is no memory for the message now"))
}

/// A message was begun, and does not come to its end.
fn overdue() -> Received {
    let message = "The message took too long to arrive (limits.body_timeout).";
    let error = ApiError::new(ErrorKind::RequestTimeout, "request_timeout", message);
    Received::Broken(error, Close(close_code::POLICY, "the message took too long"))
}

/// What a socket's error means for the client.
fn broken(error: axum::Error) -> Result<Received, Disconnected> {
    use tungstenite::Error;
    let Ok(error) = error.into_inner().downcast::<Error>() else { return Err(Disconnected) };
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
            let error =
                ApiError::new(ErrorKind::InvalidRequest, "invalid_message", "This is not a valid WebSocket message.");
            Ok(Received::Broken(error, Close(close_code::PROTOCOL, "not a valid WebSocket message")))
        }
        _ => Err(Disconnected),
    }
}

/// How the event `error` begins.
const ERROR: &[u8] = b"{\"type\":\"error\",";

/// Sends each event in `frames` as a message. The event `error` is left out: here, a message of this type is the whole answer
/// to a turn, and whoever stops reading at it would take `response.failed` for an event of the next turn.
pub(super) async fn feed(sender: &mut Sender, frames: &Bytes) -> Result<(), Disconnected> {
    for json in payloads(frames).filter(|json| !json.starts_with(ERROR)) {
        // Events are made of strings.
        let Ok(text) = Utf8Bytes::try_from(json) else { continue };
        sender.sink.feed(Message::Text(text)).await.map_err(|_| Disconnected)?;
    }
    sender.sink.flush().await.map_err(|_| Disconnected)
}

pub(super) async fn send_error(sender: &mut Sender, error: &ApiError) -> Result<(), Disconnected> {
    sender.metrics.http.refused(Transport::WebSocket, error.code);
    send(sender, Message::Text(error_message(error).into())).await
}

pub(super) async fn send(sender: &mut Sender, message: Message) -> Result<(), Disconnected> {
    sender.sink.send(message).await.map_err(|_| Disconnected)
}
