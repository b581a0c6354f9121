//! The WebSocket form of `/v1/responses`.
//!
//! Events are read as strictly as those of a stream, and errors are checked against the schema of WebSocketErrorEvent.

use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{
        self, Message,
        client::IntoClientRequest as _,
        protocol::{CloseFrame, WebSocketConfig},
    },
};

use super::{
    events::{Event, Frame, Parser},
    schema, wait,
};

/// A WebSocket to `/v1/responses`.
#[derive(Debug)]
pub struct Socket {
    inner: WebSocketStream<TcpStream>,
    /// How many pings have come.
    pub pings: usize,
    /// Whether events are not compared with their schemas, where there are very many.
    pub unchecked: bool,
}

impl Socket {
    /// Opens a socket to a server at `127.0.0.1:PORT`.
    pub async fn open(address: &str) -> Self {
        Self::try_open(address, &[], false).await.unwrap()
    }

    /// The same, with a key.
    pub async fn open_with_key(address: &str, key: &str) -> Self {
        Self::try_open(address, &[("authorization", &format!("Bearer {key}"))], false).await.unwrap()
    }

    /// The same, with as small a buffer as the system allows.
    pub async fn open_narrow(address: &str) -> Self {
        Self::try_open(address, &[], true).await.unwrap()
    }

    /// Opens a socket, or tells the HTTP status and the body of the answer.
    pub async fn try_open(address: &str, headers: &[(&'static str, &str)], narrow: bool) -> Result<Self, (u16, Value)> {
        let socket = TcpSocket::new_v4().unwrap();
        if narrow {
            socket.set_recv_buffer_size(4_096).unwrap();
        }
        let stream = socket.connect(address.parse().unwrap()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut request = format!("ws://{address}/v1/responses").into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
        let opening = client_async_with_config(request, stream, Some(config));
        match wait::within(wait::PATIENCE, "a WebSocket", opening).await {
            Ok((inner, answer)) => {
                assert_eq!(answer.status(), 101);
                assert!(answer.headers().contains_key("x-request-id"));
                Ok(Self { inner, pings: 0, unchecked: false })
            }
            Err(tungstenite::Error::Http(answer)) => {
                let body = answer.body().as_deref().unwrap_or_default();
                Err((answer.status().as_u16(), serde_json::from_slice(body).unwrap_or_default()))
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Sends `response.create`.
    pub async fn create(&mut self, mut request: Value) {
        request["type"] = json!("response.create");
        self.send(Message::text(request.to_string())).await;
    }

    /// Sends any message.
    pub async fn send(&mut self, message: Message) {
        self.inner.send(message).await.unwrap();
    }

    /// The next text message; none when the socket is closed.
    pub async fn text(&mut self) -> Option<String> {
        wait::within(wait::PATIENCE, "a message", async {
            loop {
                match self.inner.next().await {
                    Some(Ok(Message::Text(text))) => return Some(text.as_str().to_owned()),
                    Some(Ok(Message::Ping(_))) => self.pings += 1,
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                    Some(Ok(other)) => panic!("not a text message: {other:?}"),
                }
            }
        })
        .await
    }

    /// The next message, which must be an error with this status and this code. Gives its `param`.
    #[track_caller]
    pub fn refused(&mut self, status: u16, code: &str) -> impl Future<Output = Option<String>> {
        let code = code.to_owned();
        async move {
            let text = self.text().await.expect("an error message");
            let error: Value = serde_json::from_str(&text).unwrap();
            schema::check("WebSocketErrorEvent", &error);
            assert_eq!(
                (error["status"].as_u64(), error["error"]["code"].as_str()),
                (Some(status.into()), Some(&*code))
            );
            assert!(error["error"]["type"].is_string(), "{error}");
            error["error"]["param"].as_str().map(str::to_owned)
        }
    }

    /// Reads events, from number `first` on, up to the first for which `last` holds.
    pub async fn until(&mut self, first: u64, last: impl Fn(&Event) -> bool) -> Vec<Event> {
        let mut parser = Parser::expecting(first);
        parser.unchecked = self.unchecked;
        let mut events = Vec::new();
        loop {
            let text = self.text().await.expect("an event");
            let data: Value = serde_json::from_str(&text).unwrap();
            let kind = data["type"].as_str().unwrap().to_owned();
            // The event `error` is for streams alone.
            if data["response"]["status"] == "failed" {
                parser.skip();
            }
            parser.push(format!("event: {kind}\ndata: {text}\n\n").as_bytes());
            let Some(Frame::Event(event)) = parser.next() else { panic!("not an event: {text}") };
            let found = last(&event);
            events.push(event);
            if found {
                return events;
            }
        }
    }

    /// Reads all events of a response that begins now.
    pub async fn events(&mut self) -> Vec<Event> {
        self.until(0, Event::terminal).await
    }

    /// Does a whole turn.
    pub async fn turn(&mut self, request: Value) -> Vec<Event> {
        self.create(request).await;
        self.events().await
    }

    /// Waits for the close, and gives its code.
    pub async fn closed(&mut self) -> Option<u16> {
        wait::within(wait::PATIENCE, "the close", async {
            loop {
                match self.inner.next().await {
                    Some(Ok(Message::Close(Some(CloseFrame { code, .. })))) => return Some(code.into()),
                    Some(Ok(Message::Close(None)) | Err(_)) | None => return None,
                    Some(Ok(_)) => {}
                }
            }
        })
        .await
    }

    /// Waits until a ping has come, at most for `limit`.
    pub async fn ping(&mut self, limit: Duration) {
        wait::within(limit, "a ping", async {
            loop {
                if let Message::Ping(_) = self.inner.next().await.unwrap().unwrap() {
                    return;
                }
            }
        })
        .await;
    }

    /// Goes away in order: the server answers the close.
    pub async fn close(mut self) {
        self.inner.close(None).await.unwrap();
        wait::within(wait::PATIENCE, "the answer to a close", async {
            while let Some(message) = self.inner.next().await {
                message.unwrap();
            }
        })
        .await;
    }
}
