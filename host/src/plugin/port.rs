//! What an instance needs from the run that owns it.

use futures::future::BoxFuture;

use crate::protocol::{Emission, EmitError, Emitted};

/// Where an instance's words go.
pub trait RunPort: Send + Sync + 'static {
    /// Records what the agent says.
    ///
    /// # Errors
    ///
    /// The emission is not allowed; the run has to end.
    fn emit(&self, emission: Emission<'_>) -> Result<Emitted, EmitError>;

    /// None when there is room for more; else what to wait for before going on.
    fn room(&self) -> Option<BoxFuture<'_, ()>>;
}
