//! Admits, starts, finds, stops and drains runs.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::{
    runtime::Handle,
    sync::{RwLock, Semaphore, SemaphorePermit},
};
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};
use tracing::{debug, error, info};
use uuid::Uuid;

use super::{
    Feed, Ownership, Quotas, Recorder, Refusal, Retention, Run, RunLimits, RunSecrets, Seal, StopReason, Subscription,
    WriterQueue,
    admission::{Place, Places, Shares, Slot},
    compaction::{opened_input, opened_past},
    history::{self, History, history, turn_items},
    journal::Journal,
    life::{Begin, Ready},
    milliseconds,
    port::Port,
    request::StoredRequest,
    seconds,
    state::{Spaces, StateOfRun},
    to_json,
};
use crate::{
    metrics::{LiveRun, Metrics},
    plugin::{Agent, Registry, RunContext},
    protocol::{
        ApiError, ConversationId, CreateRequest, Fold, IdempotencyKey, Response, ResponseId, Status, identify,
        input_tokens,
    },
    store::{NewResponse, Store, StoreError, Swept, TakenRun},
};

/// How long, after the drain, the ends of the remaining runs may take to be written.
const LAST_WRITES: Duration = Duration::from_secs(10);
/// How often a request is checked again because its conversation has changed meanwhile.
const ATTEMPTS: usize = 5;
/// How many runs are read at once to be executed again.
const READS: usize = 8;

/// Where the manager finds the agents.
pub type Agents = Arc<Registry>;

/// What a request led to.
#[derive(Debug)]
pub enum Created {
    /// A new run, and the subscription to it.
    Now(Subscription),
    /// Nothing: its idempotency key names this response.
    Before(ResponseId),
}

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
    store: Store,
    agents: Agents,
    limits: RunLimits,
    queues: Queues,
    /// Closes and opens what is compacted.
    seal: Seal,
    secrets: RunSecrets,
    /// Where instances run: apart from HTTP and the writers, so that a busy agent holds up neither.
    guests: Handle,
    live: Mutex<Live>,
    places: Places,
    /// Exchanged with the keys.
    quotas: ArcSwap<Quotas>,
    tasks: TaskTracker,
    /// Turns to read a run.
    reads: Semaphore,
    /// Held to read by a request that goes on from a response, until its run is admitted; held to write by whoever removes
    /// responses. So nothing goes that a run was just told of.
    chains: Arc<RwLock<()>>,
    metrics: Arc<Metrics>,
    /// What agents keep beyond their runs.
    spaces: Arc<Spaces>,
}

/// The runs that go on, and whether more may begin: one is decided with the other.
#[derive(Debug, Default)]
struct Live {
    runs: HashMap<ResponseId, Arc<Run>>,
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

    /// How many runs go on.
    pub fn live_runs(&self) -> usize {
        self.live.lock().runs.values().filter(|run| !run.feed.suspended()).count()
    }

    /// Begins a run and subscribes to it from its first event. When this returns, the response is committed.
    ///
    /// With an idempotency key that was used before, no run begins: the answer is the response that the key names.
    ///
    /// Dropping the future does not undo the beginning: a run that is kept goes on, one that is not is stopped.
    ///
    /// # Errors
    ///
    /// The run did not begin, and nothing of it is kept.
    pub async fn create(
        self: &Arc<Self>,
        principal: &str,
        mut request: CreateRequest,
        key: Option<IdempotencyKey>,
    ) -> Result<Created, Refusal> {
        for _ in 0..ATTEMPTS {
            let again = request.conversation.is_some().then(|| request.clone());
            match (self.try_create(principal, request, key.clone()).await, &key, again) {
                // Another request was a moment faster in this conversation: this one is checked again.
                (Err(Refusal::ConversationMoved), _, Some(again)) => request = again,
                // Another request with this key was a moment faster.
                (Err(refusal), Some(key), _) => {
                    return self.named_by(principal, key).await?.map(Created::Before).ok_or(refusal);
                }
                (created, ..) => return created,
            }
        }
        Err(Refusal::ConversationMoved)
    }

    async fn try_create(
        self: &Arc<Self>,
        principal: &str,
        mut request: CreateRequest,
        key: Option<IdempotencyKey>,
    ) -> Result<Created, Refusal> {
        if let Some(key) = &key
            && let Some(first) = self.named_by(principal, key).await?
        {
            return Ok(Created::Before(first));
        }
        let agent = self.agents.get(request.agent()).ok_or_else(|| Refusal::UnknownModel(request.model.clone()))?;
        let kept = match &request.previous {
            Some(_) => Some(self.chains.clone().read_owned().await),
            None => None,
        };
        let mut history = history(&self.store, principal, &mut request, self.limits.history).await?;
        history.kept = kept;
        history.items = opened_past(&self.seal, principal, &request, history.items)?;
        self.begin(principal, request, history, key, agent).await.map(Created::Now)
    }

    /// Begins a run that was checked. Dropping the future does not undo the beginning.
    pub(super) async fn begin(
        self: &Arc<Self>,
        principal: &str,
        request: CreateRequest,
        history: History,
        key: Option<IdempotencyKey>,
        agent: Arc<Agent>,
    ) -> Result<Subscription, Refusal> {
        let (manager, owner) = (self.clone(), principal.to_owned());
        let started = tokio::spawn(async move { manager.start(owner, request, history, key, agent).await });
        match started.await {
            Ok(started) => started,
            Err(error) => {
                error!(%error, "starting a run panicked");
                Err(Refusal::Defect)
            }
        }
    }

    /// The seal of this server.
    pub(super) fn seal(&self) -> &Seal {
        &self.seal
    }

    /// The items before the input of a request: what it goes on from. Puts stored items where the input refers to them.
    ///
    /// # Errors
    ///
    /// Something that the request names is not there, is another principal's, or is not finished.
    pub async fn history(&self, principal: &str, request: &mut CreateRequest) -> Result<Vec<Value>, Refusal> {
        Ok(history(&self.store, principal, request, self.limits.history).await?.items)
    }

    /// How many tokens the agent of `request` is given, estimated. Nothing is started.
    ///
    /// # Errors
    ///
    /// The request is refused as one that begins a run.
    pub async fn input_tokens(&self, principal: &str, mut request: CreateRequest) -> Result<u64, Refusal> {
        self.agents.get(request.agent()).ok_or_else(|| Refusal::UnknownModel(request.model.clone()))?;
        let past = self.history(principal, &mut request).await?;
        let past = opened_past(&self.seal, principal, &request, past)?;
        let input = opened_input(&self.seal, principal, &request.input)?.unwrap_or(request.input);
        Ok(input_tokens(past.iter().chain(&input), &request.fields))
    }

    /// The response that an idempotency key names, if it was used for the same request.
    async fn named_by(&self, principal: &str, key: &IdempotencyKey) -> Result<Option<ResponseId>, Refusal> {
        match self.store.response_of_key(principal, &key.key).await? {
            None => Ok(None),
            // Nobody executes it, and it will be gone in a moment.
            Some((id, _)) if self.queues.durable.has_abandoned(&id) => Err(Refusal::Unavailable),
            Some((id, fingerprint)) if fingerprint == key.fingerprint => Ok(Some(id)),
            Some(_) => Err(Refusal::KeyConflict),
        }
    }

    async fn start(
        self: Arc<Self>,
        principal: String,
        mut request: CreateRequest,
        history: History,
        key: Option<IdempotencyKey>,
        agent: Arc<Agent>,
    ) -> Result<Subscription, Refusal> {
        let places = self.places.take(&principal, &agent.description.name, agent.places())?;
        if self.draining() {
            return Err(Refusal::Draining);
        }
        let metrics = LiveRun::new(self.metrics.runs.agent(&agent.description.name));
        let now = SystemTime::now();
        let id = ResponseId::new(Uuid::now_v7());
        identify(&mut request.input, |prefix, index| id.input_child(prefix, index));
        let recorder = Recorder::new(id.clone(), request.response(&id, seconds(now)), self.limits.output);
        let (retention, queue) = match (request.store, request.stream) {
            (true, _) => (Retention::Log, &self.queues.durable),
            (false, true) => (Retention::Reader, &self.queues.ephemeral),
            (false, false) => (Retention::Nothing, &self.queues.ephemeral),
        };
        let run = Run::new(
            Ownership {
                id: id.clone(),
                principal: principal.clone(),
                agent: agent.description.name.clone(),
                durable: request.store,
                epoch: 1,
            },
            recorder,
            Journal::new(self.limits.journal_bytes),
            Feed::new(retention, self.limits.feed_bytes),
            self.limits.bytes(),
            queue.clone(),
            metrics,
        );
        let context = self.context(&run, &request, &history.items, milliseconds(now))?;
        if request.conversation.is_some() {
            run.set_turn(turn_items(&request.input));
        }
        let row = NewResponse {
            id: id.clone(),
            principal,
            epoch: run.epoch,
            agent: agent.description.name.clone(),
            component: agent.sha256.clone(),
            status: if request.background { Status::QUEUED } else { Status::IN_PROGRESS },
            request: if run.durable { StoredRequest::write(&request) } else { String::new() },
            previous: request.previous,
            turns: i64::try_from(history.turns).unwrap_or(i64::MAX),
            conversation: request.conversation.map(|conversation| (conversation, history.position)),
            key,
            created_at: milliseconds(now),
        };
        if run.durable {
            self.reserve(&row.principal, row.request.len()).await?;
        }
        let Some(token) = self.enter(&run) else { return Err(Refusal::Draining) };
        // No answer means that the writer is gone.
        if let Err(refusal) = run.admit(row).await.unwrap_or(Err(Refusal::Defect)) {
            self.live.lock().runs.remove(&id);
            // Somebody may have found it by its idempotency key.
            run.feed.suspend();
            return Err(refusal);
        }
        drop(history);
        let owner = !run.durable || (self.limits.cancel_on_disconnect && !request.background);
        let subscription = Subscription::live(run.clone(), 0, run.durable.then(|| self.store.clone()), owner);
        let (place, slot) = places;
        self.live(run, Begin::Now(Box::new(Ready { agent, context, slot, repeating: false })), Some(place), token);
        Ok(subscription)
    }

    /// Takes in a run, and counts its task; none when the server stops. A drain sees the run, or the run sees the drain.
    fn enter(&self, run: &Arc<Run>) -> Option<TaskTrackerToken> {
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
        let state = StateOfRun::new(&self.spaces, run.clone(), request.agent(), request.conversation.clone());
        context.state = Some(Arc::new(state));
        context.log = Some(Arc::new(Port(run.clone())));
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
        let age = milliseconds(SystemTime::now()).saturating_sub(*created_at);
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
        let deleted = self.store.delete_response(principal, id, milliseconds(SystemTime::now())).await?;
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

/// Folds the log of a response.
pub(super) async fn fold(store: &Store, id: &ResponseId) -> Result<Fold, StoreError> {
    let mut fold = Fold::new();
    loop {
        let page = store.events(id, fold.next()).await?;
        if page.is_empty() {
            return Ok(fold);
        }
        for segment in page {
            fold.extend(&segment.frames).map_err(|error| StoreError::Damaged(format!("{id}: {error}")))?;
        }
    }
}
