//! Looks whether components can be built, and lets rustup install what is missing. `wrapper.sh` compiles this alone.

use std::{fs::OpenOptions, io::Write as _, path::Path, process::ExitCode};

#[path = "toolchain.rs"]
#[allow(dead_code, reason = "it is a module of the library")]
mod toolchain;

fn main() -> ExitCode {
    match toolchain::Toolchain::of(Path::new(".")).ensure_target(say) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// cargo shows what this writes only when it fails; a person who waits should know what for.
fn say(said: &str) {
    eprintln!("{said}");
    if let Ok(mut terminal) = OpenOptions::new().write(true).open("/dev/tty") {
        let _ = writeln!(terminal, "{said}");
    }
}
