//! Requests as messages: what HTTP asks of every one of them.
//!
//! - A header that says who is meant or who asks is there once. With two, whoever stands in front of the server may look
//!   at the other one.
//! - A body has one length: a request with `Transfer-Encoding` and `Content-Length` is refused, and nothing follows it on its
//!   connection.
//! - A body that nobody read stands before the next request. A short one is read and thrown away; before a longer one
//!   the connection is closed, and the answer says so, so that no client sends its next request into it.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, HttpBody},
    extract::Request,
    http::{HeaderValue, Version, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use outlast_protocol::{ApiError, ErrorKind};
use parking_lot::Mutex;

use super::error::Failure;

/// The most bytes of an unread body that are read to keep its connection.
const RECLAIMED: u64 = 64 * 1_024;
/// How long they are waited for. Mostly they came with the head.
const RECLAIMING: Duration = Duration::from_millis(50);

/// Marks a request whose head says twice how long its body is.
#[derive(Clone, Copy, Debug)]
pub(super) struct TwoLengths;

/// Refuses a request with two headers of which there is to be one.
pub(super) async fn unrepeated(request: Request, next: Next) -> Response {
    if request.extensions().get::<TwoLengths>().is_some() {
        let message = "The request has both `Content-Length` and `Transfer-Encoding`. Send one of them.";
        let error = ApiError::new(ErrorKind::InvalidRequest, "ambiguous_length", message);
        return Failure(error).into_response();
    }
    for (name, shown) in [(header::HOST, "Host"), (header::AUTHORIZATION, "Authorization")] {
        if request.headers().get_all(name).iter().nth(1).is_some() {
            let message = format!("The request has several `{shown}` headers. Send one.");
            let error = ApiError::new(ErrorKind::InvalidRequest, "repeated_header", message);
            return Failure(error).into_response();
        }
    }
    next.run(request).await
}

/// Says that the connection is closed where a body is in the way of the next request.
pub(super) async fn closing(request: Request, next: Next) -> Response {
    // In HTTP/2 a body is in nobody's way.
    if request.body().is_end_stream() || request.version() == Version::HTTP_2 {
        return next.run(request).await;
    }
    // Whoever waits for `100 Continue` has not sent the body, and is not to be asked for it.
    let expects = request.headers().contains_key(header::EXPECT);
    let unread = Arc::new(Mutex::new(None));
    let request = request.map(|body| Body::new(Watched { body, begun: false, ended: false, unread: unread.clone() }));
    let mut response = next.run(request).await;
    let left = unread.lock().take();
    if let Some(Unread { body, begun }) = left
        && ((expects && !begun) || !reclaimed(body).await)
    {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Reads a short body to its end. False when it is not short, or does not come.
async fn reclaimed(mut body: Body) -> bool {
    if body.size_hint().lower() > RECLAIMED {
        return false;
    }
    let read = async {
        let mut seen = 0;
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return false };
            seen += frame.data_ref().map_or(0, |data| data.len() as u64);
            if seen > RECLAIMED {
                return false;
            }
        }
        true
    };
    tokio::time::timeout(RECLAIMING, read).await.unwrap_or(false)
}

/// What was left of a body when its handler dropped it.
struct Unread {
    body: Body,
    /// Whether some of it was asked for.
    begun: bool,
}

/// A body that leaves behind what was not read of it.
struct Watched {
    body: Body,
    begun: bool,
    ended: bool,
    unread: Arc<Mutex<Option<Unread>>>,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.begun = true;
        let polled = Pin::new(&mut self.body).poll_frame(context);
        // After an error nothing can be read any more, and hyper closes the connection.
        self.ended |= matches!(polled, Poll::Ready(None | Some(Err(_))));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if !self.ended && !self.body.is_end_stream() {
            let body = std::mem::take(&mut self.body);
            *self.unread.lock() = Some(Unread { body, begun: self.begun });
        }
    }
}
