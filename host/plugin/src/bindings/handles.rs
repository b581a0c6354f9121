//! What a component holds of the host: the data behind its handles.

use std::time::Duration;

use outlast_model::Generation;
use outlast_protocol::ItemIndex;
use outlast_runtime::clock::nanoseconds;
use tokio_util::sync::CancellationToken;

use super::{
    model::{Completion, Request},
    types::Failure,
};
use crate::meter::Held;

/// A message that a component holds.
#[derive(Clone, Copy, Debug)]
pub struct OpenMessage(pub(crate) ItemIndex);

/// A reasoning item that a component holds.
#[derive(Clone, Copy, Debug)]
pub struct OpenReasoning(pub(crate) ItemIndex);

/// A task that a component holds.
#[derive(Clone, Debug)]
pub enum OpenTask {
    /// The task of this number has an answer when the token is cancelled.
    Answer(u64, CancellationToken),
    /// It ends at this time, since 1970.
    Timer(Duration),
}

impl OpenTask {
    /// Whether it has ended `now`, since 1970.
    pub(crate) fn has_ended(&self, now: Duration) -> bool {
        match self {
            Self::Answer(_, there) => there.is_cancelled(),
            Self::Timer(until) => *until <= now,
        }
    }

    /// What tells it apart from other tasks.
    pub(crate) fn name(&self) -> [u8; 9] {
        let (kind, number) = match self {
            Self::Answer(number, _) => (0, *number),
            Self::Timer(until) => (1, nanoseconds(*until)),
        };
        let mut name = [kind; 9];
        name[1..].copy_from_slice(&number.to_le_bytes());
        name
    }
}

/// A request that a component holds.
pub struct OpenRequest {
    /// Its number among the tasks of the run.
    pub(crate) number: u64,
    pub(crate) taken: bool,
}

/// A call that a component holds.
pub struct OpenCall {
    /// Its number among the tasks of the run.
    pub(crate) number: u64,
    pub(crate) taken: bool,
}

/// A model call that a component holds.
pub struct OpenGeneration {
    pub(crate) state: Generating,
    /// What was asked, as it came, where it may have to be asked again. Its values would take many times as much memory.
    pub(crate) asked: Option<Request>,
    /// How much was asked, in bytes.
    pub(crate) bytes: usize,
    /// The same, as what the host holds.
    pub(crate) _held: Held,
    /// What the model had said when it was cut off, if it goes on from it.
    pub(crate) partial: Option<String>,
    /// The text that the component has been given, from the journal.
    pub(crate) text: String,
    /// Whether it has been given anything else.
    pub(crate) more: bool,
}

/// How far a model call is.
pub(crate) enum Generating {
    /// The model is answering.
    Open(Box<Generation>),
    /// What comes next stands in the journal, or was cut off.
    Recorded,
    /// The model has finished, or the call has failed: what `finish` will return.
    Ended(Result<Completion, Failure>),
    /// `finish` has been called.
    Finished,
}
