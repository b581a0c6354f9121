//! The run as its instance sees it.

use std::sync::Arc;

use futures::future::BoxFuture;
use outlast_plugin::{LogLine, LogPort, RunPort};
use outlast_protocol::{Emission, EmitError, Emitted, FoldError, Item, ItemIndex};

use super::Run;

/// A run, for its instance.
#[derive(Debug)]
pub(super) struct Port(pub Arc<Run>);

impl LogPort for Port {
    fn line(&self, line: LogLine<'_>) -> bool {
        self.0.log(line)
    }
}

impl RunPort for Port {
    fn emit(&self, emission: Emission<'_>) -> Result<Emitted, EmitError> {
        if matches!(emission, Emission::Text(..) | Emission::Summary(..) | Emission::Arguments(..)) {
            self.0.metrics.output();
        }
        self.0.emit(emission)
    }

    fn room(&self) -> Option<BoxFuture<'_, ()>> {
        (!self.0.has_room()).then(|| Box::pin(self.0.wait_for_room()) as _)
    }

    fn journal(&self, entry: &str) -> Result<(), EmitError> {
        self.0.journal(entry)
    }

    fn together(&self) -> Box<dyn Send + Sync> {
        Box::new(self.0.together())
    }

    fn committed(&self) -> BoxFuture<'static, ()> {
        Box::pin(self.0.clone().committed())
    }

    fn replaying(&self) -> bool {
        self.0.recorder(|recorder| recorder.replaying()).unwrap_or_default()
    }

    fn position(&self) -> (u64, ItemIndex) {
        self.0.recorder(|recorder| (recorder.next(), recorder.response().output.len())).unwrap_or_default()
    }

    fn skip(&self, to: Option<u64>) -> Result<(), FoldError> {
        self.0.recorder(|recorder| recorder.skip(to)).unwrap_or(Ok(()))
    }

    fn output(&self) -> Vec<Item> {
        self.0.recorder(|recorder| recorder.response().output.clone()).unwrap_or_default()
    }

    fn live(&self) {
        self.0.meter.is_live();
    }
}
