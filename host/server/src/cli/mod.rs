//! The command line: one file per subcommand.

mod admin;
mod backup;
mod check;
mod compile;
mod completions;
mod database;
mod doctor;
mod init;
mod key;
mod man;
mod output;
mod pid_file;
mod plugin;
mod restore;
mod runs;
mod serve;
mod webhooks;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use outlast_plugin::{COMMAND, compile_in_children};

use crate::descriptors::keep_from_children;

/// A server that runs agents as sandboxed WebAssembly components and never loses a run.
///
/// Point an OpenAI SDK at it: it speaks the Responses API (POST /v1/responses). A run continues when its client goes
/// away, and everything that a client has seen is stored.
#[derive(Debug, Parser)]
///
/// The exit code is 0 when all went well, 1 when something did not, with a sentence on standard error, and 2 when the command
/// line is not right.
#[command(
    name = "outlast",
    version,
    arg_required_else_help = true,
    after_help = "Examples:\n  outlast serve\n  outlast init && outlast serve --config outlast.toml\n  \
                  outlast plugin new my-agent"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(init::Init),
    Check(check::Check),
    Doctor(doctor::Doctor),
    Serve(serve::Serve),
    #[command(subcommand)]
    Key(key::Key),
    Runs(runs::Runs),
    Webhooks(webhooks::Webhooks),
    #[command(subcommand)]
    Plugin(plugin::Plugin),
    Backup(backup::Backup),
    Restore(restore::Restore),
    Completions(completions::Completions),
    Man(man::Man),
    #[command(name = COMMAND, hide = true)]
    Compile(compile::Compile),
}

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    keep_from_children();
    let command = Arguments::parse().command;
    compile_in_children();
    let done = match command {
        Command::Init(init) => init.run(),
        Command::Check(check) => check.run(),
        Command::Doctor(doctor) => doctor.run(),
        Command::Serve(serve) => serve.run(),
        Command::Key(key) => key.run(),
        Command::Runs(runs) => runs.run(),
        Command::Webhooks(webhooks) => webhooks.run(),
        Command::Plugin(plugin) => plugin.run(),
        Command::Backup(backup) => backup.run(),
        Command::Restore(restore) => restore.run(),
        Command::Completions(completions) => completions.run(),
        Command::Man(man) => man.run(),
        Command::Compile(compile) => compile.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            output::last(format!("outlast: {message}"));
            ExitCode::FAILURE
        }
    }
}

/// Runs a command to its end.
fn outcome(command: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    let runtime = tokio::runtime::Runtime::new().map_err(|error| format!("cannot start threads: {error}"))?;
    let ended = runtime.block_on(command);
    runtime.shutdown_background();
    ended
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    /// The names of the commands that show no example, those of `command` included.
    fn without_example(path: &str, command: &clap::Command) -> Vec<String> {
        let shown =
            |text: Option<&clap::builder::StyledStr>| text.is_some_and(|text| text.to_string().contains("Example"));
        let own = !command.has_subcommands() && !shown(command.get_after_help()) && !command.is_hide_set();
        let below =
            command.get_subcommands().flat_map(|below| without_example(&format!("{path} {}", below.get_name()), below));
        own.then(|| path.to_owned()).into_iter().chain(below).collect()
    }

    #[test]
    fn every_command_shows_an_example() {
        let command = Arguments::command();
        command.clone().debug_assert();
        assert_eq!(without_example("outlast", &command), Vec::<String>::new());
    }
}
