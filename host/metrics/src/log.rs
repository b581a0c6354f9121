//! The log.

use std::sync::LazyLock;

use prometheus_client::{metrics::counter::Counter, registry::Registry};

/// Lines that were lost since the process began. It has one log.
static LOST: LazyLock<Counter> = LazyLock::new(Counter::default);

/// What became of the lines of the log. All of them are of the same log.
#[derive(Debug)]
pub struct LogMetrics {
    lost: Counter,
}

impl Default for LogMetrics {
    fn default() -> Self {
        Self { lost: LOST.clone() }
    }
}

impl LogMetrics {
    /// Lines of the log that were lost since the process began.
    pub fn lost(&self) -> &Counter {
        &self.lost
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "log_lines_lost",
            "Lines of the log that were lost: standard error was not read, or could not be written",
            self.lost.clone(),
        );
    }
}
