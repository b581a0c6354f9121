//! What an instance needs from the run that owns it.

use futures::future::BoxFuture;
use outlast_protocol::{Emission, EmitError, Emitted, FoldError, Item, ItemIndex};

/// What an entry of an agent's state counts beside its key and its value, in bytes.
pub const STATE_ENTRY: u32 = 100;

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

    /// What is said and kept as long as the value is there is committed together: a start finds all of it or nothing.
    fn together(&self) -> Box<dyn Send + Sync> {
        Box::new(())
    }

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

    /// Everything that was done before is done again: from now on it is new.
    fn live(&self) {}
}

/// A line of a run's log.
#[derive(Clone, Copy, Debug)]
pub struct LogLine<'a> {
    /// Counts the lines of the component, so that one that is said again is known; none for a line of the host.
    pub number: Option<u64>,
    /// How important it is: `error`, `warn`, `info`, `debug`, `trace`.
    pub level: &'static str,
    /// Where it was written: `log`, `stdout`, `stderr`, or a word of the host.
    pub source: &'a str,
    /// The line.
    pub text: &'a str,
}

/// Where the lines of a run's log go.
pub trait LogPort: Send + Sync + 'static {
    /// Keeps a line; false when it was kept before.
    fn line(&self, line: LogLine<'_>) -> bool;
}

/// Where a value lies that is kept beyond the run.
#[derive(Clone, Copy, Debug)]
pub struct StateSpot<'a> {
    /// Whether it belongs to the conversation of the run.
    pub of_conversation: bool,
    /// The key, or the beginning of keys.
    pub key: &'a str,
}

/// What is to be kept.
#[derive(Clone, Copy, Debug)]
pub struct StateChange<'a> {
    /// Where.
    pub spot: StateSpot<'a>,
    /// What must be there, if that matters.
    pub expected: Option<Option<&'a [u8]>>,
    /// The value; none removes the key.
    pub value: Option<&'a [u8]>,
    /// The most that there may be in all, in bytes.
    pub most: usize,
    /// The entry of the journal that says that it was done. It is kept with it, if it is done.
    pub entry: &'a str,
}

/// Why something was not kept, or not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// The run belongs to no conversation.
    #[error("This response does not belong to a conversation.")]
    NoConversation,
    /// There would be more than is granted.
    #[error(
        "The agent would store {used} bytes, and {most} are granted (`state` of the agent, or limits.state_bytes). \
         Every entry counts as its key, its value and {STATE_ENTRY} bytes."
    )]
    Full {
        /// So much.
        used: usize,
        /// The most.
        most: usize,
    },
    /// The run is being stopped.
    #[error("The run is being stopped.")]
    Stopped,
    /// The database has something else than what was kept.
    #[error("The stored state cannot be read.")]
    Unreadable,
    /// The entry is not taken; the run has to end.
    #[error("{0}")]
    Refused(EmitError),
}

/// Where an instance keeps what outlives its run. Whose it is, is decided: the agent's, for the principal of the run.
pub trait StatePort: Send + Sync + 'static {
    /// The value of a key.
    fn get<'a>(&'a self, spot: StateSpot<'a>) -> BoxFuture<'a, Result<Option<Vec<u8>>, StateError>>;

    /// The next keys that begin so and come behind `after`, in the order of their bytes, at most `most`.
    fn keys<'a>(
        &'a self,
        spot: StateSpot<'a>,
        after: &'a str,
        most: usize,
    ) -> BoxFuture<'a, Result<Vec<String>, StateError>>;

    /// Keeps something, with its entry; false when there is something else than what was expected.
    fn change<'a>(&'a self, change: StateChange<'a>) -> BoxFuture<'a, Result<bool, StateError>>;
}
