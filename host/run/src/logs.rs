//! The log of a run on its way to the database.
//!
//! A component that is executed again says again what it has said. Its lines are numbered, so that none is kept twice.

use outlast_plugin::LogLine;
use outlast_store::LogSegment;
use serde::Serialize;

/// What an earlier server, or an earlier part of the run, has kept.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeptLog {
    /// The number of the next line.
    pub next: u64,
    /// How many lines of the component are among them.
    pub heard: u64,
    /// How large they are.
    pub bytes: usize,
}

/// The lines that were not taken yet.
#[derive(Debug)]
pub struct Logs {
    kept: KeptLog,
    /// The number of the first line in `lines`.
    first: u64,
    lines: Vec<u8>,
    /// How large all lines may be together: `limits.log_bytes`.
    limit: usize,
    full: bool,
}

#[derive(Serialize)]
struct Line<'a> {
    time: i64,
    level: &'a str,
    source: &'a str,
    text: &'a str,
}

impl Logs {
    /// An empty log, and the most bytes that it may have.
    pub fn new(limit: usize) -> Self {
        Self { kept: KeptLog::default(), first: 0, lines: Vec::new(), limit, full: false }
    }

    /// Goes on behind what was kept.
    pub fn resume(&mut self, kept: KeptLog) {
        (self.kept, self.first, self.full) = (kept, kept.next, kept.bytes >= self.limit);
    }

    /// How many lines of the component are kept.
    pub fn heard(&self) -> u64 {
        self.kept.heard
    }

    /// Adds a line, at this time (milliseconds since 1970); false when it was there before.
    pub fn append(&mut self, line: LogLine<'_>, time: i64) -> bool {
        if let Some(number) = line.number {
            if number < self.kept.heard {
                return false;
            }
            self.kept.heard = number + 1;
        }
        if self.full {
            return true;
        }
        let LogLine { level, source, text, .. } = line;
        self.push(&Line { time, level, source, text });
        if self.kept.bytes >= self.limit {
            self.full = true;
            let text = format!("more than {} bytes (limits.log_bytes): the rest is dropped", self.limit);
            self.push(&Line { time, level: "warn", source: "host", text: &text });
        }
        true
    }

    fn push(&mut self, line: &Line<'_>) {
        let text = super::to_json(line);
        self.kept.bytes += text.len() + 1;
        self.kept.next += 1;
        self.lines.extend_from_slice(text.as_bytes());
        self.lines.push(b'\n');
    }

    /// Takes the lines added since the last call.
    pub fn take(&mut self) -> Option<LogSegment> {
        if self.lines.is_empty() {
            return None;
        }
        let (first, last, lines) = (self.first, self.kept.next - 1, std::mem::take(&mut self.lines));
        self.first = self.kept.next;
        Some(LogSegment { first, last, lines })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(number: Option<u64>, text: &str) -> LogLine<'_> {
        LogLine { number, level: "info", source: "log", text }
    }

    #[test]
    fn a_line_that_is_said_again_is_not_kept_again() {
        let mut logs = Logs::new(1_000);
        assert!(logs.append(line(Some(0), "a"), 1) && logs.append(line(None, "host"), 2));
        assert!(logs.append(line(Some(1), "b"), 3));
        let segment = logs.take().unwrap();
        assert_eq!((segment.first, segment.last, logs.heard()), (0, 2, 2));
        let mut again = Logs::new(1_000);
        again.resume(KeptLog { next: 3, heard: 2, bytes: segment.lines.len() });
        assert!(!again.append(line(Some(1), "b"), 4) && again.take().is_none());
        assert!(again.append(line(Some(2), "c"), 5));
        let segment = again.take().unwrap();
        assert_eq!((segment.first, segment.last), (3, 3));
        let expected = "{\"time\":5,\"level\":\"info\",\"source\":\"log\",\"text\":\"c\"}\n";
        assert_eq!(String::from_utf8(segment.lines).unwrap(), expected);
    }

    #[test]
    fn a_log_that_is_full_says_so_once() {
        let one = 1 + super::super::to_json(&Line { time: 1, level: "info", source: "log", text: "some text" }).len();
        let mut logs = Logs::new(2 * one);
        for number in 0..5 {
            logs.append(line(Some(number), "some text"), 1);
        }
        let text = String::from_utf8(logs.take().unwrap().lines).unwrap();
        assert_eq!(text.lines().count(), 3, "two, and one that says so: {text}");
        assert_eq!(text.matches("limits.log_bytes").count(), 1);
        assert_eq!(logs.heard(), 5);
    }
}
