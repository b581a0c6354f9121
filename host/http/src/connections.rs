//! Accepting connections, within limits, until the server stops.

use std::{
    convert::Infallible,
    future::ready,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready as poll_ready},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, HttpBody},
    http::{Request, Response, StatusCode, Version},
};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use outlast_metrics::{Held, Metrics, Transport as Over};
use outlast_protocol::{ApiError, ErrorKind};
use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};
use tower::ServiceExt as _;
use tracing::{debug, warn};
use uuid::Uuid;

use super::{
    path,
    places::{Busy, Crowded, LAST_ANSWER, Place, Places},
    protocol::{self, Protocol},
    transport::{Flow, Patience, Transport, Wire},
};

/// How long streams that have ended may take to reach their clients after the stop.
const LAST_BYTES: Duration = Duration::from_secs(5);
/// The pause after a failed accept: mostly, the process has too many files open.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The most of an answer that is handed over at once in HTTP/2, in bytes: whoever takes that within `limits.write_timeout`
/// takes something.
const PIECE: usize = 64 * 1_024;

/// The code of the refusal of one more connection.
const CROWDED: &str = "too_many_connections";

/// Limits of connections, from the configuration.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// The most at once; for more, those that are idle make room, or they wait in the kernel's queue.
    pub connections: usize,
    /// The most of one address; none: any.
    pub per_address: Option<usize>,
    /// Whether who has shown no key makes room, too.
    pub keys: bool,
    /// How long the first byte may take.
    pub first_byte_timeout: Duration,
    /// How long a client may take nothing of what is sent.
    pub write_timeout: Duration,
    /// How long the head of a request may take.
    pub header_timeout: Duration,
}

/// A connection, for a handler that goes on with it after the answer, as a WebSocket does. While somebody holds
/// this, it counts as open: in `limits.connections`, and when the server stops.
#[derive(Debug)]
pub(super) struct Connection {
    /// Cancelled when the server stops and all runs have ended: the handler should close the connection.
    pub closing: CancellationToken,
    /// What its transport sees, and is told.
    pub wire: Arc<Wire>,
    place: Arc<Place>,
    /// Kept by a connection that is one of WebSockets now: it is never idle.
    upgraded: Mutex<Option<Busy>>,
    _open: TaskTrackerToken,
    _counted: Held,
}

impl Connection {
    /// Where it comes from.
    pub fn address(&self) -> IpAddr {
        self.place.address()
    }

    /// It has shown a key.
    pub fn show_key(&self) {
        self.place.show_key();
    }

    /// Answers a request. It is one from the call on, not only when the future is polled: hyper may read on before.
    fn answer(
        self: Arc<Self>,
        app: Router,
        mut request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<Body>, Infallible>> {
        let answering = Answering { busy: Some(self.place.begin()), wire: self.wire.clone() };
        self.wire.wait(Patience::Short);
        if let Some(target) = path::meant(request.uri()) {
            *request.uri_mut() = target;
        }
        let http2 = request.version() == Version::HTTP_2;
        request.extensions_mut().insert(self.clone());
        async move {
            let response = app.oneshot(request).await?;
            Ok(match response.status() {
                StatusCode::SWITCHING_PROTOCOLS => {
                    *self.upgraded.lock() = answering.upgraded();
                    response
                }
                _ => {
                    // In HTTP/1 the transport sees who takes nothing.
                    let flow = http2.then(|| self.wire.flow());
                    let answered = |body| Answered { body, rest: Bytes::new(), flow, _answering: answering };
                    response.map(|body| Body::new(answered(body)))
                }
            })
        }
    }
}

/// A request from its head to the last byte of its answer.
struct Answering {
    busy: Option<Busy>,
    wire: Arc<Wire>,
}

impl Answering {
    /// It does not end with the answer.
    fn upgraded(mut self) -> Option<Busy> {
        self.busy.take()
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.wire.wait(Patience::None);
    }
}

/// The body of an answer.
struct Answered {
    body: Body,
    /// What is left of a piece.
    rest: Bytes,
    /// In HTTP/2.
    flow: Option<Flow>,
    _answering: Answering,
}

impl HttpBody for Answered {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(flow) = &self.flow else { return Pin::new(&mut self.body).poll_frame(context) };
        flow.wanted();
        if self.rest.is_empty() {
            match poll_ready!(Pin::new(&mut self.body).poll_frame(context)).transpose()?.map(Frame::into_data) {
                Some(Ok(data)) => self.rest = data,
                Some(Err(trailers)) => return Poll::Ready(Some(Ok(trailers))),
                None => return Poll::Ready(None),
            }
        }
        let length = self.rest.len().min(PIECE);
        let piece = self.rest.split_to(length);
        if let Some(flow) = &self.flow {
            flow.handed_over();
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Serves `app` until `stop`, then lets the open requests finish.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    limits: ConnectionLimits,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let open = TaskTracker::new();
    let places = Places::new(limits.connections, limits.per_address, limits.keys);
    loop {
        let (stream, peer) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let place = tokio::select! {
            () = stop.cancelled() => break,
            taken = places.take(peer.ip()) => match taken {
                Ok(place) => place,
                Err(Crowded { most }) => {
                    metrics.http.refused(Over::Http, CROWDED);
                    turn_away(&stream, most);
                    continue;
                }
            },
        };
        let connection = Connection {
            closing: stop.clone(),
            wire: Arc::default(),
            place,
            upgraded: Mutex::default(),
            _open: open.token(),
            _counted: metrics.http.connection(),
        };
        accept(stream, Arc::new(connection), app.clone(), limits);
    }
    drop(listener);
    open.close();
    if tokio::time::timeout(LAST_BYTES, open.wait()).await.is_err() {
        debug!("some connections did not finish");
    }
}

fn accept(stream: TcpStream, connection: Arc<Connection>, app: Router, limits: ConnectionLimits) {
    // Without this a small frame waits for the acknowledgement of the one before it: 44 ms to the first event.
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "TCP_NODELAY");
    }
    tokio::spawn(async move {
        let (closing, place, wire) = (connection.closing.clone(), connection.place.clone(), connection.wire.clone());
        let mut first = [0];
        tokio::select! {
            // Not `readable`, which may be true without a byte.
            came = timeout(limits.first_byte_timeout, stream.peek(&mut first)) => if !matches!(came, Ok(Ok(1..))) {
                return;
            },
            () = place.evicted.cancelled() => return,
            () = closing.cancelled() => return,
        }
        let protocol = Protocol::of(&stream, limits.header_timeout).await;
        let transport = Transport::new(stream, connection.wire.clone(), limits.write_timeout);
        let service = service_fn(move |request| connection.clone().answer(app.clone(), request));
        let serving = Serving { closing, place, wire, write_timeout: limits.write_timeout };
        match protocol {
            Protocol::Http1 => {
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(limits.header_timeout)
                    .serve_connection(TokioIo::new(transport), service)
                    .with_upgrades();
                serving.run(connection, http1::UpgradeableConnection::graceful_shutdown).await;
            }
            Protocol::Http2 => {
                let connection =
                    protocol::http2(limits.write_timeout).serve_connection(TokioIo::new(transport), service);
                serving.run(connection, http2::Connection::graceful_shutdown).await;
            }
        }
    });
}

/// A connection that is being served.
struct Serving {
    closing: CancellationToken,
    place: Arc<Place>,
    wire: Arc<Wire>,
    write_timeout: Duration,
}

impl Serving {
    /// Serves the connection to its end. `shut_down` lets it answer what it has, and take nothing more.
    async fn run<C: Future<Output = hyper::Result<()>>>(self, connection: C, shut_down: impl Fn(Pin<&mut C>)) {
        let Self { closing, place, wire, write_timeout } = self;
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = wire.stuck(write_timeout) => {
                debug!("a client took nothing of a stream (limits.write_timeout)");
                return;
            }
            () = closing.cancelled() => {
                shut_down(connection.as_mut());
                connection.await
            }
            () = place.evicted.cancelled() => {
                shut_down(connection.as_mut());
                loop {
                    tokio::select! {
                        biased;
                        ended = connection.as_mut() => break ended,
                        // There is nothing left that it waits for but the rest of a request.
                        () = ready(()), if !place.is_answering() && !wire.is_stalled() => break Ok(()),
                        // A request that came at the last moment is answered.
                        () = sleep(LAST_ANSWER) => if !place.is_busy() {
                            break Ok(());
                        },
                    }
                }
            }
        };
        if let Err(error) = ended {
            debug!(%error, "connection ended");
        }
    }
}

/// Tells a client that has its share, as far as it listens: nothing is waited for.
fn turn_away(stream: &TcpStream, most: usize) {
    let message = format!(
        "There are {most} connections from your address already (limits.connections_per_address). Use one of them again, or \
         close one."
    );
    let body = serde_json::to_string(&ApiError::new(ErrorKind::RateLimited, CROWDED, message).envelope());
    let body = body.unwrap_or_default();
    let answer = format!(
        "HTTP/1.1 429 Too Many Requests\r\ncontent-type: application/json\r\nx-content-type-options: nosniff\r\n\
         retry-after: 1\r\nx-request-id: {}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        Uuid::new_v4(),
        body.len()
    );
    if let Err(error) = stream.try_write(answer.as_bytes()) {
        debug!(%error, "a connection was turned away");
    }
}
