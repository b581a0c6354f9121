//! Whether the database takes writes, as the writer knows it.

use std::{sync::Arc, time::Duration};

use outlast_store::StoreError;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout},
};
use tracing::{info, warn};

/// How long the last write is good enough to say that the next one works.
const FRESH: Duration = Duration::from_secs(2);
/// How long a write may take for whoever asks: a load balancer gives up after a second.
const PATIENCE: Duration = Duration::from_millis(900);

/// Shared by the writer, which knows, and by those who ask.
#[derive(Clone, Debug)]
pub struct Health(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    last: watch::Sender<Last>,
    ask: Notify,
    /// Since when writes fail.
    failing: Mutex<Option<Instant>>,
}

/// How the last write went.
#[derive(Clone, Debug)]
enum Last {
    /// It worked.
    Worked(Instant),
    /// It did not, and why.
    Failed(String),
}

impl Default for Health {
    fn default() -> Self {
        let last = watch::Sender::new(Last::Worked(Instant::now()));
        Self(Arc::new(Shared { last, ask: Notify::new(), failing: Mutex::default() }))
    }
}

impl Health {
    /// A write worked.
    pub(super) fn succeeded(&self) {
        if let Some(since) = self.0.failing.lock().take() {
            info!(after = ?since.elapsed(), "the database accepts writes again");
        }
        self.0.last.send_replace(Last::Worked(Instant::now()));
    }

    /// A write failed.
    pub(super) fn failed(&self, error: &StoreError) {
        let mut failing = self.0.failing.lock();
        if failing.is_none() {
            warn!(%error, "cannot write; runs wait until the database accepts writes, and new ones are refused");
        }
        failing.get_or_insert_with(Instant::now);
        drop(failing);
        self.0.last.send_replace(Last::Failed(error.to_string()));
    }

    /// Whether the last write worked.
    pub(super) fn is_well(&self) -> bool {
        matches!(&*self.0.last.borrow(), Last::Worked(_))
    }

    /// Waits until somebody wants to know.
    pub(super) async fn asked(&self) {
        self.0.ask.notified().await;
    }

    /// Whether writes work now: as the last one, if that was a moment ago; otherwise one is made.
    ///
    /// # Errors
    ///
    /// They do not, or one takes longer than a moment. The error says why.
    pub async fn check(&self) -> Result<(), String> {
        let mut last = self.0.last.subscribe();
        match &*last.borrow_and_update() {
            Last::Failed(error) => {
                // When nobody has anything to write, this is how it is noticed that writes work again.
                self.0.ask.notify_one();
                return Err(error.clone());
            }
            Last::Worked(when) if when.elapsed() < FRESH => return Ok(()),
            Last::Worked(_) => {}
        }
        self.0.ask.notify_one();
        match timeout(PATIENCE, last.changed()).await {
            Ok(Ok(())) => match &*last.borrow() {
                Last::Worked(_) => Ok(()),
                Last::Failed(error) => Err(error.clone()),
            },
            Ok(Err(_)) => Err("the writer has ended".to_owned()),
            Err(_) => Err(format!("a write takes longer than {PATIENCE:?}")),
        }
    }
}
