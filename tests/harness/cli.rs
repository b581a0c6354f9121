//! The binary's other subcommands, from outside.

use std::{
    ffi::OsStr,
    io::Write as _,
    process::{Command, Stdio},
};

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    /// The exit code; none after a signal.
    pub code: Option<i32>,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Ended {
    /// What it wrote to standard output, when it succeeded.
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self.stdout
    }

    /// What it wrote to standard error, when it failed.
    pub fn failed(self) -> String {
        assert_eq!(self.code, Some(1), "{self:#?}");
        self.stderr
    }
}

/// The binary with these arguments. Nothing of the environment of the tests reaches it.
pub fn command(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
    let mut command = Command::new(super::server::BINARY);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env("XDG_CACHE_HOME", super::scratch::caches());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["OUTLAST_", "OPENAI_", "RUST_LOG"].iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    command
}

/// Runs the binary with these arguments to its end.
pub fn outlast(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Ended {
    outlast_reading(arguments, "")
}

/// The same, with this on standard input.
pub fn outlast_reading(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>, input: &str) -> Ended {
    let mut child = command(arguments).stdin(Stdio::piped()).spawn().unwrap();
    // Fails when the command does not read, which is its right.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ended { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}
