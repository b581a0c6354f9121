//! The database that a command is about.

use std::path::PathBuf;

use clap::Args;
use outlast_store::Copied;
use serde_json::{Value, json};

use crate::config::{Config, Flags};

/// Which database.
#[derive(Debug, Args)]
pub(super) struct Of {
    /// The configuration file of the server, which names the database. Without it, the environment and the default hold.
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// The path of the SQLite file, in place of what the configuration names.
    #[arg(long, value_name = "FILE")]
    pub(super) database: Option<String>,
}

impl Of {
    /// Its path or its URL.
    pub(super) fn resolve(self) -> Result<String, String> {
        if let Some(database) = self.database {
            return Ok(database);
        }
        let config = Config::read(self.config.as_deref(), &Flags::default());
        let config = config.map_err(|error| format!("configuration: {error}"))?;
        let found = config.database.resolve(|name| std::env::var(name).ok());
        found.map_err(|error| format!("configuration: database {error}"))
    }
}

/// What a copy has, for scripts.
pub(super) fn json(copied: &Copied) -> Value {
    json!({
        "bytes": copied.bytes,
        "responses": copied.responses,
        "schema": copied.schema,
        "before": copied.before.as_ref().map(|path| path.display().to_string()),
    })
}
