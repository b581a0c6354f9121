//! `outlast completions`: what a shell needs to complete commands.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::output::print;

/// Print the completions of a shell.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    outlast completions bash > /etc/bash_completion.d/outlast\n  \
    outlast completions zsh > ~/.zfunc/_outlast\n  \
    outlast completions fish > ~/.config/fish/completions/outlast.fish")]
pub(super) struct Completions {
    /// The shell.
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) -> Result<(), String> {
        let mut command = super::Arguments::command();
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "outlast", &mut script);
        print(String::from_utf8(script).map_err(|error| error.to_string())?)
    }
}
