//! When a provider was last heard of.
//!
//! A server that works on a long input sends comments or empty chunks, so that nobody takes it for dead. They are no
//! pieces of an answer, and they are not silence either: limits of silence begin anew with every byte.

use std::{pin::pin, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};

use super::upstream::after;

/// When a provider was last heard of. Clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Activity(Arc<Mutex<Instant>>);

impl Activity {
    /// Now.
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    /// Something was heard now.
    pub(super) fn now(&self) {
        *self.0.lock() = Instant::now();
    }

    /// When it was heard of last.
    pub(super) fn last(&self) -> Instant {
        *self.0.lock()
    }

    /// Waits for a future, as long as there is no silence longer than this; none when there is.
    pub(super) async fn within<T>(&self, silence: Duration, future: impl Future<Output = T>) -> Option<T> {
        let mut future = pin!(future);
        loop {
            let heard = *self.0.lock();
            match timeout_at(after(heard, silence), &mut future).await {
                Ok(value) => return Some(value),
                Err(_) if *self.0.lock() > heard => {}
                Err(_) => return None,
            }
        }
    }
}
