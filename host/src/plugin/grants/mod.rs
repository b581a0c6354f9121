//! What the operator says of an agent: its configuration, what it is granted, and its limits.
//!
//! Grants have two sides: a component says what it [wants](Wants), the operator says what it gets. Silence is nothing.
//! What is denied names the line of the configuration that would allow it, to the agent and in the log.

mod config;
mod models;
mod wants;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use bytesize::ByteSize;
use serde::Deserialize;
use serde_json::{Map, Value};

pub(super) use self::config::{SCHEMA_BYTES, validator};
pub use self::{
    models::{ModelGrant, ModelPattern},
    wants::{WantedHost, Wants},
};
use super::{
    bindings::types::{Failure, FailureKind},
    component::{Description, Refused},
    failure::failure,
    http::{Access, HostPattern, PrivateNetworks},
    kept::StateGrant,
    limits::{MemoryLimit, PluginLimits},
    registry::is_bundled,
};
use crate::{config::bytes, metrics::RequestMetrics};

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

/// Where an agent may send HTTP requests: the section `[agents.NAME.http]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpGrant {
    /// The hosts. Default: none.
    pub hosts: Vec<HostPattern>,
    /// The methods, in upper case. Default: all.
    pub methods: Option<Vec<String>>,
    /// The networks that may be reached although they are not public, or true for all: private ones, this machine,
    /// link-local addresses. Default: false.
    pub private: PrivateNetworks,
    /// Headers that are put into requests to these hosts, by their names. `${NAME}` in a value stands for an environment
    /// variable. The agent sees neither. Default: none.
    pub secrets: BTreeMap<HostPattern, BTreeMap<String, Template>>,
}

/// The sha256 of a component.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Pin([u8; 32]);

/// The value of a secret header, as it stands in the configuration. Never shown: it may be the secret itself.
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
            Self::Size(size) => write!(f, "\"{}\"", size.display().iec()),
        }
    }
}

/// Whose grants they are, and with that the section of the configuration where they stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Grantee {
    name: String,
}

impl Grantee {
    /// An agent.
    pub(super) fn agent(name: &str) -> Self {
        Self { name: name.to_owned() }
    }

    /// The section, as it stands in the brackets: `agents.weather`.
    pub(super) fn section(&self) -> String {
        let name = &self.name;
        let bare = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        if bare { format!("agents.{name}") } else { format!("agents.\"{name}\"") }
    }

    /// The operator does not allow `what`; `line`, in its section or in the one `below` it, would.
    pub(super) fn denied(&self, code: &str, what: &str, line: &str, below: &str) -> Failure {
        let (name, section) = (&self.name, self.section());
        let message = format!(
            "The operator does not allow the agent `{name}` to {what}: {line} in the section `[{section}{below}]` of \
             the server's configuration would."
        );
        failure(FailureKind::Denied, code, message)
    }
}

/// What one agent is granted, and what it is told.
#[derive(Clone, Debug)]
pub(super) struct Granted {
    /// Whose it is.
    pub(super) whose: Grantee,
    /// What it reads through `context.config`, a JSON object.
    pub(super) config: String,
    /// The models that it may call.
    pub(super) models: ModelGrant,
    /// What it may reach.
    pub(super) http: Arc<Access>,
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

/// How long something may take, and the key that says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeLimit {
    /// How long.
    pub most: Duration,
    /// The key in the configuration: `limits.run_timeout`.
    pub key: String,
}

/// What the operator says of all agents, checked.
#[derive(Clone, Debug)]
pub struct Grants {
    configs: BTreeMap<String, AgentConfig>,
    access: BTreeMap<String, Arc<Access>>,
    limits: PluginLimits,
    metrics: RequestMetrics,
}

impl Grants {
    /// Checks what the operator says of agents, by their names. Secrets are read from the environment.
    ///
    /// # Errors
    ///
    /// The first that cannot be given, with its key.
    pub fn new(
        configs: BTreeMap<String, AgentConfig>,
        limits: PluginLimits,
        metrics: RequestMetrics,
    ) -> Result<Self, GrantError> {
        let lookup = |name: &str| std::env::var(name).ok();
        let access = configs.iter().map(|(agent, config)| {
            let whose = Grantee::agent(agent);
            let access = Access::new(&whose, &config.http, limits.http, metrics.agent(agent), lookup)?;
            Ok((agent.clone(), Arc::new(access)))
        });
        let access = access.collect::<Result<_, _>>()?;
        Ok(Self { configs, access, limits, metrics })
    }

    /// The names of the agents of which the operator says something.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.configs.keys().map(String::as_str)
    }

    /// The limits of all agents.
    pub(super) fn limits(&self) -> &PluginLimits {
        &self.limits
    }

    /// Whether the component with this sha256 may have the name `agent`.
    pub(super) fn check_pin(&self, agent: &str, sha256: &str) -> Result<(), Refused> {
        match self.configs.get(agent).and_then(|config| config.sha256) {
            Some(Pin(pinned)) if hex::encode(pinned) != sha256 => Err(Refused(format!(
                "its sha256 is {sha256}, and `agents.{agent}.sha256` in the configuration pins the agent `{agent}` to {}",
                hex::encode(pinned)
            ))),
            _ => Ok(()),
        }
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
        let whose = Grantee::agent(agent);
        let said = self.configs.get(agent).cloned().unwrap_or_default();
        let limits = &self.limits;
        let nothing = || Arc::new(Access::nothing(&whose, limits.http, self.metrics.agent(agent)));
        let here = |key: &str| format!("{}.{key}", whose.section());
        let time = |said: Option<Duration>, key: &str, all: Duration| match said {
            Some(most) => TimeLimit { most, key: here(key) },
            None => TimeLimit { most: all, key: format!("limits.{key}") },
        };
        Granted {
            missing: description.wants.missing(&said),
            config: Value::Object(said.config).to_string(),
            models: said.models.unwrap_or(ModelGrant::All(is_bundled(agent))),
            http: self.access.get(agent).cloned().unwrap_or_else(nothing),
            state: StateGrant {
                bytes: said.state.and_then(|size| size.bytes(limits.state_bytes)),
                key_bytes: limits.state_key_bytes,
                value_bytes: limits.state_value_bytes,
            },
            memory: match said.memory {
                Some(size) => MemoryLimit { most: bytes(size), key: here("memory") },
                None => MemoryLimit { most: limits.memory, key: "limits.memory".to_owned() },
            },
            cpu_time: time(said.cpu_time, "cpu_time", limits.cpu_time),
            run_timeout: time(said.run_timeout, "run_timeout", limits.run_timeout),
            whose,
        }
    }
}

/// Whether this component takes this configuration.
pub(super) fn check_config(description: &Description, config: &Map<String, Value>) -> Result<(), Refused> {
    config::check(&Grantee::agent(&description.name), description.config_schema.as_ref(), config)
}

/// A grant that cannot be given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("configuration: {0}")]
pub struct GrantError(pub(super) String);

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
pub(super) struct Filled {
    /// The whole value.
    pub(super) value: String,
    /// The parts that are secret: what the variables stand for, or all of it where there is none.
    pub(super) secrets: Vec<String>,
}

impl Template {
    /// Fills in the variables.
    pub(super) fn fill(&self, lookup: impl Fn(&str) -> Option<String>) -> Result<Filled, String> {
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
