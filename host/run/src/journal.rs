//! The entries of a run's journal on their way to the database.
//!
//! What an entry is, is told where they are made: `plugin::journal`. One is made here: that the run is being cancelled.
//! A run that has it is not executed again.

use outlast_protocol::EmitError;
use outlast_store::JournalSegment;

use outlast_plugin::Entry;

/// The name of the entry that says that the run is being cancelled.
const CANCELLED: &str = "run.cancelled";

/// Whether the run was being cancelled.
pub fn is_cancelled(entries: &[Entry]) -> bool {
    entries.iter().any(|entry| entry.name == CANCELLED)
}

/// The entries that were not taken yet, as lines.
#[derive(Debug)]
pub struct Journal {
    /// The number of the next entry.
    next: u64,
    /// The number of the first entry in `lines`.
    first: u64,
    lines: Vec<u8>,
    /// How large it is, with what was taken, and how large it may be: `limits.journal_bytes`.
    bytes: usize,
    limit: usize,
}

impl Journal {
    /// An empty journal, and the most bytes that it may have.
    pub fn new(limit: usize) -> Self {
        Self { next: 0, first: 0, lines: Vec::new(), bytes: 0, limit }
    }

    /// The journal of which these segments are in the database.
    pub fn resume(written: &[JournalSegment], limit: usize) -> Self {
        let next = written.last().map_or(0, |segment| segment.last + 1);
        let bytes = written.iter().map(|segment| segment.lines.len()).sum();
        Self { next, first: next, lines: Vec::new(), bytes, limit }
    }

    /// A journal of which `entries` entries are in the database and nothing is known: for a run that has no instance.
    pub fn behind(entries: u64, limit: usize) -> Self {
        Self { next: entries, first: entries, ..Self::new(limit) }
    }

    /// The number of the next entry.
    pub fn next(&self) -> u64 {
        self.next
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
    ///
    /// # Errors
    ///
    /// The journal would be larger than it may be.
    pub fn append(&mut self, entry: &str) -> Result<(), EmitError> {
        self.bytes += entry.len() + 1;
        if self.bytes > self.limit {
            let (what, key) = ("received more results than its journal may hold, in bytes", "limits.journal_bytes");
            return Err(EmitError::Limit { what, got: self.bytes as u64, limit: self.limit as u64, key });
        }
        self.push(entry);
        Ok(())
    }

    /// Adds that the run is being cancelled.
    pub fn cancel(&mut self) {
        self.push(&format!("{{\"name\":\"{CANCELLED}\",\"time\":0,\"answer\":null}}"));
    }

    fn push(&mut self, entry: &str) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_taken_once_and_numbered_on() {
        let mut journal = Journal::new(100);
        assert_eq!((journal.take(), journal.is_used()), (None, false));
        journal.append("a").unwrap();
        journal.append("b").unwrap();
        let one = journal.take().unwrap();
        assert_eq!(one, JournalSegment { first: 0, last: 1, lines: b"a\nb\n".to_vec() });
        let mut again = Journal::resume(&[one], 100);
        for journal in [&mut journal, &mut again] {
            journal.append("c").unwrap();
            assert_eq!(journal.take().unwrap(), JournalSegment { first: 2, last: 2, lines: b"c\n".to_vec() });
            assert!(journal.take().is_none() && journal.is_used());
        }
    }

    #[test]
    fn a_cancel_is_an_entry() {
        let mut journal = Journal::new(0);
        journal.cancel();
        let entry: Entry = serde_json::from_slice(&journal.take().unwrap().lines).unwrap();
        assert!(is_cancelled(&[entry]) && !is_cancelled(&[]));
    }

    #[test]
    fn a_journal_has_a_limit_that_counts_what_was_written_before() {
        let written = JournalSegment { first: 0, last: 0, lines: b"12345\n".to_vec() };
        let mut journal = Journal::resume(&[written], 12);
        journal.append("12345").unwrap();
        let error = journal.append("").unwrap_err().to_string();
        assert_eq!(
            error,
            "received more results than its journal may hold, in bytes: 13, limit 12 (limits.journal_bytes)"
        );
    }
}
