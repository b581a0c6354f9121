//! `outlast plugin`: plugins, one file per subcommand.

mod case;
mod compare;
mod new;
mod reload;
mod run;
mod test;
mod trace;

use clap::Subcommand;

/// Write plugins and try them.
#[derive(Debug, Subcommand)]
pub(super) enum Plugin {
    New(new::New),
    Run(run::Run),
    Test(test::Test),
    Reload(reload::Reload),
}

impl Plugin {
    pub(super) fn run(self) -> Result<(), String> {
        match self {
            Self::New(new) => new.run(),
            Self::Run(run) => run.run(),
            Self::Test(test) => test.run(),
            Self::Reload(reload) => reload.run(),
        }
    }
}
