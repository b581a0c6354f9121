//! What the operator says of an agent: its configuration, and what it is granted.

use std::{collections::BTreeMap, sync::Arc};

use bytesize::ByteSize;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::sync::Semaphore;

use super::{
    component::Refused,
    http::{Access, HostPattern, HttpLimits, PrivateNetworks},
    kept::StateGrant,
    limits::PluginLimits,
    tools::{ToolGrant, ToolPattern, ToolScript, Toolbox, ToolsConfig},
};
use crate::metrics::{Metrics, RequestMetrics};

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
    /// How much it may keep for each principal: a size, or `true` for `limits.state_bytes`. Default: nothing.
    pub state: Option<StateSize>,
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
    /// In bytes, where `usual` is what all may; none for nothing.
    fn bytes(self, usual: usize) -> Option<usize> {
        match self {
            Self::Usual(granted) => granted.then_some(usual),
            Self::Size(size) => Some(usize::try_from(size.as_u64()).unwrap_or(usize::MAX)),
        }
    }
}

/// What the operator says of all agents, checked.
#[derive(Clone, Debug)]
pub struct Grants {
    configs: BTreeMap<String, AgentConfig>,
    access: BTreeMap<String, Arc<Access>>,
    ways: Ways,
    toolbox: Arc<Toolbox>,
}

/// What all ways to other hosts have in common.
#[derive(Clone, Debug)]
pub(super) struct Ways {
    limits: HttpLimits,
    /// For the requests of all agents and tools.
    places: Arc<Semaphore>,
    metrics: RequestMetrics,
}

impl Ways {
    /// What this grant lets reach. Secrets are read from the environment. `shown` is whose it is in the metrics.
    pub(super) fn granted(&self, section: Section, shown: &str, grant: &HttpGrant) -> Result<Arc<Access>, GrantError> {
        let Self { limits, places, metrics } = self.clone();
        let lookup = |name: &str| std::env::var(name).ok();
        Ok(Arc::new(Access::new(section, grant, limits, places, metrics.agent(shown), lookup)?))
    }

    /// Nothing.
    pub(super) fn nothing(&self, section: Section, shown: &str) -> Arc<Access> {
        let Self { limits, places, metrics } = self.clone();
        Arc::new(Access::nothing(section, limits, places, metrics.agent(shown)))
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
        limits: &PluginLimits,
        metrics: &Metrics,
    ) -> Result<Self, GrantError> {
        let places = Arc::new(Semaphore::new(limits.http.connections.min(Semaphore::MAX_PERMITS)));
        let ways = Ways { limits: limits.http, places, metrics: metrics.requests.clone() };
        let access = configs
            .iter()
            .map(|(agent, config)| Ok((agent.clone(), ways.granted(Section::agent(agent), agent, &config.http)?)));
        let access = access.collect::<Result<_, _>>()?;
        let toolbox = Arc::new(Toolbox::new(tools, *limits, metrics.tools.clone(), ways.clone())?);
        Ok(Self { configs, access, ways, toolbox })
    }

    /// All tools.
    pub fn toolbox(&self) -> &Arc<Toolbox> {
        &self.toolbox
    }

    /// The tools that an agent may call.
    pub(super) fn tools(&self, agent: &str) -> Arc<ToolGrant> {
        let granted = self.configs.get(agent).map(|config| config.tools.clone());
        Arc::new(ToolGrant::new(agent, granted.unwrap_or_default(), self.toolbox.clone()))
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

    /// What an agent reads through `context.config`, a JSON object.
    pub(super) fn config(&self, agent: &str) -> String {
        Value::Object(self.configs.get(agent).map(|config| config.config.clone()).unwrap_or_default()).to_string()
    }

    /// What an agent may keep.
    pub(super) fn state(&self, agent: &str, limits: &PluginLimits) -> StateGrant {
        let size = self.configs.get(agent).and_then(|config| config.state);
        StateGrant {
            bytes: size.and_then(|size| size.bytes(limits.state_bytes)),
            key_bytes: limits.state_key_bytes,
            value_bytes: limits.state_value_bytes,
        }
    }

    /// What an agent may reach.
    pub(super) fn http(&self, agent: &str) -> Arc<Access> {
        let granted = self.access.get(agent).cloned();
        granted.unwrap_or_else(|| self.ways.nothing(Section::agent(agent), agent))
    }
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

/// A section of the configuration, and whose it is.
#[derive(Clone, Debug)]
pub(super) struct Section {
    kind: &'static str,
    name: String,
}

impl Section {
    /// The section of an agent.
    pub(super) fn agent(name: &str) -> Self {
        Self { kind: "agents", name: name.to_owned() }
    }

    /// The section of a tool component.
    pub(super) fn tool(name: &str) -> Self {
        Self { kind: "tools", name: name.to_owned() }
    }

    /// Whose it is, in a sentence.
    pub(super) fn whose(&self) -> String {
        let what = if self.kind == "agents" { "agent" } else { "tool component" };
        format!("the {what} `{}`", self.name)
    }

    /// How it is written: `agents.NAME`.
    pub(super) fn key(&self) -> String {
        let Self { kind, name } = self;
        let bare = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        if bare { format!("{kind}.{name}") } else { format!("{kind}.\"{name}\"") }
    }
}

impl Pin {
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
pub(super) struct Filled {
    /// The whole value.
    pub(super) value: String,
    /// The parts that are secret: what the variables stand for, or all of it where there is none.
    pub(super) secrets: Vec<String>,
}

impl Template {
    /// Whether environment variables are named in it.
    pub(super) fn has_variables(&self) -> bool {
        self.0.contains("${")
    }

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
