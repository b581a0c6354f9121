//! An answer that is coming in, within the limits of its provider.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout_at};

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
}

impl Upstream {
    /// An answer that must be whole by `deadline`.
    pub fn new(terms: Arc<Terms>, stream: Stream, activity: Activity, deadline: Instant) -> Self {
        Self { terms, stream, activity, deadline }
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
        let config = &self.terms.config;
        // Nobody has listened since the last piece.
        self.activity.now();
        let next = self.activity.within(config.idle_timeout, self.stream.next());
        let next = match timeout_at(self.deadline, next).await {
            Ok(Some(next)) => next,
            Ok(None) => Err(self.terms.timed_out("idle_timeout", config.idle_timeout)),
            Err(_) => Err(self.terms.timed_out("total_timeout", config.total_timeout)),
        };
        next.map_err(|error| self.terms.hide(error))
    }
}

/// The instant after a wait; a wait that no clock can hold is a very long one.
pub(super) fn after(begin: Instant, wait: Duration) -> Instant {
    begin.checked_add(wait).unwrap_or_else(|| begin + Duration::from_secs(30 * 365 * 24 * 3600))
}
