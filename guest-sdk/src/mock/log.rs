//! The log of a run, kept for the test.

use super::with;

pub(crate) use crate::bindings::outlast::agent::log::Level;

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) lines: Vec<Line>,
}

/// A line of a run's log.
#[derive(Clone, Debug)]
pub struct Line {
    /// How important it is.
    pub level: crate::log::Level,
    /// What it says.
    pub message: String,
}

pub(crate) fn log(level: Level, message: &str) {
    with("log::log", |host| host.log.lines.push(Line { level, message: message.to_owned() }));
}
