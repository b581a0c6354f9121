//! Accepting connections, within limits, until the server stops.

use std::{sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

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

/// Serves `app` until `stop`, then lets the open requests finish.
pub async fn serve(listener: TcpListener, app: Router, limits: ConnectionLimits, stop: CancellationToken) {
    let graceful = GracefulShutdown::new();
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
        accept(stream, place, app.clone(), limits, &graceful);
    }
    drop(listener);
    if tokio::time::timeout(LAST_BYTES, graceful.shutdown()).await.is_err() {
        debug!("some connections did not finish");
    }
}

fn accept(
    stream: TcpStream,
    place: OwnedSemaphorePermit,
    app: Router,
    limits: ConnectionLimits,
    graceful: &GracefulShutdown,
) {
    // Without this a small frame waits for the acknowledgement of the one before it: 44 ms to the first event.
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "TCP_NODELAY");
    }
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app));
    let connection = graceful.watch(connection);
    tokio::spawn(async move {
        let _place = place;
        if let Err(error) = connection.await {
            debug!(%error, "connection ended");
        }
    });
}
