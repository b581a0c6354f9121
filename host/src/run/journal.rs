//! The entries of a run's journal on their way to the database.
//!
//! What an entry is, is told where they are made: `plugin::journal`.

use crate::store::JournalSegment;

/// The entries that were not taken yet, as lines.
#[derive(Debug, Default)]
pub struct Journal {
    /// The number of the next entry.
    next: u64,
    /// The number of the first entry in `lines`.
    first: u64,
    lines: Vec<u8>,
}

impl Journal {
    /// A journal whose entries before `next` are in the database.
    pub fn resume(next: u64) -> Self {
        Self { next, first: next, lines: Vec::new() }
    }

    /// Whether the run has entries anywhere.
    pub fn is_used(&self) -> bool {
        self.next > 0
    }

    /// How many bytes were not taken yet.
    pub fn pending_bytes(&self) -> usize {
        self.lines.len()
    }

    /// Adds an entry, one line of JSON.
    pub fn append(&mut self, entry: &str) {
        self.lines.extend_from_slice(entry.as_bytes());
        self.lines.push(b'\n');
        self.next += 1;
    }

    /// Takes the entries added since the last call.
    pub fn take(&mut self) -> Option<JournalSegment> {
        if self.lines.is_empty() {
            return None;
        }
        let segment = JournalSegment { first: self.first, last: self.next - 1, lines: std::mem::take(&mut self.lines) };
        self.first = self.next;
        Some(segment)
    }
}
