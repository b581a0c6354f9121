//! A subscription as a stream of server-sent events.
//!
//! Every chunk is whole frames, and all that are ready go out in one write. `data: [DONE]` follows the terminal
//! event; a run that goes on after the next start of the server has neither, and its stream is cut. While the agent is
//! silent, a comment line shows that the connection lives, and finds out when it does not. When the client goes, the
//! body is dropped, and the subscription with it.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::Body,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use outlast_metrics::{Subscriber, Transport};
use outlast_run::{Broken, Subscription};
use tokio::time::{Interval, MissedTickBehavior};

use super::Api;

const DONE: Bytes = Bytes::from_static(b"data: [DONE]\n\n");
const COMMENT: Bytes = Bytes::from_static(b": keep-alive\n\n");

/// The answer that streams a subscription, after a `first` frame if there is one.
pub(super) fn answer(api: &Api, first: Option<Bytes>, subscription: Subscription) -> Response {
    let headers = [
        (header::CONTENT_TYPE.as_str(), "text/event-stream"),
        (header::CACHE_CONTROL.as_str(), "no-cache"),
        // Tells nginx not to collect the stream before it passes it on.
        ("x-accel-buffering", "no"),
    ];
    let subscriber = api.metrics.http.subscriber(Transport::Http);
    let body = Body::from_stream(KeepAlive::new(
        Box::pin(stream::iter(first.map(Ok)).chain(frames(subscription, subscriber))),
        api.limits.keep_alive,
    ));
    (StatusCode::OK, headers, body).into_response()
}

fn frames(subscription: Subscription, subscriber: Subscriber) -> impl Stream<Item = Result<Bytes, Broken>> {
    stream::try_unfold(Some((subscription, subscriber)), async |reader| {
        let Some((mut subscription, subscriber)) = reader else { return Ok(None) };
        Ok(Some(match subscription.next().await? {
            Some(frames) => (frames, Some((subscription, subscriber))),
            None => {
                subscriber.finish();
                (DONE, None)
            }
        }))
    })
}

/// Fills silences with comment lines.
struct KeepAlive<S> {
    stream: Pin<Box<S>>,
    silence: Interval,
}

impl<S> KeepAlive<S> {
    fn new(stream: Pin<Box<S>>, period: Duration) -> Self {
        let mut silence = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
        silence.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { stream, silence }
    }
}

impl<S: Stream<Item = Result<Bytes, Broken>>> Stream for KeepAlive<S> {
    type Item = Result<Bytes, Broken>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.stream.as_mut().poll_next(context) {
            Poll::Ready(item) => {
                self.silence.reset();
                Poll::Ready(item)
            }
            Poll::Pending => self.silence.poll_tick(context).map(|_| Some(Ok(COMMENT))),
        }
    }
}
