//! `outlast plugin`: one file per subcommand.

mod reload;

use clap::Subcommand;

/// Look after plugins.
#[derive(Debug, Subcommand)]
pub(super) enum Plugin {
    Reload(reload::Reload),
}

impl Plugin {
    pub(super) fn run(self) -> Result<(), String> {
        match self {
            Self::Reload(reload) => reload.run(),
        }
    }
}
