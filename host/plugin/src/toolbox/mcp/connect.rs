//! The way to an MCP server.

use std::{path::Path, process::Stdio, sync::Arc, time::Duration};

use process_wrap::tokio::{CommandWrap, ProcessGroup};
use rmcp::{
    ClientHandler, RoleClient, ServiceExt as _,
    model::{ClientCapabilities, ClientConfig, Implementation},
    service::{NotificationContext, RunningService},
    transport::{
        StreamableHttpClientTransport, TokioChildProcess, streamable_http_client::StreamableHttpClientTransportConfig,
    },
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader},
    process::Command,
    sync::Notify,
};
use tracing::info;

use super::{
    config::{Hidden, Way},
    gate::{Gate, GatedChild, GatedClient},
};
use crate::failure::shorten;

/// How long a connection over HTTP may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest line of a child's standard error. A longer one is broken.
const LINE: u64 = 8_192;

/// A connection.
pub(super) type Connection = RunningService<RoleClient, Listener>;

/// Hears what a server says by itself.
pub(super) struct Listener {
    /// Is notified when it offers something else.
    pub changed: Arc<Notify>,
}

impl ClientHandler for Listener {
    async fn on_tool_list_changed(&self, _: NotificationContext<RoleClient>) {
        self.changed.notify_one();
    }

    fn get_info(&self) -> ClientConfig {
        let us = Implementation::new("outlast", env!("CARGO_PKG_VERSION"));
        ClientConfig::new(ClientCapabilities::default(), us)
    }
}

/// Connects to the server of this name. Calls pass `gate`. A message is at most `most` bytes, where the way there can tell.
pub(super) async fn connect(
    name: &str,
    way: &Way,
    hidden: &Hidden,
    listener: Listener,
    gate: Gate,
    most: usize,
) -> Result<Connection, String> {
    let connected = match way {
        Way::Http { url, headers } => {
            let client = reqwest::Client::builder()
                // A header of the operator's would go wherever a redirect leads.
                .redirect(reqwest::redirect::Policy::none())
                .connect_timeout(CONNECT_TIMEOUT)
                .user_agent(concat!("outlast/", env!("CARGO_PKG_VERSION")))
                .build()
                .map_err(|error| format!("cannot create an HTTP client: {error}"))?;
            let config = StreamableHttpClientTransportConfig::with_uri(url.as_str())
                .custom_headers(headers.iter().cloned().collect())
                .max_sse_event_size(most)
                .max_json_response_size(most)
                .reinit_on_expired_session(true);
            listener.serve(StreamableHttpClientTransport::with_client(GatedClient { client, gate }, config)).await
        }
        Way::Child { program, arguments, env, cwd } => {
            let scratch = match cwd {
                Some(_) => None,
                None => Some(scratch().map_err(|error| format!("it has no folder to work in: {error}"))?),
            };
            let folder = cwd.as_deref().or(scratch.as_ref().map(TempDir::path)).unwrap_or(Path::new("/"));
            if !folder.is_dir() {
                return Err(format!("its folder {} (mcp.{name}.cwd) does not exist", folder.display()));
            }
            let mut command = Command::new(program);
            command
                .args(arguments)
                .current_dir(folder)
                .env_clear()
                .envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
            command.envs(env.iter().map(|(name, value)| (name, value))).kill_on_drop(true);
            let mut command = CommandWrap::from(command);
            // Its own children end with it, and Ctrl-C in a terminal is this server's to hear.
            command.wrap(ProcessGroup::leader());
            let spawned = TokioChildProcess::builder(command).stderr(Stdio::piped()).spawn();
            let (child, stderr) = spawned.map_err(|error| format!("`{program}` cannot be started: {error}"))?;
            if let Some(stderr) = stderr {
                tokio::spawn(relay(name.to_owned(), hidden.clone(), stderr, scratch));
            }
            listener.serve(GatedChild { child, gate }).await
        }
    };
    connected.map_err(|error| shorten(&hidden.hide(causes(&error)), 500))
}

/// An error and what it comes from, in one line.
pub(super) fn causes(error: &dyn std::error::Error) -> String {
    let (mut text, mut next) = (error.to_string(), error.source());
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        next = cause.source();
    }
    text
}

/// An empty folder for a child to work in.
fn scratch() -> std::io::Result<TempDir> {
    tempfile::Builder::new().prefix("outlast-mcp-").tempdir()
}

/// Writes the lines of a child's standard error to the log. Its folder is there as long as the child is.
async fn relay(server: String, hidden: Hidden, stderr: impl AsyncRead + Unpin, _folder: Option<TempDir>) {
    let mut stderr = BufReader::new(stderr);
    let mut line = Vec::new();
    while let Ok(1..) = (&mut stderr).take(LINE).read_until(b'\n', &mut line).await {
        let text = hidden.hide(String::from_utf8_lossy(&line).trim_end().to_owned());
        info!(target: "mcp", server, "{}", shorten(&text, LINE as usize));
        line.clear();
    }
}
