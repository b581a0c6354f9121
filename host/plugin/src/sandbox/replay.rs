//! What the imports of a run have answered, and its replay.
//!
//! Every answer that comes from outside is an entry: the import's name, a digest of its arguments, the time, and the
//! answer. Entries are committed together with the events that they led to, in order. A run that is executed again gets
//! its answers from its entries, as long as there are any; from then on it is live. A component that asks for something
//! else than before has diverged, and its run ends.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::{
    failure::Diverged,
    json,
    meter::{Held, Meter},
};

/// The name of the entries that do not stand in the order of the calls: the answers of tasks. The number of the task
/// stands in the place of a digest.
pub(crate) const ANSWER: &str = "task.answer";

/// An answer of an import.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The import: `tasks.sleep`.
    pub name: String,
    /// Of its arguments; empty where it has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub digest: String,
    /// The time of the run after the answer, in nanoseconds since 1970.
    pub time: u64,
    /// What was answered.
    pub answer: Value,
}

/// The entries that are still to come again.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    /// With their numbers in the journal.
    entries: VecDeque<(usize, Entry)>,
    /// What they take.
    held: Option<Held>,
}

impl Replay {
    /// Entries that come again in their order, and the answers of tasks, which are found by the tasks' numbers.
    pub(crate) fn new(entries: Vec<Entry>, meter: &Arc<Meter>) -> (Self, HashMap<u64, Value>) {
        let (mut calls, mut answers) = (VecDeque::new(), HashMap::new());
        for (position, entry) in entries.into_iter().enumerate() {
            match entry.digest.parse() {
                Ok(task) if entry.name == ANSWER => drop(answers.insert(task, entry.answer)),
                _ => calls.push_back((position, entry)),
            }
        }
        let size = |(_, entry): &(usize, Entry)| size_of::<Entry>() + json::size(&entry.answer);
        let held = (!calls.is_empty()).then(|| meter.hold(calls.iter().map(size).sum()));
        (Self { entries: calls, held }, answers)
    }

    /// Whether there is nothing more to replay.
    pub(crate) fn is_over(&self) -> bool {
        self.entries.is_empty()
    }

    /// The next entry.
    pub(super) fn peek(&self) -> Option<&Entry> {
        self.entries.front().map(|(_, entry)| entry)
    }

    /// The component has finished. It must have asked for all that it asked for before.
    pub(crate) fn end(&self) -> Result<(), Diverged> {
        let Some((position, Entry { name, .. })) = self.entries.front() else { return Ok(()) };
        Err(Diverged(format!("diverged at entry {position}: expected `{name}`, got the end of the run")))
    }

    /// The next entry, which must be an answer of this import to these arguments; none when the run is live.
    pub(super) fn take(&mut self, name: &str, digest: &str) -> Result<Option<Entry>, Diverged> {
        let Some((position, entry)) = self.entries.pop_front() else { return Ok(None) };
        if self.entries.is_empty() {
            self.entries = VecDeque::new();
            self.held = None;
        }
        if entry.name == name && entry.digest == digest {
            return Ok(Some(entry));
        }
        let shown = |name: &str, digest: &str| format!("`{name}` {}", digest.get(..8).unwrap_or_default());
        let (expected, got) = (shown(&entry.name, &entry.digest), shown(name, digest));
        Err(Diverged(format!("diverged at entry {position}: expected {}, got {}", expected.trim_end(), got.trim_end())))
    }
}

/// An entry as a line of JSON.
pub(crate) fn line(name: &str, digest: &str, time: u64, answer: &impl Serialize) -> serde_json::Result<String> {
    #[derive(Serialize)]
    struct Line<'a, T> {
        name: &'a str,
        #[serde(skip_serializing_if = "str::is_empty")]
        digest: &'a str,
        time: u64,
        answer: &'a T,
    }
    serde_json::to_string(&Line { name, digest, time, answer })
}

/// The digest of an import's arguments.
pub(crate) fn digest(arguments: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for argument in arguments {
        hash.update((argument.len() as u64).to_le_bytes());
        hash.update(argument);
    }
    let hash: [u8; 32] = hash.finalize().into();
    hex::encode(&hash[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, digest: &str) -> Entry {
        Entry { name: name.to_owned(), digest: digest.to_owned(), time: 1, answer: Value::Null }
    }

    #[test]
    fn another_import_or_other_arguments_have_diverged() {
        let (mut replay, _) =
            Replay::new(vec![entry("a", ""), entry("b", "1234567890"), entry("c", "")], &Arc::default());
        assert_eq!(replay.take("a", "").unwrap(), Some(entry("a", "")));
        let Diverged(why) = replay.take("b", "0000").unwrap_err();
        assert_eq!(why, "diverged at entry 1: expected `b` 12345678, got `b`");
        let Diverged(why) = replay.take("d", "").unwrap_err();
        assert_eq!(why, "diverged at entry 2: expected `c`, got `d`");
        assert!(replay.is_over());
        assert_eq!(replay.take("a", "").unwrap(), None);
    }

    #[test]
    fn answers_of_tasks_do_not_stand_in_the_order_of_calls() {
        let (mut replay, answers) =
            Replay::new(vec![entry("a", ""), entry(ANSWER, "7"), entry("b", "")], &Arc::default());
        assert_eq!(answers, HashMap::from([(7, Value::Null)]));
        assert_eq!(replay.take("a", "").unwrap(), Some(entry("a", "")));
        let Diverged(why) = replay.take("c", "").unwrap_err();
        assert_eq!(why, "diverged at entry 2: expected `b`, got `c`");
    }

    #[test]
    fn a_line_is_an_entry() {
        for entry in [entry("a", ""), entry("b", "12")] {
            let line = line(&entry.name, &entry.digest, entry.time, &entry.answer).unwrap();
            assert_eq!(line, serde_json::to_string(&entry).unwrap());
            assert_eq!(serde_json::from_str::<Entry>(&line).unwrap(), entry);
        }
    }

    #[test]
    fn a_digest_knows_where_an_argument_ends() {
        assert_ne!(digest(&[b"ab", b"c"]), digest(&[b"a", b"bc"]));
        assert_eq!(digest(&[b"a"]).len(), 32);
    }
}
