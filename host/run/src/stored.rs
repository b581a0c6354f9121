//! How much principals keep, and whether they may keep more.
//!
//! A quota is asked when something new is to be kept: a response, a conversation, items. It does not stop a run that goes
//! on: that has limits of its own. The database is asked once for each principal that has a quota; from then on is added
//! what is written, and what is removed is noticed when the quota is reached, because then it is counted anew, at most
//! every [`RECOUNT`].

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use outlast_store::{STORED_ROW, Store, StoreError};
use parking_lot::Mutex;

use super::{Refusal, Write};

/// How long a principal that has reached its quota may not be counted anew: for so long, what it has removed may count.
pub const RECOUNT: Duration = Duration::from_secs(5);

/// How much principals may keep.
#[derive(Clone, Debug, Default)]
pub struct Quotas {
    /// Each that has no quota of its own, in bytes: `limits.stored_bytes`. None: any.
    pub each: Option<u64>,
    /// By the names of principals: `stored_bytes` of a key.
    pub principals: HashMap<String, u64>,
}

impl Quotas {
    fn of(&self, principal: &str) -> Option<u64> {
        self.principals.get(principal).copied().or(self.each)
    }
}

/// How much principals keep that have a quota and were asked for it.
#[derive(Clone, Debug, Default)]
pub(super) struct Stored {
    principals: Arc<Mutex<HashMap<String, Amount>>>,
    /// Held while the database counts: one at a time.
    counting: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, Default)]
struct Amount {
    bytes: u64,
    /// When it was counted last; none while it is for the first time.
    counted: Option<Instant>,
}

impl Stored {
    /// Lets a principal keep so many bytes more.
    ///
    /// # Errors
    ///
    /// It would have more than it may, or the database does not answer.
    pub async fn reserve(&self, quotas: &Quotas, store: &Store, principal: &str, bytes: usize) -> Result<(), Refusal> {
        let Some(most) = quotas.of(principal) else { return Ok(()) };
        let bytes = bytes as u64 + STORED_ROW;
        if self.take(principal, bytes, most).is_ok() {
            return Ok(());
        }
        let _turn = self.counting.lock().await;
        // Somebody else may have counted meanwhile.
        match self.take(principal, bytes, most) {
            Err(Full { stale: true, .. }) => self.count(store, principal).await?,
            Err(Full { kept, .. }) => return Err(Refusal::FullOfBytes { kept, most }),
            Ok(()) => return Ok(()),
        }
        self.take(principal, bytes, most).map_err(|Full { kept, .. }| Refusal::FullOfBytes { kept, most })
    }

    /// These were written.
    pub fn wrote(&self, writes: &[Write]) {
        let mut principals = self.principals.lock();
        if principals.is_empty() {
            return;
        }
        for write in writes.iter().filter(|write| write.run.durable) {
            if let Some(kept) = principals.get_mut(&write.run.principal) {
                kept.bytes = kept.bytes.saturating_add(write.stored_bytes());
            }
        }
    }

    fn take(&self, principal: &str, bytes: u64, most: u64) -> Result<(), Full> {
        let mut principals = self.principals.lock();
        let kept = principals.get_mut(principal);
        let counted = kept.as_ref().and_then(|kept| kept.counted);
        let stale = counted.is_none_or(|counted| counted.elapsed() >= RECOUNT);
        match kept {
            Some(kept) if counted.is_some() && kept.bytes.saturating_add(bytes) <= most => kept.bytes += bytes,
            Some(kept) => return Err(Full { kept: kept.bytes, stale }),
            None => return Err(Full { kept: 0, stale }),
        }
        Ok(())
    }

    /// Asks the database. What is written meanwhile may count twice, until the next time.
    async fn count(&self, store: &Store, principal: &str) -> Result<(), StoreError> {
        let before = self.principals.lock().entry(principal.to_owned()).or_default().bytes;
        let counted = store.stored_bytes(principal).await?;
        let mut principals = self.principals.lock();
        let kept = principals.entry(principal.to_owned()).or_default();
        kept.bytes = counted.saturating_add(kept.bytes.saturating_sub(before));
        kept.counted = Some(Instant::now());
        Ok(())
    }
}

/// There is no room.
struct Full {
    /// What there is, as far as it is known.
    kept: u64,
    /// Whether it may be counted anew.
    stale: bool,
}
