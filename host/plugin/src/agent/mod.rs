//! An agent, and the instance of it that executes one run.

mod bundled;
mod grants;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use outlast_model::Models;
use serde_json::{Map, Value};

pub(crate) use self::bundled::is_bundled;
use self::grants::check_config;
pub use self::{bundled::BUNDLED, grants::Grants};
use crate::{
    bindings::{AgentPre, types},
    engine::{Description, Engine, Fitting, Loaded, contract},
    failure::{Asleep, RunFailure},
    grants::{ModelGrant, ToolPattern},
    refused::Refused,
    sandbox::{Granted, PluginLimits, RunContext, RunState, TimeLimit},
    toolbox::ToolGrant,
};

/// A loaded component that answers as an agent.
#[derive(Clone)]
pub struct Agent {
    engine: Engine,
    pre: AgentPre<RunState>,
    limits: PluginLimits,
    models: Arc<Models>,
    granted: Arc<Granted>,
    tools: Arc<ToolGrant>,
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
        let tools = grants.tools(&description.name);
        let granted = Arc::new(grants.of(&description, tools.clone()));
        Ok(Self {
            engine: engine.clone(),
            pre,
            limits,
            models,
            granted,
            tools,
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
    pub fn and_tools(self, patterns: impl IntoIterator<Item = ToolPattern>) -> Self {
        let tools = Arc::new(self.tools.and(patterns));
        self.scripted_tools(tools)
    }

    /// The same component in a test, with these tools alone.
    #[must_use]
    pub fn scripted_tools(mut self, tools: Arc<ToolGrant>) -> Self {
        Arc::make_mut(&mut self.granted).tools = Some(tools.clone());
        self.tools = tools;
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
        // Boxed: a run that waits is no larger than it must be.
        let called = match Box::pin(self.pre.instantiate_async(&mut store)).await {
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

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent").field("description", &self.description).field("sha256", &self.sha256).finish()
    }
}
