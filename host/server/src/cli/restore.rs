//! `outlast restore`: a backup becomes the database.

use std::path::PathBuf;

use bytesize::ByteSize;
use clap::Args;

use super::{database, outcome, output::say};

/// Put a backup in the place of the SQLite database. The server must not run.
///
/// The backup is read whole and checked first. What was in its place is renamed, with its write-ahead log, and not removed.
/// Runs that were active when the backup was made resume when the server starts: what they did after the backup, they
/// may do again.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    outlast restore /backup/outlast-2026-11-27.db\n  \
    outlast restore copy.db --database /var/lib/outlast/outlast.db --json")]
pub(super) struct Restore {
    /// The backup.
    file: PathBuf,
    #[command(flatten)]
    of: database::Of,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Restore {
    pub(super) fn run(self) -> Result<(), String> {
        let database = self.of.resolve()?;
        outcome(async {
            let copied = outlast_store::restore(&self.file, &database).await.map_err(|error| error.to_string())?;
            if self.json {
                return say!("{}", database::json(&copied));
            }
            let size = ByteSize::b(copied.bytes).display().iec();
            say!("{database} was restored from {}: {size}, {} responses", self.file.display(), copied.responses)?;
            match copied.before {
                Some(before) => say!("the previous database is {}; remove it when all is well", before.display()),
                None => Ok(()),
            }
        })
    }
}
