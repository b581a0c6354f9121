//! `outlast check`: whether a server would start with this configuration.

use std::{path::PathBuf, sync::Arc};

use clap::Args;
use outlast_http::Certificates;
use outlast_metrics::Metrics;
use outlast_model::Models;
use outlast_plugin::Grants;

use super::output::{note, say};
use crate::config::{Config, Flags};

/// Check a configuration as the server does when it starts, without starting it.
///
/// The file, the environment, providers, agents, grants, tools, MCP servers, keys and the certificate are read and built. Nothing is
/// connected to and nothing is written, so it can run anywhere, in a pipeline too. `outlast plugin check` looks at components,
/// `outlast doctor` at the machine and the database.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    outlast check --config outlast.toml\n  \
    outlast check --config outlast.toml && systemctl reload outlast")]
pub(super) struct Check {
    /// The configuration file (TOML). Without it, the environment is checked.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Check {
    pub(super) fn run(self) -> Result<(), String> {
        let config = Config::read(self.config.as_deref(), &Flags::default());
        let config = config.map_err(|error| format!("configuration: {error}"))?;
        for warning in &config.warnings {
            note!("warning: {warning}");
        }
        let models = build(&config)?;
        let (agents, tools, servers) = (config.agents.len(), config.tools.len(), config.mcp.len());
        let (keys, providers) = (config.keys.len(), models.providers().len());
        say!(
            "ok: {keys} keys, {providers} providers, sections for {agents} agents, {tools} tool components and {servers} \
             MCP servers"
        )
    }
}

/// Builds what the server builds before it connects to anything.
pub(super) fn build(config: &Config) -> Result<Models, String> {
    let metrics = Arc::new(Metrics::new(1, 1));
    let models = Models::new(&config.models(), &metrics.models).map_err(|error| error.to_string())?;
    let (agents, tools) = (config.agents.clone(), config.tools_config());
    Grants::new(agents, tools, config.plugin_limits(), &metrics).map_err(|error| error.to_string())?;
    if let Some(files) = config.tls.clone() {
        Certificates::open(files, metrics).map_err(|why| format!("configuration: {why}"))?;
    }
    config.database.resolve(|name| std::env::var(name).ok()).map_err(|why| format!("configuration: database {why}"))?;
    Ok(models)
}
