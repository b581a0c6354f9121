//! What an instance needs from the run that owns it.

use futures::future::BoxFuture;

use crate::protocol::{Emission, EmitError, Emitted, FoldError, Item, ItemIndex};

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

    /// Keeps an entry of the journal, one line of JSON, behind everything that was said so far.
    ///
    /// # Errors
    ///
    /// The journal is too large; the run has to end.
    fn journal(&self, entry: &str) -> Result<(), EmitError>;

    /// Waits until every entry that was kept so far is committed.
    fn committed(&self) -> BoxFuture<'static, ()>;

    /// Whether what the agent says was recorded before and is only compared.
    fn replaying(&self) -> bool;

    /// The number of the next event, and of the next item of the output.
    fn position(&self) -> (u64, ItemIndex);

    /// Takes recorded events as said, up to the event `to`, or all that are left.
    fn skip(&self, to: Option<u64>) -> Result<(), FoldError>;

    /// The output so far.
    fn output(&self) -> Vec<Item>;
}
