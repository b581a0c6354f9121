//! `outlast compile`: what the server starts to compile a component. It is not for people.

use clap::Args;
use outlast_plugin::{ChildLimits, Settings, compile};

/// Compile the component on standard input; the code is what the server that started this expects.
#[derive(Debug, Args)]
pub(super) struct Compile {
    /// The most memory, in bytes.
    #[arg(long)]
    memory: u64,
    /// The most CPU time, in seconds.
    #[arg(long)]
    cpu: u64,
    /// The addresses of a memory, in bytes.
    #[arg(long, requires = "guard")]
    reservation: Option<u64>,
    /// The addresses after it that are never used, in bytes.
    #[arg(long)]
    guard: Option<u64>,
}

impl Compile {
    pub(super) fn run(self) -> Result<(), String> {
        let addresses = self.reservation.zip(self.guard);
        let limits = ChildLimits { memory: self.memory, cpu: self.cpu };
        compile(Settings { addresses }, limits).map_err(|error| format!("cannot compile: {error}"))
    }
}
