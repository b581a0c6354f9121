//! The rooms of a server without its doors: runs agents for the terminal, on the way that a server's runs take.
//!
//! Nothing is kept. There is a database, because a manager has one; it lies in a folder of its own that is gone with
//! this.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use outlast_metrics::Metrics;
use outlast_model::Models;
use outlast_plugin::{
    Agent, Engine, Grants, Plugin, Refused, Registry, Signatures, ToolGrant, ToolScript, read_component,
    read_signature, signature_path,
};
use outlast_protocol::CreateRequest;
use outlast_run::{
    Created, Manager, Queues, Refusal, RunSecrets, Seal, Services, Shares, Subscription, Writer, WriterQueue,
};
use outlast_runtime::clock::Clock;
use outlast_store::{Store, StoreError};
use tempfile::TempDir;
use tokio::{runtime::Handle, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{CacheConfig, Config},
    server::{StartError, cached},
};

/// The principal of every run.
const PRINCIPAL: &str = outlast_http::LOCAL;

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
        let grants = Grants::new(config.agents.clone(), config.tools_config(), config.plugin_limits(), &metrics)?;
        let folder = tempfile::Builder::new().prefix("outlast-").tempdir().map_err(StartError::Scratch)?;
        let store = Store::open(&folder.path().join("local.db").display().to_string()).await?;
        let (writer, queue) = Writer::new(None, Clock::system(), &metrics.commits);
        let writer = [writer.run(config.lease, CancellationToken::new())].into_iter().collect();
        let engine = Engine::new().map_err(|error| StartError::Engine(format!("{error:#}")))?;
        let engine = engine.with_memory(config.instances_memory());
        // Without a folder for compiled code this takes longer, and is the same. The server makes its own: one that is made
        // here might belong to somebody else.
        let there =
            matches!(config.cache, CacheConfig::Enabled(_)) || config.cache_folder().is_some_and(|it| it.is_dir());
        let engine = if there { cached(engine.clone(), &config).unwrap_or(engine) } else { engine };
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
        let wasm = read_component(component, self.config.plugin_limits().plugin_bytes).await?;
        let (shown, now) = (component.display().to_string(), self.queue.clock().seconds());
        Agent::load(&self.engine, &shown, wasm, self.models.clone(), &self.grants, now).await
    }

    /// Looks at a component that lies in a file, and says what it is and whether a server would serve it.
    ///
    /// # Errors
    ///
    /// It does not fit.
    pub async fn examine(&self, component: &Path) -> Result<Examined, Refused> {
        let wasm = read_component(component, self.config.plugin_limits().plugin_bytes).await?;
        let place = signature_path(component).display().to_string();
        let (signature, unreadable) = match read_signature(component).await {
            Ok(signature) => (signature, None),
            Err(why) => (None, Some(why)),
        };
        let mut examined = self.examine_bytes(&component.display().to_string(), wasm, (&place, signature)).await?;
        // Where nobody is trusted, no signature is looked at.
        examined.refused = unreadable.filter(|_| !self.config.trusted_keys.is_empty()).or(examined.refused);
        Ok(examined)
    }

    /// Looks at a component and its signature, which is, or would be, at `place`.
    ///
    /// # Errors
    ///
    /// It does not fit.
    pub async fn examine_bytes(
        &self,
        shown: &str,
        wasm: Bytes,
        (place, signature): (&str, Option<String>),
    ) -> Result<Examined, Refused> {
        let registry = self.registry(self.config.signatures());
        let plugin = registry.load_unpinned(shown, wasm.clone(), self.queue.clock().seconds()).await?;
        let trusted = registry.trust(&plugin, &wasm, place, signature.as_deref());
        let signed = signature.is_some() && !self.config.trusted_keys.is_empty() && trusted.is_ok();
        Ok(Examined { plugin, wasm, signature, signed, refused: trusted.err() })
    }

    /// Loads a component, an agent or one with tools.
    ///
    /// # Errors
    ///
    /// It does not fit.
    pub async fn load_plugin(&self, component: &Path) -> Result<Plugin, Refused> {
        let wasm = read_component(component, self.config.plugin_limits().plugin_bytes).await?;
        let shown = component.display().to_string();
        self.registry(Signatures::default()).load_unpinned(&shown, wasm, self.queue.clock().seconds()).await
    }

    /// Serves the tools of these components to agents. Their names.
    ///
    /// # Errors
    ///
    /// One of them does not fit, or is no tool component; with its path.
    pub async fn serve_tools(&self, components: &[PathBuf]) -> Result<Vec<String>, Refused> {
        let mut tools = BTreeMap::new();
        for path in components {
            let named = |why: &dyn std::fmt::Display| Refused(format!("{}: {why}", path.display()));
            match self.load_plugin(path).await.map_err(|why| named(&why))? {
                Plugin::Tool(tool) => drop(tools.insert(tool.description.name.clone(), tool)),
                Plugin::Agent(_) => return Err(named(&"it is an agent, not a tool component")),
            }
        }
        let names = tools.values().flat_map(|tool| tool.names()).collect();
        self.grants.toolbox().serve(tools);
        Ok(names)
    }

    /// Connects to the MCP servers of the configuration.
    pub fn start_servers(&self) {
        self.grants.toolbox().start();
    }

    /// Ends them.
    pub async fn stop_servers(&self) {
        self.grants.toolbox().stop().await;
    }

    /// The tools of a script, for an agent.
    ///
    /// # Errors
    ///
    /// None: nothing is configured.
    pub fn scripted_tools(&self, agent: &str, script: Arc<ToolScript>) -> Result<Arc<ToolGrant>, StartError> {
        Ok(self.grants.scripted_tools(agent, script, &self.config.plugin_limits(), &self.metrics)?)
    }

    fn registry(&self, signatures: Signatures) -> Registry {
        Registry::new(self.engine.clone(), self.models.clone(), self.grants.clone(), signatures)
    }

    /// Loads a component as a server with this configuration would, which looks at its pin and its signature too.
    ///
    /// # Errors
    ///
    /// It would not be served.
    pub async fn admit(&self, component: &Path) -> Result<Plugin, Refused> {
        let wasm = read_component(component, self.config.plugin_limits().plugin_bytes).await?;
        self.registry(self.config.signatures()).load_file(component, wasm, self.queue.clock().seconds()).await
    }

    /// A manager of this agent's runs.
    ///
    /// # Errors
    ///
    /// The database does not answer.
    pub async fn manager(&self, agent: Agent) -> Result<Arc<Manager>, StartError> {
        let registry = self.registry(Signatures::default());
        registry.serve([(agent.description.name.clone(), Arc::new(agent))].into());
        let services = Services {
            queues: Queues { durable: self.queue.clone(), ephemeral: self.queue.clone() },
            seal: Seal::of(&self.store).await?,
            secrets: RunSecrets::of(&self.store, self.queue.clock().milliseconds()).await?,
            guests: Handle::current(),
            metrics: self.metrics.clone(),
        };
        Ok(Manager::new(self.store.clone(), Arc::new(registry), self.config.run_limits(), Shares::default(), services))
    }
}

/// What a component is, and whether a server would serve it.
pub struct Examined {
    /// What it is.
    pub plugin: Plugin,
    /// Its bytes.
    pub wasm: Bytes,
    /// Its signature, whoever signed it.
    pub signature: Option<String>,
    /// Whether it is signed by one of the trusted keys.
    pub signed: bool,
    /// Why a server with this configuration would not serve it.
    pub refused: Option<Refused>,
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
