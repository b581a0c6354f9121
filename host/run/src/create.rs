//! Begins runs: checks a request against what is stored, admits the run, and starts its task.

use std::sync::Arc;

use outlast_metrics::LiveRun;
use outlast_plugin::Agent;
use outlast_protocol::{ApiError, CreateRequest, IdempotencyKey, ResponseId, Status, identify, input_tokens};
use outlast_runtime::clock::{milliseconds, seconds};
use outlast_store::NewResponse;
use serde_json::Value;
use tracing::error;

use super::{
    Feed, Manager, Ownership, ReasoningSeal, Recorder, Refusal, Retention, Run, Subscription,
    compaction::{opened_input, opened_past},
    history::{History, history, input_items},
    journal::Journal,
    life::{Begin, Ready},
    request::StoredRequest,
};

/// How often a request is checked again because its conversation has changed meanwhile.
const ATTEMPTS: usize = 5;

/// What a request led to.
#[derive(Debug)]
pub enum Created {
    /// A new run, and the subscription to it.
    Now(Subscription),
    /// Nothing: its idempotency key names this response.
    Before(ResponseId),
}

impl Manager {
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
        if request.input.is_empty() && history.items.is_empty() && !request.fields.contains_key("instructions") {
            let message = "There is nothing to answer: 'input' is empty, and there is no history.";
            return Err(ApiError::invalid("input", "invalid_value", message).into());
        }
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
            Some((id, _)) if self.queues.durable.has_abandoned(&id) => Err(Refusal::Unknown),
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
        let ignored = request.ignored();
        let metrics = LiveRun::new(self.metrics.runs.agent(&agent.description.name));
        let now = self.clock().now();
        let id = ResponseId::new(self.clock().id());
        identify(&mut request.input, |prefix, index| id.input_child(prefix, index));
        let seal = ReasoningSeal::asked(&self.seal, &principal, &request.fields);
        let response = request.response(&id, seconds(now));
        let recorder = Recorder::new(id.clone(), response, self.limits.output).sealing(seal);
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
            run.set_input(input_items(&request.input));
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
        if !ignored.is_empty() {
            run.note("info", &format!("without effect in this request: {}", ignored.join(", ")));
        }
        let owner = !run.durable || (self.limits.cancel_on_disconnect && !request.background);
        let subscription = Subscription::live(run.clone(), 0, run.durable.then(|| self.store.clone()), owner);
        let (place, slot) = places;
        self.live(run, Begin::Now(Box::new(Ready { agent, context, slot, repeating: false })), Some(place), token);
        Ok(subscription)
    }
}
