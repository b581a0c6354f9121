//! Admits, starts, finds, stops and drains runs.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::runtime::Handle;
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};
use tracing::{error, info, warn};
use uuid::Uuid;

use super::{
    Ending, Feed, Recorder, Refusal, Retention, Run, RunLimits, Seal, StopReason, Subscription, WriterQueue,
    admission::{Place, Places, Shares, Slot},
    compaction::{opened_input, opened_past},
    execution,
    history::{self, History, history},
    journal::Journal,
    milliseconds,
    outbox::{Ownership, Port},
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
    store::{NewResponse, Store, StoreError},
};

/// How long, after the drain, the ends of the remaining runs may take to be written.
const LAST_WRITES: Duration = Duration::from_secs(10);
/// How often a request is checked again because its conversation has changed meanwhile.
const ATTEMPTS: usize = 5;

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
    /// Where instances run: apart from HTTP and the writers, so that a busy agent holds up neither.
    guests: Handle,
    live: Mutex<HashMap<ResponseId, Arc<Run>>>,
    places: Places,
    tasks: TaskTracker,
    draining: AtomicBool,
    metrics: Arc<Metrics>,
    /// What agents keep beyond their runs.
    spaces: Arc<Spaces>,
}

impl Manager {
    /// A manager without runs.
    pub fn new(store: Store, agents: Agents, limits: RunLimits, shares: Shares, services: Services) -> Arc<Self> {
        let Services { queues, seal, guests, metrics } = services;
        let manager = Arc::new(Self {
            spaces: Spaces::new(store.clone()),
            store,
            agents,
            queues,
            seal,
            guests,
            live: Mutex::default(),
            places: Places::new(&limits, shares),
            limits,
            tasks: TaskTracker::new(),
            draining: AtomicBool::new(false),
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
        self.draining.load(Ordering::Relaxed)
    }

    /// How many runs go on.
    pub fn live_runs(&self) -> usize {
        self.live.lock().values().filter(|run| !run.feed.suspended()).count()
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
        let mut history = history(&self.store, principal, &mut request, self.limits.history_items).await?;
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
        Ok(history(&self.store, principal, request, self.limits.history_items).await?.items)
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
        let places = self.places.take(&principal, &agent.description.name)?;
        // Counted before the flag is read, so that a drain either sees this run or this run sees the drain.
        let token = self.tasks.token();
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
            Ownership { id: id.clone(), principal: principal.clone(), durable: request.store, epoch: 1 },
            recorder,
            Journal::new(self.limits.journal_bytes),
            Feed::new(retention, self.limits.feed_bytes),
            self.limits.bytes(),
            queue.clone(),
            metrics,
        );
        let context = self.context(&run, &request, &history.items, milliseconds(now))?;
        let row = NewResponse {
            id: id.clone(),
            principal,
            epoch: run.epoch,
            agent: agent.description.name.clone(),
            component: agent.sha256.clone(),
            status: if request.background { Status::QUEUED } else { Status::IN_PROGRESS },
            request: if run.durable { StoredRequest::write(&request) } else { String::new() },
            previous: request.previous,
            conversation: request.conversation.map(|conversation| (conversation, history.position)),
            key,
            created_at: milliseconds(now),
        };
        self.live.lock().insert(id.clone(), run.clone());
        // No answer means that the writer is gone.
        if let Err(refusal) = run.admit(row).await.unwrap_or(Err(Refusal::Defect)) {
            self.live.lock().remove(&id);
            return Err(refusal);
        }
        let owner = !run.durable || (self.limits.cancel_on_disconnect && !request.background);
        let subscription = Subscription::live(run.clone(), 0, run.durable.then(|| self.store.clone()), owner);
        let (place, slot) = places;
        self.execute(run, agent, context, (place, Some(slot)), token);
        Ok(subscription)
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
        let mut context = RunContext::new(run.id.to_string(), Arc::new(Port(run.clone())), run.cancelling().clone());
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

    /// Executes a run that has a place, and an instance's place if it is to get anywhere.
    pub(super) fn execute(
        self: &Arc<Self>,
        run: Arc<Run>,
        agent: Arc<Agent>,
        context: RunContext,
        (place, slot): (Place, Option<Slot>),
        token: TaskTrackerToken,
    ) {
        let manager = self.clone();
        self.guests.spawn(async move {
            match execution::execute(&run, agent, context, manager.limits).await {
                Some(until) => {
                    drop(slot);
                    manager.passivate(run, until, place, token);
                }
                None => manager.forget(&run),
            }
        });
    }

    /// Forgets a run that is over.
    pub(super) fn forget(&self, run: &Run) {
        // One that is suspended is not: who asks for it is told to come back.
        if !run.feed.suspended() {
            self.live.lock().remove(&run.id);
        }
    }

    /// Where instances run.
    pub(super) fn guests(&self) -> &Handle {
        &self.guests
    }

    /// Waits for a place for an instance.
    pub(super) async fn slot(&self) -> Slot {
        self.places.slot().await
    }

    /// Takes a run in that was cut off by a stop; it was accepted at `created_at` (milliseconds since 1970).
    pub(super) fn adopt(
        &self,
        (agent, created_at): (&str, i64),
        ownership: Ownership,
        recorder: Recorder,
        journal: Journal,
        feed: Feed,
    ) -> Arc<Run> {
        let age = milliseconds(SystemTime::now()).saturating_sub(created_at);
        let age = Duration::from_millis(age.try_into().unwrap_or_default());
        let metrics = LiveRun::resumed(self.metrics.runs.agent(agent), age);
        let (bytes, writer) = (self.limits.bytes(), self.queues.durable.clone());
        let run = Run::new(ownership, recorder, journal, feed, bytes, writer, metrics);
        self.live.lock().insert(run.id.clone(), run.clone());
        run
    }

    /// Executes a run again that was cut off by a stop. It waits for a place like any other.
    pub(super) fn go_on(self: &Arc<Self>, run: Arc<Run>, agent: Arc<Agent>, context: RunContext) {
        let (manager, token) = (self.clone(), self.tasks.token());
        self.guests.spawn(async move {
            // One that is stopped meanwhile needs none to end.
            let places = async {
                (manager.places.place(&run.principal, &agent.description.name).await, manager.places.slot().await)
            };
            let places = run.stopping().run_until_cancelled(places).await;
            let (place, slot) = places.map_or_else(Default::default, |(place, slot)| (place, Some(slot)));
            manager.execute(run, agent, context, (place, slot), token);
        });
    }

    /// Ends a run that was cut off by a stop and cannot be executed again.
    pub(super) fn give_up(self: &Arc<Self>, run: Arc<Run>, ending: Ending) {
        let (manager, token) = (self.clone(), self.tasks.token());
        self.guests.spawn(async move {
            let _token = token;
            execution::finish(&run, ending).await;
            manager.forget(&run);
        });
    }

    /// A run of any principal that is kept and goes on.
    pub(super) fn find_any(&self, id: &ResponseId) -> Option<Arc<Run>> {
        self.live.lock().get(id).filter(|run| run.durable).cloned()
    }

    /// A run of this principal that is kept and goes on.
    fn find(&self, principal: &str, id: &ResponseId) -> Option<Arc<Run>> {
        let live = self.live.lock();
        live.get(id).filter(|run| run.durable && run.principal == principal).cloned()
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
        Ok(self.store.delete_response(principal, id).await?)
    }

    /// Removes a conversation, its items, and what agents keep for it; false when there is none.
    pub async fn delete_conversation(&self, principal: &str, id: &ConversationId) -> Result<bool, StoreError> {
        let deleted = self.store.delete_conversation(principal, id).await?;
        self.spaces.recount(principal);
        Ok(deleted)
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

    /// Refuses new runs, waits for those that go on, at most `timeout`, and then stops the others: what is kept goes on
    /// after the next start, what is not ends.
    pub async fn drain(&self, timeout: Duration) {
        self.draining.store(true, Ordering::Relaxed);
        self.tasks.close();
        // Those that sleep have nothing to finish.
        let passive: Vec<_> = self.live.lock().values().filter(|run| run.is_passive()).cloned().collect();
        for run in passive {
            run.stop(StopReason::Suspended);
        }
        let waiting = self.live_runs();
        if waiting > 0 {
            info!(runs = waiting, timeout = ?timeout, "waiting for runs to finish");
        }
        if tokio::time::timeout(timeout, self.tasks.wait()).await.is_ok() {
            return;
        }
        let left: Vec<_> = self.live.lock().values().cloned().collect();
        info!(runs = left.len(), "leaving the runs that did not finish to the next start");
        for run in left {
            run.stop(if run.durable { StopReason::Suspended } else { StopReason::Shutdown });
        }
        if tokio::time::timeout(LAST_WRITES, self.tasks.wait()).await.is_err() {
            error!(runs = self.live_runs(), "the ends of some runs could not be written");
        }
        // They were not cut off by a crash, and a crash they do not cause.
        if let Err(error) = self.store.forgive_attempts().await {
            warn!(%error, "cannot reset the count of attempts");
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
