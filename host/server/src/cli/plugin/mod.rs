//! `outlast plugin`: plugins, one file per subcommand.

mod add;
mod case;
mod check;
mod compare;
mod component;
mod inspect;
mod inspect_tool;
mod installed;
mod keygen;
mod list;
mod new;
mod reload;
mod remove;
mod run;
mod shown_grants;
mod sign;
mod test;
pub(super) mod trace;

use clap::Subcommand;

/// Write plugins and try them, look at them and install them.
#[derive(Debug, Subcommand)]
pub(super) enum Plugin {
    New(new::New),
    Inspect(inspect::Inspect),
    Check(check::Check),
    List(list::List),
    Add(add::Add),
    Remove(remove::Remove),
    Run(run::Run),
    Test(test::Test),
    Keygen(keygen::Keygen),
    Reload(reload::Reload),
    Sign(sign::Sign),
}

impl Plugin {
    pub(super) fn run(self) -> Result<(), String> {
        match self {
            Self::New(new) => new.run(),
            Self::Inspect(inspect) => inspect.run(),
            Self::Check(check) => check.run(),
            Self::List(list) => list.run(),
            Self::Add(add) => add.run(),
            Self::Remove(remove) => remove.run(),
            Self::Run(run) => run.run(),
            Self::Test(test) => test.run(),
            Self::Keygen(keygen) => keygen.run(),
            Self::Reload(reload) => reload.run(),
            Self::Sign(sign) => sign.run(),
        }
    }
}
