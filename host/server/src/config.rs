//! The one configuration.
//!
//! Three sources, later ones win: the file (TOML), the environment (`OUTLAST_…`, sections separated by two
//! underscores: `OUTLAST_LIMITS__RUN_TIMEOUT=5m`), the command line. It is checked once, at the start, and then
//! passed down as values. A key that is not known and a value that does not fit are errors that name the key,
//! the value and what is allowed. Of variables that are not keys, `environment` says what becomes of them.
//!
//! Durations are written `500ms`, `30s`, `10m`; sizes `64KiB`, `10MiB`, or a number of bytes.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use figment::{
    Figment,
    error::Kind,
    providers::{Format as _, Serialized, Toml},
};
use outlast_http::{Key, TlsConfig};
use outlast_model::ProviderConfig;
use outlast_plugin::{AgentConfig, Allocator, McpConfig, PrivateNetworks, PublicKey, Source, ToolConfig, one_or_many};
use outlast_runtime::limits::DAY;
use outlast_store::LEASE;
use serde::{Deserialize, Serialize};

use crate::sandbox::Sandbox;

mod check;
mod database;
mod environment;
mod limits;
mod rooms;
#[cfg(test)]
mod tests;
mod webhooks;

pub use database::{DatabaseConfig, DatabaseFile};
use environment::Environment;
pub use limits::Limits;
pub use webhooks::WebhookConfig;

/// The configuration of a server.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where to listen. Default `127.0.0.1:8642`. Any address that is not loopback needs a key.
    pub listen: SocketAddr,
    /// The certificate and the key of a server that is reached over TLS. Default: none, and without TLS.
    pub tls: Option<TlsConfig>,
    /// The names that a server without keys answers to, beside those of loopback, without a port: `outlast.lan`. Default:
    /// none. With keys, every name is answered.
    pub allowed_hosts: Vec<String>,
    /// The pages that may use the server from a browser, by their origin: `https://app.example.com`. Without keys, only
    /// those of this machine. Default: none.
    pub cors_origins: Vec<String>,
    /// The path of an SQLite file, or a PostgreSQL URL; `${NAME}` stands for an environment variable, and `{ file = "PATH" }`
    /// for what is in a file. Default `outlast.db`.
    pub database: DatabaseConfig,
    /// How long this server may be silent before another one takes over its PostgreSQL database, `1s` to `1h`. Default
    /// `15s`.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    /// Where plugins come from: a folder whose `*.wasm` files serve, a `*.wasm` file, an `oci://` reference with its
    /// digest, or a list of these. Default: none.
    #[serde(deserialize_with = "one_or_many")]
    pub plugins: Vec<Source>,
    /// Hosts that may be asked for tokens of registries and are shown their credentials, beside the registry's own:
    /// `gitlab.com` for `registry.gitlab.com`. Default: none.
    pub registry_realms: Vec<String>,
    /// The folder for compiled code, so that a component is compiled once, and for what comes from registries, so that
    /// it is fetched once. It must be the server's own. `false`: none.
    /// Default: `outlast` in `$XDG_CACHE_HOME` or `~/.cache`.
    pub cache: CacheConfig,
    /// How instances get their memory: `on-demand`, or `pooling`. Default `on-demand`.
    pub allocator: Allocator,
    /// Whether a plugin without a signature by one of `trusted_keys` is refused. Default false.
    pub require_signature: bool,
    /// Whose signatures of plugins are trusted: `ed25519:BASE64`. Default: none.
    pub trusted_keys: Vec<PublicKey>,
    /// Whether, with `trusted_keys`, a plugin may be served whose version is older than the one that served last. Default
    /// false: only one that is pinned by its `sha256`.
    pub allow_rollback: bool,
    /// A file that the server writes its process id into, and locks while it runs. Default: none.
    pub pid_file: Option<PathBuf>,
    /// Whether the server gives up what it does not need, as far as the kernel has it: `on` or `off`. Default `on`.
    pub sandbox: Sandbox,
    /// What is logged, as a filter of `tracing`: `info`, `debug`, `outlast=debug,plugin=info`. Default
    /// `info,genai=off`.
    pub log: String,
    /// How log lines look. Default `text`.
    pub log_format: LogFormat,
    /// How long a stopping server waits for its runs. Default `30s`.
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
    /// What happens to a run that is kept when the client that began it goes away. Default `detach`.
    pub on_disconnect: OnDisconnect,
    /// How long a response is kept after its end, and with it its events and its idempotency key. At least `1s`.
    /// Default `30d`.
    #[serde(with = "humantime_serde")]
    pub retention: Duration,
    /// How long a conversation is kept after its last change, with its items and what agents keep for it. At least `1s`.
    /// Default: until it is deleted.
    #[serde(with = "humantime_serde::option")]
    pub conversation_retention: Option<Duration>,
    /// Who may use the server. Default: nobody needs a key, and only loopback is served.
    pub keys: Vec<Key>,
    /// Who is told when responses end, beside those that clients name. Default: nobody.
    pub webhooks: Vec<WebhookConfig>,
    /// The networks that webhooks may be sent to although they are not public, also over `http`; or true for all. Default:
    /// false.
    pub webhook_private: PrivateNetworks,
    /// The model that agents get when nothing names one: `provider/model`. Default: none.
    pub default_model: Option<String>,
    /// Upstream model providers, by name. Default: those whose environment variables are set.
    pub providers: BTreeMap<String, ProviderConfig>,
    /// Agents, by name: their configuration, and what they are granted. Default: nothing.
    pub agents: BTreeMap<String, AgentConfig>,
    /// Tool components, by name: their configuration, and what they are granted. Default: nothing.
    pub tools: BTreeMap<String, ToolConfig>,
    /// MCP servers, by name, whose tools agents may be granted. Default: none.
    pub mcp: BTreeMap<String, McpConfig>,
    /// Limits.
    pub limits: Limits,
    /// What its sources hold that means nothing here, in sentences for the log.
    #[serde(skip)]
    pub warnings: Vec<String>,
}

/// The folder for compiled code.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "the path of a folder, or false")]
pub enum CacheConfig {
    /// The default folder, or none.
    Enabled(bool),
    /// This folder.
    Folder(PathBuf),
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self::Enabled(true)
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What happens to a run that is kept when the client that began it goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDisconnect {
    /// It goes on.
    Detach,
    /// It is cancelled.
    Cancel,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8642)),
            tls: None,
            allowed_hosts: Vec::new(),
            cors_origins: Vec::new(),
            database: "outlast.db".into(),
            plugins: Vec::new(),
            registry_realms: Vec::new(),
            cache: CacheConfig::default(),
            allocator: Allocator::default(),
            require_signature: false,
            trusted_keys: Vec::new(),
            allow_rollback: false,
            pid_file: None,
            sandbox: Sandbox::On,
            log: "info,genai=off".to_owned(),
            log_format: LogFormat::Text,
            lease: LEASE,
            drain_timeout: Duration::from_secs(30),
            on_disconnect: OnDisconnect::Detach,
            retention: DAY * 30,
            conversation_retention: None,
            keys: Vec::new(),
            webhooks: Vec::new(),
            webhook_private: PrivateNetworks::default(),
            default_model: None,
            providers: BTreeMap::new(),
            agents: BTreeMap::new(),
            tools: BTreeMap::new(),
            mcp: BTreeMap::new(),
            limits: Limits::default(),
            warnings: Vec::new(),
        }
    }
}

/// What the command line says. Whatever is none leaves the other sources alone.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Flags {
    /// `--listen`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
    /// `--database`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// `--plugins`, as often as it is given.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub plugins: Vec<String>,
}

/// A configuration that is not right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl Config {
    /// Reads the configuration. `file` must exist when it is given.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong, with its key, its value and what is allowed.
    pub fn read(file: Option<&Path>, flags: &Flags) -> Result<Self, ConfigError> {
        let mut figment = Figment::new();
        if let Some(file) = file {
            if !file.is_file() {
                return Err(ConfigError(format!("there is no configuration file {}", file.display())));
            }
            figment = figment.merge(Toml::file_exact(file));
        }
        let Environment { provider, warnings } = environment::read().map_err(ConfigError)?;
        let config: Self = figment
            .merge(provider)
            .merge(Serialized::defaults(flags))
            .extract()
            .map_err(|error| ConfigError(explain(error)))?;
        Self { warnings, ..config }.checked()
    }
}

/// Every error on a line of its own, each with its key and where it was set.
fn explain(error: figment::Error) -> String {
    let lines: Vec<String> = error
        .into_iter()
        .map(|error| {
            let source = match &error.metadata {
                Some(metadata) => match &metadata.source {
                    Some(source) => format!(" in {source}"),
                    None if metadata.name == environment::NAME => {
                        let unknown = match &error.kind {
                            Kind::UnknownField(key, _) => Some(key),
                            _ => None,
                        };
                        let path = error.path.iter().chain(unknown).map(String::as_str);
                        format!(" in {}", environment::variable(path))
                    }
                    None => format!(" in {}", metadata.name),
                },
                None => String::new(),
            };
            let key = error.path.join(".");
            if key.is_empty() { format!("{}{source}", error.kind) } else { format!("{key}: {}{source}", error.kind) }
        })
        .collect();
    lines.join("\n")
}
