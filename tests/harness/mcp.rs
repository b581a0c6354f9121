//! An MCP server, written in Python: a child of the server under test, or a process of its own that speaks HTTP.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use super::{
    process::{self, Signal},
    scratch, wait,
};

/// What a server over HTTP wants to be told.
pub const TOKEN: &str = "t0p-s3cret-t0ken";

/// An MCP server: see `mcp_server.py`.
#[derive(Debug)]
pub struct Mcp {
    folder: TempDir,
    /// Whether, over HTTP, it closes a connection behind each answer.
    closing: bool,
    process: Option<Child>,
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/harness/mcp_server.py")
}

impl Mcp {
    /// One that the server under test starts.
    pub fn child() -> Self {
        Self { folder: scratch::dir("mcp-"), closing: false, process: None }
    }

    /// One over HTTP, which runs.
    pub fn http() -> Self {
        let mut mcp = Self::child();
        mcp.start();
        mcp
    }

    /// One over HTTP whose connections serve one request each.
    pub fn http_closing() -> Self {
        let mut mcp = Self::child();
        mcp.closing = true;
        mcp.start();
        mcp
    }

    /// Starts it again, at its port.
    pub fn start(&mut self) {
        let port = std::fs::read_to_string(self.file("port")).unwrap_or_else(|_| "0".to_owned());
        let mut command = Command::new("python3");
        command.arg(script()).args(["--http", &port]);
        command.env("OUTLAST_TEST_FOLDER", self.folder.path()).env("TOKEN", TOKEN).stdin(Stdio::null());
        if self.closing {
            command.arg("--closing");
        }
        self.process = Some(process::spawn(command, Signal::KILL).unwrap());
        let address = wait::eventually_blocking("it has a port", || {
            let port = std::fs::read_to_string(self.file("port")).ok()?;
            (!port.is_empty()).then(|| format!("127.0.0.1:{port}"))
        });
        wait::eventually_blocking("it listens", || std::net::TcpStream::connect(&address).ok());
    }

    /// Kills it.
    pub fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// The section of a configuration that has it as a child.
    pub fn command(&self, name: &str, env: &str) -> String {
        format!(
            "[mcp.{name}]\ncommand = [\"python3\", {:?}]\n[mcp.{name}.env]\nOUTLAST_TEST_FOLDER = {:?}\n{env}",
            script().display().to_string(),
            self.folder.path().display().to_string()
        )
    }

    /// Host and port, over HTTP.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", std::fs::read_to_string(self.file("port")).unwrap())
    }

    /// The section that has it over HTTP. The token is in the environment variable `MCP_TOKEN`.
    pub fn url(&self, name: &str) -> String {
        format!(
            "[mcp.{name}]\nurl = \"http://{}/mcp\"\n[mcp.{name}.headers]\n\
             authorization = \"Bearer ${{MCP_TOKEN}}\"",
            self.address()
        )
    }

    /// The calls that it has had: the tool and the key of each.
    pub fn calls(&self) -> Vec<String> {
        let calls = std::fs::read_to_string(self.file("calls")).unwrap_or_default();
        calls.lines().map(str::to_owned).collect()
    }

    /// Lets `wait` and `wait_again` go on.
    pub fn release(&self) {
        std::fs::write(self.file("release"), "").unwrap();
    }

    /// The process that began last.
    pub fn pid(&self) -> u32 {
        std::fs::read_to_string(self.file("pid")).unwrap().parse().unwrap()
    }

    /// Waits until a process is gone.
    pub fn gone(pid: u32) {
        wait::eventually_blocking(format!("process {pid} is gone"), || Self::is_gone(pid).then_some(()));
    }

    /// Whether a process has ended. One that nobody has asked for its end counts.
    pub fn is_gone(pid: u32) -> bool {
        match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
            Err(_) => true,
            Ok(stat) => stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('Z')),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for Mcp {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.kill();
        }
    }
}
