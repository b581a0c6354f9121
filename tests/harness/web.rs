//! A web server that agents send requests to: it remembers them, and answers as their paths say.
//!
//! | path | answer |
//! |---|---|
//! | `/stall…` | nothing until [`Web::release`], then `released` |
//! | `/echo` | the headers of the request as JSON, and its `authorization` as the header `x-echo` |
//! | `/redirect/307?to=URL` | a redirect |
//! | `/bytes/N` | so many bytes |
//! | `/chunks/N` | the same, without `content-length` |
//! | `/headers/N` | so many headers |
//! | `/status/N` | this status |
//! | `/say/TEXT` | the text |
//! | any other | `hello` |

use std::{collections::HashMap, convert::Infallible, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{Query, Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::stream;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::watch,
};

/// A web server on a port of its own.
#[derive(Clone, Debug)]
pub struct Web {
    address: String,
    seen: Arc<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    requests: Mutex<Vec<Recorded>>,
    released: watch::Sender<bool>,
}

/// A request that came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Its method.
    pub method: String,
    /// Its path and query.
    pub path: String,
    /// Its headers, by their names in lower case.
    pub headers: HashMap<String, String>,
    /// Its body.
    pub body: String,
}

impl Web {
    /// A server on `127.0.0.1`.
    pub async fn start() -> Self {
        Self::start_at("127.0.0.1").await
    }

    /// A server at this address.
    pub async fn start_at(host: &str) -> Self {
        let seen = Arc::<Seen>::default();
        let app = Router::new().fallback(answer).with_state(seen.clone());
        let listener = TcpListener::bind((host, 0)).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, seen }
    }

    /// Host and port.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The port.
    pub fn port(&self) -> &str {
        self.address.rsplit_once(':').unwrap().1
    }

    /// A URL.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Lets what stalls go on.
    pub fn release(&self) {
        self.seen.released.send_replace(true);
    }

    /// What came in so far.
    pub fn requests(&self) -> Vec<Recorded> {
        self.seen.requests.lock().clone()
    }

    /// How many requests for this path came in so far.
    pub fn count(&self, path: &str) -> usize {
        self.seen.requests.lock().iter().filter(|request| request.path == path).count()
    }
}

async fn answer(State(seen): State<Arc<Seen>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
    let headers: HashMap<_, _> = head
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    seen.requests.lock().push(Recorded {
        method: head.method.to_string(),
        path: head.uri.path_and_query().unwrap().to_string(),
        headers: headers.clone(),
        body: String::from_utf8_lossy(&body).into_owned(),
    });
    let (kind, argument) = head.uri.path()[1..].split_once('/').unwrap_or((&head.uri.path()[1..], ""));
    match kind {
        _ if kind.starts_with("stall") => {
            let mut released = seen.released.subscribe();
            released.wait_for(|released| *released).await.unwrap();
            "released".into_response()
        }
        "echo" => {
            let echo = headers.get("authorization").cloned().unwrap_or_default();
            ([("x-echo", echo)], json!(headers).to_string()).into_response()
        }
        "redirect" => {
            let Query(query) = Query::<HashMap<String, String>>::try_from_uri(&head.uri).unwrap();
            let status: StatusCode = argument.parse().unwrap();
            (status, [(header::LOCATION, query["to"].clone())]).into_response()
        }
        "bytes" => "x".repeat(argument.parse().unwrap()).into_response(),
        "chunks" => {
            let pieces = argument.parse::<usize>().unwrap().div_ceil(1_024);
            let piece = || Ok::<_, Infallible>(Bytes::from_static(&[b'x'; 1_024]));
            Body::from_stream(stream::iter((0..pieces).map(move |_| piece()))).into_response()
        }
        "headers" => {
            let mut response = "many".into_response();
            for number in 0..argument.parse::<usize>().unwrap() {
                let name = HeaderName::try_from(format!("x-{number}")).unwrap();
                response.headers_mut().append(name, HeaderValue::from_static("y"));
            }
            response
        }
        "encoded" => ([(header::CONTENT_ENCODING, "gzip")], "not really").into_response(),
        "say" => argument.to_owned().into_response(),
        "status" => argument.parse::<StatusCode>().unwrap().into_response(),
        _ => "hello".into_response(),
    }
}

/// A server that answers with one header of a gigabyte. Gives its address, and how much of it was taken.
pub async fn endless_header() -> (String, Arc<Mutex<usize>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let taken = Arc::new(Mutex::new(0));
    let written = taken.clone();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let _ = socket.read(&mut [0; 1_024]).await;
        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nx-large: ").await;
        let piece = [b'x'; 65_536];
        while *written.lock() < 1 << 30 && socket.write_all(&piece).await.is_ok() {
            *written.lock() += piece.len();
        }
    });
    (address, taken)
}

/// A request for a component: `GET` this URL.
pub fn get(url: impl AsRef<str>) -> Value {
    json!({"url": url.as_ref()})
}

/// A request for a component: `POST` a body to this URL.
pub fn post(url: impl AsRef<str>) -> Value {
    json!({"method": "POST", "url": url.as_ref(), "body": "order"})
}
