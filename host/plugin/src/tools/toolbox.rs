//! The tools that this server has, and which of them an agent may call.

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;
use outlast_metrics::{LiveToolCall, ToolCalls, ToolMetrics};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use serde_json::Map;
use tokio::{sync::Semaphore, task::JoinHandle};
use tracing::Level;

use super::{
    component::{BETWEEN, CRASHED, Caller, Given, ToolComponent, ToolDescription},
    config::{ToolConfig, ToolLimits, ToolPattern},
    mcp::{McpConfig, McpServer, UNAVAILABLE},
    script::ToolScript,
};
use crate::http::Access;
use crate::{
    bindings::{
        tools::Tool,
        types::{Failure, FailureKind},
    },
    component::{Fitting, Refused},
    engine::Engine,
    failure::{failure, shorten},
    grants::{self, GrantError, Granted, Section, Ways},
    limits::PluginLimits,
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
    ways: Ways,
    limits: PluginLimits,
    metrics: ToolMetrics,
    /// For the calls of all components.
    instances: Semaphore,
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
        ways: Ways,
    ) -> Result<Self, GrantError> {
        let given = config.components.into_iter().map(|(name, config)| {
            let access = ways.granted(Section::tool(&name), &shown(&name), &config.http)?;
            Ok((name, (config, access)))
        });
        let given = given.collect::<Result<_, _>>()?;
        let result_bytes = limits.tools.result_bytes;
        let servers = config
            .servers
            .iter()
            .map(|(name, config)| Ok((name.clone(), Arc::new(McpServer::new(name, config, result_bytes, &metrics)?))));
        let servers = servers.collect::<Result<_, _>>()?;
        let instances = Semaphore::new(limits.tools.instances.min(Semaphore::MAX_PERMITS));
        let (components, keeping) = (ArcSwap::default(), Mutex::default());
        Ok(Self { given, ways, limits, metrics, instances, components, servers, keeping, script: None })
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
                None => (ToolConfig::default(), self.ways.nothing(Section::tool(name), &shown(name))),
            };
            let timeout = config.timeout;
            let granted = Granted::of_tool(name, config, http, &self.limits);
            Given { granted, timeout, metrics: self.metrics.tool(name) }
        })
        .await
        .and_then(|tool| match self.servers.contains_key(&tool.description.name) {
            true => Err(Refused(format!("there is an MCP server of its name, in `[mcp.{}]`", tool.description.name))),
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
        if let Some(script) = self.script.as_ref().filter(|script| script.has(name)) {
            let (metrics, target) = (self.metrics.tool("script"), Target::Script(script.clone()));
            return Some(Found { name: name.to_owned(), idempotent: true, target, metrics });
        }
        let (of, function) = name.split_once(BETWEEN)?;
        if let Some(server) = self.servers.get(of) {
            let idempotent = match server.offer().get(name) {
                Some(tool) => tool.idempotent,
                None if server.is_up() => return None,
                // What it offers is known when it is there.
                None => false,
            };
            let (target, metrics) = (Target::Server(server.clone()), server.metrics.clone());
            return Some(Found { name: name.to_owned(), idempotent, target, metrics });
        }
        let component = self.components.load().get(of).cloned()?;
        let described = component.description.tools.iter().find(|tool| tool.name == function)?;
        let (idempotent, function, metrics) = (described.idempotent, function.to_owned(), component.metrics.clone());
        Some(Found { name: name.to_owned(), idempotent, target: Target::Component(component, function), metrics })
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

/// The tools that one agent may call.
#[derive(Debug)]
pub struct ToolGrant {
    agent: String,
    patterns: Vec<ToolPattern>,
    pub(super) toolbox: Arc<Toolbox>,
    denied: Counter,
}

impl ToolGrant {
    pub(crate) fn new(agent: &str, patterns: Vec<ToolPattern>, toolbox: Arc<Toolbox>) -> Self {
        let denied = toolbox.metrics.denied(agent);
        Self { agent: agent.to_owned(), patterns, toolbox, denied }
    }

    /// The same and all of these.
    pub(crate) fn and(&self, patterns: impl IntoIterator<Item = ToolPattern>) -> Self {
        let patterns = self.patterns.iter().cloned().chain(patterns).collect();
        Self::new(&self.agent, patterns, self.toolbox.clone())
    }

    /// The tools that are granted and there. A server that is being connected to is waited for.
    pub(super) async fn available(&self) -> Vec<Tool> {
        let wanted = self.toolbox.servers.iter().filter(|(name, _)| {
            let beginning = format!("{name}{BETWEEN}");
            self.patterns.iter().any(|pattern| pattern.may_match(&beginning))
        });
        futures::future::join_all(wanted.map(|(_, server)| server.settled())).await;
        let mut all = self.toolbox.all();
        all.retain(|tool| self.allows(&tool.name));
        all
    }

    fn allows(&self, name: &str) -> bool {
        self.patterns.iter().any(|pattern| pattern.matches(name))
    }

    /// Waits until it is known what the tool of this name is, as far as that is to be known soon: its server may have just
    /// been begun with.
    pub(super) async fn known(&self, name: &str) {
        let of = name.split_once(BETWEEN).map_or(name, |(of, _)| of);
        if let Some(server) =
            self.toolbox.servers.get(of).filter(|server| self.allows(name) && server.offer().is_empty())
        {
            server.settled().await;
        }
    }

    /// The tool of this name, if it is granted. What is not granted is denied, whether or not it is there.
    pub(super) fn find(&self, name: &str) -> Result<Found, Failure> {
        let shown = shorten(name, 80);
        if !self.allows(name) {
            let (agent, key) = (&self.agent, Section::agent(&self.agent).key());
            let message = format!(
                "The operator does not allow the agent `{agent}` to call the tool `{shown}`: `tools = [\"{shown}\"]` in the \
                 section `[{key}]` of the server's configuration would."
            );
            return Err(failure(FailureKind::Denied, "tool_not_granted", message));
        }
        self.toolbox.find(name).ok_or_else(|| {
            failure(FailureKind::NotFound, "unknown_tool", format!("There is no tool `{shown}` at this server."))
        })
    }

    /// The limits of calls.
    pub(super) fn limits(&self) -> ToolLimits {
        self.toolbox.limits.tools
    }

    /// Counts a call that is not allowed.
    pub(super) fn count_denied(&self) {
        self.denied.inc();
    }
}

/// A tool that can be called.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// Its name, as agents call it.
    name: String,
    /// Whether a call may be made again when nobody knows whether it took effect.
    pub(super) idempotent: bool,
    target: Target,
    /// Counts its calls.
    pub(super) metrics: Arc<ToolCalls>,
}

/// Where a tool is.
#[derive(Clone, Debug)]
enum Target {
    /// In this component, by this name.
    Component(Arc<ToolComponent>, String),
    /// Of this server.
    Server(Arc<McpServer>),
    /// In a script.
    Script(Arc<ToolScript>),
    /// What a script has answered.
    Scripted(Result<String, Failure>),
}

impl Found {
    /// The call has begun. A script answers calls in the order in which they begin, not in which they are executed.
    pub(super) fn begun(mut self, arguments: &str) -> Self {
        if let Target::Script(script) = &self.target {
            self.target = Target::Scripted(script.call(&self.name, arguments));
        }
        self
    }

    /// Calls it.
    pub(super) async fn call(self, toolbox: &Toolbox, arguments: &str, caller: Caller) -> Result<String, Failure> {
        let live = LiveToolCall::new(self.metrics);
        let log = caller.log.clone();
        let most = toolbox.limits.tools.result_bytes;
        let scripted = |failure: Failure| {
            let why = format!("failed: {}", failure.message);
            (failure, why)
        };
        let called = match self.target {
            Target::Component(component, function) => {
                let most = u32::try_from(toolbox.limits.tools.instances).unwrap_or(u32::MAX);
                let _places = toolbox.instances.acquire_many(component.places.min(most)).await;
                component.call(&function, arguments, caller).await
            }
            Target::Server(server) => server.call(&self.name, arguments, &caller).await.map_err(|failure| {
                let why = format!("failed: {} ({})", failure.message, failure.code);
                (failure, why)
            }),
            Target::Script(script) => script.call(&self.name, arguments).map_err(scripted),
            Target::Scripted(answer) => answer.map_err(scripted),
        };
        let called = match called {
            Ok(answer) if answer.len() > most => {
                let bytes = answer.len();
                let why = format!("answered with {bytes} bytes, limit {most} (limits.tool_result_bytes)");
                let message = format!("The tool `{}` {why}.", self.name);
                Err((failure(FailureKind::Limit, "result_too_large", message), why))
            }
            called => called,
        };
        live.end(|tool| match &called {
            Ok(_) => &tool.answered,
            Err((Failure { kind: FailureKind::Timeout, code, .. }, _)) if code == "timeout" => &tool.timeout,
            Err((Failure { code, .. }, _)) if code == CRASHED => &tool.crashed,
            Err((Failure { code, .. }, _)) if code == UNAVAILABLE => &tool.unavailable,
            Err(_) => &tool.failed,
        });
        called.map_err(|(failure, why)| {
            log.note(Level::WARN, "tools", &format!("the tool `{}` {why}", self.name));
            failure
        })
    }
}
