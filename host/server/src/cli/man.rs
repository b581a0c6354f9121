//! `outlast man`: the manual pages.

use std::path::PathBuf;

use clap::{Args, CommandFactory};

use super::output::say;

/// Write the manual pages, one for each command.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    outlast man /usr/local/share/man/man1\n  \
    outlast man . && man ./outlast-serve.1")]
pub(super) struct Man {
    /// The folder that they are written to. It is made where it is missing.
    folder: PathBuf,
}

impl Man {
    pub(super) fn run(self) -> Result<(), String> {
        let folder = &self.folder;
        let cannot = |error: std::io::Error| format!("cannot write to {}: {error}", folder.display());
        std::fs::create_dir_all(folder).map_err(cannot)?;
        clap_mangen::generate_to(super::Arguments::command(), folder).map_err(cannot)?;
        say!("wrote the manual pages to {}", folder.display())
    }
}
