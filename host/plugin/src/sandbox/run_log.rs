//! The log of one run: lines for the operator.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use tracing::Level;

use super::{
    limits::PluginLimits,
    port::{LogLine, LogPort},
};
use crate::failure::shorten;

/// The log of one run. A plugin that floods it is cut off, once, with a line that says so.
pub(crate) struct RunLog {
    agent: String,
    response: String,
    longest: usize,
    most: u64,
    lines: AtomicU64,
    notes: AtomicU64,
    /// Whether nothing is written, because it was written before.
    quiet: AtomicBool,
    /// Where the lines are kept.
    port: Option<Arc<dyn LogPort>>,
}

impl RunLog {
    pub(crate) fn new(agent: &str, response: &str, limits: &PluginLimits, port: Option<Arc<dyn LogPort>>) -> Self {
        Self {
            agent: agent.to_owned(),
            response: response.to_owned(),
            longest: limits.log_line,
            most: limits.log_lines,
            lines: AtomicU64::new(0),
            notes: AtomicU64::new(0),
            quiet: AtomicBool::new(false),
            port,
        }
    }

    /// Holds the lines back, or lets them through: what is executed again is not said again.
    pub(crate) fn quiet(&self, quiet: bool) {
        self.quiet.store(quiet, Ordering::Relaxed);
    }

    /// Whether the lines are held back.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet.load(Ordering::Relaxed)
    }

    /// Whether no further line of the component is written.
    pub(crate) fn is_full(&self) -> bool {
        self.lines.load(Ordering::Relaxed) > self.most
    }

    /// Writes a line of the component.
    pub(crate) fn line(&self, level: Level, source: &str, text: &str) {
        let count = self.lines.fetch_add(1, Ordering::Relaxed);
        if count > self.most || self.is_quiet() {
            return;
        }
        if count == self.most {
            let most = self.most;
            self.write(
                Some(count),
                Level::WARN,
                "host",
                &format!("more than {most} lines (limits.log_lines): the rest is dropped"),
            );
            return;
        }
        self.write(Some(count), level, source, &shorten(text, self.longest));
    }

    /// Writes a line of the host. Of them, too, there are at most `limits.log_lines`: a component may cause many.
    pub(crate) fn note(&self, level: Level, source: &str, text: &str) {
        if self.notes.fetch_add(1, Ordering::Relaxed) >= self.most {
            return;
        }
        self.write(None, level, source, text);
    }

    fn write(&self, number: Option<u64>, level: Level, source: &str, text: &str) {
        if let Some(port) = &self.port
            && !port.line(LogLine { number, level: word(level), source, text })
        {
            return;
        }
        let (agent, response) = (self.agent.as_str(), self.response.as_str());
        match level {
            Level::ERROR => tracing::error!(target: "plugin", agent, response, source, "{text}"),
            Level::WARN => tracing::warn!(target: "plugin", agent, response, source, "{text}"),
            Level::INFO => tracing::info!(target: "plugin", agent, response, source, "{text}"),
            Level::DEBUG => tracing::debug!(target: "plugin", agent, response, source, "{text}"),
            _ => tracing::trace!(target: "plugin", agent, response, source, "{text}"),
        }
    }
}

impl std::fmt::Debug for RunLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunLog").field("response", &self.response).finish_non_exhaustive()
    }
}

fn word(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        _ => "trace",
    }
}
