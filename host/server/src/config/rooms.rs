//! What each room is given of the configuration.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use outlast_http::{ConnectionLimits, Key, Origins};
use outlast_model::ModelsConfig;
use outlast_plugin::{Allocator, FetchLimits, PluginLimits, Pool, Signatures, ToolsConfig};
use outlast_run::{ConfiguredWebhook, OutputLimits, Quotas, Retentions, RunLimits, Shares};
use outlast_runtime::units::bytes;

use super::{CacheConfig, Config, OnDisconnect, webhooks};
use crate::machine::{self, LiveRuns};

impl Config {
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
        ConnectionLimits { keys: !self.keys.is_empty(), ..self.limits.connections }
    }

    /// The webhook endpoints of the configuration.
    ///
    /// # Errors
    ///
    /// One of them is not valid.
    pub fn webhooks(&self) -> Result<Vec<ConfiguredWebhook>, String> {
        webhooks::configured(&self.webhooks, &self.keys, |name| std::env::var(name).ok())
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
            compile_memory: limits.plugin_compile_memory.unwrap_or_else(machine::compile_memory),
            ..limits.plugin
        }
    }

    /// The limits of what is fetched from registries.
    pub fn fetch_limits(&self) -> FetchLimits {
        FetchLimits::new(&self.limits.plugin, self.registry_realms.clone())
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
                each: self.limits.stored_bytes.map(|size| size as u64),
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
        self.limits.instances_memory.unwrap_or_else(machine::instances_memory)
    }

    /// The pool for the memory of instances, if there is to be one.
    pub fn pool(&self) -> Option<Pool> {
        let agents = self.agents.values().filter_map(|agent| agent.memory);
        let tools = self.tools.values().filter_map(|tool| tool.memory);
        let memory = agents.chain(tools).map(bytes).chain([self.limits.plugin.memory]).max();
        let (runs, tools) = (self.live_runs().most, self.limits.plugin.tools.instances);
        let pool = Pool { runs, tools, memory: memory.unwrap_or_default() };
        (self.allocator == Allocator::Pooling).then_some(pool)
    }

    /// The limits of runs.
    pub fn run_limits(&self) -> RunLimits {
        let limits = &self.limits;
        let own = self.agents.values().filter_map(|agent| agent.run_timeout);
        RunLimits {
            max_live_runs: self.live_runs().most,
            longest_run: own.fold(limits.plugin.run_timeout, Duration::max),
            cancel_on_disconnect: self.on_disconnect == OnDisconnect::Cancel,
            output: OutputLimits { event_bytes: limits.plugin.event_bytes, ..limits.run.output },
            ..limits.run
        }
    }

    /// The model providers, those of the environment included.
    pub fn models(&self) -> ModelsConfig {
        ModelsConfig { default_model: self.default_model.clone(), providers: self.providers.clone() }
            .with_environment(|name| std::env::var(name).ok())
    }
}

/// The folder for compiled code that is used when none is named: `outlast` in `$XDG_CACHE_HOME` or `~/.cache`.
pub(super) fn default_cache(lookup: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    // A path that is not absolute is to be ignored, says the XDG Base Directory Specification.
    let folder = |name| lookup(name).map(PathBuf::from).filter(|folder| folder.is_absolute());
    let caches = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
    Some(caches?.join("outlast"))
}
