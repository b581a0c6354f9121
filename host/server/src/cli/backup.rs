//! `outlast backup`: a copy of the database.

use std::path::PathBuf;

use bytesize::ByteSize;
use clap::Args;

use super::{database, outcome, output::say};

/// Copy the SQLite database into a file, also while the server runs.
///
/// The copy is one state of the database, that of the moment in which it begins, and is checked before it gets its name.
/// It holds everything: responses, conversations, what agents keep, and the server's secrets, so its mode is 0600. For a
/// PostgreSQL database the command says what to use.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    outlast backup /backup/outlast-$(date +%F).db\n  \
    outlast backup copy.db --config /etc/outlast/outlast.toml --json")]
pub(super) struct Backup {
    /// The file that is made. It must not exist.
    file: PathBuf,
    #[command(flatten)]
    of: database::Of,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Backup {
    pub(super) fn run(self) -> Result<(), String> {
        let database = self.of.resolve()?;
        outcome(async {
            let copied = outlast_store::backup(&database, &self.file).await.map_err(|error| error.to_string())?;
            if self.json {
                return say!("{}", database::json(&copied));
            }
            let size = ByteSize::b(copied.bytes).display().iec();
            say!("{} is a backup of {database}: {size}, {} responses", self.file.display(), copied.responses)
        })
    }
}
