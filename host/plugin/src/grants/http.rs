//! Where a component may send HTTP requests.

use std::collections::BTreeMap;

use reqwest::Method;
use serde::{Deserialize, Deserializer, de};

use super::{address::PrivateNetworks, host_pattern::HostPattern, template::Template};
use crate::failure::shorten;

/// Where an agent or a tool component may send HTTP requests: the section `[agents.NAME.http]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpGrant {
    /// The hosts. Default: none.
    pub hosts: Vec<HostGrant>,
    /// The methods, in upper case, at all hosts that have none of their own. Default: all.
    pub methods: Option<Vec<String>>,
    /// The networks that may be reached although they are not public, or true for all: private ones, this machine,
    /// link-local addresses. Default: false.
    pub private: PrivateNetworks,
    /// Headers that are put into requests to these hosts, by their names. `${NAME}` in a value stands for an environment
    /// variable. The agent sees neither. Default: none.
    pub secrets: BTreeMap<HostPattern, BTreeMap<String, Template>>,
}

/// An entry of `hosts`: `"api.example.com"`, or `{ host = "api.example.com", methods = ["GET"] }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostGrant {
    /// The hosts.
    pub host: HostPattern,
    /// The methods at these hosts alone, whatever holds for the others. None: those that hold for all.
    pub methods: Option<Vec<String>>,
}

impl HttpGrant {
    /// The methods that this entry lets through; none for all.
    pub(crate) fn methods_at<'a>(&'a self, entry: &'a HostGrant) -> Option<&'a [String]> {
        entry.methods.as_deref().or(self.methods.as_deref())
    }

    /// All methods that are written here.
    pub(crate) fn written_methods(&self) -> impl Iterator<Item = &String> {
        self.methods.iter().chain(self.hosts.iter().filter_map(|entry| entry.methods.as_ref())).flatten()
    }
}

impl HostGrant {
    /// As in the configuration.
    pub(super) fn to_toml(&self) -> toml_edit::Value {
        match &self.methods {
            None => self.host.to_string().into(),
            Some(methods) => {
                let methods = methods.iter().collect::<toml_edit::Array>();
                let members = [("host", self.host.to_string().into()), ("methods", toml_edit::Value::from(methods))];
                members.into_iter().collect::<toml_edit::InlineTable>().into()
            }
        }
    }
}

/// In a sentence: `api.example.com`, or `api.example.com (GET, POST)`.
impl std::fmt::Display for HostGrant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.methods {
            None => write!(f, "{}", self.host),
            Some(methods) => write!(f, "{} ({})", self.host, methods.join(", ")),
        }
    }
}

impl<'de> Deserialize<'de> for HostGrant {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Members {
            host: String,
            methods: Option<Vec<String>>,
        }
        #[derive(Deserialize)]
        #[serde(
            untagged,
            expecting = "must be a host like \"api.example.com\", or { host = \"api.example.com\", methods = [\"GET\"] }"
        )]
        enum Written {
            Host(String),
            Members(Members),
        }
        let (host, methods) = match Written::deserialize(deserializer)? {
            Written::Host(host) => (host, None),
            Written::Members(Members { host, methods }) => (host, methods),
        };
        Ok(Self { host: host.parse().map_err(de::Error::custom)?, methods })
    }
}

/// Reads a method that a component may use, or says why it is none.
pub(crate) fn method(text: &str) -> Result<Method, String> {
    let word =
        !text.is_empty() && text.len() <= 32 && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-');
    match Method::from_bytes(text.as_bytes()) {
        Ok(Method::CONNECT | Method::TRACE) => Err(format!("Components may not use the method {text}.")),
        Ok(method) if word => Ok(method),
        _ => Err(format!("`{}` is not a method: write `GET`, `POST` and so on.", shorten(text, 40))),
    }
}
