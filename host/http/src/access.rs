//! What a request may do that has shown a key, and for how long.
//!
//! A key can cease to be one while something of it goes on. What goes on for it ends then: an answer that is waited for is
//! 401, a stream of events is cut without its last event, and a WebSocket is closed with code 1008. A run that is kept is
//! its principal's and not the key's, and goes on.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use arc_swap::ArcSwap;
use axum::{
    body::{Body, HttpBody},
    http::header,
    response::Response,
};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use outlast_plugin::{ModelGrant, Registry};
use outlast_protocol::{ApiError, CreateRequest};
use outlast_run::Refusal;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::auth::not_valid;

/// What the requests of a key may do.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// As it is now.
    pub(super) rights: Arc<ArcSwap<Rights>>,
    /// Cancelled when the key ceases to be one.
    pub(super) revoked: CancellationToken,
}

/// What they may ask for.
#[derive(Debug, Default)]
pub struct Rights {
    /// The agents; none: all.
    pub(super) agents: Option<Vec<String>>,
    /// The upstream models; none: all.
    pub(super) models: Option<ModelGrant>,
}

impl Access {
    /// Whether the agent of this name is there.
    pub(super) fn sees(&self, agent: &str) -> bool {
        self.rights.load().agents.as_ref().is_none_or(|agents| agents.iter().any(|known| known == agent))
    }

    /// Whether a request may be made.
    ///
    /// # Errors
    ///
    /// The key is not for its agent, or not for its upstream model: to this key neither is there.
    pub(super) fn check(&self, request: &CreateRequest, agents: &Registry) -> Result<(), ApiError> {
        let unknown = || Err(Refusal::UnknownModel(request.model.clone()).into());
        if !self.sees(request.agent()) {
            return unknown();
        }
        match agents.get(request.agent()) {
            Some(agent) if agent.uses_models && !self.allows(request.upstream(), agents) => unknown(),
            _ => Ok(()),
        }
    }

    /// Whether the upstream model may be called that a request asks for, or that is called where it asks for none.
    pub(super) fn allows(&self, upstream: Option<&str>, agents: &Registry) -> bool {
        let rights = self.rights.load();
        let Some(models) = &rights.models else { return true };
        agents.upstream(upstream).is_some_and(|target| models.fits(&target))
    }

    /// Answers a request, as long as its key is one.
    pub(super) async fn answer(self, answering: impl Future<Output = Response>) -> Response {
        tokio::select! {
            biased;
            () = self.revoked.cancelled() => super::auth::turned_away(not_valid()),
            response = answering => {
                let kind = response.headers().get(header::CONTENT_TYPE);
                match kind.is_some_and(|kind| kind == "text/event-stream") {
                    true => response.map(|body| {
                        Body::new(Revocable { body, revoked: Box::pin(self.revoked.cancelled_owned()) })
                    }),
                    false => response,
                }
            }
        }
    }
}

/// The body of an answer that breaks off when its key ceases to be one.
struct Revocable {
    body: Body,
    revoked: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl HttpBody for Revocable {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.revoked.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err(axum::Error::new(not_valid()))));
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
