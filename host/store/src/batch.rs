//! What one transaction writes, and what became of it.

use std::collections::HashSet;

use outlast_protocol::{ConversationId, IdempotencyKey, ResponseId, Segment, Status, TerminalStatus};

use super::{JournalSegment, LogSegment, Phase, RunUsage, StateWrite, StoreError};

/// A response to be admitted.
#[derive(Clone, Debug)]
pub struct NewResponse {
    /// Its id.
    pub id: ResponseId,
    /// Whose it is.
    pub principal: String,
    /// The epoch of its first owner.
    pub epoch: i64,
    /// The agent that answers.
    pub agent: String,
    /// The sha256 of the agent's component, hexadecimal.
    pub component: String,
    /// `queued` or `in_progress`.
    pub status: Status,
    /// The response that this one continues.
    pub previous: Option<ResponseId>,
    /// How many responses, from `previous` back, are its history.
    pub turns: i64,
    /// The conversation that it is a turn of, and the version of the history that the request was checked against.
    /// Nothing else must be going on in it.
    pub conversation: Option<(ConversationId, i64)>,
    /// The client's idempotency key, which must not be in use.
    pub key: Option<IdempotencyKey>,
    /// In milliseconds since 1970.
    pub created_at: i64,
    /// The request as accepted, JSON.
    pub request: String,
}

/// What a transaction could not write, because something else had been written before.
#[derive(Debug, Default)]
pub struct Committed {
    /// Admissions that were not made: the idempotency key names another response.
    pub key_conflicts: HashSet<ResponseId>,
    /// Admissions that were not made: the conversation has another active response, or has changed, or is gone.
    pub conversation_conflicts: HashSet<ResponseId>,
    /// Endings that came too late: the response had ended already, or belongs to another epoch.
    pub superseded: HashSet<ResponseId>,
    /// Runs that have other events or entries in the place of those that were to be added.
    pub contradicted: HashSet<ResponseId>,
    /// Runs whose conversation is gone, and with it what they kept for it.
    pub without_conversation: HashSet<ResponseId>,
    /// How many deliveries to webhooks were written with the ends of responses.
    pub deliveries: u64,
}

/// A batch that is not in the database, as far as is known.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct Uncommitted {
    /// Why.
    pub error: StoreError,
    /// Whether the database was asked to commit and its answer did not come: then it may have done so.
    pub unknown: bool,
}

impl Committed {
    /// Whether the admission of this response was not made.
    pub(super) fn refused(&self, id: &ResponseId) -> bool {
        self.key_conflicts.contains(id) || self.conversation_conflicts.contains(id)
    }
}

/// The end of a response.
#[derive(Clone, Debug)]
pub struct EndedResponse {
    /// Its id.
    pub id: ResponseId,
    /// The epoch under which it ends. Under another one, nothing is written.
    pub epoch: i64,
    /// How it ended.
    pub status: TerminalStatus,
    /// In milliseconds since 1970.
    pub ended_at: i64,
    /// The final response object, JSON.
    pub response: String,
    /// Whether it was asked for in the background.
    pub background: bool,
    /// Whether it has a journal, which goes now.
    pub journaled: bool,
    /// Whether it ends without an event that says so, because the database does not take what it has said: then that is no
    /// reason not to end it.
    pub given_up: bool,
    /// Whether it has slept, waited or been resumed: what says so goes now.
    pub lived: bool,
    /// The items that it adds to its conversation when it has completed.
    pub items: Vec<ConversationItem>,
}

/// An item of a turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConversationItem {
    /// Its id.
    pub id: String,
    /// The item, JSON.
    pub item: String,
}

/// What one transaction writes.
#[derive(Debug, Default)]
pub struct Batch<'a> {
    /// Responses whose admission was given up when it was not known whether it was made: should they be there after all,
    /// they go.
    pub abandoned: Vec<&'a ResponseId>,
    /// Responses to admit.
    pub admitted: Vec<&'a NewResponse>,
    /// Events to add to the log.
    pub segments: Vec<(&'a ResponseId, &'a Segment)>,
    /// Entries to add to journals.
    pub entries: Vec<(&'a ResponseId, &'a JournalSegment)>,
    /// Lines to add to logs.
    pub logs: Vec<(&'a ResponseId, &'a LogSegment)>,
    /// What runs have used so far.
    pub usage: Vec<(&'a ResponseId, RunUsage)>,
    /// What agents keep beyond their runs, in the order in which each run wrote it. No two runs write at one place.
    pub state: Vec<StateWrite<'a>>,
    /// Whether runs have instances.
    pub phases: Vec<(&'a ResponseId, i64, Phase)>,
    /// Responses that end.
    pub ended: Vec<&'a EndedResponse>,
}
