//! The agents that this server has.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::Arc,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::future::join_all;
use outlast_model::Models;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tracing::info;

use super::{
    plugin::Plugin,
    rollback::{LastServed, PluginVersion},
    signature::Signatures,
};
use crate::{
    agent::{Agent, BUNDLED, Grants, is_bundled},
    engine::{Engine, cores},
    refused::Refused,
    toolbox::Toolbox,
};

/// Agents by name.
type Agents = BTreeMap<String, Arc<Agent>>;

/// The agents: those that serve, and those that still have runs.
#[derive(Debug)]
pub struct Registry {
    engine: Engine,
    models: Arc<Models>,
    grants: Grants,
    signatures: Signatures,
    last: LastServed,
    bundled: Agents,
    /// What serves. Readers wait for nobody; who changes it exchanges all of it.
    served: ArcSwap<Agents>,
    /// Components that are not served any more, for the runs that began with them; by their sha256.
    retired: Mutex<HashMap<String, Retired>>,
    /// A component is loaded again once, and not once for each of its runs; by its sha256, while it is loaded.
    loading: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// For beginning to load files: as many as there are cores.
    load_permits: Arc<Semaphore>,
}

#[derive(Debug)]
struct Retired {
    agent: Arc<Agent>,
    /// Whether nobody had it at the last sweep.
    idle: bool,
}

impl Registry {
    /// A registry without agents. `signatures` says which files are trusted.
    pub fn new(engine: Engine, models: Arc<Models>, grants: Grants, signatures: Signatures) -> Self {
        Self {
            engine,
            models,
            grants,
            signatures,
            last: LastServed::default(),
            bundled: Agents::new(),
            served: ArcSwap::default(),
            retired: Mutex::default(),
            loading: Mutex::default(),
            load_permits: Arc::new(Semaphore::new(cores())),
        }
    }

    /// Permits to begin to load a file.
    pub(super) fn load_permits(&self) -> Arc<Semaphore> {
        self.load_permits.clone()
    }

    /// Loads the agents that come with the server, and serves them. Their components: the sha256 and the bytes of each.
    ///
    /// # Errors
    ///
    /// One of them does not fit: the server was built wrongly.
    pub async fn add_bundled(&mut self, now: i64) -> Result<Vec<(String, Bytes)>, Refused> {
        let this = &*self;
        let loaded = join_all(BUNDLED.map(|(name, wasm)| async move {
            let wasm = Bytes::from_static(wasm);
            let agent = this.load(name, wasm.clone(), now).await;
            let agent = agent.and_then(|agent| this.fits_agent(&agent).map(|()| agent));
            let named = |Refused(why)| Refused(format!("the bundled agent {name}: {why}"));
            agent.map(|agent| (Arc::new(agent), wasm)).map_err(named)
        }));
        let loaded = loaded.await.into_iter().collect::<Result<Vec<_>, _>>()?;
        self.bundled = loaded.iter().map(|(agent, _)| (agent.description.name.clone(), agent.clone())).collect();
        self.serve(Agents::new());
        Ok(loaded.into_iter().map(|(agent, wasm)| (agent.sha256.clone(), wasm)).collect())
    }

    /// What the operator says of agents.
    pub fn grants(&self) -> &Grants {
        &self.grants
    }

    /// The upstream model that is called where a request asks for this one, or for none: `provider/model`. None where there
    /// is no such model.
    pub fn upstream(&self, asked: Option<&str>) -> Option<String> {
        Some(self.models.resolve(asked).ok()?.to_string())
    }

    /// The largest component that is loaded, in bytes.
    pub(super) fn plugin_bytes(&self) -> usize {
        self.grants.limits().plugin_bytes
    }

    /// The names that no plugin may take.
    pub(super) fn bundled_names(&self) -> impl Iterator<Item = &str> {
        self.bundled.keys().map(String::as_str)
    }

    /// Loads the component of a file, if it is trusted.
    ///
    /// # Errors
    ///
    /// It does not fit, is not the one that is pinned, or is not signed as it must be.
    pub async fn load_file(&self, path: &Path, wasm: Bytes, now: i64) -> Result<Plugin, Refused> {
        self.signatures.check(path, &wasm).await?;
        let plugin = self.load_unpinned(&path.display().to_string(), wasm, now).await?;
        self.fits(&plugin)?;
        self.is_not_rolled_back(&plugin)?;
        Ok(plugin)
    }

    /// These plugins serve, or have served: older versions of them do not, where signatures are looked at.
    pub fn know_served(&self, plugins: impl IntoIterator<Item = PluginVersion>) {
        self.last.know(plugins);
    }

    /// Whether the versions that serve are to be remembered.
    pub fn remembers_served(&self) -> bool {
        !self.signatures.trusted.is_empty()
    }

    /// Whether a plugin may take the place of the version that served last.
    fn is_not_rolled_back(&self, plugin: &Plugin) -> Result<(), Refused> {
        let pinned = match plugin {
            Plugin::Agent(agent) => self.grants.is_pinned(&agent.description.name),
            Plugin::Tool(tool) => self.toolbox().config(&tool.description.name).sha256.is_some(),
        };
        match pinned || self.signatures.rollback || !self.remembers_served() {
            true => Ok(()),
            false => self.last.check(plugin),
        }
    }

    /// Whether a component that was loaded fits what the operator says of it, and is signed as it must be. Its signature
    /// is, or would be, at `place`.
    ///
    /// # Errors
    ///
    /// Why it would not be served.
    pub fn trust(&self, plugin: &Plugin, wasm: &[u8], place: &str, signature: Option<&str>) -> Result<(), Refused> {
        self.signatures.check_text(place, signature, wasm)?;
        self.fits(plugin)
    }

    /// Whether a component is the one that is pinned, and takes what the operator configures.
    fn fits(&self, plugin: &Plugin) -> Result<(), Refused> {
        match plugin {
            Plugin::Agent(agent) if is_bundled(&agent.description.name) => {
                Err(Refused(format!("the server itself has an agent named `{}`", agent.description.name)))
            }
            Plugin::Agent(agent) => self.fits_agent(agent),
            Plugin::Tool(tool) => {
                self.toolbox().check_pin(&tool.description.name, &tool.sha256)?;
                self.toolbox().check_config(&tool.description)
            }
        }
    }

    fn fits_agent(&self, agent: &Agent) -> Result<(), Refused> {
        self.grants.check_pin(&agent.description.name, &agent.sha256)?;
        self.grants.check_config(&agent.description)
    }

    /// Loads a component, whoever made it. `shown` is its name in the log.
    ///
    /// # Errors
    ///
    /// It does not fit.
    pub async fn load_unpinned(&self, shown: &str, wasm: Bytes, now: i64) -> Result<Plugin, Refused> {
        let fitting = self.engine.fitting(shown, wasm, self.grants.limits()).await?;
        if fitting.is_tool {
            return Ok(Plugin::Tool(Arc::new(self.toolbox().load(&self.engine, fitting).await?)));
        }
        let models = self.models.clone();
        Ok(Plugin::Agent(Arc::new(Agent::of(&self.engine, fitting, models, &self.grants, now).await?)))
    }

    /// The tools that agents may call.
    pub fn toolbox(&self) -> &Arc<Toolbox> {
        self.grants.toolbox()
    }

    /// Loads one agent. `shown` is its name in the log.
    async fn load(&self, shown: &str, wasm: Bytes, now: i64) -> Result<Agent, Refused> {
        Agent::load(&self.engine, shown, wasm, self.models.clone(), &self.grants, now).await
    }

    /// Serves these agents from now on, and those that come with the server. The components of agents that serve no more
    /// stay for their runs.
    pub fn serve(&self, mut agents: Agents) {
        agents.extend(self.bundled.iter().map(|(name, agent)| (name.clone(), agent.clone())));
        let agents = Arc::new(agents);
        // One after the other: at every moment an agent is in one of the two.
        let mut retired = self.retired.lock();
        for (sha256, agent) in self.served.load().values().map(|agent| (&agent.sha256, agent)) {
            retired.insert(sha256.clone(), Retired { agent: agent.clone(), idle: false });
        }
        for agent in agents.values() {
            retired.remove(&agent.sha256);
        }
        self.served.store(agents);
    }

    /// Drops the components that do not serve and that no run has needed since the last sweep. Whether there was one.
    pub fn sweep(&self) -> bool {
        let mut retired = self.retired.lock();
        let before = retired.len();
        retired.retain(|sha256, retired| {
            let needed = Arc::strong_count(&retired.agent) > 1;
            let stays = needed || !retired.idle;
            retired.idle = !needed;
            if !stays {
                let agent = &retired.agent.description.name;
                info!(agent, sha256, "no run needs this version any longer: it is unloaded");
            }
            stays
        });
        retired.len() < before
    }

    /// The sha256 of every component that is here: of those that serve, and of those that a run has, also one that is
    /// only just beginning.
    pub fn components(&self) -> Vec<String> {
        // While it is locked, none goes from one to the other.
        let retired = self.retired.lock();
        let served = self.served.load();
        served.values().map(|agent| &agent.sha256).chain(retired.keys()).cloned().collect()
    }

    /// An agent by the sha256 of its component, also one that is not served any more.
    pub fn by_component(&self, sha256: &str) -> Option<Arc<Agent>> {
        let served = || self.served.load().values().find(|agent| agent.sha256 == sha256).cloned();
        // Served once more: it may have begun to serve again between the two.
        served().or_else(|| self.retired.lock().get(sha256).map(|retired| retired.agent.clone())).or_else(served)
    }

    /// An agent by the sha256 of its component, loaded for the runs that began with it if it is not here. It is not
    /// served.
    ///
    /// # Errors
    ///
    /// It does not fit.
    pub async fn load_retired(&self, sha256: &str, wasm: Vec<u8>, loaded_at: i64) -> Result<Arc<Agent>, Refused> {
        let lock = self.loading.lock().entry(sha256.to_owned()).or_default().clone();
        let _guard = lock.lock().await;
        if let Some(agent) = self.by_component(sha256) {
            return Ok(agent);
        }
        let loaded = self.load("a component that a run started with", wasm.into(), loaded_at).await;
        self.loading.lock().remove(sha256);
        let agent = Arc::new(loaded?);
        let retired = Retired { agent: agent.clone(), idle: false };
        self.retired.lock().insert(agent.sha256.clone(), retired);
        Ok(agent)
    }

    /// An agent by its name.
    pub fn get(&self, name: &str) -> Option<Arc<Agent>> {
        self.served.load().get(name).cloned()
    }

    /// All agents that serve, in the order of their names.
    pub fn served(&self) -> Vec<Arc<Agent>> {
        self.served.load().values().cloned().collect()
    }
}
