//! The command line: one file per subcommand.

mod compile;
mod key;
mod output;
mod pid_file;
mod plugin;
mod runs;
mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use outlast_plugin::{COMMAND, compile_in_children};

use crate::descriptors::keep_from_children;

/// A server that runs agents as sandboxed WebAssembly components and never loses a run.
///
/// Point an OpenAI SDK at it: it speaks the Responses API (POST /v1/responses). A run goes on when its client goes
/// away, and everything that a client has seen is kept.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    #[command(subcommand)]
    Key(key::Key),
    Runs(runs::Runs),
    #[command(subcommand)]
    Plugin(plugin::Plugin),
    #[command(name = COMMAND, hide = true)]
    Compile(compile::Compile),
}

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    keep_from_children();
    let command = Arguments::parse().command;
    compile_in_children();
    let done = match command {
        Command::Serve(serve) => serve.run(),
        Command::Key(key) => key.run(),
        Command::Runs(runs) => runs.run(),
        Command::Plugin(plugin) => plugin.run(),
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
