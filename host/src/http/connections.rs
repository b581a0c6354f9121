//! Accepting connections, within limits, until the server stops.

use std::{sync::Arc, time::Duration};

use axum::{Router, http::Request};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};
use tower::ServiceExt as _;
use tracing::{debug, warn};

use crate::metrics::{Held, Metrics};

/// How long streams that have ended may take to reach their clients after the stop.
const LAST_BYTES: Duration = Duration::from_secs(5);
/// The pause after a failed accept: mostly, the process has too many files open.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Limits of connections, from the configuration.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// The most at once; more wait in the kernel's queue.
    pub connections: usize,
    /// How long the head of a request may take.
    pub header_timeout: Duration,
}

/// A connection, for a handler that goes on with it after the answer, as a WebSocket does. While somebody holds
/// this, it counts as open: in `limits.connections`, and when the server stops.
#[derive(Debug)]
pub(super) struct Connection {
    /// Cancelled when the server stops and all runs have ended: the handler should close the connection.
    pub closing: CancellationToken,
    _open: TaskTrackerToken,
    _place: OwnedSemaphorePermit,
    _counted: Held,
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
    let places = Arc::new(Semaphore::new(limits.connections));
    loop {
        let place = tokio::select! {
            () = stop.cancelled() => break,
            // The semaphore is never closed.
            Ok(place) = places.clone().acquire_owned() => place,
        };
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let counted = metrics.http.connection();
        let connection = Connection { closing: stop.clone(), _open: open.token(), _place: place, _counted: counted };
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
    let closing = connection.closing.clone();
    let app = app.map_request(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(connection.clone());
        request
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app))
        .with_upgrades();
    tokio::spawn(async move {
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = closing.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            debug!(%error, "connection ended");
        }
    });
}
