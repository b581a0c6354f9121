//! Accepting connections, within limits, until the server stops.

use std::{
    convert::Infallible,
    future::ready,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready as poll_ready},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, HttpBody},
    http::{HeaderValue, Request, Response, StatusCode, Version, header},
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
use outlast_runtime::limits::{Count, HOUR, MOMENT, MOST_PLACES, Maybe, Time};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
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
    framing::Framing,
    message::TwoLengths,
    path,
    places::{Busy, Crowded, LAST_ANSWER, Place, Places},
    protocol::{self, Protocol},
    stream::Stream,
    tls::{Certificates, HTTP2},
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
/// The code of the refusal of a connection without TLS.
const TLS_REQUIRED: &str = "tls_required";
/// What a connection with TLS begins with: a record of a handshake.
const HANDSHAKE: u8 = 22;
/// The most that is read of a request that is refused because it came without TLS, in bytes.
const UNREAD: u64 = 64 << 10;

outlast_runtime::limits! {
    /// Limits of connections.
    pub struct ConnectionLimits {
        /// The most that are open; for more, those that are idle make room, or they wait in the kernel's queue.
        connections => connections: Count = 10_000, 1 => MOST_PLACES;
        /// The most of one address; none: any.
        connections_per_address => per_address: Maybe<Count> = None, Some(1) => Some(MOST_PLACES);
        /// How long the first byte may take.
        first_byte_timeout => first_byte_timeout: Time = Duration::from_secs(5), MOMENT => HOUR;
        /// How long a client may take nothing of what is sent.
        write_timeout => write_timeout: Time = Duration::from_secs(60), MOMENT => HOUR;
        /// How long the head of a request may take.
        header_timeout => header_timeout: Time = Duration::from_secs(30), MOMENT => HOUR;
    }
    besides {
        /// Whether who has shown no key makes room, too.
        keys: bool = false;
    }
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
        let number = self.wire.requests.begin();
        if !http2 && self.wire.requests.is_ambiguous(number) {
            request.extensions_mut().insert(TwoLengths);
        }
        request.extensions_mut().insert(self.clone());
        async move {
            let mut response = app.oneshot(request).await?;
            Ok(match response.status() {
                StatusCode::SWITCHING_PROTOCOLS => {
                    self.wire.upgraded.store(true, Ordering::Relaxed);
                    *self.upgraded.lock() = answering.upgraded();
                    response
                }
                _ => {
                    if !http2 && self.wire.requests.is_last(number) {
                        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                    }
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

/// Serves `app` until `stop`, then lets the open requests finish. With `tls`, over TLS only.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<Certificates>>,
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
                    // Over TLS it would take a handshake to say so.
                    if tls.is_none() {
                        turn_away(&stream, most);
                    }
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
        let doors = Doors { tls: tls.clone(), limits, metrics: metrics.clone() };
        accept(stream, Arc::new(connection), app.clone(), doors);
    }
    drop(listener);
    open.close();
    if tokio::time::timeout(LAST_BYTES, open.wait()).await.is_err() {
        debug!("some connections did not finish");
    }
}

/// How connections begin.
struct Doors {
    tls: Option<Arc<Certificates>>,
    limits: ConnectionLimits,
    metrics: Arc<Metrics>,
}

impl Doors {
    /// What a connection speaks, whose first byte is this; none when it is not served. The client is waited for.
    async fn open(&self, stream: TcpStream, first: u8) -> Option<(Stream, Protocol)> {
        let limit = self.limits.header_timeout;
        let Some(tls) = &self.tls else {
            let protocol = Protocol::of(&stream, limit).await;
            return Some((Stream::Plain(stream), protocol));
        };
        if first != HANDSHAKE {
            self.metrics.http.refused(Over::Http, TLS_REQUIRED);
            refuse_plain(stream).await;
            return None;
        }
        match timeout(limit, tls.acceptor().accept(stream)).await {
            Ok(Ok(stream)) => {
                let http2 = stream.get_ref().1.alpn_protocol() == Some(HTTP2);
                let protocol = if http2 { Protocol::Http2 } else { Protocol::Http1 };
                return Some((Stream::Tls(Box::new(stream)), protocol));
            }
            Ok(Err(error)) => debug!(%error, "a TLS handshake failed"),
            Err(_) => debug!("a TLS handshake took too long (limits.header_timeout)"),
        }
        self.metrics.http.handshake_failed();
        None
    }
}

fn accept(stream: TcpStream, connection: Arc<Connection>, app: Router, doors: Doors) {
    // Without this a small frame waits for the acknowledgement of the one before it: 44 ms to the first event.
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "TCP_NODELAY");
    }
    tokio::spawn(async move {
        let (closing, place, wire) = (connection.closing.clone(), connection.place.clone(), connection.wire.clone());
        let limits = doors.limits;
        let begin = async {
            let mut first = [0];
            // Not `readable`, which may be true without a byte.
            let Ok(Ok(1..)) = timeout(limits.first_byte_timeout, stream.peek(&mut first)).await else { return None };
            // Boxed: a handshake is larger than the connection after it.
            Box::pin(doors.open(stream, first[0])).await
        };
        let begun = tokio::select! {
            begun = begin => begun,
            () = place.evicted.cancelled() => return,
            () = closing.cancelled() => return,
        };
        let Some((stream, protocol)) = begun else { return };
        let framing = (protocol == Protocol::Http1).then(Framing::default);
        let transport = Transport::new(stream, framing, connection.wire.clone(), limits.write_timeout);
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
                debug!("a client did not read its stream (limits.write_timeout)");
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
        "Your address has {most} open connections, which is the limit (limits.connections_per_address). Reuse one of \
         them, or close one."
    );
    let error = ApiError::new(ErrorKind::RateLimited, CROWDED, message);
    if let Err(error) = stream.try_write(last_answer("429 Too Many Requests\r\nretry-after: 1", &error).as_bytes()) {
        debug!(%error, "a connection was refused");
    }
}

/// Tells a client that speaks HTTP where TLS is wanted, if it takes the answer soon.
async fn refuse_plain(mut stream: TcpStream) {
    let message = "This server is reached over TLS. Use a URL that begins with https://.";
    let error = ApiError::new(ErrorKind::InvalidRequest, TLS_REQUIRED, message);
    let answered = async {
        stream.write_all(last_answer("400 Bad Request", &error).as_bytes()).await?;
        stream.shutdown().await?;
        // What was sent and is not read takes the answer away from the client.
        let mut rest = stream.take(UNREAD);
        let mut piece = [0; 1_024];
        while rest.read(&mut piece).await? > 0 {}
        Ok::<_, std::io::Error>(())
    };
    if !matches!(timeout(LAST_ANSWER, answered).await, Ok(Ok(()))) {
        debug!("a client without TLS did not wait for its answer");
    }
}

/// An answer of a connection that is closed after it, and was not begun: with this status, and the headers behind it.
fn last_answer(status: &str, error: &ApiError) -> String {
    let body = serde_json::to_string(&error.envelope()).unwrap_or_default();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nx-content-type-options: nosniff\r\nx-request-id: {}\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n{body}",
        Uuid::new_v4(),
        body.len()
    )
}
