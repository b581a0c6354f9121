//! What the operator says of an agent: its configuration, what it is granted, and its limits.
//!
//! Grants have two sides: a component says what it [wants](Wants), the operator says what it gets. Silence is nothing.
//! What is denied names the line of the configuration that would allow it, to the agent and in the log.

mod config;
mod http;
mod models;
mod unfold;
mod wants;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use bytesize::ByteSize;
use outlast_metrics::{Metrics, RequestMetrics};
use outlast_runtime::units::bytes;
use serde::Deserialize;
use serde_json::{Map, Value};

pub(super) use self::config::{SCHEMA_BYTES, check, validator};
pub use self::{
    http::{HostGrant, HttpGrant},
    models::{ModelGrant, ModelPattern},
    wants::{WantedHost, Wants},
};
use super::{
    bindings::types::{Failure, FailureKind},
    component::{Description, Refused},
    failure::failure,
    http::{Access, HttpLimits},
    kept::StateGrant,
    limits::{MemoryLimit, PluginLimits},
    registry::is_bundled,
    tools::{ToolConfig, ToolGrant, ToolPattern, ToolScript, Toolbox, ToolsConfig},
};

/// What the operator says of one agent: the section `[agents.NAME]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentConfig {
    /// What the agent reads through `context.config`. Default: nothing.
    pub config: Map<String, Value>,
    /// The sha256 of the component that may have this name, 64 hexadecimal digits. Default: any.
    pub sha256: Option<Pin>,
    /// Where the agent may send HTTP requests. Default: nowhere.
    pub http: HttpGrant,
    /// The tools that it may call: names, or beginnings of names and a `*`. Default: none.
    pub tools: Vec<ToolPattern>,
    /// The upstream models that it may call: `true` for all, or a list like `["openai/*"]`. Default: none for plugins,
    /// all for the agents that come with the server.
    pub models: Option<ModelGrant>,
    /// How much it may keep for each principal: a size, or `true` for `limits.state_bytes`. Default: nothing.
    pub state: Option<StateSize>,
    /// The memory of a run. Default: `limits.memory`.
    pub memory: Option<ByteSize>,
    /// How much time of a processor a run may take. Default: `limits.cpu_time`.
    #[serde(with = "humantime_serde")]
    pub cpu_time: Option<Duration>,
    /// The longest that a run may take. Default: `limits.run_timeout`.
    #[serde(with = "humantime_serde")]
    pub run_timeout: Option<Duration>,
    /// The most runs at once. Default: as many as the server has.
    pub max_live_runs: Option<usize>,
}

/// The sha256 of a component.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Pin([u8; 32]);

/// A value that may be a secret, as it stands in the configuration. Never shown: it may be the secret itself.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Template(String);

/// How much an agent may keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "must be a size like `1MiB`, or true or false")]
pub enum StateSize {
    /// As much as all may, or nothing.
    Usual(bool),
    /// So much.
    Size(ByteSize),
}

impl StateSize {
    /// Whether this is as much as `wanted`.
    pub(super) fn covers(self, wanted: Self) -> bool {
        match (self, wanted) {
            (_, Self::Usual(false)) | (Self::Usual(true), _) => true,
            (Self::Usual(false), _) => false,
            (Self::Size(_), Self::Usual(true)) => true,
            (Self::Size(size), Self::Size(wanted)) => size >= wanted,
        }
    }

    /// In bytes, where `usual` is what all may; none for nothing.
    fn bytes(self, usual: usize) -> Option<usize> {
        match self {
            Self::Usual(granted) => granted.then_some(usual),
            Self::Size(size) => Some(usize::try_from(size.as_u64()).unwrap_or(usize::MAX)),
        }
    }
}

/// As in the configuration.
impl fmt::Display for StateSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usual(granted) => write!(f, "{granted}"),
            Self::Size(size) => {
                // Exactly: `display` would round.
                let (mut number, mut unit) = (size.as_u64(), "B");
                for larger in ["KiB", "MiB", "GiB"] {
                    if number == 0 || number % 1_024 != 0 {
                        break;
                    }
                    (number, unit) = (number / 1_024, larger);
                }
                write!(f, "\"{number}{unit}\"")
            }
        }
    }
}

/// A section of the configuration, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    kind: &'static str,
    name: String,
}

impl Section {
    /// The section of an agent.
    pub fn agent(name: &str) -> Self {
        Self { kind: "agents", name: name.to_owned() }
    }

    /// The section of a tool component.
    pub fn tool(name: &str) -> Self {
        Self { kind: "tools", name: name.to_owned() }
    }

    /// Whose it is, in a sentence.
    pub(super) fn whose(&self) -> String {
        let what = if self.kind == "agents" { "agent" } else { "tool component" };
        format!("the {what} `{}`", self.name)
    }

    /// How it is written: `agents.NAME`.
    pub fn key(&self) -> String {
        format!("{}.{}", self.kind, toml_edit::Key::new(&self.name))
    }

    /// The operator does not allow `what`; `line`, in this section or in the one `below` it, would.
    pub(super) fn denied(&self, code: &str, what: &str, line: &str, below: &str) -> Failure {
        let (whose, key) = (self.whose(), self.key());
        let message = format!(
            "The operator does not allow {whose} to {what}: {line} in the section `[{key}{below}]` of the server's \
             configuration would."
        );
        failure(FailureKind::Denied, code, message)
    }
}

/// What one agent is granted, and what it is told.
#[derive(Clone, Debug)]
pub(super) struct Granted {
    /// Where it stands.
    pub(super) section: Section,
    /// What it reads through `context.config`, a JSON object.
    pub(super) config: String,
    /// The models that it may call.
    pub(super) models: ModelGrant,
    /// What it may reach.
    pub(super) http: Arc<Access>,
    /// The tools that it may call; none for a tool component, which calls no others.
    pub(super) tools: Option<Arc<ToolGrant>>,
    /// What it may keep.
    pub(super) state: StateGrant,
    /// The memory of a run.
    pub(super) memory: MemoryLimit,
    /// The processor time of an execution.
    pub(super) cpu_time: TimeLimit,
    /// The time of an execution.
    pub(super) run_timeout: TimeLimit,
    /// What it wants and does not get: the lines of its section that would grant it.
    pub(super) missing: Vec<String>,
}

impl Granted {
    /// What a tool component is granted of which the operator says this.
    pub(super) fn of_tool(name: &str, said: ToolConfig, http: Arc<Access>, limits: &PluginLimits) -> Self {
        let section = Section::tool(name);
        Self {
            config: Value::Object(said.config).to_string(),
            models: ModelGrant::All(false),
            http,
            tools: None,
            state: StateGrant::default(),
            memory: MemoryLimit::of(said.memory, &section, limits),
            cpu_time: TimeLimit { most: limits.cpu_time, key: "limits.cpu_time".to_owned() },
            run_timeout: TimeLimit { most: limits.run_timeout, key: "limits.run_timeout".to_owned() },
            missing: Vec::new(),
            section,
        }
    }
}

impl MemoryLimit {
    /// What a section says, or what holds for all.
    fn of(said: Option<ByteSize>, section: &Section, limits: &PluginLimits) -> Self {
        match said {
            Some(size) => Self { most: bytes(size), key: format!("{}.memory", section.key()) },
            None => Self { most: limits.memory, key: "limits.memory".to_owned() },
        }
    }
}

/// How long something may take, and the key that says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeLimit {
    /// How long.
    pub most: Duration,
    /// The key in the configuration: `limits.run_timeout`.
    pub key: String,
}

/// What the operator says of all agents and tools, checked.
#[derive(Clone, Debug)]
pub struct Grants {
    configs: BTreeMap<String, AgentConfig>,
    access: BTreeMap<String, Arc<Access>>,
    limits: PluginLimits,
    ways: Ways,
    toolbox: Arc<Toolbox>,
}

/// What all ways to other hosts have in common.
#[derive(Clone, Debug)]
pub(super) struct Ways {
    limits: HttpLimits,
    metrics: RequestMetrics,
}

impl Ways {
    /// What this grant lets reach. Secrets are read from the environment. `shown` is whose it is in the metrics.
    pub(super) fn granted(&self, section: Section, shown: &str, grant: &HttpGrant) -> Result<Arc<Access>, GrantError> {
        let lookup = |name: &str| std::env::var(name).ok();
        Ok(Arc::new(Access::new(section, grant, self.limits, self.metrics.agent(shown), lookup)?))
    }

    /// Nothing.
    pub(super) fn nothing(&self, section: Section, shown: &str) -> Arc<Access> {
        Arc::new(Access::nothing(section, self.limits, self.metrics.agent(shown)))
    }
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
        let ways = Ways { limits: limits.http, metrics: metrics.requests.clone() };
        let access = configs
            .iter()
            .map(|(agent, config)| Ok((agent.clone(), ways.granted(Section::agent(agent), agent, &config.http)?)));
        let access = access.collect::<Result<_, _>>()?;
        let toolbox = Arc::new(Toolbox::new(tools, limits, metrics.tools.clone(), ways.clone())?);
        Ok(Self { configs, access, limits, ways, toolbox })
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
    pub(super) fn limits(&self) -> &PluginLimits {
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
        let toolbox = Toolbox::new(ToolsConfig::default(), *limits, metrics.tools.clone(), self.ways.clone())?;
        let toolbox = Arc::new(toolbox.scripted(script));
        Ok(Arc::new(ToolGrant::new(agent, vec![ToolPattern::any()], toolbox)))
    }

    /// Whether the component with this sha256 may have the name `agent`.
    pub(super) fn check_pin(&self, agent: &str, sha256: &str) -> Result<(), Refused> {
        let pin = self.configs.get(agent).and_then(|config| config.sha256);
        pin.map_or(Ok(()), |pin| pin.check(&Section::agent(agent), sha256))
    }

    /// Whether the operator has said which component may have the name `agent`.
    pub(super) fn is_pinned(&self, agent: &str) -> bool {
        self.configs.get(agent).is_some_and(|config| config.sha256.is_some())
    }

    /// Whether what the operator says in `config` is what this component takes.
    pub(super) fn check_config(&self, description: &Description) -> Result<(), Refused> {
        let nothing = Map::new();
        check_config(description, self.configs.get(&description.name).map_or(&nothing, |config| &config.config))
    }

    /// What the agent of this component is granted. The agents that come with the server may call every model, unless the operator says
    /// which.
    pub(super) fn of(&self, description: &Description) -> Granted {
        let agent = description.name.as_str();
        let section = Section::agent(agent);
        let said = self.configs.get(agent).cloned().unwrap_or_default();
        let limits = &self.limits;
        let nothing = || self.ways.nothing(section.clone(), agent);
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
            tools: Some(Arc::new(ToolGrant::new(agent, said.tools, self.toolbox.clone()))),
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
pub(super) fn check_config(description: &Description, config: &Map<String, Value>) -> Result<(), Refused> {
    config::check(&Section::agent(&description.name), description.config_schema.as_ref(), config)
}

/// A grant that cannot be given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("configuration: {key}.{what}")]
pub struct GrantError {
    /// The section.
    pub(super) key: String,
    /// What is wrong in it.
    pub(super) what: String,
}

impl Pin {
    /// Whether it is this sha256.
    pub(crate) fn is(self, sha256: [u8; 32]) -> bool {
        self.0 == sha256
    }

    /// Whether it is the sha256 that this section pins.
    pub(super) fn check(self, section: &Section, sha256: &str) -> Result<(), Refused> {
        let pinned = hex::encode(self.0);
        match pinned == sha256 {
            true => Ok(()),
            false => Err(Refused(format!(
                "its sha256 is {sha256}, and `{}.sha256` in the configuration pins {} to {pinned}",
                section.key(),
                section.whose(),
            ))),
        }
    }
}

impl TryFrom<String> for Pin {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut digest = [0; 32];
        let wrong = |_| format!("`{text}` is not a sha256: it has 64 hexadecimal digits, as `sha256sum` prints them");
        hex::decode_to_slice(&text, &mut digest).map_err(wrong)?;
        Ok(Self(digest))
    }
}

/// A template with its variables filled in.
pub struct Filled {
    /// The whole value.
    pub value: String,
    /// The parts that are secret: what the variables stand for, or all of it where there is none.
    pub(super) secrets: Vec<String>,
}

impl Template {
    /// Whether environment variables are named in it.
    pub(super) fn has_variables(&self) -> bool {
        self.0.contains("${")
    }

    /// Fills in the variables.
    pub fn fill(&self, lookup: impl Fn(&str) -> Option<String>) -> Result<Filled, String> {
        let (mut value, mut secrets) = (String::new(), Vec::new());
        let mut rest = self.0.as_str();
        while let Some((before, behind)) = rest.split_once("${") {
            let (name, behind) = behind.split_once('}').ok_or("has `${` without `}`")?;
            let found = lookup(name).filter(|found| !found.is_empty());
            let found = found.ok_or_else(|| format!("names the environment variable {name}, which is not set"))?;
            value.push_str(before);
            value.push_str(&found);
            secrets.push(found);
            rest = behind;
        }
        value.push_str(rest);
        if secrets.is_empty() {
            secrets.push(value.clone());
        }
        Ok(Filled { value, secrets })
    }
}

impl From<&str> for Template {
    fn from(template: &str) -> Self {
        Self(template.to_owned())
    }
}

impl std::fmt::Debug for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[secret]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(template: &str) -> Result<(String, Vec<String>), String> {
        let lookup = |name: &str| (name == "TOKEN").then(|| "t0p".to_owned());
        Template(template.to_owned()).fill(lookup).map(|filled| (filled.value, filled.secrets))
    }

    #[test]
    fn variables_are_filled_in() {
        assert_eq!(filled("Bearer ${TOKEN}"), Ok(("Bearer t0p".to_owned(), vec!["t0p".to_owned()])));
        assert_eq!(filled("${TOKEN}:${TOKEN}!").unwrap().0, "t0p:t0p!");
        assert_eq!(filled("plain $x"), Ok(("plain $x".to_owned(), vec!["plain $x".to_owned()])));
        assert!(filled("${NONE}").unwrap_err().contains("NONE, which is not set"));
        assert!(filled("a ${TOKEN").unwrap_err().contains("without `}`"));
    }

    #[test]
    fn a_value_is_not_shown() {
        assert_eq!(format!("{:?}", Template("t0p".to_owned())), "[secret]");
    }
}
