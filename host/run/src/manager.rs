//! Finds, stops and drains runs.

use std::{collections::HashMap, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use bytes::Bytes;
use outlast_metrics::{LiveRun, Metrics};
use outlast_plugin::{Registry, RunContext};
use outlast_protocol::{ApiError, ConversationId, CreateRequest, Fold, Response, ResponseId, Status};
use outlast_runtime::clock::Clock;
use outlast_store::{Store, StoreError, Swept, TakenRun};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::{
    runtime::Handle,
    sync::{RwLock, Semaphore, SemaphorePermit},
};
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};
use tracing::{debug, error, info};

use super::{
    Feed, Ownership, Quotas, Refusal, Retention, Run, RunLimits, RunSecrets, Seal, StopReason, Subscription,
    WriterQueue,
    admission::{Place, Places, Shares, Slot},
    compaction::opened_input,
    events::fold,
    history,
    journal::Journal,
    port::Port,
    state::{Spaces, StateOfRun},
    to_json,
};

/// How long, after the drain, the ends of the remaining runs may take to be written.
const LAST_WRITES: Duration = Duration::from_secs(10);
/// How many runs are read at once to be executed again.
const READS: usize = 8;

/// Where the manager finds the agents.
pub type Agents = Arc<Registry>;

/// The writers' queues.
#[derive(Clone, Debug)]
pub struct Queues {
    /// Writes the runs that are kept.
    pub durable: WriterQueue,
    /// Publishes the runs of which nothing is kept.
    pub ephemeral: WriterQueue,
}

/// What the runs of a server use together.
#[derive(Debug)]
pub struct Services {
    /// The writers' queues.
    pub queues: Queues,
    /// Closes and opens what is compacted.
    pub seal: Seal,
    /// Makes the secrets of runs.
    pub secrets: RunSecrets,
    /// The runtime that executes runs.
    pub guests: Handle,
    /// Where runs are measured.
    pub metrics: Arc<Metrics>,
}

/// The runs of this server.
#[derive(Debug)]
pub struct Manager {
    pub(super) store: Store,
    pub(super) agents: Agents,
    pub(super) limits: RunLimits,
    pub(super) queues: Queues,
    /// Closes and opens what is compacted.
    pub(super) seal: Seal,
    pub(super) secrets: RunSecrets,
    /// Where instances run: apart from HTTP and the writers, so that a busy agent holds up neither.
    guests: Handle,
    pub(super) live: Mutex<Live>,
    pub(super) places: Places,
    /// Exchanged with the keys.
    quotas: ArcSwap<Quotas>,
    tasks: TaskTracker,
    /// Turns to read a run.
    reads: Semaphore,
    /// Held to read by a request that goes on from a response, until its run is admitted; held to write by whoever removes
    /// responses. So nothing goes that a run was just told of.
    pub(super) chains: Arc<RwLock<()>>,
    pub(super) metrics: Arc<Metrics>,
    /// What agents keep beyond their runs.
    spaces: Arc<Spaces>,
}

/// The runs that go on, and whether more may begin: one is decided with the other.
#[derive(Debug, Default)]
pub(super) struct Live {
    pub(super) runs: HashMap<ResponseId, Arc<Run>>,
    draining: bool,
}

impl Manager {
    /// A manager without runs.
    pub fn new(store: Store, agents: Agents, limits: RunLimits, shares: Shares, services: Services) -> Arc<Self> {
        let Services { queues, seal, secrets, guests, metrics } = services;
        let quotas = ArcSwap::from_pointee(shares.quotas.clone());
        let manager = Arc::new(Self {
            spaces: Spaces::new(store.clone()),
            store,
            agents,
            queues,
            seal,
            secrets,
            guests,
            live: Mutex::default(),
            places: Places::new(&limits, shares),
            quotas,
            limits,
            tasks: TaskTracker::new(),
            reads: Semaphore::new(READS),
            chains: Arc::default(),
            metrics,
        });
        manager.measure_agents();
        manager
    }

    /// An agent shows zeros before its first run.
    pub fn measure_agents(&self) {
        for agent in self.agents.served() {
            self.metrics.runs.agent(&agent.description.name);
        }
    }

    /// Gives principals so many runs at once from now on, and lets them keep so much.
    pub fn share(&self, shares: Shares) {
        self.places.share(shares.principals);
        self.quotas.store(Arc::new(shares.quotas));
    }

    /// The agents.
    pub fn agents(&self) -> &Agents {
        &self.agents
    }

    /// The database.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The clock of the server.
    pub fn clock(&self) -> &Clock {
        self.queues.durable.clock()
    }

    /// The limits of runs.
    pub fn limits(&self) -> &RunLimits {
        &self.limits
    }

    /// Whether new runs are refused because the server stops.
    pub fn draining(&self) -> bool {
        self.live.lock().draining
    }

    /// Whether runs can begin that are kept: the database answers and takes writes.
    ///
    /// # Errors
    ///
    /// It does not.
    pub async fn ready(&self) -> Result<(), ApiError> {
        let health = self.queues.durable.health();
        if let Err(error) = self.store.check().await {
            // Told once, until a write works.
            health.failed(&error);
            return Err(Refusal::Unavailable.into());
        }
        health.check().await.map_err(|error| {
            debug!(error, "not ready");
            Refusal::Unavailable.into()
        })
    }

    /// How many runs are active.
    pub fn live_runs(&self) -> usize {
        self.live.lock().runs.values().filter(|run| !run.feed.suspended()).count()
    }

    /// The seal of this server.
    pub(super) fn seal(&self) -> &Seal {
        &self.seal
    }

    /// Takes in a run, and counts its task; none when the server stops. A drain sees the run, or the run sees the drain.
    pub(super) fn enter(&self, run: &Arc<Run>) -> Option<TaskTrackerToken> {
        let mut live = self.live.lock();
        if live.draining {
            return None;
        }
        live.runs.insert(run.id.clone(), run.clone());
        Some(self.tasks.token())
    }

    /// What an instance is given for the run of `request`, which goes on from `history` and was accepted at `created_at`
    /// (milliseconds since 1970).
    ///
    /// # Errors
    ///
    /// The input has something that was not sealed here for this principal.
    pub(super) fn context(
        &self,
        run: &Arc<Run>,
        request: &CreateRequest,
        history: &[Value],
        created_at: i64,
    ) -> Result<RunContext, ApiError> {
        let opened = opened_input(&self.seal, &run.principal, &request.input)?;
        let secret = self.secrets.of_run(&run.id, created_at);
        let port = Arc::new(Port(run.clone()));
        let mut context = RunContext::new(run.id.to_string(), secret, port, run.cancelling().clone());
        context.upstream = request.upstream().map(str::to_owned);
        context.input = to_json(opened.as_ref().unwrap_or(&request.input));
        context.request = to_json(&request.fields);
        context.history = to_json(&history);
        context.max_tool_calls = request.fields.get("max_tool_calls").and_then(Value::as_u64);
        let state = StateOfRun::new(&self.spaces, run.clone(), request.agent(), request.conversation.clone());
        context.state = Some(Arc::new(state));
        context.log = Some(Arc::new(Port(run.clone())));
        context.clock = self.clock().clone();
        context.meter = run.meter.clone();
        context.journaled = run.durable;
        if run.durable {
            context.lease = self.store.held().clone();
        }
        context.idle_after = run.durable.then_some(self.limits.idle_after);
        context.began = created_at.unsigned_abs().saturating_mul(1_000_000);
        Ok(context)
    }

    /// Forgets a run that is over.
    pub(super) fn forget(&self, run: &Run) {
        // One that is suspended is not: who asks for it is told to come back.
        if !run.feed.suspended() {
            self.live.lock().runs.remove(&run.id);
        }
    }

    /// Where instances run.
    pub(super) fn guests(&self) -> &Handle {
        &self.guests
    }

    /// Waits for so many places for an instance of a run that is executed again.
    pub(super) async fn slot_again(&self, count: u32) -> Slot {
        self.places.slot_again(count).await
    }

    /// Waits for a place for a run that was taken over.
    pub(super) async fn place(&self, run: &Run) -> Place {
        self.places.place(&run.principal, &run.agent).await
    }

    /// Waits for the turn to read a run from the database.
    pub(super) async fn reading(&self) -> Option<SemaphorePermit<'_>> {
        self.reads.acquire().await.ok()
    }

    /// Counts a task of a run that was taken over.
    pub(super) fn token(&self) -> TaskTrackerToken {
        self.tasks.token()
    }

    /// Takes in a run that was cut off by a stop.
    pub(super) fn adopt(&self, taken: &TakenRun) -> Arc<Run> {
        let TakenRun { id, principal, epoch, agent, created_at, events, entries, .. } = taken;
        let age = self.clock().milliseconds().saturating_sub(*created_at);
        let age = Duration::from_millis(age.try_into().unwrap_or_default());
        let metrics = LiveRun::resumed(self.metrics.runs.agent(agent), age);
        let (id, principal) = (id.clone(), principal.clone());
        let ownership = Ownership { id, principal, agent: agent.clone(), durable: true, epoch: *epoch };
        let journal = Journal::behind(*entries, self.limits.journal_bytes);
        let feed = Feed::new(Retention::Log, self.limits.feed_bytes);
        let writer = self.queues.durable.clone();
        let run = Run::taken(ownership, *events, journal, feed, self.limits.bytes(), writer, metrics);
        self.live.lock().runs.insert(run.id.clone(), run.clone());
        run
    }

    /// A run of any principal that is kept and goes on.
    pub(super) fn find_any(&self, id: &ResponseId) -> Option<Arc<Run>> {
        self.live.lock().runs.get(id).filter(|run| run.durable).cloned()
    }

    /// A run of this principal that is kept and goes on.
    fn find(&self, principal: &str, id: &ResponseId) -> Option<Arc<Run>> {
        let live = self.live.lock();
        live.runs.get(id).filter(|run| run.durable && run.principal == principal).cloned()
    }

    /// The response as it is now, JSON: the final one, or what the committed events make; none when there is no
    /// such response for this principal.
    pub async fn response(&self, principal: &str, id: &ResponseId) -> Result<Option<Bytes>, StoreError> {
        let Some(row) = self.store.response(principal, id).await? else { return Ok(None) };
        if let Some(response) = row.response {
            return Ok(Some(response.into()));
        }
        let damaged = |error: String| StoreError::Damaged(format!("{id}: {error}"));
        let fold = fold(&self.store, id).await?;
        let response = fold.response().ok_or_else(|| damaged("it has no events".to_owned()))?;
        serde_json::to_vec(response).map(|json| Some(json.into())).map_err(|error| damaged(error.to_string()))
    }

    /// Subscribes to a response from the event `cursor` on; none when there is no such response for this
    /// principal.
    pub async fn subscribe(
        &self,
        principal: &str,
        id: &ResponseId,
        cursor: u64,
    ) -> Result<Option<Subscription>, StoreError> {
        if let Some(run) = self.find(principal, id) {
            return Ok(Some(Subscription::live(run, cursor, Some(self.store.clone()), false)));
        }
        let row = self.store.response(principal, id).await?;
        Ok(row.map(|_| Subscription::stored(id.clone(), cursor, self.store.clone())))
    }

    /// Waits for the end of a run of this principal, if it goes on.
    ///
    /// # Errors
    ///
    /// The server stops before, and the run goes on after the next start.
    pub async fn wait(&self, principal: &str, id: &ResponseId) -> Result<(), Refusal> {
        let Some(run) = self.find(principal, id) else { return Ok(()) };
        let suspended = run.feed.wait(|feed| feed.closed().then(|| feed.suspended())).await;
        if suspended { Err(Refusal::Draining) } else { Ok(()) }
    }

    /// Subscribes to a response as whoever lost its stream: with the response so far and the number of its last
    /// event, and from the event after it on; from the first event, when it has ended. None when there is no such
    /// response for this principal.
    ///
    /// The response so far is folded from the log, and the subscription goes on by number: between the two nothing
    /// is lost and nothing comes twice.
    pub async fn reattach(
        &self,
        principal: &str,
        id: &ResponseId,
    ) -> Result<Option<(Option<(Response, u64)>, Subscription)>, StoreError> {
        let fold = match self.store.response(principal, id).await? {
            None => return Ok(None),
            Some(row) if row.status.terminal().is_some() => Fold::new(),
            Some(_) => fold(&self.store, id).await?,
        };
        let cursor = fold.next();
        let snapshot = match fold.into_parts() {
            (Some(response), next) if response.status.terminal().is_none() => Some((response, next.saturating_sub(1))),
            _ => None,
        };
        let cursor = if snapshot.is_some() { cursor } else { 0 };
        Ok(self.subscribe(principal, id, cursor).await?.map(|subscription| (snapshot, subscription)))
    }

    /// Removes a response, its events and its key, after stopping its run; false when there is no such response
    /// for this principal.
    ///
    /// # Errors
    ///
    /// The server stops, and the run goes on after the next start.
    pub async fn delete(&self, principal: &str, id: &ResponseId) -> Result<bool, Refusal> {
        self.cancel(principal, id).await?;
        let _nobody_begins = self.chains.write().await;
        let deleted = self.store.delete_response(principal, id, self.clock().milliseconds()).await?;
        if deleted {
            // Its task may not have come to that yet.
            self.live.lock().runs.remove(id);
        }
        Ok(deleted)
    }

    /// Removes some of the responses that ended before `time` (milliseconds since 1970), behind those that `after` has
    /// looked at: see [`Store::remove_ended`].
    pub(super) async fn remove_ended(&self, time: i64, after: &Swept) -> Result<Swept, StoreError> {
        let _nobody_begins = self.chains.write().await;
        self.store.remove_ended(time, after).await
    }

    /// Removes a conversation, its items, and what agents keep for it; false when there is none.
    pub async fn delete_conversation(&self, principal: &str, id: &ConversationId) -> Result<bool, StoreError> {
        let deleted = self.store.delete_conversation(principal, id).await?;
        self.spaces.recount(principal);
        Ok(deleted)
    }

    /// Removes a conversation that nobody has changed since `time` (milliseconds since 1970); false when somebody has.
    pub(super) async fn remove_unchanged(&self, principal: &str, id: &str, time: i64) -> Result<bool, StoreError> {
        let removed = self.store.remove_unchanged(principal, id, time).await?;
        if removed {
            self.spaces.recount(principal);
        }
        Ok(removed)
    }

    /// The input items of a response, oldest first; none when there is no such response for this principal.
    pub async fn input_items(&self, principal: &str, id: &ResponseId) -> Result<Option<Vec<Value>>, StoreError> {
        match self.store.turns(principal, id, 1).await?.pop() {
            Some(turn) => history::input(&turn.request).map(Some),
            None => Ok(None),
        }
    }

    /// Stops a run and waits for its end; none when there is no such response for this principal, and the status
    /// when it has ended already.
    ///
    /// # Errors
    ///
    /// The server stops, and the run goes on after the next start.
    pub async fn cancel(&self, principal: &str, id: &ResponseId) -> Result<Option<Status>, Refusal> {
        if let Some(run) = self.find(principal, id) {
            run.stop(StopReason::Cancelled);
        }
        self.wait(principal, id).await?;
        Ok(self.store.response(principal, id).await?.map(|row| row.status))
    }

    /// Lets a principal keep so many bytes more.
    ///
    /// # Errors
    ///
    /// It would have more than it may, or the database does not answer.
    pub async fn reserve(&self, principal: &str, bytes: usize) -> Result<(), Refusal> {
        self.queues.durable.stored.reserve(&self.quotas.load(), &self.store, principal, bytes).await
    }

    /// Refuses new runs, waits for those that go on, at most `timeout`, and then stops the others: what is kept goes on
    /// after the next start, what is not ends.
    pub async fn drain(&self, timeout: Duration) {
        let all = |live: &Live| live.runs.values().cloned().collect::<Vec<_>>();
        let runs = {
            let mut live = self.live.lock();
            live.draining = true;
            all(&live)
        };
        self.tasks.close();
        // Those that have no instance have nothing to finish.
        for run in runs.iter().filter(|run| run.is_passive()) {
            run.stop(StopReason::Suspended);
        }
        drop(runs);
        let waiting = self.live_runs();
        if waiting > 0 {
            info!(runs = waiting, timeout = ?timeout, "waiting for runs to finish");
        }
        if tokio::time::timeout(timeout, self.tasks.wait()).await.is_ok() {
            return;
        }
        let left = all(&self.live.lock());
        info!(runs = left.len(), "leaving the runs that did not finish to the next start");
        for run in left {
            run.stop(if run.durable { StopReason::Suspended } else { StopReason::Shutdown });
        }
        if tokio::time::timeout(LAST_WRITES, self.tasks.wait()).await.is_err() {
            error!(runs = self.live_runs(), "the ends of some runs could not be written");
        }
    }
}
