//! `outlast plugin sign`: signs a plugin.

use std::{fs, path::PathBuf};

use clap::Args;
use outlast_plugin::{SigningKey, signature_path};

use crate::cli::output::say;

/// Sign a plugin: writes FILE.sig beside it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  outlast plugin sign helper.wasm --key release.key")]
pub(crate) struct Sign {
    /// The component.
    file: PathBuf,
    /// The key that `outlast plugin keygen` made, or `openssl genpkey -algorithm ed25519`.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

impl Sign {
    pub(super) fn run(self) -> Result<(), String> {
        let cannot = |path: &PathBuf, what: &str, error| format!("{} cannot be {what}: {error}", path.display());
        let pem = fs::read_to_string(&self.key).map_err(|error| cannot(&self.key, "read", error))?;
        let key = SigningKey::from_pem(&pem)
            .ok_or_else(|| format!("{} is not an Ed25519 key in PEM (PKCS #8)", self.key.display()))?;
        let bytes = fs::read(&self.file).map_err(|error| cannot(&self.file, "read", error))?;
        let path = signature_path(&self.file);
        // A server that looks now sees no half of it.
        let mut temporary = path.clone();
        temporary.set_extension("sig.new");
        fs::write(&temporary, key.sign(&bytes))
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(|error| cannot(&path, "written", error))?;
        say!("signed with {}: {}", key.public(), path.display())?;
        Ok(())
    }
}
