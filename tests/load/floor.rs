//! The floor: what HTTP alone costs.
//!
//! A bare axum handler that streams ready frames from memory, without component and without database, in a process
//! of its own like the server. Once with a write for each frame, as a server does that passes on what comes; once
//! with all frames in one write, as a server may when they are all there.

use std::{convert::Infallible, path::Path, sync::Arc};

use axum::{
    Router, body::Body, extract::State, http::header, response::IntoResponse, routing::post, serve::ListenerExt as _,
};
use bytes::Bytes;
use futures::stream;
use memchr::memmem;
use tokio::{net::TcpListener, runtime};

/// What this program is told to be the floor.
pub const ARGUMENT: &str = "--floor";
/// Where each frame is a write.
pub const A_WRITE_EACH: &str = "/each";
/// Where all frames are one write.
pub const ONE_WRITE: &str = "/once";

/// Serves the frames in a file until it is killed.
pub fn serve(frames: &Path) {
    let all = Bytes::from(std::fs::read(frames).unwrap());
    let mut start = 0;
    let each: Vec<Bytes> = memmem::find_iter(&all, b"\n\n")
        .map(|end| {
            let frame = all.slice(start..end + 2);
            start = end + 2;
            frame
        })
        .collect();
    let app = Router::new()
        .route(A_WRITE_EACH, post(a_write_each))
        .with_state(Arc::<[Bytes]>::from(each))
        .merge(Router::new().route(ONE_WRITE, post(one_write)).with_state(all));
    runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("{}", listener.local_addr().unwrap());
        let listener = listener.tap_io(|connection| connection.set_nodelay(true).unwrap());
        axum::serve(listener, app).await.unwrap();
    });
}

/// Gives way after each frame, so that it goes out before the next is there.
async fn a_write_each(State(frames): State<Arc<[Bytes]>>, _request: Bytes) -> impl IntoResponse {
    let frames = stream::unfold(0, move |next| {
        let frame = frames.get(next).cloned();
        async move {
            if next > 0 {
                tokio::task::yield_now().await;
            }
            Some((Ok::<_, Infallible>(frame?), next + 1))
        }
    });
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(frames))
}

async fn one_write(State(frames): State<Bytes>, _request: Bytes) -> impl IntoResponse {
    let frames = stream::iter([Ok::<_, Infallible>(frames)]);
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(frames))
}
