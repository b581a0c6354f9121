//! The interface `log`: lines for the operator.

use tracing::Level;

use crate::{
    bindings::log::{Host, Level as WitLevel},
    sandbox::RunState,
};

impl Host for RunState {
    async fn log(&mut self, level: WitLevel, message: String) -> wasmtime::Result<()> {
        let level = match level {
            WitLevel::Trace => Level::TRACE,
            WitLevel::Debug => Level::DEBUG,
            WitLevel::Info => Level::INFO,
            WitLevel::Warn => Level::WARN,
            WitLevel::Error => Level::ERROR,
        };
        self.active("log.log")?;
        self.log.line(level, "log", &message);
        Ok(())
    }
}
