//! What the test itself has done to single responses, so that the rest may be otherwise than it was.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;

/// What was done, by the ids of the responses.
#[derive(Debug, Default)]
pub struct Marks {
    /// Those that clients have deleted, and whether they know that it was done.
    pub deleted: Mutex<BTreeMap<String, bool>>,
    /// Those that have been kept long enough.
    pub expired: Mutex<BTreeSet<String>>,
    /// The markers of those of which a row cannot be read any more.
    pub poisoned: Mutex<BTreeMap<String, String>>,
}

impl Marks {
    /// Whether it may be gone.
    pub fn may_be_gone(&self, id: &str) -> bool {
        self.deleted.lock().contains_key(id) || self.expired.lock().contains(id)
    }

    /// Whether a row of it cannot be read.
    pub fn is_poisoned(&self, id: &str) -> bool {
        self.poisoned.lock().contains_key(id)
    }

    /// The same, by its marker.
    pub fn is_marker_poisoned(&self, marker: &str) -> bool {
        self.poisoned.lock().values().any(|poisoned| poisoned == marker)
    }
}
