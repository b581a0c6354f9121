//! `outlast plugin check`: whether a server would serve these files.

use std::path::{Path, PathBuf};

use clap::Args;
use outlast_plugin::Plugin;

use crate::{
    cli::{outcome, output::say},
    config::{Config, Flags},
    local::Local,
};

/// Tell whether a server would serve these components, and why not.
///
/// One line a file: `ok` and what it is, or the sentence that the server's log would have. The exit code is 0 when all
/// of them would be served.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  outlast plugin check plugins/*.wasm --config outlast.toml")]
pub(in crate::cli) struct Check {
    /// The components.
    #[arg(required = true)]
    components: Vec<PathBuf>,
    /// The configuration file of the server (TOML): its pins and its trusted keys hold here too.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Check {
    pub(in crate::cli) fn run(self) -> Result<(), String> {
        outcome(async {
            let local = open(self.config.as_deref()).await?;
            let mut refused = 0;
            for component in &self.components {
                match local.admit(component).await {
                    Ok(plugin) => {
                        let tools = match &plugin {
                            Plugin::Agent(_) => String::new(),
                            Plugin::Tool(tool) => format!(", tools {}", tool.names().collect::<Vec<_>>().join(", ")),
                        };
                        say!("ok      {}: {} {}{tools}", component.display(), plugin.name(), plugin.version())?;
                    }
                    Err(why) => {
                        refused += 1;
                        say!("refused {}: {why}", component.display())?;
                    }
                }
            }
            match refused {
                0 => Ok(()),
                _ => Err(format!("{refused} of {} would not be served", self.components.len())),
            }
        })
    }
}

/// What a server with this configuration has.
pub(super) async fn open(config: Option<&Path>) -> Result<Local, String> {
    let config = Config::read(config, &Flags::default()).map_err(|error| format!("configuration: {error}"))?;
    Local::open(config).await.map_err(|error| error.to_string())
}
