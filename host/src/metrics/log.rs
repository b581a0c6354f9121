//! The log.

use prometheus_client::{metrics::counter::Counter, registry::Registry};

/// What became of the lines of the log.
#[derive(Debug)]
pub struct LogMetrics {
    lost: Counter,
}

impl Default for LogMetrics {
    fn default() -> Self {
        Self { lost: crate::log::lost() }
    }
}

impl LogMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "log_lines_lost",
            "Lines of the log that were lost: nobody read standard error, or it could not be written",
            self.lost.clone(),
        );
    }
}
