//! An answer that is coming in, within the limits of its provider.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::{Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    activity::Activity,
    chat::ChatStream,
    config::{ProviderConfig, Secret},
    error::ModelError,
    native::NativeStream,
    piece::Piece,
    script::ScriptedStream,
};

/// On what terms a provider is called.
pub(super) struct Terms {
    /// What the operator calls it.
    pub provider: String,
    /// Its limits.
    pub config: ProviderConfig,
    /// What must not be read in its errors.
    pub key: Option<Secret>,
}

impl Terms {
    /// The error of a wait that was longer than its limit.
    pub fn timed_out(&self, limit: &str, length: Duration) -> ModelError {
        ModelError::timed_out(&self.provider, limit, length)
    }

    /// The error without the key.
    pub fn hide(&self, error: ModelError) -> ModelError {
        error.without(self.key.as_ref())
    }
}

/// What a provider sends, in its own words.
pub(super) enum Stream {
    /// The Chat Completions API.
    Chat(Box<ChatStream>),
    /// An API of the provider's own.
    Native(Box<NativeStream>),
    /// A test.
    Script(ScriptedStream),
}

impl Stream {
    /// The next piece; none at the end of the connection.
    pub async fn next(&mut self) -> Result<Option<Piece>, ModelError> {
        match self {
            Self::Chat(stream) => stream.next().await,
            Self::Native(stream) => stream.next().await,
            Self::Script(stream) => stream.next(),
        }
    }
}

/// An answer that is coming in.
pub(super) struct Upstream {
    terms: Arc<Terms>,
    stream: Stream,
    activity: Activity,
    deadline: Instant,
    /// Set anew only when it has gone off: a piece sets no timer.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Upstream {
    /// An answer that must be whole by `deadline`.
    pub fn new(terms: Arc<Terms>, stream: Stream, activity: Activity, deadline: Instant) -> Self {
        Self { terms, stream, activity, deadline, timer: None }
    }

    /// What the operator calls the provider.
    pub fn provider(&self) -> &str {
        &self.terms.provider
    }

    /// The largest answer.
    pub fn max_bytes(&self) -> usize {
        self.terms.config.max_bytes()
    }

    /// The next piece, within the limits of time.
    pub async fn next(&mut self) -> Result<Option<Piece>, ModelError> {
        let Self { terms, stream, activity, deadline, timer } = self;
        // Nobody has listened since the last piece.
        activity.now();
        let mut next = pin!(stream.next());
        let next = poll_fn(|context| {
            if let Poll::Ready(next) = next.as_mut().poll(context) {
                return Poll::Ready(next);
            }
            loop {
                let silent = after(activity.last(), terms.config.idle_timeout);
                let until = silent.min(*deadline);
                let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
                ready!(timer.as_mut().poll(context));
                // Since it was set, something may have been heard.
                if until <= Instant::now() {
                    return Poll::Ready(Err(match until < silent {
                        true => terms.timed_out("total_timeout", terms.config.total_timeout),
                        false => terms.timed_out("idle_timeout", terms.config.idle_timeout),
                    }));
                }
                timer.as_mut().reset(until);
            }
        });
        next.await.map_err(|error| terms.hide(error))
    }
}

/// The instant after a wait; a wait that no clock can hold is a very long one.
pub(super) fn after(begin: Instant, wait: Duration) -> Instant {
    begin.checked_add(wait).unwrap_or_else(|| begin + Duration::from_secs(30 * 365 * 24 * 3600))
}
