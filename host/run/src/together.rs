//! What is committed together or not at all.

use std::sync::Arc;

use super::Run;

/// What a run says as long as this is there is written in one transaction. There is always room for it.
#[derive(Debug)]
pub(super) struct Together(Arc<Run>);

impl Run {
    /// Begins something that is written in one transaction.
    pub(super) fn together(self: &Arc<Self>) -> Together {
        self.outbox.lock().together = true;
        Together(self.clone())
    }
}

impl Drop for Together {
    fn drop(&mut self) {
        let mut outbox = self.0.outbox.lock();
        outbox.together = false;
        self.0.queue(&mut outbox);
    }
}
