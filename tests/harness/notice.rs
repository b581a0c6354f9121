//! Sentences that must be seen, also when the test runner keeps the output of tests that pass to itself.

use std::{collections::HashSet, io::Write as _, sync::Mutex};

/// Writes a line to standard error, past the test runner; the same line once.
pub fn once(line: &str) {
    static SAID: Mutex<Option<HashSet<String>>> = Mutex::new(None);
    let mut said = SAID.lock().unwrap();
    if said.get_or_insert_default().insert(line.to_owned()) {
        // Only what the print macros write is captured.
        let _ = writeln!(std::io::stderr(), "\n{line}\n");
    }
}

/// Whether this runs in continuous integration, where nothing may be skipped.
pub fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true" || value == "1")
}
