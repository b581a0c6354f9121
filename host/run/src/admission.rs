//! Whether a run may begin.

use std::{collections::HashMap, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use outlast_protocol::{ApiError, ErrorKind};
use outlast_runtime::limits::{Count, MOMENT, MOST_BYTES, MOST_RUNS, Size, Time, YEAR};
use outlast_store::StoreError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{error, warn};

use super::{Broken, HistoryLimits, OutputLimits, Quotas, RunBytes};

outlast_runtime::limits! {
    /// Limits on runs.
    pub struct RunLimits {
        /// The most runs, including those that sleep.
        max_runs => max_runs: Count = 100_000, 1 => MOST_RUNS;
        /// A run that sleeps this long, or longer, leaves memory meanwhile.
        idle_after => idle_after: Time = Duration::from_secs(30), MOMENT => YEAR;
        /// How long an agent that was asked to stop may take to return before its instance is dropped.
        cancel_grace => cancel_grace: Time = Duration::from_millis(300), Duration::ZERO => Duration::from_secs(1);
        /// How much of a run may wait to be written, or to be read where it is not kept, before its instance is suspended.
        outbox_bytes => outbox_bytes: Size = 256 << 10, 1 => MOST_BYTES;
        /// How much of a run's log is kept.
        log_bytes => log_bytes: Size = 1 << 20, 0 => MOST_BYTES;
        /// How much the imports of a run may answer that has to be kept.
        journal_bytes => journal_bytes: Size = 64 << 20, 1 => MOST_BYTES;
        /// How much of what was committed is kept in memory for subscribers.
        feed_bytes => feed_bytes: Size = 64 << 10, 0 => MOST_BYTES;
    }
    within {
        /// How much a request may continue.
        history: HistoryLimits;
        /// How much a run may say.
        output: OutputLimits;
    }
    besides {
        /// The most runs that have an instance. The server finds it out from the machine.
        max_live_runs: usize = 1_000;
        /// The longest that a run of any agent may take.
        longest_run: Duration = Duration::from_secs(600);
        /// Whether a run that is kept ends when the client that began it goes: `on_disconnect = "cancel"`.
        cancel_on_disconnect: bool = false;
    }
}

impl RunLimits {
    pub(super) fn bytes(&self) -> RunBytes {
        RunBytes { outbox: self.outbox_bytes, log: self.log_bytes }
    }
}

/// The places of runs, for the server and for each principal that has a limit of its own, and those of instances.
#[derive(Debug)]
pub(super) struct Places {
    runs: (usize, Arc<Semaphore>),
    instances: (usize, Arc<Semaphore>),
    /// Those of instances that runs may have that are executed again: the others are for admissions.
    again: (usize, Arc<Semaphore>),
    /// Exchanged with the keys.
    principals: ArcSwap<HashMap<String, Share>>,
    agents: HashMap<String, Share>,
}

/// So many places, and those of them that are free.
type Share = (usize, Arc<Semaphore>);

/// How many runs at once those may have that have a limit of their own, by their names, and how much they may keep.
#[derive(Clone, Debug, Default)]
pub struct Shares {
    /// `max_live_runs` of a key.
    pub principals: HashMap<String, usize>,
    /// `max_live_runs` of an agent.
    pub agents: HashMap<String, usize>,
    /// How much principals may keep.
    pub quotas: Quotas,
}

/// The place of a run, until it is dropped.
#[derive(Debug, Default)]
pub(super) struct Place {
    _run: Option<OwnedSemaphorePermit>,
    _principal: Option<OwnedSemaphorePermit>,
    _agent: Option<OwnedSemaphorePermit>,
}

/// The place of an instance, until it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    _again: Option<OwnedSemaphorePermit>,
    _instance: Option<OwnedSemaphorePermit>,
}

/// Of so many places for instances, one is kept for admissions, whoever wakes or is resumed.
const RESERVED: usize = 4;

impl Places {
    /// So many places as the limits say, and so many for each of these.
    pub fn new(limits: &RunLimits, shares: Shares) -> Self {
        let each = |of: HashMap<String, usize>| of.into_iter().map(|(name, most)| (name, places(most))).collect();
        Self {
            runs: places(limits.max_runs),
            instances: places(limits.max_live_runs),
            again: places((limits.max_live_runs - limits.max_live_runs / RESERVED).max(1)),
            principals: ArcSwap::from_pointee(each(shares.principals)),
            agents: each(shares.agents),
        }
    }

    /// Gives principals so many places from now on. Where that is another number than before, the runs that go on are not
    /// counted.
    pub fn share(&self, principals: HashMap<String, usize>) {
        let before = self.principals.load();
        let share = |(name, most): (String, usize)| {
            let same = before.get(&name).filter(|(before, _)| *before == most).cloned();
            (name, same.unwrap_or_else(|| places(most)))
        };
        self.principals.store(Arc::new(principals.into_iter().map(share).collect()));
    }

    /// Takes a place for a run of `agent` for `principal`.
    ///
    /// Its instance takes as many `places` as it takes mappings, or all that there are.
    pub fn take(&self, principal: &str, agent: &str, count: u32) -> Result<(Place, Slot), Refusal> {
        let principal = match self.principals.load().get(principal) {
            Some((most, places)) => {
                Some(places.clone().try_acquire_owned().map_err(|_| Refusal::FullForPrincipal(*most))?)
            }
            None => None,
        };
        let agent = match self.agents.get(agent) {
            Some((most, places)) => {
                let full = |_| Refusal::FullForAgent(*most, agent.to_owned());
                Some(places.clone().try_acquire_owned().map_err(full)?)
            }
            None => None,
        };
        let (most, places) = &self.runs;
        let run = places.clone().try_acquire_owned().map_err(|_| Refusal::FullOfRuns(*most))?;
        let (most, places) = &self.instances;
        let instance = places.clone().try_acquire_many_owned(self.at_most(count)).map_err(|_| Refusal::Full(*most))?;
        Ok((
            Place { _run: Some(run), _principal: principal, _agent: agent },
            Slot { _again: None, _instance: Some(instance) },
        ))
    }

    /// Waits for a place for a run of `agent` for `principal` that was admitted before.
    pub async fn place(&self, principal: &str, agent: &str) -> Place {
        // The semaphores are never closed.
        let of = async |places: Option<&Share>| match places {
            Some((_, places)) => places.clone().acquire_owned().await.ok(),
            None => None,
        };
        let shares = self.principals.load_full();
        Place {
            _principal: of(shares.get(principal)).await,
            _agent: of(self.agents.get(agent)).await,
            _run: of(Some(&self.runs)).await,
        }
    }

    /// Waits for so many places for an instance of a run that is executed again.
    pub async fn slot_again(&self, count: u32) -> Slot {
        let count = self.at_most(count);
        let again = self.again.1.clone().acquire_many_owned(count).await.ok();
        Slot { _again: again, _instance: self.instances.1.clone().acquire_many_owned(count).await.ok() }
    }

    /// No more places than a run that is executed again can ever have.
    fn at_most(&self, count: u32) -> u32 {
        count.min(u32::try_from(self.again.0).unwrap_or(u32::MAX))
    }
}

/// So many places, all free.
fn places(most: usize) -> Share {
    (most, Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS))))
}

/// Why a run did not begin. Nothing of it is kept.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// There is no such agent.
    #[error("The model '{0}' does not exist. GET /v1/models lists the models of this server.")]
    UnknownModel(String),
    /// All places are taken.
    #[error("This server already has {0} active runs, which is its limit (limits.max_live_runs). Retry later.")]
    Full(usize),
    /// So many runs go on, with and without an instance.
    #[error("This server already has {0} runs, which is its limit (limits.max_runs). Retry later.")]
    FullOfRuns(usize),
    /// All places of the principal are taken.
    #[error("You already have {0} active runs, the limit of this key (max_live_runs). Retry later.")]
    FullForPrincipal(usize),
    /// All places of the agent are taken.
    #[error("The agent '{1}' already has {0} active runs, which is its limit (agents.{1}.max_live_runs). Retry later.")]
    FullForAgent(usize, String),
    /// The principal keeps as much as it may.
    #[error(
        "You have {kept} bytes stored, and this request would exceed your limit of {most} (limits.stored_bytes, or \
         stored_bytes of the key). Delete responses or conversations, or send `store: false`; deleted bytes are free \
         again seconds later."
    )]
    FullOfBytes {
        /// What it keeps, in bytes.
        kept: u64,
        /// What it may.
        most: u64,
    },
    /// The server stops.
    #[error("The server is shutting down and starts no new runs. Retry the request.")]
    Draining,
    /// The idempotency key names a response already, begun a moment ago by the same request or by another one.
    #[error("The idempotency key is in use.")]
    KeyTaken,
    /// The conversation has changed since the request was checked.
    #[error("Too many concurrent requests change this conversation. Retry the request.")]
    ConversationMoved,
    /// The idempotency key names the response of another request.
    #[error("The idempotency key was used for another request. Use a new key for a new request.")]
    KeyConflict,
    /// Something in the request does not fit what is stored.
    #[error("{0}")]
    Invalid(ApiError),
    /// The database does not take writes.
    #[error("The database is not available right now; nothing was started. Retry the request.")]
    Unavailable,
    /// The database did not say whether it stored the response.
    #[error(
        "The database did not say in time whether the response was stored. If it was, it is removed; retry the \
         request, with its Idempotency-Key if it has one."
    )]
    Unknown,
    /// A defect.
    #[error("The request could not be started.")]
    Defect,
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self::Invalid(error)
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        match error {
            error if error.is_temporary() => {
                warn!(%error, "a request was refused because of the database");
                Self::Unavailable
            }
            error => {
                error!(%error, "a request was refused");
                Self::Defect
            }
        }
    }
}

impl From<Broken> for Refusal {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Log(error) => error.into(),
            Broken::Suspended => Self::Draining,
        }
    }
}

impl From<Broken> for ApiError {
    fn from(broken: Broken) -> Self {
        Refusal::from(broken).into()
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let message = refusal.to_string();
        match refusal {
            Refusal::UnknownModel(_) => Self::new(ErrorKind::NotFound, "model_not_found", message).with_param("model"),
            Refusal::Full(_) | Refusal::FullOfRuns(_) | Refusal::FullForPrincipal(_) | Refusal::FullForAgent(..) => {
                Self::new(ErrorKind::RateLimited, "rate_limit_exceeded", message).with_retry_after(1)
            }
            Refusal::FullOfBytes { .. } => {
                Self::new(ErrorKind::RateLimited, "storage_quota_exceeded", message).never_retry()
            }
            Refusal::Draining => Self::new(ErrorKind::Unavailable, "shutting_down", message).with_retry_after(1),
            Refusal::KeyTaken | Refusal::KeyConflict => {
                Self::new(ErrorKind::Conflict, "idempotency_key_conflict", message).never_retry()
            }
            Refusal::ConversationMoved => {
                Self::new(ErrorKind::Conflict, "conversation_changed", message).with_param("conversation")
            }
            Refusal::Invalid(error) => error,
            Refusal::Unavailable => Self::storage_unavailable(),
            Refusal::Unknown => Self::new(ErrorKind::Unavailable, "outcome_unknown", message).with_retry_after(1),
            Refusal::Defect => Self::new(ErrorKind::Internal, "internal_error", message),
        }
    }
}
