//! An agent, and the instance of it that executes one run.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use outlast_model::Models;
use outlast_runtime::lease::Lease;
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use super::{
    bindings::{AgentPre, types},
    component::{Description, Fitting, Loaded, Refused},
    engine::Engine,
    failure::{Asleep, RunFailure},
    grants::{Granted, Grants, ModelGrant, TimeLimit, check_config},
    journal::Entry,
    limits::PluginLimits,
    meter::Meter,
    port::{LogPort, RunPort, StatePort},
    secret::RunSecret,
    state::RunState,
    tools::{ToolGrant, ToolPattern},
};

/// A loaded component that answers as an agent.
#[derive(Clone)]
pub struct Agent {
    engine: Engine,
    pre: AgentPre<RunState>,
    limits: PluginLimits,
    models: Arc<Models>,
    granted: Arc<Granted>,
    scripted_time: Option<Duration>,
    places: u32,
    /// What it says about itself.
    pub description: Description,
    /// The sha256 of the component, hexadecimal.
    pub sha256: String,
    /// When it was loaded, in seconds since 1970.
    pub loaded_at: i64,
    /// Whether it can call upstream models: its component imports that interface.
    pub uses_models: bool,
    /// The names of its imports.
    pub imports: Vec<String>,
}

/// How an agent finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It said all it wanted to.
    Completed,
    /// The answer was cut short: `max_output_tokens` or `content_filter`.
    Incomplete(String),
    /// It has not finished: it sleeps until this time, since 1970, and is to be executed again then.
    Asleep(Duration),
}

/// What an instance is given for its run.
pub struct RunContext {
    /// The id of the response.
    pub response_id: String,
    /// What the client wrote after the `/` of the model.
    pub upstream: Option<String>,
    /// The items of this turn, a JSON array.
    pub input: String,
    /// The request without its input, a JSON object.
    pub request: String,
    /// The items of earlier turns, a JSON array.
    pub history: String,
    /// What makes its random numbers and the keys of its requests.
    pub secret: RunSecret,
    /// Where its words go.
    pub port: Arc<dyn RunPort>,
    /// Is cancelled when the run is being cancelled.
    pub stop: CancellationToken,
    /// Whether the run is kept, and with it what its imports answer.
    pub journaled: bool,
    /// Whether this server may still act for the run: whatever leaves the process for it waits while it does not hold.
    pub lease: Lease,
    /// How long it must want to sleep to leave memory meanwhile; none when it must stay.
    pub idle_after: Option<Duration>,
    /// What its imports have answered before, if it is executed again.
    pub entries: Vec<Entry>,
    /// When it began, in nanoseconds since 1970: the time that its clock begins with.
    pub began: u64,
    /// Where it keeps what outlives it; none when it cannot.
    pub state: Option<Arc<dyn StatePort>>,
    /// Where its log is kept; none when it is not.
    pub log: Option<Arc<dyn LogPort>>,
    /// Counts what it uses.
    pub meter: Arc<Meter>,
    /// Filled in by the agent: what it is granted.
    pub(super) granted: Option<Arc<Granted>>,
    /// Filled in by the agent.
    pub(super) models: Option<Arc<Models>>,
    /// Filled in by the agent: what its clock begins with, since 1970, if that is a script's.
    pub(super) scripted_time: Option<Duration>,
}

impl RunContext {
    /// What an instance is given for the run of `response_id`.
    pub fn new(response_id: String, secret: RunSecret, port: Arc<dyn RunPort>, stop: CancellationToken) -> Self {
        Self {
            response_id,
            secret,
            upstream: None,
            input: "[]".to_owned(),
            request: "{}".to_owned(),
            history: "[]".to_owned(),
            journaled: false,
            lease: Lease::endless(),
            idle_after: None,
            entries: Vec::new(),
            began: 0,
            state: None,
            log: None,
            meter: Arc::default(),
            port,
            stop,
            granted: None,
            models: None,
            scripted_time: None,
        }
    }

    /// What the agent is granted.
    pub(super) fn granted(&self) -> wasmtime::Result<&Granted> {
        self.granted.as_deref().ok_or_else(|| wasmtime::Error::msg("a run without grants"))
    }
}

impl Agent {
    /// Loads a component. `shown` is its name in the log.
    ///
    /// # Errors
    ///
    /// It does not fit; the error says why.
    pub async fn load(
        engine: &Engine,
        shown: &str,
        wasm: Bytes,
        models: Arc<Models>,
        grants: &Grants,
        loaded_at: i64,
    ) -> Result<Self, Refused> {
        let fitting = engine.fitting(shown, wasm, grants.limits()).await?;
        Self::of(engine, fitting, models, grants, loaded_at).await
    }

    /// The upstream models that the configuration names and this agent may call, `provider/model`.
    pub fn upstream_models(&self) -> Vec<String> {
        let mut names = self.models.configured();
        names.retain(|name| self.uses_models && self.granted.models.fits(name));
        names.into_iter().collect()
    }

    /// An agent of a component that fits.
    pub(super) async fn of(
        engine: &Engine,
        fitting: Fitting,
        models: Arc<Models>,
        grants: &Grants,
        loaded_at: i64,
    ) -> Result<Self, Refused> {
        let limits = *grants.limits();
        let Loaded { pre, sha256, description, uses_models, imports, places } = engine.load(fitting, &limits).await?;
        let granted = Arc::new(grants.of(&description));
        Ok(Self {
            engine: engine.clone(),
            pre,
            limits,
            models,
            granted,
            scripted_time: None,
            places,
            description,
            sha256,
            loaded_at,
            uses_models,
            imports,
        })
    }

    /// The contract that it was built for: `outlast:agent@0.1.0`.
    pub fn contract(&self) -> String {
        contract(&self.imports)
    }

    /// What it wants and is not granted: the lines of `[agents.NAME]` that would grant it.
    pub fn missing(&self) -> &[String] {
        &self.granted.missing
    }

    /// The models that it may call.
    pub fn models(&self) -> &ModelGrant {
        &self.granted.models
    }

    /// The memory of a run, in bytes.
    pub fn memory(&self) -> u64 {
        self.granted.memory.most as u64
    }

    /// How many of `limits.max_live_runs` an instance counts as: more than one where it has many memories and tables.
    pub fn places(&self) -> u32 {
        self.places
    }

    /// The longest that an execution of a run may take.
    pub fn run_timeout(&self) -> &TimeLimit {
        &self.granted.run_timeout
    }

    /// The time of a processor that a run may take.
    pub fn cpu_time(&self) -> &TimeLimit {
        &self.granted.cpu_time
    }

    /// The same component with another configuration.
    ///
    /// # Errors
    ///
    /// It is not what the component takes.
    pub fn with_config(mut self, config: &Map<String, Value>) -> Result<Self, Refused> {
        check_config(&self.description, config)?;
        Arc::make_mut(&mut self.granted).config = Value::Object(config.clone()).to_string();
        Ok(self)
    }

    /// The same component in its author's hands: it may call every model.
    #[must_use]
    pub fn with_all_models(mut self) -> Self {
        Arc::make_mut(&mut self.granted).models = ModelGrant::All(true);
        self
    }

    /// The same component, which may call these tools too.
    #[must_use]
    pub fn and_tools(mut self, patterns: impl IntoIterator<Item = ToolPattern>) -> Self {
        let granted = Arc::make_mut(&mut self.granted);
        granted.tools = granted.tools.as_ref().map(|tools| Arc::new(tools.and(patterns)));
        self
    }

    /// The same component in a test, with these tools alone.
    #[must_use]
    pub fn scripted_tools(mut self, tools: Arc<ToolGrant>) -> Self {
        Arc::make_mut(&mut self.granted).tools = Some(tools);
        self
    }

    /// The same component in a test: with these models, and a clock that begins with `time`, since 1970, and goes on
    /// only when the component sleeps, which takes no time.
    #[must_use]
    pub fn scripted(self, models: Arc<Models>, time: Duration) -> Self {
        let mut this = self.with_all_models();
        this.models = models;
        this.scripted_time = Some(time);
        this
    }

    /// Executes one run in an instance of its own, which is gone when this returns or is dropped.
    ///
    /// # Errors
    ///
    /// The agent returned a failure, crashed, or did what it may not.
    pub async fn run(&self, mut context: RunContext) -> Result<Outcome, RunFailure> {
        let turn = types::Turn {
            response_id: context.response_id.clone(),
            model: context.upstream.clone(),
            input: std::mem::take(&mut context.input),
        };
        context.granted = Some(self.granted.clone());
        context.models = Some(self.models.clone());
        context.scripted_time = self.scripted_time;
        let id = context.response_id.clone();
        // The turn is copied into the instance, which may ask for the others at any time.
        let held = turn.input.len() + context.request.len() + context.history.len();
        let _held = context.meter.hold(held);
        let state = RunState::new(&self.description.name, &id, &self.limits, Some(context));
        let mut store = self.engine.store(state);
        let called = match self.pre.instantiate_async(&mut store).await {
            Ok(agent) => agent.call_run(&mut store, &turn).await,
            Err(error) => Err(error),
        };
        let called = called.and_then(|returned| {
            store.data().replay.end()?;
            Ok(returned)
        });
        match called {
            Ok(Ok(types::Outcome::Completed)) => Ok(Outcome::Completed),
            Ok(Ok(types::Outcome::Incomplete(reason))) => Ok(Outcome::Incomplete(match reason.as_str() {
                "max_output_tokens" => reason,
                _ => "content_filter".to_owned(),
            })),
            Ok(Err(failure)) => Err(RunFailure::from_agent(failure)),
            Err(error) => match error.downcast_ref() {
                Some(Asleep(until)) => Ok(Outcome::Asleep(*until)),
                None => Err(RunFailure::from_trap("The agent", &error, &store.data().stderr.tail())),
            },
        }
    }
}

/// The contract that a component with these imports was built for.
pub(super) fn contract(imports: &[String]) -> String {
    let version = imports.iter().find_map(|name| name.strip_prefix("outlast:agent/")?.split_once('@'));
    version.map_or_else(|| "outlast:agent".to_owned(), |(_, version)| format!("outlast:agent@{version}"))
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent").field("description", &self.description).field("sha256", &self.sha256).finish()
    }
}
