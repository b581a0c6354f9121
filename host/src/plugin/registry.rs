//! The agents that this server has.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use parking_lot::Mutex;
use tracing::warn;

use super::{
    component::Refused,
    engine::{self, Engine},
    grants::Grants,
    instance::Agent,
    limits::PluginLimits,
};
use crate::model::Models;

/// The agents that come with the server: name and component.
pub const BUNDLED: [(&str, &[u8]); 2] =
    [("echo", include_bytes!(env!("BUNDLED_ECHO_WASM"))), ("chat", include_bytes!(env!("BUNDLED_CHAT_WASM")))];

/// The largest component file, in bytes.
const COMPONENT_BYTES: u64 = 128 << 20;

/// Agents by name.
#[derive(Debug)]
pub struct Registry {
    engine: Engine,
    limits: PluginLimits,
    models: Arc<Models>,
    grants: Grants,
    agents: BTreeMap<String, Arc<Agent>>,
    /// Components that are not served any more, for the runs that began with them; by their sha256.
    retired: Mutex<HashMap<String, Arc<Agent>>>,
    /// The components that were loaded, until they are taken.
    wasm: Vec<(String, Bytes)>,
}

impl Registry {
    /// A registry without agents.
    pub fn new(engine: Engine, limits: PluginLimits, models: Arc<Models>, grants: Grants) -> Self {
        let agents = BTreeMap::new();
        Self { engine, limits, models, grants, agents, retired: Mutex::default(), wasm: Vec::new() }
    }

    /// Loads the agents that come with the server.
    ///
    /// # Errors
    ///
    /// One of them does not fit: the server was built wrongly.
    pub async fn add_bundled(&mut self, now: i64) -> Result<(), Refused> {
        let loaded = futures::future::join_all(BUNDLED.map(|(name, wasm)| {
            let wasm = Bytes::from_static(wasm);
            let loading = self.load(name, wasm.clone(), now);
            async move { (name, loading.await.map(|agent| (agent, wasm))) }
        }));
        for (name, loaded) in loaded.await {
            let added = loaded.and_then(|(agent, wasm)| self.add(agent, wasm));
            added.map_err(|Refused(why)| Refused(format!("the bundled agent {name}: {why}")))?;
        }
        Ok(())
    }

    /// Loads every `*.wasm` of a folder, in the order of their names. A file that does not fit is passed over,
    /// with a sentence in the log; the paths and sentences are returned.
    ///
    /// # Errors
    ///
    /// The folder cannot be read.
    pub async fn add_folder(&mut self, folder: &Path, now: i64) -> std::io::Result<Vec<(String, Refused)>> {
        let mut paths = Vec::new();
        let mut entries = tokio::fs::read_dir(folder).await?;
        while let Some(entry) = entries.next_entry().await? {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "wasm") {
                paths.push(path);
            }
        }
        paths.sort();
        let mut refused = Vec::new();
        let loading: Vec<_> = paths.iter().map(|path| self.load_file(path, now)).collect();
        // Several at once, in the order of their names.
        let loaded: Vec<_> = stream::iter(loading).buffered(engine::cores()).collect().await;
        for (path, loaded) in paths.iter().zip(loaded) {
            let shown = path.display().to_string();
            if let Err(why) = loaded.and_then(|(agent, wasm)| self.add(agent, wasm)) {
                warn!(plugin = shown, "refused: {why}");
                refused.push((shown, why));
            }
        }
        Ok(refused)
    }

    async fn load_file(&self, path: &Path, now: i64) -> Result<(Agent, Bytes), Refused> {
        let wasm = read(path).await?;
        let agent = self.load(&path.display().to_string(), wasm.clone(), now).await?;
        Ok((agent, wasm))
    }

    async fn load(&self, shown: &str, wasm: Bytes, now: i64) -> Result<Agent, Refused> {
        Agent::load(&self.engine, shown, wasm, self.limits, self.models.clone(), &self.grants, now).await
    }

    fn add(&mut self, agent: Agent, wasm: Bytes) -> Result<(), Refused> {
        let name = agent.description.name.clone();
        if self.agents.contains_key(&name) {
            return Err(Refused(format!("there is an agent named `{name}` already")));
        }
        let agent = Arc::new(agent);
        self.wasm.push((agent.sha256.clone(), wasm));
        self.agents.insert(name, agent);
        Ok(())
    }

    /// Takes the components that were loaded since the last call: their sha256 and bytes.
    pub fn take_wasm(&mut self) -> Vec<(String, Bytes)> {
        std::mem::take(&mut self.wasm)
    }

    /// An agent by the sha256 of its component, also one that is not served any more.
    pub fn by_component(&self, sha256: &str) -> Option<Arc<Agent>> {
        let served = self.agents.values().find(|agent| agent.sha256 == sha256).cloned();
        served.or_else(|| self.retired.lock().get(sha256).cloned())
    }

    /// Loads a component for the runs that began with it. It is not served.
    ///
    /// # Errors
    ///
    /// It does not fit.
    pub async fn load_retired(&self, wasm: Vec<u8>, loaded_at: i64) -> Result<Arc<Agent>, Refused> {
        let agent = self.load("a component that a run began with", wasm.into(), loaded_at).await?;
        let agent = Arc::new(agent);
        self.retired.lock().insert(agent.sha256.clone(), agent.clone());
        Ok(agent)
    }

    /// An agent by its name.
    pub fn get(&self, name: &str) -> Option<Arc<Agent>> {
        self.agents.get(name).cloned()
    }

    /// All agents, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Agent>> {
        self.agents.values()
    }
}

async fn read(path: &Path) -> Result<Bytes, Refused> {
    let cannot = |error: std::io::Error| Refused(format!("it cannot be read: {error}"));
    let size = tokio::fs::metadata(path).await.map_err(cannot)?.len();
    if size > COMPONENT_BYTES {
        return Err(Refused(format!("it has {size} bytes, and at most {COMPONENT_BYTES} are loaded")));
    }
    Ok(tokio::fs::read(path).await.map_err(cannot)?.into())
}
