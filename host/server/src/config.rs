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
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use bytesize::ByteSize;
use figment::{
    Figment,
    error::Kind,
    providers::{Format as _, Serialized, Toml},
};
use outlast_http::{ConnectionLimits, Key, Origins, TlsConfig, WebSocketLimits, check_keys, is_host_name};
use outlast_model::{ModelsConfig, ProviderConfig};
use outlast_plugin::{
    AgentConfig, Allocator, CallLimits, FetchLimits, HttpLimits, McpConfig, PluginLimits, Pool, PublicKey, Signatures,
    Source, ToolConfig, ToolLimits, ToolsConfig, one_or_many,
};
use outlast_protocol::RequestLimits;
use outlast_run::{HistoryLimits, OutputLimits, Quotas, Retentions, RunLimits, Shares};
use outlast_runtime::units::bytes;
use outlast_store::LEASE;
use serde::{Deserialize, Serialize};

use crate::{
    machine::{self, LiveRuns},
    sandbox::Sandbox,
};

mod database;
mod environment;

pub use database::{DatabaseConfig, DatabaseFile};
use environment::Environment;

const DAY: Duration = Duration::from_secs(86_400);

/// Maxima of limits, where nothing else sets a smaller one. They are far beyond what a server can hold; what they keep
/// out is a number that overflows somewhere. Here: things of which each takes memory or a file.
const MOST_PLACES: usize = 1_000_000;
/// Runs, of which most sleep in the database.
const MOST_RUNS: usize = 1_000_000_000;
/// Items of one request or response.
const MOST_ITEMS: usize = 1_000_000_000;
/// Events and lines of one run.
const MOST_EVENTS: u64 = 1_000_000_000_000;
/// Headers of one request: what a table of them takes.
const MOST_HEADERS: usize = 32_768;
/// What has to fit into memory.
const MOST_BYTES: ByteSize = ByteSize::tib(1);
/// The least memory to compile with: less is not enough to begin.
const LEAST_COMPILE_MEMORY: ByteSize = ByteSize::mib(64);
/// The memory of an instance, whose addresses have 32 bits.
const MOST_MEMORY: ByteSize = ByteSize::gib(4);

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

/// Limits, each with its default.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// The largest request body, in its plain form. Default `32MiB`.
    pub body_bytes: ByteSize,
    /// How many bytes of request bodies the server holds at the same time; on a server with keys, half of it of one
    /// principal. At least twice `body_bytes`. Default `128MiB`.
    pub bodies_bytes: ByteSize,
    /// The largest text part of a request. Default `10MiB`.
    pub text_bytes: ByteSize,
    /// The most input items of a request. Default 10000.
    pub input_items: usize,
    /// The most items in the history of a request: of its conversation or `previous_response_id`.
    /// Default 10000.
    pub history_items: usize,
    /// How large that may be together, as it is stored. Default `32MiB`.
    pub history_bytes: ByteSize,
    /// How much a principal may keep: responses with their events and logs, conversations, and 100 bytes for each row that
    /// they are. Default: any amount.
    pub stored_bytes: Option<ByteSize>,
    /// The most runs that have an instance. Default: what `vm.max_map_count` of this machine allows.
    pub max_live_runs: Option<usize>,
    /// The most runs, those that sleep without an instance included. Default 100000.
    pub max_runs: usize,
    /// A run that sleeps this long, or longer, leaves memory meanwhile. Default `30s`.
    #[serde(with = "humantime_serde")]
    pub idle_after: Duration,
    /// The longest that a run may take. Default `10m`.
    #[serde(with = "humantime_serde")]
    pub run_timeout: Duration,
    /// How much CPU time a run may use, all its executions together, and the tool components that it calls; what
    /// a stop of the server makes it do once more does not count. Default `1m`.
    #[serde(with = "humantime_serde")]
    pub cpu_time: Duration,
    /// How long an agent that is asked to stop may take to return before its instance is dropped. At most `1s`.
    /// Default `300ms`.
    #[serde(with = "humantime_serde")]
    pub cancel_grace: Duration,
    /// The largest component of a plugin. Default `128MiB`.
    pub plugin_bytes: ByteSize,
    /// The longest that compiling a plugin may take. Default `10m`.
    #[serde(with = "humantime_serde")]
    pub plugin_compile_timeout: Duration,
    /// The most memory that compiling a plugin may take. Default: a quarter of this machine's, or of the narrowest control
    /// group's, from `1GiB` to `4GiB`.
    pub plugin_compile_memory: Option<ByteSize>,
    /// The longest that fetching a plugin from a registry may take. Default `5m`.
    #[serde(with = "humantime_serde")]
    pub plugin_fetch_timeout: Duration,
    /// The memory of a run, its tables included. Default `256MiB`.
    pub memory: ByteSize,
    /// The memory of all instances together. Default: half of this machine's, or of the narrowest control group's.
    pub instances_memory: Option<ByteSize>,
    /// The largest text that an agent may write in one call. Default `1MiB`.
    pub event_bytes: ByteSize,
    /// All that an agent may write in a run. Default `16MiB`.
    pub output_bytes: ByteSize,
    /// The most items that an agent may write in a run. Default 1000.
    pub output_items: usize,
    /// The most events of a run. Default 1000000.
    pub events: u64,
    /// The limit of a run's journal: the results of its imports, which are stored so that it can resume after a crash.
    /// Default `64MiB`.
    pub journal_bytes: ByteSize,
    /// What an agent may keep for a principal, where `[agents.NAME]` says `state = true`: keys, values, and 100 bytes for
    /// each of them. Default `1MiB`.
    pub state_bytes: ByteSize,
    /// The largest value that an agent may keep. Default `256KiB`.
    pub state_value_bytes: ByteSize,
    /// The longest key under which an agent may keep something, in bytes, at most 1024. Default 512.
    pub state_key_bytes: usize,
    /// The most lines in the log of a run. Default 10000.
    pub log_lines: u64,
    /// The largest body of a request that an agent sends. Default `1MiB`.
    pub http_request_bytes: ByteSize,
    /// The largest body of the answer to one. Default `4MiB`.
    pub http_response_bytes: ByteSize,
    /// The most bytes of the URL and the headers of such a request, and of the headers of its answer. Default `64KiB`.
    pub http_header_bytes: ByteSize,
    /// The most headers of either. Default 100.
    pub http_headers: usize,
    /// The most requests of a run whose answers it has not received. Default 16.
    pub http_requests: usize,
    /// The most concurrent requests of all agents; others wait for their turn. Default 256.
    pub http_connections: usize,
    /// The longest that a request of an agent may take. Default `5m`.
    #[serde(with = "humantime_serde")]
    pub http_timeout: Duration,
    /// The input, the instructions and the options of a call of a model, and of all calls together that a run holds. Default
    /// `48MiB`.
    pub model_input_bytes: ByteSize,
    /// The most calls of models that a run holds. Default 16.
    pub model_calls: usize,
    /// The most calls of tools of a run whose answers it has not received. Default 16.
    pub tool_calls: usize,
    /// The most concurrent calls of tool components of all agents, each in an instance of its own; others wait for
    /// their turn. Default 256.
    pub tool_instances: usize,
    /// The largest arguments of a call of a tool. Default `256KiB`.
    pub tool_argument_bytes: ByteSize,
    /// The largest answer of a tool. Default `1MiB`.
    pub tool_result_bytes: ByteSize,
    /// How much of the log of a run is kept with it. Default `1MiB`.
    pub log_bytes: ByteSize,
    /// How much of a run may wait to be written before its agent is suspended. Default `256KiB`.
    pub outbox_bytes: ByteSize,
    /// How much of a run is kept in memory for its subscribers; older events are read from the database. Default
    /// `64KiB`.
    pub feed_bytes: ByteSize,
    /// The most open connections. Default 10000.
    pub connections: usize,
    /// The most open connections from one address; behind a proxy all have the proxy's. Default: any number.
    pub connections_per_address: Option<usize>,
    /// How long a client may take to send its first byte. Default `5s`.
    #[serde(with = "humantime_serde")]
    pub first_byte_timeout: Duration,
    /// How long a client may take nothing of what it is sent before its connection is closed. Default `60s`.
    #[serde(with = "humantime_serde")]
    pub write_timeout: Duration,
    /// How long a client may take to send the head of a request. Default `30s`.
    #[serde(with = "humantime_serde")]
    pub header_timeout: Duration,
    /// How long a client may take to send the body of a request, or a message over a WebSocket. Default `60s`.
    #[serde(with = "humantime_serde")]
    pub body_timeout: Duration,
    /// How long a stream may be silent before a comment line is sent, and a WebSocket before a ping. At most `15s`, the default.
    #[serde(with = "humantime_serde")]
    pub keep_alive: Duration,
    /// How long a WebSocket may stay open. Default `60m`.
    #[serde(with = "humantime_serde")]
    pub websocket_lifetime: Duration,
    /// The most responses with `store: false` that a WebSocket remembers, so that they can be continued. Default 16.
    pub websocket_responses: usize,
    /// How large the history of those responses may be together, as JSON. Default `4MiB`.
    pub websocket_bytes: ByteSize,
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

impl Default for Limits {
    /// Those that the rooms have of their own, and those of the server.
    fn default() -> Self {
        let (run, plugin) = (RunLimits::default(), PluginLimits::default());
        let (http, tools, models) = (plugin.http, plugin.tools, plugin.models);
        let size = |bytes: usize| ByteSize::b(bytes as u64);
        Self {
            body_bytes: ByteSize::mib(32),
            bodies_bytes: ByteSize::mib(128),
            text_bytes: ByteSize::mib(10),
            input_items: outlast_protocol::MAX_INPUT_ITEMS,
            history_items: run.history.items,
            history_bytes: size(run.history.bytes),
            stored_bytes: None,
            max_live_runs: None,
            run_timeout: plugin.run_timeout,
            cpu_time: plugin.cpu_time,
            max_runs: run.max_runs,
            idle_after: run.idle_after,
            cancel_grace: run.cancel_grace,
            plugin_bytes: size(plugin.plugin_bytes),
            plugin_compile_timeout: plugin.compile_timeout,
            plugin_compile_memory: None,
            plugin_fetch_timeout: Duration::from_secs(300),
            memory: size(plugin.memory),
            instances_memory: None,
            event_bytes: size(plugin.event_bytes),
            output_bytes: size(run.output.output_bytes),
            output_items: run.output.output_items,
            events: run.output.events,
            journal_bytes: size(run.journal_bytes),
            state_bytes: size(plugin.state_bytes),
            state_value_bytes: size(plugin.state_value_bytes),
            state_key_bytes: plugin.state_key_bytes,
            log_lines: plugin.log_lines,
            http_request_bytes: size(http.request_bytes),
            http_response_bytes: size(http.response_bytes),
            http_header_bytes: size(http.header_bytes),
            http_headers: http.headers,
            http_requests: http.requests,
            http_connections: http.connections,
            http_timeout: http.timeout,
            model_input_bytes: size(models.input_bytes),
            model_calls: models.calls,
            tool_calls: tools.calls,
            tool_instances: tools.instances,
            tool_argument_bytes: size(tools.argument_bytes),
            tool_result_bytes: size(tools.result_bytes),
            log_bytes: size(run.log_bytes),
            outbox_bytes: size(run.outbox_bytes),
            feed_bytes: size(run.feed_bytes),
            connections: 10_000,
            connections_per_address: None,
            first_byte_timeout: Duration::from_secs(5),
            write_timeout: Duration::from_secs(60),
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(60),
            keep_alive: Duration::from_secs(15),
            websocket_lifetime: Duration::from_secs(3_600),
            websocket_responses: 16,
            websocket_bytes: ByteSize::mib(4),
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

    fn checked(self) -> Result<Self, ConfigError> {
        let fail = |message: String| Err(ConfigError(message));
        if !self.listen.ip().is_loopback() && self.keys.is_empty() {
            return fail(format!(
                "listen = \"{}\" would let everybody who reaches this machine use the server. Make a key with \
                 `outlast key new NAME` and put the lines that it prints into the configuration file, or listen on \
                 127.0.0.1",
                self.listen
            ));
        }
        if let Some(name) = self.allowed_hosts.iter().find(|name| !is_host_name(name)) {
            return fail(format!(
                "allowed_hosts: \"{name}\" must be a name or an address, without a port: `outlast.lan`, `192.168.1.2`, \
                 `[fd00::1]`"
            ));
        }
        self.origins().map_err(ConfigError)?;
        check_keys(&self.keys, MOST_PLACES).map_err(ConfigError)?;
        if self.require_signature && self.trusted_keys.is_empty() {
            return fail(
                "require_signature = true needs trusted_keys: `outlast plugin keygen FILE` makes a key and prints the \
                 line"
                    .to_owned(),
            );
        }
        if self.retention < Duration::from_secs(1) || self.retention > DAY * 36_500 {
            return fail(format!("retention = \"{:?}\" must be 1s to 36500d", self.retention));
        }
        if let Some(kept) = self.conversation_retention
            && (kept < Duration::from_secs(1) || kept > DAY * 36_500)
        {
            return fail(format!("conversation_retention = \"{kept:?}\" must be 1s to 36500d"));
        }
        if self.drain_timeout > DAY * 365 {
            return fail(format!("drain_timeout = \"{:?}\" must be 0s to 365d", self.drain_timeout));
        }
        if self.lease < Duration::from_secs(1) || self.lease > Duration::from_secs(3_600) {
            return fail(format!("lease = \"{:?}\" must be 1s to 1h", self.lease));
        }
        for (name, agent) in &self.agents {
            let times = [("cpu_time", agent.cpu_time), ("run_timeout", agent.run_timeout)];
            let sizes = [
                ("memory", agent.memory.map(bytes), bytes(MOST_MEMORY)),
                ("max_live_runs", agent.max_live_runs, MOST_PLACES),
            ];
            if let Some((key, _)) =
                times.iter().find(|(_, time)| time.is_some_and(|time| time.is_zero() || time > DAY * 365))
            {
                return fail(format!("agents.{name}.{key} must be 1ms to 365d"));
            }
            for (key, size, most) in sizes {
                if let Some(size) = size.filter(|size| *size == 0 || *size > most) {
                    return fail(format!("agents.{name}.{key} = {size} must be at least 1 and at most {most}"));
                }
            }
        }
        let tools = self.tools.iter().map(|(name, tool)| ("tools", name, tool.timeout));
        let servers = self.mcp.iter().map(|(name, server)| ("mcp", name, server.timeout));
        if let Some((section, name, _)) = tools.chain(servers).find(|(_, _, timeout)| *timeout > DAY * 365) {
            return fail(format!("{section}.{name}.timeout must be at most 365d"));
        }
        let memory = |tool: &ToolConfig| tool.memory.is_some_and(|memory| memory > MOST_MEMORY);
        if let Some((name, _)) = self.tools.iter().find(|(_, tool)| memory(tool)) {
            return fail(format!("tools.{name}.memory must be at most {MOST_MEMORY}"));
        }
        let limits = &self.limits;
        let second = Duration::from_secs(1);
        for (key, value, least, most) in [
            ("run_timeout", limits.run_timeout, Duration::from_millis(1), second * 31_536_000),
            ("cpu_time", limits.cpu_time, Duration::from_millis(1), second * 31_536_000),
            ("cancel_grace", limits.cancel_grace, Duration::ZERO, second),
            ("idle_after", limits.idle_after, Duration::from_millis(1), second * 31_536_000),
            ("first_byte_timeout", limits.first_byte_timeout, Duration::from_millis(1), second * 3_600),
            ("write_timeout", limits.write_timeout, Duration::from_millis(1), second * 3_600),
            ("header_timeout", limits.header_timeout, Duration::from_millis(1), second * 3_600),
            ("plugin_compile_timeout", limits.plugin_compile_timeout, second, second * 86_400),
            ("plugin_fetch_timeout", limits.plugin_fetch_timeout, second, second * 86_400),
            ("http_timeout", limits.http_timeout, Duration::from_millis(1), second * 86_400),
            ("body_timeout", limits.body_timeout, Duration::from_millis(1), second * 3_600),
            ("keep_alive", limits.keep_alive, Duration::from_millis(10), second * 15),
            ("websocket_lifetime", limits.websocket_lifetime, Duration::from_millis(1), second * 86_400),
        ] {
            if value < least || value > most {
                return fail(format!("limits.{key} = \"{value:?}\" must be {least:?} to {most:?}"));
            }
        }
        for (key, value, most) in [
            ("max_live_runs", limits.max_live_runs.unwrap_or(1), MOST_PLACES),
            ("max_runs", limits.max_runs, MOST_RUNS),
            ("connections", limits.connections, MOST_PLACES),
            ("connections_per_address", limits.connections_per_address.unwrap_or(1), MOST_PLACES),
            ("http_connections", limits.http_connections, MOST_PLACES),
            ("http_requests", limits.http_requests, MOST_PLACES),
            ("model_calls", limits.model_calls, MOST_PLACES),
            ("tool_calls", limits.tool_calls, MOST_PLACES),
            ("tool_instances", limits.tool_instances, MOST_PLACES),
            ("http_headers", limits.http_headers, MOST_HEADERS),
            ("input_items", limits.input_items, MOST_ITEMS),
            ("history_items", limits.history_items, MOST_ITEMS),
            ("output_items", limits.output_items, MOST_ITEMS),
        ] {
            if value == 0 || value > most {
                return fail(format!("limits.{key} = {value} must be at least 1 and at most {most}"));
            }
        }
        for (key, value, least, most) in [
            ("body_bytes", limits.body_bytes, 1, MOST_BYTES),
            ("bodies_bytes", limits.bodies_bytes, 0, MOST_BYTES),
            ("history_bytes", limits.history_bytes, 0, MOST_BYTES),
            ("text_bytes", limits.text_bytes, 0, MOST_BYTES),
            ("plugin_bytes", limits.plugin_bytes, 1, MOST_BYTES),
            (
                "plugin_compile_memory",
                limits.plugin_compile_memory.unwrap_or(LEAST_COMPILE_MEMORY),
                LEAST_COMPILE_MEMORY.as_u64(),
                MOST_BYTES,
            ),
            ("memory", limits.memory, 1, MOST_MEMORY),
            ("instances_memory", limits.instances_memory.unwrap_or(ByteSize::b(1)), 1, MOST_BYTES),
            ("event_bytes", limits.event_bytes, 1, MOST_BYTES),
            ("output_bytes", limits.output_bytes, 0, MOST_BYTES),
            ("journal_bytes", limits.journal_bytes, 1, MOST_BYTES),
            ("state_bytes", limits.state_bytes, 0, MOST_BYTES),
            ("state_value_bytes", limits.state_value_bytes, 0, MOST_BYTES),
            ("http_request_bytes", limits.http_request_bytes, 0, MOST_BYTES),
            ("http_response_bytes", limits.http_response_bytes, 0, MOST_BYTES),
            ("http_header_bytes", limits.http_header_bytes, 1, MOST_BYTES),
            ("model_input_bytes", limits.model_input_bytes, 1, MOST_BYTES),
            ("tool_argument_bytes", limits.tool_argument_bytes, 0, MOST_BYTES),
            ("tool_result_bytes", limits.tool_result_bytes, 0, MOST_BYTES),
            ("log_bytes", limits.log_bytes, 0, MOST_BYTES),
            ("outbox_bytes", limits.outbox_bytes, 1, MOST_BYTES),
            ("feed_bytes", limits.feed_bytes, 0, MOST_BYTES),
            ("websocket_bytes", limits.websocket_bytes, 0, MOST_BYTES),
        ] {
            if value.as_u64() < least || value > most {
                return fail(format!("limits.{key} = {} must be at least {least} and at most {most}", value.as_u64()));
            }
        }
        if limits.websocket_responses > MOST_ITEMS {
            let value = limits.websocket_responses;
            return fail(format!("limits.websocket_responses = {value} must be at most {MOST_ITEMS}"));
        }
        for (key, value) in [("events", limits.events), ("log_lines", limits.log_lines)] {
            if value > MOST_EVENTS {
                return fail(format!("limits.{key} = {value} must be at most {MOST_EVENTS}"));
            }
        }
        if !(1..=1_024).contains(&limits.state_key_bytes) {
            return fail(format!("limits.state_key_bytes = {} must be 1 to 1024", limits.state_key_bytes));
        }
        Ok(self)
    }

    /// The pages that may use the server.
    ///
    /// # Errors
    ///
    /// One of `cors_origins` is not an origin, or needs keys.
    pub fn origins(&self) -> Result<Origins, String> {
        Origins::new(self.cors_origins.clone(), !self.keys.is_empty())
    }

    /// The limits of connections.
    pub fn connection_limits(&self) -> ConnectionLimits {
        let limits = &self.limits;
        ConnectionLimits {
            connections: limits.connections,
            per_address: limits.connections_per_address,
            keys: !self.keys.is_empty(),
            first_byte_timeout: limits.first_byte_timeout,
            write_timeout: limits.write_timeout,
            header_timeout: limits.header_timeout,
        }
    }

    /// The limits of requests.
    pub fn request_limits(&self) -> RequestLimits {
        RequestLimits { text_bytes: bytes(self.limits.text_bytes), input_items: self.limits.input_items }
    }

    /// The limits of WebSockets.
    pub fn websocket_limits(&self) -> WebSocketLimits {
        WebSocketLimits {
            lifetime: self.limits.websocket_lifetime,
            responses: self.limits.websocket_responses,
            bytes: bytes(self.limits.websocket_bytes),
        }
    }

    /// Which plugins are trusted.
    pub fn signatures(&self) -> Signatures {
        Signatures {
            required: self.require_signature,
            trusted: self.trusted_keys.clone(),
            rollback: self.allow_rollback,
        }
    }

    /// What the operator says of tools.
    pub fn tools_config(&self) -> ToolsConfig {
        ToolsConfig { components: self.tools.clone(), servers: self.mcp.clone() }
    }

    /// The limits of plugins.
    pub fn plugin_limits(&self) -> PluginLimits {
        let limits = &self.limits;
        PluginLimits {
            plugin_bytes: bytes(limits.plugin_bytes),
            compile_timeout: limits.plugin_compile_timeout,
            compile_memory: limits.plugin_compile_memory.map_or_else(machine::compile_memory, bytes),
            memory: bytes(limits.memory),
            cpu_time: limits.cpu_time,
            run_timeout: limits.run_timeout,
            log_line: PluginLimits::default().log_line,
            log_lines: limits.log_lines,
            http: HttpLimits {
                request_bytes: bytes(limits.http_request_bytes),
                response_bytes: bytes(limits.http_response_bytes),
                header_bytes: bytes(limits.http_header_bytes),
                headers: limits.http_headers,
                requests: limits.http_requests,
                connections: limits.http_connections,
                timeout: limits.http_timeout,
            },
            tools: ToolLimits {
                argument_bytes: bytes(limits.tool_argument_bytes),
                result_bytes: bytes(limits.tool_result_bytes),
                calls: limits.tool_calls,
                instances: limits.tool_instances,
            },
            models: CallLimits { input_bytes: bytes(limits.model_input_bytes), calls: limits.model_calls },
            event_bytes: bytes(limits.event_bytes),
            state_bytes: bytes(limits.state_bytes),
            state_value_bytes: bytes(limits.state_value_bytes),
            state_key_bytes: limits.state_key_bytes,
        }
    }

    /// The limits of what is fetched from registries.
    pub fn fetch_limits(&self) -> FetchLimits {
        FetchLimits {
            bytes: bytes(self.limits.plugin_bytes),
            timeout: self.limits.plugin_fetch_timeout,
            realms: self.registry_realms.clone(),
        }
    }

    /// The folder for what can be made or fetched again; none where there is no place, or none is wanted.
    pub(crate) fn cache_folder(&self) -> Option<PathBuf> {
        match &self.cache {
            CacheConfig::Enabled(false) => None,
            CacheConfig::Enabled(true) => default_cache(|name| std::env::var_os(name)),
            CacheConfig::Folder(folder) => Some(folder.clone()),
        }
    }

    /// The most runs at once of those that have a limit of their own.
    pub fn shares(&self) -> Shares {
        let agents = self.agents.iter();
        Shares {
            principals: self.keys.iter().filter_map(|key| Some((key.name.clone(), key.max_live_runs?))).collect(),
            agents: agents.filter_map(|(name, agent)| Some((name.clone(), agent.max_live_runs?))).collect(),
            quotas: Quotas {
                each: self.limits.stored_bytes.map(|size| size.as_u64()),
                principals: {
                    let own = |key: &Key| Some((key.name.clone(), key.stored_bytes?.as_u64()));
                    self.keys.iter().filter_map(own).collect()
                },
            },
        }
    }

    /// How long what is kept.
    pub fn retentions(&self) -> Retentions {
        Retentions { responses: self.retention, conversations: self.conversation_retention }
    }

    /// How many runs may have an instance, and why not more.
    pub fn live_runs(&self) -> LiveRuns {
        self.limits.max_live_runs.map_or_else(|| LiveRuns::allowed(self.allocator), LiveRuns::said)
    }

    /// The memory of all instances together, in bytes.
    pub fn instances_memory(&self) -> usize {
        self.limits.instances_memory.map_or_else(machine::instances_memory, bytes)
    }

    /// The pool for the memory of instances, if there is to be one.
    pub fn pool(&self) -> Option<Pool> {
        let agents = self.agents.values().filter_map(|agent| agent.memory);
        let tools = self.tools.values().filter_map(|tool| tool.memory);
        let memory = agents.chain(tools).chain([self.limits.memory]).map(bytes).max();
        let (runs, tools) = (self.live_runs().most, self.limits.tool_instances);
        let pool = Pool { runs, tools, memory: memory.unwrap_or_default() };
        (self.allocator == Allocator::Pooling).then_some(pool)
    }

    /// The limits of runs.
    pub fn run_limits(&self) -> RunLimits {
        RunLimits {
            max_live_runs: self.live_runs().most,
            longest_run: {
                let own = self.agents.values().filter_map(|agent| agent.run_timeout);
                own.fold(self.limits.run_timeout, Duration::max)
            },
            max_runs: self.limits.max_runs,
            idle_after: self.limits.idle_after,
            cancel_grace: self.limits.cancel_grace,
            log_bytes: bytes(self.limits.log_bytes),
            journal_bytes: bytes(self.limits.journal_bytes),
            outbox_bytes: bytes(self.limits.outbox_bytes),
            feed_bytes: bytes(self.limits.feed_bytes),
            history: HistoryLimits { items: self.limits.history_items, bytes: bytes(self.limits.history_bytes) },
            cancel_on_disconnect: self.on_disconnect == OnDisconnect::Cancel,
            output: OutputLimits {
                event_bytes: bytes(self.limits.event_bytes),
                output_bytes: bytes(self.limits.output_bytes),
                output_items: self.limits.output_items,
                events: self.limits.events,
            },
        }
    }

    /// The model providers, those of the environment included.
    pub fn models(&self) -> ModelsConfig {
        ModelsConfig { default_model: self.default_model.clone(), providers: self.providers.clone() }
            .with_environment(|name| std::env::var(name).ok())
    }
}

/// The folder for compiled code that is used when none is named: `outlast` in `$XDG_CACHE_HOME` or `~/.cache`.
pub(crate) fn default_cache(lookup: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    // A path that is not absolute is to be ignored, says the XDG Base Directory Specification.
    let folder = |name| lookup(name).map(PathBuf::from).filter(|folder| folder.is_absolute());
    let caches = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
    Some(caches?.join("outlast"))
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

#[cfg(test)]
#[allow(clippy::result_large_err)]
mod tests {
    use figment::Jail;

    use super::*;

    fn read(toml: &str) -> Result<Config, String> {
        let mut result = Err(String::new());
        Jail::expect_with(|jail| {
            jail.create_file("outlast.toml", toml)?;
            result =
                Config::read(Some(Path::new("outlast.toml")), &Flags::default()).map_err(|error| error.to_string());
            Ok(())
        });
        result
    }

    #[test]
    fn an_empty_file_gives_the_defaults() {
        let config = read("").unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:8642");
        assert_eq!(bytes(config.limits.memory), 256 << 20);
    }

    #[test]
    fn later_sources_win() {
        Jail::expect_with(|jail| {
            jail.create_file(
                "outlast.toml",
                "database = \"a\"\nlisten = \"127.0.0.1:1\"\n[limits]\nrun_timeout = \"5s\"",
            )?;
            jail.set_env("OUTLAST_DATABASE", "b");
            jail.set_env("OUTLAST_LIMITS__MEMORY", "1MiB");
            jail.set_env("OUTLAST_KEY", "ol-1");
            jail.set_env("OUTLAST_AGENTS__ECHO__STATE", "2KiB");
            jail.set_env("OUTLAST_TLS__CERTIFICATE", "c.pem");
            jail.set_env("OUTLAST_TLS__KEY", "k.pem");
            let flags = Flags { listen: "127.0.0.1:2".parse().ok(), ..Flags::default() };
            let config = Config::read(Some(Path::new("outlast.toml")), &flags).unwrap();
            assert_eq!(config.database.resolve(|_| None).unwrap(), "b");
            assert_eq!(config.listen.port(), 2);
            assert_eq!(config.limits.run_timeout, Duration::from_secs(5));
            assert_eq!(bytes(config.limits.memory), 1 << 20);
            assert_eq!(config.tls.map(|tls| (tls.certificate, tls.key)), Some(("c.pem".into(), "k.pem".into())));
            assert_eq!(config.agents["echo"].state, Some(outlast_plugin::StateSize::Size(ByteSize::kib(2))));
            Ok(())
        });
    }

    #[test]
    fn plugins_are_one_place_or_many() {
        let places = |toml: &str| read(toml).unwrap().plugins;
        assert_eq!(places(""), []);
        assert_eq!(places("plugins = \"a\""), [Source::Path("a".into())]);
        let pinned = format!("oci://ghcr.io/x/y@sha256:{}", "0".repeat(64));
        let many = places(&format!("plugins = [\"a\", \"b/c.wasm\", \"{pinned}\"]"));
        assert_eq!(many[..2], [Source::Path("a".into()), Source::Path("b/c.wasm".into())]);
        assert_eq!(many[2], Source::Registry(pinned.parse().unwrap()));
    }

    #[test]
    fn the_cache_is_a_folder_or_none() {
        assert_eq!(read("").unwrap().cache, CacheConfig::Enabled(true));
        assert_eq!(read("cache = false").unwrap().cache, CacheConfig::Enabled(false));
        assert_eq!(read("cache = \"/c\"").unwrap().cache, CacheConfig::Folder("/c".into()));
        assert!(read("cache = 7").unwrap_err().contains("the path of a folder, or false"));

        let found = |variables: &[(&str, &str)]| {
            let given = |name: &str| Some(variables.iter().find(|(known, _)| *known == name)?.1.into());
            default_cache(given)
        };
        assert_eq!(found(&[("XDG_CACHE_HOME", "/x"), ("HOME", "/h")]), Some("/x/outlast".into()));
        assert_eq!(found(&[("XDG_CACHE_HOME", "x"), ("HOME", "/h")]), Some("/h/.cache/outlast".into()));
        assert_eq!(found(&[]), None);
    }

    #[test]
    fn what_is_wrong_is_named_with_key_and_value() {
        for (toml, expected) in [
            ("lisen = \"x\"", "lisen"),
            ("[limits]\nmemorry = 1", "memorry"),
            ("[limits]\nstate_key_bytes = 2000", "limits.state_key_bytes = 2000 must be 1 to 1024"),
            ("[agents.a]\nstate = \"much\"", "agents.a.state: must be a size like `1MiB`, or true or false"),
            ("[limits]\nrun_timeout = \"soon\"", "limits.run_timeout"),
            ("[limits]\nmax_live_runs = 0", "limits.max_live_runs = 0 must be at least 1"),
            ("[limits]\ncancel_grace = \"2s\"", "limits.cancel_grace = \"2s\" must be 0ns to 1s"),
            ("on_disconnect = \"maybe\"", "`detach`"),
            ("allocator = \"heap\"", "`on-demand`"),
            ("plugins = 7", "an `oci://` reference with its digest"),
            ("plugins = [\"a\", \"oci://ghcr.io/x/y:1\"]", "has no digest"),
            ("require_signature = true", "outlast plugin keygen"),
            ("trusted_keys = [\"ed25519:AAAA\"]", "32 bytes in base64"),
            ("[agents.a]\nsha256 = \"12\"", "64 hexadecimal digits"),
            ("listen = \"0.0.0.0:1\"", "outlast key new"),
            ("[tls]\ncertificate = \"c.pem\"", "missing field `key`"),
            ("tls = { certificate = \"c\", key = \"k\", ca = \"x\" }", "unknown field: found `ca`"),
            ("allowed_hosts = [\"http://a.lan\"]", "without a port: `outlast.lan`"),
            ("allowed_hosts = [\"a.lan:80\"]", "without a port: `outlast.lan`"),
            ("allowed_hosts = [\"*\"]", "without a port: `outlast.lan`"),
            ("cors_origins = [\"https://a.example\"]", "outlast key new"),
            ("cors_origins = [\"localhost:5173\"]", "an origin as browsers send it"),
            ("conversation_retention = \"1ms\"", "conversation_retention = \"1ms\" must be 1s to 36500d"),
            ("[[keys]]\nname = \"a\"\nsha256 = \"12\"", "64 hexadecimal digits"),
        ] {
            let error = read(toml).unwrap_err();
            assert!(error.contains(expected), "{toml}: {error}");
        }
    }
}
