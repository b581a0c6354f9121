//! `outlast plugin reload`: a running server looks at its plugin folder.

use std::path::PathBuf;

use clap::Args;
use rustix::process::{Pid, Signal, kill_process};

use super::super::pid_file::PidFile;
use crate::cli::output::say;
use crate::config::{Config, Flags};

/// Tell a running server to read its keys again and to look at its plugin folder now.
///
/// It notices changed files itself; this is for file systems that do not report changes.
/// The same as SIGHUP. The log of the server says what happened.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("server").required(true))]
#[command(after_help = "Examples:\n  outlast plugin reload --config outlast.toml")]
pub(crate) struct Reload {
    /// The configuration file of the server, which names its `pid_file`.
    #[arg(long, value_name = "FILE", group = "server")]
    config: Option<PathBuf>,
    /// The id of the server's process.
    #[arg(long, value_name = "ID", group = "server")]
    pid: Option<i32>,
}

impl Reload {
    pub(super) fn run(self) -> Result<(), String> {
        let id = match (self.pid, self.config) {
            (Some(id), _) => id,
            (None, file) => {
                let config = Config::read(file.as_deref(), &Flags::default());
                let config = config.map_err(|error| format!("configuration: {error}"))?;
                let path = config.pid_file.ok_or("the configuration has no `pid_file`; `--pid ID` names the server")?;
                PidFile::read(&path)?
            }
        };
        let process = Pid::from_raw(id).filter(|_| id > 1).ok_or_else(|| format!("{id} is not a server"))?;
        kill_process(process, Signal::HUP).map_err(|error| format!("the process {id} cannot be signalled: {error}"))?;
        say!(
            "told the server (process {id}) to read its keys again and to look at its plugin folder; its log says what it finds"
        )?;
        Ok(())
    }
}
