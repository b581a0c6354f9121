//! `outlast plugin keygen`: a key that signs plugins.

use std::{fs::OpenOptions, io::Write as _, os::unix::fs::OpenOptionsExt as _, path::PathBuf};

use clap::Args;
use outlast_plugin::SigningKey;

use crate::cli::output::say;

/// Make a key that signs plugins.
///
/// The key is written into a new file that only its owner can read. What is printed goes into the configuration of the
/// servers that trust it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  outlast plugin keygen release.key")]
pub(crate) struct Keygen {
    /// The new file: Ed25519, PKCS #8, PEM.
    file: PathBuf,
}

impl Keygen {
    pub(super) fn run(self) -> Result<(), String> {
        let key = SigningKey::generate().ok_or("the operating system's random number generator failed")?;
        let cannot = |error| format!("{} cannot be created: {error}", self.file.display());
        // Never over a key that is there: what it signed could not be signed again.
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.file);
        file.and_then(|mut file| file.write_all(key.to_pem().as_bytes())).map_err(cannot)?;
        say!("The key is in {}. For the configuration file:\n", self.file.display())?;
        say!("require_signature = true\ntrusted_keys = [\"{}\"]", key.public())?;
        Ok(())
    }
}
