//! What the operator says of all agents and tools, checked.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use outlast_metrics::Metrics;
use serde_json::{Map, Value};

use super::bundled::is_bundled;
use crate::{
    engine::Description,
    grants::{self, AgentConfig, GrantError, ModelGrant, Section, StateSize, ToolPattern},
    outbound::{Access, Outbound},
    refused::Refused,
    sandbox::{Granted, MemoryLimit, PluginLimits, StateGrant, TimeLimit},
    toolbox::{ToolGrant, ToolScript, Toolbox, ToolsConfig},
};

/// What the operator says of all agents and tools, checked.
#[derive(Clone, Debug)]
pub struct Grants {
    configs: BTreeMap<String, AgentConfig>,
    access: BTreeMap<String, Arc<Access>>,
    limits: PluginLimits,
    outbound: Outbound,
    toolbox: Arc<Toolbox>,
}

impl Grants {
    /// Checks what the operator says of agents, by their names, and of tools. Secrets are read from the environment.
    ///
    /// # Errors
    ///
    /// The first that cannot be given, with its key.
    pub fn new(
        configs: BTreeMap<String, AgentConfig>,
        tools: ToolsConfig,
        limits: PluginLimits,
        metrics: &Metrics,
    ) -> Result<Self, GrantError> {
        let outbound = Outbound { limits: limits.http, metrics: metrics.requests.clone() };
        let access = configs
            .iter()
            .map(|(agent, config)| Ok((agent.clone(), outbound.granted(Section::agent(agent), agent, &config.http)?)));
        let access = access.collect::<Result<_, _>>()?;
        let toolbox = Arc::new(Toolbox::new(tools, limits, metrics.tools.clone(), outbound.clone())?);
        Ok(Self { configs, access, limits, outbound, toolbox })
    }

    /// The names of the agents of which the operator says something.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.configs.keys().map(String::as_str)
    }

    /// The sections of agents that grant something and pin no component, of those for which `serves` holds and which do not
    /// come with the server.
    pub fn unpinned(&self, serves: impl Fn(&str) -> bool) -> Vec<String> {
        let grants = |config: &AgentConfig| {
            let models = config.models.as_ref().is_some_and(|models| *models != ModelGrant::All(false));
            let state = config.state.is_some_and(|state| state != StateSize::Usual(false));
            models || state || !config.tools.is_empty() || !config.http.hosts.is_empty()
        };
        let open = self
            .configs
            .iter()
            .filter(|(name, config)| !is_bundled(name) && config.sha256.is_none() && grants(config) && serves(name));
        open.map(|(name, _)| Section::agent(name).key()).collect()
    }

    /// The limits of all agents.
    pub(crate) fn limits(&self) -> &PluginLimits {
        &self.limits
    }

    /// All tools.
    pub fn toolbox(&self) -> &Arc<Toolbox> {
        &self.toolbox
    }

    /// All tools of a script, for an agent.
    ///
    /// # Errors
    ///
    /// None: nothing is configured.
    pub fn scripted_tools(
        &self,
        agent: &str,
        script: Arc<ToolScript>,
        limits: &PluginLimits,
        metrics: &Metrics,
    ) -> Result<Arc<ToolGrant>, GrantError> {
        let toolbox = Toolbox::new(ToolsConfig::default(), *limits, metrics.tools.clone(), self.outbound.clone())?;
        let toolbox = Arc::new(toolbox.scripted(script));
        Ok(Arc::new(ToolGrant::new(agent, vec![ToolPattern::any()], toolbox)))
    }

    /// Whether the component with this sha256 may have the name `agent`.
    pub(crate) fn check_pin(&self, agent: &str, sha256: &str) -> Result<(), Refused> {
        let pin = self.configs.get(agent).and_then(|config| config.sha256);
        pin.map_or(Ok(()), |pin| pin.check(&Section::agent(agent), sha256))
    }

    /// Whether the operator has said which component may have the name `agent`.
    pub(crate) fn is_pinned(&self, agent: &str) -> bool {
        self.configs.get(agent).is_some_and(|config| config.sha256.is_some())
    }

    /// Whether what the operator says in `config` is what this component takes.
    pub(crate) fn check_config(&self, description: &Description) -> Result<(), Refused> {
        let nothing = Map::new();
        check_config(description, self.configs.get(&description.name).map_or(&nothing, |config| &config.config))
    }

    /// The tools that this agent may call.
    pub(super) fn tools(&self, agent: &str) -> Arc<ToolGrant> {
        let patterns = self.configs.get(agent).map(|said| said.tools.clone()).unwrap_or_default();
        Arc::new(ToolGrant::new(agent, patterns, self.toolbox.clone()))
    }

    /// What the agent of this component is granted, with these tools. The agents that come with the server may call every model, unless the operator says
    /// which.
    pub(super) fn of(&self, description: &Description, tools: Arc<ToolGrant>) -> Granted {
        let agent = description.name.as_str();
        let section = Section::agent(agent);
        let said = self.configs.get(agent).cloned().unwrap_or_default();
        let limits = &self.limits;
        let nothing = || self.outbound.nothing(section.clone(), agent);
        let here = |key: &str| format!("{}.{key}", section.key());
        let time = |said: Option<Duration>, key: &str, all: Duration| match said {
            Some(most) => TimeLimit { most, key: here(key) },
            None => TimeLimit { most: all, key: format!("limits.{key}") },
        };
        Granted {
            missing: description.wants.missing(&said),
            config: Value::Object(said.config).to_string(),
            models: said.models.unwrap_or(ModelGrant::All(is_bundled(agent))),
            http: self.access.get(agent).cloned().unwrap_or_else(nothing),
            tools: Some(tools),
            state: StateGrant {
                bytes: said.state.and_then(|size| size.bytes(limits.state_bytes)),
                key_bytes: limits.state_key_bytes,
                value_bytes: limits.state_value_bytes,
            },
            memory: MemoryLimit::of(said.memory, &section, limits),
            cpu_time: time(said.cpu_time, "cpu_time", limits.cpu_time),
            run_timeout: time(said.run_timeout, "run_timeout", limits.run_timeout),
            section,
        }
    }
}

/// Whether this component takes this configuration.
pub(crate) fn check_config(description: &Description, config: &Map<String, Value>) -> Result<(), Refused> {
    grants::check(&Section::agent(&description.name), description.config_schema.as_ref(), config)
}
