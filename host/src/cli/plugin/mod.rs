//! `outlast plugin`: one file per subcommand.

mod keygen;
mod reload;
mod sign;

use clap::Subcommand;

/// Look after plugins.
#[derive(Debug, Subcommand)]
pub(super) enum Plugin {
    Keygen(keygen::Keygen),
    Reload(reload::Reload),
    Sign(sign::Sign),
}

impl Plugin {
    pub(super) fn run(self) -> Result<(), String> {
        match self {
            Self::Keygen(keygen) => keygen.run(),
            Self::Reload(reload) => reload.run(),
            Self::Sign(sign) => sign.run(),
        }
    }
}
