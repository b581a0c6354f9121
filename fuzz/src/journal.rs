//! The lines of a journal: what they are, they are again after they were written.

use outlast_plugin::Entry;
use outlast_run::{Journal, is_cancelled};

const LIMIT: usize = 64 << 10;

pub(crate) fn target(bytes: &[u8]) {
    let read = |line: &[u8]| serde_json::from_slice::<Entry>(line).ok();
    let entries: Vec<Entry> = bytes.split_inclusive(|byte| *byte == b'\n').filter_map(read).collect();
    is_cancelled(&entries);
    let mut journal = Journal::new(LIMIT);
    let (mut written, mut segments) = (Vec::new(), Vec::new());
    for (place, entry) in entries.into_iter().enumerate() {
        let line = serde_json::to_string(&entry).unwrap_or_else(|error| panic!("{error}: {entry:?}"));
        if journal.append(&line).is_err() {
            break;
        }
        written.push(entry);
        if place % 3 == 0 {
            segments.extend(journal.take());
        }
    }
    segments.extend(journal.take());
    assert_eq!(journal.next(), written.len() as u64);
    let mut next = 0;
    for segment in &segments {
        assert_eq!(segment.first, next);
        next = segment.last + 1;
    }
    let lines: Vec<u8> = segments.iter().flat_map(|segment| segment.lines.to_vec()).collect();
    let again: Vec<Entry> = lines.split_inclusive(|byte| *byte == b'\n').filter_map(read).collect();
    assert_eq!(again, written);
    assert_eq!(Journal::resume(&segments, LIMIT).next(), next);
}
