//! The tools that this server has, and which of them an agent may call.
//!
//! - `component` is a component whose functions are tools, and the call of one.
//! - `mcp` are servers of the Model Context Protocol.
//! - `script` stands in for all of them in a test.
//! - `grant` is which of them an agent may call, and `call` the call of one.

mod call;
mod component;
mod grant;
mod mcp;
mod script;

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;
use outlast_metrics::ToolMetrics;
use parking_lot::Mutex;
use serde_json::Map;
use tokio::{sync::Semaphore, task::JoinHandle};

use self::{
    call::{Found, Target},
    component::{BETWEEN, ToolSettings},
    mcp::McpServer,
};
pub use self::{
    component::{ToolComponent, ToolDescription, ToolFunction},
    grant::ToolGrant,
    mcp::McpConfig,
    script::{ScriptedTool, ToolScript},
};
use crate::{
    bindings::tools::Tool,
    engine::{Engine, Fitting},
    grants::{self, GrantError, Section, ToolConfig},
    outbound::{Access, Outbound},
    refused::Refused,
    sandbox::{Granted, PluginLimits},
};

/// What the operator says of tools.
#[derive(Clone, Debug, Default)]
pub struct ToolsConfig {
    /// The sections `[tools.NAME]`.
    pub components: BTreeMap<String, ToolConfig>,
    /// The sections `[mcp.NAME]`.
    pub servers: BTreeMap<String, McpConfig>,
}

/// Tool components by name.
type Components = BTreeMap<String, Arc<ToolComponent>>;

/// The tools of this server.
#[derive(Debug)]
pub struct Toolbox {
    /// What the operator says of tool components.
    given: BTreeMap<String, (ToolConfig, Arc<Access>)>,
    outbound: Outbound,
    limits: PluginLimits,
    metrics: ToolMetrics,
    /// For the calls of all components.
    instances: Arc<Semaphore>,
    /// The components that serve. Who changes it exchanges all of it.
    components: ArcSwap<Components>,
    servers: BTreeMap<String, Arc<McpServer>>,
    /// What keeps the connections to the servers.
    keeping: Mutex<Vec<JoinHandle<()>>>,
    /// What is there besides in a test.
    script: Option<Arc<ToolScript>>,
}

impl Toolbox {
    /// A toolbox without tools.
    pub(crate) fn new(
        config: ToolsConfig,
        limits: PluginLimits,
        metrics: ToolMetrics,
        outbound: Outbound,
    ) -> Result<Self, GrantError> {
        let given = config.components.into_iter().map(|(name, config)| {
            let access = outbound.granted(Section::tool(&name), &shown(&name), &config.http)?;
            Ok((name, (config, access)))
        });
        let given = given.collect::<Result<_, _>>()?;
        let result_bytes = limits.tools.result_bytes;
        let servers = config
            .servers
            .iter()
            .map(|(name, config)| Ok((name.clone(), Arc::new(McpServer::new(name, config, result_bytes, &metrics)?))));
        let servers = servers.collect::<Result<_, _>>()?;
        let instances = Arc::new(Semaphore::new(limits.tools.instances.min(Semaphore::MAX_PERMITS)));
        let (components, keeping) = (ArcSwap::default(), Mutex::default());
        Ok(Self { given, outbound, limits, metrics, instances, components, servers, keeping, script: None })
    }

    /// Connects to the MCP servers, and keeps the connections until [`stop`](Self::stop).
    pub fn start(&self) {
        self.keeping.lock().extend(self.servers.values().map(|server| tokio::spawn(server.clone().keep())));
    }

    /// Ends the connections to the MCP servers, and those of them that are children of this one.
    pub async fn stop(&self) {
        for server in self.servers.values() {
            server.stop();
        }
        let keeping = std::mem::take(&mut *self.keeping.lock());
        futures::future::join_all(keeping).await;
    }

    /// The names of the MCP servers.
    pub fn servers(&self) -> impl Iterator<Item = &str> {
        self.servers.keys().map(String::as_str)
    }

    /// With the tools of a script.
    pub(crate) fn scripted(self, script: Arc<ToolScript>) -> Self {
        Self { script: Some(script), ..self }
    }

    /// The tool component that fits, with what the operator gives it.
    pub(crate) async fn load(&self, engine: &Engine, fitting: Fitting) -> Result<ToolComponent, Refused> {
        ToolComponent::of(engine, fitting, &self.limits, |name| {
            let (config, http) = match self.given.get(name) {
                Some((config, http)) => (config.clone(), http.clone()),
                None => (ToolConfig::default(), self.outbound.nothing(Section::tool(name), &shown(name))),
            };
            let timeout = config.timeout;
            let granted = Granted::of_tool(name, config, http, &self.limits);
            ToolSettings { granted, timeout, metrics: self.metrics.tool(name) }
        })
        .await
        .and_then(|tool| match self.servers.contains_key(&tool.description.name) {
            true => Err(Refused(format!("there is an MCP server with its name, in `[mcp.{}]`", tool.description.name))),
            false => Ok(tool),
        })
    }

    /// Whether what the operator says in `config` is what this component takes.
    pub(crate) fn check_config(&self, description: &ToolDescription) -> Result<(), Refused> {
        let nothing = Map::new();
        let config = self.given.get(&description.name).map_or(&nothing, |(config, _)| &config.config);
        grants::check(&Section::tool(&description.name), description.config_schema.as_ref(), config)
    }

    /// Whether the component with this sha256 may have the name `name`.
    pub(crate) fn check_pin(&self, name: &str, sha256: &str) -> Result<(), Refused> {
        let pin = self.given.get(name).and_then(|(config, _)| config.sha256);
        pin.map_or(Ok(()), |pin| pin.check(&Section::tool(name), sha256))
    }

    /// Serves these components from now on. Calls that go on are not touched.
    pub fn serve(&self, components: Components) {
        self.components.store(Arc::new(components));
    }

    /// The components that serve, in the order of their names.
    pub fn served(&self) -> Vec<Arc<ToolComponent>> {
        self.components.load().values().cloned().collect()
    }

    /// What the operator says of a tool component.
    pub fn config(&self, name: &str) -> ToolConfig {
        self.given.get(name).map(|(config, _)| config.clone()).unwrap_or_default()
    }

    /// The tool of this name; none when there is none.
    fn find(&self, name: &str) -> Option<Found> {
        let found = |idempotent, target, metrics| Found {
            name: name.to_owned(),
            idempotent,
            target,
            metrics,
            limits: self.limits.tools,
            instances: self.instances.clone(),
        };
        if let Some(script) = self.script.as_ref().filter(|script| script.has(name)) {
            return Some(found(true, Target::Script(script.clone()), self.metrics.tool("script")));
        }
        let (of, function) = name.split_once(BETWEEN)?;
        if let Some(server) = self.servers.get(of) {
            let idempotent = match server.offer().get(name) {
                Some(tool) => tool.idempotent,
                None if server.is_up() => return None,
                // What it offers is known when it is there.
                None => false,
            };
            return Some(found(idempotent, Target::Server(server.clone()), server.metrics.clone()));
        }
        let component = self.components.load().get(of).cloned()?;
        let described = component.description.tools.iter().find(|tool| tool.name == function)?;
        let (idempotent, function, metrics) = (described.idempotent, function.to_owned(), component.metrics.clone());
        Some(found(idempotent, Target::Component(component, function), metrics))
    }

    /// All tools.
    fn all(&self) -> Vec<Tool> {
        let mut all = self.script.as_ref().map(|script| script.all()).unwrap_or_default();
        for component in self.components.load().values() {
            all.extend(component.names().zip(&component.description.tools).map(|(name, tool)| Tool {
                name,
                description: tool.description.clone(),
                parameters: tool.parameters.clone(),
            }));
        }
        for server in self.servers.values() {
            all.extend(server.offer().iter().map(|(name, tool)| Tool {
                name: name.clone(),
                description: tool.description.clone(),
                parameters: tool.parameters.clone(),
            }));
        }
        all.sort_by(|one, other| one.name.cmp(&other.name));
        all
    }
}

/// Whose requests they are, in the metrics. No agent has such a name.
fn shown(name: &str) -> String {
    format!("tool:{name}")
}
