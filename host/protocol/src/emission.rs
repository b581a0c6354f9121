//! What an agent means, before the protocol gives it ids, indexes and numbers.

use serde_json::Value;

use super::{response::Usage, tools::ClientTool};

/// The place of an item in the output of its response: the protocol's `output_index`.
pub type ItemIndex = usize;

/// One thing that an agent says. The recorder turns it into protocol events.
#[derive(Clone, Debug, PartialEq)]
pub enum Emission<'a> {
    /// Opens a message item of the assistant.
    OpenMessage,
    /// Opens a reasoning item.
    OpenReasoning,
    /// How likely the tokens of the next text of an open message are.
    Logprobs(ItemIndex, &'a [Value]),
    /// Adds text to an open message.
    Text(ItemIndex, &'a str),
    /// Adds to the refusal of an open message.
    Refusal(ItemIndex, &'a str),
    /// Adds to the summary of an open reasoning item.
    Summary(ItemIndex, &'a str),
    /// Closes an item as completed.
    Finish(ItemIndex),
    /// Closes an item as incomplete, if it is still open.
    Abandon(ItemIndex),
    /// Opens a call of this tool of the client.
    OpenCall(&'a ClientTool),
    /// Adds to the arguments, JSON text, of an open call. A custom tool's are those of [`INPUT`](super::INPUT).
    Arguments(ItemIndex, &'a str),
    /// Adds a compaction item with this content, which is sealed.
    Compaction(&'a str),
    /// Adds to the usage of the response.
    Usage(Usage),
}

/// What an emission leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Emitted {
    /// Nothing that the agent needs to know.
    Done,
    /// The item that was opened.
    Item(ItemIndex),
    /// The call that was opened, and the id that the client answers to.
    Call(ItemIndex, String),
}

/// An emission that is not allowed. The run that made it is ended with this text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EmitError {
    /// Beyond a limit.
    #[error("{what}: {got}, limit {limit} ({key})")]
    Limit {
        /// What the agent did.
        what: &'static str,
        /// How much it was.
        got: u64,
        /// How much is allowed.
        limit: u64,
        /// The limit's name in the configuration.
        key: &'static str,
    },
    /// The item is closed already, or does not exist.
    #[error("wrote to an item that is already finished")]
    Closed,
    /// A message cannot take a summary, nor a reasoning item text, nor either of them arguments.
    #[error("wrote {0} to an item of another kind")]
    WrongKind(&'static str),
    /// The run is executed again and says something else than before.
    #[error("{0}")]
    Diverged(String),
    /// The run has ended.
    #[error("the run has ended")]
    Ended,
}
