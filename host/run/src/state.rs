//! What agents keep beyond their runs, between an instance and the database.
//!
//! What a run writes goes into its outbox together with the entry of its journal, and is committed with it: a run that
//! is executed again has either done both or neither. Until then it is pending, and only its own run sees it. A place
//! that has a pending write of one run is not written by another: it waits for the commit, so that the database gets the
//! writes of a place in the order in which they were made.
//!
//! A run of which nothing is kept has its writes in memory, over what is kept.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use futures::future::BoxFuture;
use outlast_plugin::{STATE_ENTRY, StateChange, StateError, StatePort, StateSpot};
use outlast_protocol::{ConversationId, ResponseId};
use outlast_store::{StateOwner, StatePlace, StateWrite, Store};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::{error, warn};

use super::Run;

/// So many spaces may be remembered that are not used any more.
const SPACES: usize = 64;
/// The pause before a database that does not answer is asked again.
const PAUSE: Duration = Duration::from_millis(500);

/// Asks the database, again and again while it does not answer. A macro, because a closure that gives a future cannot say
/// for how long it borrows.
macro_rules! answered {
    ($ask:expr) => {{
        let mut warned = false;
        loop {
            match $ask.await {
                Ok(answer) => break Ok(answer),
                Err(error) if error.is_temporary() => {
                    if !std::mem::replace(&mut warned, true) {
                        warn!(%error, "a run waits for its state");
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => {
                    error!(%error, "the state of a run cannot be read");
                    break Err(StateError::Unreadable);
                }
            }
        }
    }};
}

/// The spaces that are in use.
#[derive(Debug)]
pub(super) struct Spaces {
    store: Store,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    spaces: HashMap<StateOwner, Weak<Space>>,
    /// At how many those that are not used any more are looked for.
    sweep: usize,
}

impl Spaces {
    pub fn new(store: Store) -> Arc<Self> {
        Arc::new(Self { store, open: Mutex::default() })
    }

    fn of(&self, owner: StateOwner) -> Arc<Space> {
        let mut open = self.open.lock();
        if let Some(space) = open.spaces.get(&owner).and_then(Weak::upgrade) {
            return space;
        }
        if open.spaces.len() >= open.sweep {
            open.spaces.retain(|_, space| space.strong_count() > 0);
            open.sweep = 2 * open.spaces.len() + SPACES;
        }
        let space = Arc::new(Space {
            owner: owner.clone(),
            store: self.store.clone(),
            used: tokio::sync::Mutex::default(),
            pending: Mutex::default(),
            settled: Notify::new(),
        });
        open.spaces.insert(owner, Arc::downgrade(&space));
        space
    }

    /// Something of this principal was removed elsewhere: how much there is has to be counted anew.
    pub fn recount(&self, principal: &str) {
        for (owner, space) in &self.open.lock().spaces {
            if let Some(space) = space.upgrade().filter(|_| owner.principal == principal) {
                space.recount();
            }
        }
    }
}

/// The state of one agent and one principal, while runs use it.
#[derive(Debug)]
struct Space {
    owner: StateOwner,
    store: Store,
    /// How much there is with what is pending, in bytes; none before it was counted. Locked by whoever writes.
    used: tokio::sync::Mutex<Option<usize>>,
    pending: Mutex<Pending>,
    /// Something is not pending any more.
    settled: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    writes: BTreeMap<StatePlace, PendingWrite>,
    /// The number of the next write.
    next: u64,
    /// Whether `used` is wrong.
    recount: bool,
}

#[derive(Debug)]
struct PendingWrite {
    run: ResponseId,
    number: u64,
    value: Option<Arc<[u8]>>,
}

/// A write in an outbox.
#[derive(Clone, Debug)]
pub struct KeptWrite {
    space: Arc<Space>,
    place: StatePlace,
    number: u64,
    value: Option<Arc<[u8]>>,
}

impl KeptWrite {
    /// How much memory it takes, about.
    pub fn bytes(&self) -> usize {
        size(&self.place, self.value.as_ref().map_or(0, |value| value.len()))
    }

    /// The same for the store, as a write of this run.
    pub fn of<'a>(&'a self, run: &'a ResponseId) -> StateWrite<'a> {
        StateWrite { run, owner: &self.space.owner, place: &self.place, value: self.value.as_deref() }
    }

    /// It is committed, or will not be: `recount` says that it may not be there.
    pub fn settle(&self, recount: bool) {
        let mut pending = self.space.pending.lock();
        if pending.writes.get(&self.place).is_some_and(|write| write.number == self.number) {
            pending.writes.remove(&self.place);
        }
        pending.recount |= recount;
        drop(pending);
        self.space.settled.notify_waiters();
    }
}

impl Space {
    fn recount(&self) {
        self.pending.lock().recount = true;
    }

    /// Waits until the pending writes are as they should be.
    async fn wait_until(&self, right: impl Fn(&Pending) -> bool) {
        loop {
            let settled = self.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            if right(&self.pending.lock()) {
                return;
            }
            settled.await;
        }
    }

    /// What this run has written and not committed; none when that is nothing.
    fn own(&self, run: &ResponseId, place: &StatePlace) -> Option<Option<Vec<u8>>> {
        let pending = self.pending.lock();
        let write = pending.writes.get(place).filter(|write| write.run == *run)?;
        Some(write.value.as_ref().map(|value| value.to_vec()))
    }

    /// How much there is, with what is pending.
    async fn count(&self, used: &mut Option<usize>) -> Result<usize, StateError> {
        if std::mem::take(&mut self.pending.lock().recount) {
            *used = None;
        }
        if let Some(used) = *used {
            return Ok(used);
        }
        // Nobody else writes meanwhile.
        self.wait_until(|pending| pending.writes.is_empty()).await;
        let counted = answered!(self.store.state_bytes(&self.owner, STATE_ENTRY))?;
        *used = Some(counted);
        Ok(counted)
    }
}

/// The state as one run sees it.
#[derive(Debug)]
pub(super) struct StateOfRun {
    run: Arc<Run>,
    spaces: Arc<Spaces>,
    owner: StateOwner,
    /// From the first use on.
    space: OnceLock<Arc<Space>>,
    conversation: Option<ConversationId>,
    /// What was written, where nothing of the run is kept.
    own: Mutex<BTreeMap<StatePlace, Option<Arc<[u8]>>>>,
}

impl StateOfRun {
    pub fn new(spaces: &Arc<Spaces>, run: Arc<Run>, agent: &str, conversation: Option<ConversationId>) -> Self {
        let owner = StateOwner { principal: run.principal.clone(), agent: agent.to_owned() };
        Self { run, spaces: spaces.clone(), owner, space: OnceLock::new(), conversation, own: Mutex::default() }
    }

    fn space(&self) -> &Arc<Space> {
        self.space.get_or_init(|| self.spaces.of(self.owner.clone()))
    }

    fn place(&self, spot: StateSpot<'_>) -> Result<StatePlace, StateError> {
        let conversation = match (spot.of_conversation, &self.conversation) {
            (false, _) => String::new(),
            (true, Some(id)) => id.to_string(),
            (true, None) => return Err(StateError::NoConversation),
        };
        Ok(StatePlace { conversation, key: spot.key.to_owned() })
    }

    async fn value(&self, place: &StatePlace) -> Result<Option<Vec<u8>>, StateError> {
        let own = match self.run.durable {
            true => self.space().own(&self.run.id, place),
            false => self.own.lock().get(place).map(|value| value.as_ref().map(|value| value.to_vec())),
        };
        match own {
            Some(value) => Ok(value),
            None => answered!(self.space().store.state(&self.space().owner, place)),
        }
    }

    /// What this run has written at places of a conversation, or of none, and not committed: whether there is a value.
    fn own_keys(&self, conversation: &str) -> Vec<(String, bool)> {
        let own =
            |place: &StatePlace, there: bool| (place.conversation == conversation).then(|| (place.key.clone(), there));
        if !self.run.durable {
            return self.own.lock().iter().filter_map(|(place, value)| own(place, value.is_some())).collect();
        }
        let pending = self.space().pending.lock();
        let writes = pending.writes.iter().filter(|(_, write)| write.run == self.run.id);
        writes.filter_map(|(place, write)| own(place, write.value.is_some())).collect()
    }

    async fn try_keys(&self, spot: StateSpot<'_>, after: &str, most: usize) -> Result<Vec<String>, StateError> {
        let StatePlace { conversation, key: prefix } = self.place(spot)?;
        let own = self.own_keys(&conversation);
        let Space { store, owner, .. } = &**self.space();
        let found = answered!(store.state_keys(owner, &conversation, &prefix, after, most + own.len()))?;
        let mut keys: BTreeSet<String> = found.into_iter().collect();
        for (key, there) in own {
            if !there {
                keys.remove(&key);
            } else if key.starts_with(&prefix) && key.as_str() > after {
                keys.insert(key);
            }
        }
        Ok(keys.into_iter().take(most).collect())
    }

    async fn try_change(&self, change: StateChange<'_>) -> Result<bool, StateError> {
        let place = self.place(change.spot)?;
        let mut turn = self.space().used.lock().await;
        let mine = |pending: &Pending| pending.writes.get(&place).is_none_or(|write| write.run == self.run.id);
        self.space().wait_until(mine).await;
        let before = self.value(&place).await?;
        if change.expected.is_some_and(|expected| expected != before.as_deref()) {
            return Ok(false);
        }
        let used = self.space().count(&mut turn).await? + self.own_bytes();
        let counted = |value: Option<&[u8]>| value.map_or(0, |value| size(&place, value.len()));
        let (less, more) = (counted(before.as_deref()), counted(change.value));
        let after = used.saturating_sub(less) + more;
        if more > less && after > change.most {
            return Err(StateError::Full { used: after, most: change.most });
        }
        let value: Option<Arc<[u8]>> = change.value.map(Arc::from);
        if !self.run.durable {
            self.own.lock().insert(place, value);
            return Ok(true);
        }
        let mut pending = self.space().pending.lock();
        let number = pending.next;
        let write = KeptWrite { space: self.space().clone(), place: place.clone(), number, value: value.clone() };
        // Under the lock, so that it is not settled before it is pending.
        self.run.keep(change.entry, write).map_err(StateError::Refused)?;
        pending.next += 1;
        pending.writes.insert(place, PendingWrite { run: self.run.id.clone(), number, value });
        *turn = Some(after);
        Ok(true)
    }

    /// What a run of which nothing is kept has written, in bytes. What it has removed or written over is not taken off
    /// of what is kept.
    fn own_bytes(&self) -> usize {
        self.own.lock().iter().filter_map(|(place, value)| Some(size(place, value.as_ref()?.len()))).sum()
    }

    /// Gives up when the run is asked to stop.
    async fn unless_stopped<T>(&self, call: impl Future<Output = Result<T, StateError>>) -> Result<T, StateError> {
        self.run.stopping().run_until_cancelled(call).await.unwrap_or(Err(StateError::Stopped))
    }
}

impl StatePort for StateOfRun {
    fn get<'a>(&'a self, spot: StateSpot<'a>) -> BoxFuture<'a, Result<Option<Vec<u8>>, StateError>> {
        Box::pin(self.unless_stopped(async move { self.value(&self.place(spot)?).await }))
    }

    fn keys<'a>(
        &'a self,
        spot: StateSpot<'a>,
        after: &'a str,
        most: usize,
    ) -> BoxFuture<'a, Result<Vec<String>, StateError>> {
        Box::pin(self.unless_stopped(self.try_keys(spot, after, most)))
    }

    fn change<'a>(&'a self, change: StateChange<'a>) -> BoxFuture<'a, Result<bool, StateError>> {
        Box::pin(self.unless_stopped(self.try_change(change)))
    }
}

/// What an entry with a value of so many bytes counts.
fn size(place: &StatePlace, value: usize) -> usize {
    place.key.len() + value + STATE_ENTRY as usize
}
