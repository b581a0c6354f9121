//! Sentences that must be seen, also when the test runner keeps the output of tests that pass to itself.

use std::{collections::HashSet, io::Write as _, path::PathBuf, sync::Mutex};

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

/// A program of a Debian package of the same name. Where it is not installed, says what the tests are `without` it; in
/// continuous integration that is a failure. `shown` is what people call it.
pub fn installed(program: &str, shown: &str, without: &str) -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    folders.push("/usr/sbin".into());
    let found = folders.into_iter().map(|folder| folder.join(program)).find(|path| path.is_file());
    if found.is_none() {
        assert!(!in_ci(), "{shown} not found. Install it with `apt-get install {program}`.");
        once(&format!("{shown} not found: {without}."));
    }
    found
}
