//! The rooms of a server without its doors: runs agents for the terminal, on the way that a server's runs take.
//!
//! Nothing is kept. There is a database, because a manager has one; it lies in a folder of its own that is gone with
//! this.

use std::{path::Path, sync::Arc, time::SystemTime};

use tempfile::TempDir;
use tokio::{runtime::Handle, task::JoinSet};

use crate::{
    config::Config,
    metrics::Metrics,
    model::Models,
    plugin::{Agent, Engine, Grants, Plugin, Refused, Registry, Signatures, read_component},
    protocol::CreateRequest,
    run::{self, Created, Manager, Queues, Refusal, Seal, Services, Subscription, Writer, WriterQueue},
    server::StartError,
    store::{Store, StoreError},
};

/// The principal of every run.
const PRINCIPAL: &str = crate::http::LOCAL;

/// Runs agents without HTTP.
pub struct Local {
    config: Config,
    engine: Engine,
    models: Arc<Models>,
    grants: Grants,
    metrics: Arc<Metrics>,
    store: Store,
    queue: WriterQueue,
    _writer: JoinSet<Result<(), StoreError>>,
    _folder: TempDir,
}

impl Local {
    /// Makes everything ready. Of the configuration, the providers, the agents and the limits hold.
    ///
    /// # Errors
    ///
    /// As with a server.
    pub async fn open(config: Config) -> Result<Self, StartError> {
        let metrics = Arc::new(Metrics::new(1, 1));
        let models = Arc::new(Models::new(&config.models(), &metrics.models)?);
        let grants = Grants::new(config.agents.clone(), config.tools_config(), &config.plugin_limits(), &metrics)?;
        let folder = tempfile::Builder::new().prefix("outlast-").tempdir().map_err(StartError::Scratch)?;
        let store = Store::open(&folder.path().join("local.db").display().to_string()).await?;
        let (writer, queue) = Writer::new(None, &metrics.commits);
        let writer = [writer.run(config.lease)].into_iter().collect();
        let engine = Engine::new().map_err(|error| StartError::Engine(format!("{error:#}")))?;
        Ok(Self { config, engine, models, grants, metrics, store, queue, _writer: writer, _folder: folder })
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What is measured.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Loads a component.
    ///
    /// # Errors
    ///
    /// It does not fit.
    pub async fn load(&self, component: &Path) -> Result<Agent, Refused> {
        let wasm = read_component(component).await?;
        let now = run::seconds(SystemTime::now());
        let limits = self.config.plugin_limits();
        let shown = component.display().to_string();
        Agent::load(&self.engine, &shown, wasm, limits, self.models.clone(), &self.grants, now).await
    }

    /// Loads a component as a server with this configuration would, which looks at its pin and its signature too.
    ///
    /// # Errors
    ///
    /// It would not be served.
    pub async fn admit(&self, component: &Path) -> Result<Plugin, Refused> {
        let wasm = read_component(component).await?;
        let (limits, signatures) = (self.config.plugin_limits(), self.config.signatures());
        let registry = Registry::new(self.engine.clone(), limits, self.models.clone(), self.grants.clone(), signatures);
        registry.load_file(component, wasm, run::seconds(SystemTime::now())).await
    }

    /// A manager of this agent's runs.
    ///
    /// # Errors
    ///
    /// The database does not answer.
    pub async fn manager(&self, agent: Agent) -> Result<Arc<Manager>, StartError> {
        let limits = self.config.plugin_limits();
        let registry =
            Registry::new(self.engine.clone(), limits, self.models.clone(), self.grants.clone(), Signatures::default());
        registry.serve([(agent.description.name.clone(), Arc::new(agent))].into());
        let services = Services {
            queues: Queues { durable: self.queue.clone(), ephemeral: self.queue.clone() },
            seal: Seal::of(&self.store).await?,
            guests: Handle::current(),
            metrics: self.metrics.clone(),
        };
        let principals = std::collections::HashMap::new();
        Ok(Manager::new(self.store.clone(), Arc::new(registry), self.config.run_limits(), principals, services))
    }
}

/// Begins a run of which nothing is kept, and subscribes to it. It ends when the subscription is dropped.
///
/// # Errors
///
/// The run did not begin.
pub async fn begin(manager: &Arc<Manager>, mut request: CreateRequest) -> Result<Subscription, Refusal> {
    (request.store, request.stream, request.background) = (false, true, false);
    (request.previous, request.conversation) = (None, None);
    match manager.create(PRINCIPAL, request, None).await? {
        Created::Now(subscription) => Ok(subscription),
        // Without an idempotency key there is none before.
        Created::Before(_) => Err(Refusal::Defect),
    }
}
