//! `outlast key`: API keys.

use clap::Subcommand;
use sha2::{Digest as _, Sha256};

use super::output::say;

/// Make API keys.
#[derive(Debug, Subcommand)]
pub(super) enum Key {
    /// Make a key and print it, once, with the lines for the configuration file.
    ///
    /// The configuration holds only the key's sha256. Responses belong to the name: two keys with the same name
    /// see the same responses, which is how a key is replaced.
    #[command(after_help = "Examples:\n  outlast key new alice\n  outlast key new ops --admin --metrics")]
    New {
        /// Who will use the key: 1 to 64 characters.
        name: String,
        /// The key may also read `/metrics`.
        #[arg(long)]
        metrics: bool,
        /// The key may also see and stop the runs of all principals, with `outlast runs` and below `/admin`.
        #[arg(long)]
        admin: bool,
    },
}

impl Key {
    pub(super) fn run(self) -> Result<(), String> {
        let Self::New { name, metrics, admin } = self;
        if name.is_empty() || name.chars().count() > 64 || name.chars().any(char::is_control) {
            return Err("a name has 1 to 64 characters".to_owned());
        }
        // Two version 4 UUIDs: 244 bits from the system's random number generator.
        let key = format!("ol-{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
        say!("The key, shown only now:\n\n    {key}\n")?;
        say!("For the configuration file:\n")?;
        say!("[[keys]]\nname = {name:?}\nsha256 = \"{}\"", hex::encode(Sha256::digest(key.as_bytes())))?;
        if metrics {
            say!("metrics = true")?;
        }
        if admin {
            say!("admin = true")?;
        }
        Ok(())
    }
}
