//! An MCP server: its connection, what it offers, and calls of it.

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use outlast_metrics::{ServerUp, ToolCalls, ToolMetrics};
use rmcp::{
    RoleClient,
    model::{CallToolRequestParams, ErrorCode, PaginatedRequestParams},
    service::{Peer, ServiceError},
};
use serde_json::Value;
use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    config::{Hidden, McpConfig, Way},
    connect::{Listener, causes, connect},
    gate::{Gate, KEY},
    offer::{Offer, answer, offer},
    pin::{difference, digest},
};
use crate::{
    bindings::types::{Failure, FailureKind},
    failure::{failure, shorten},
    grants::{GrantError, Pin},
    sandbox::Caller,
};

/// How long a connection may take, what the server offers included.
const CONNECT: Duration = Duration::from_secs(30);
/// The first pause before a server is connected to again, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// A connection that lived this long was a good one: the next pause is the first again.
const GOOD: Duration = Duration::from_secs(60);
/// The pause that a call does not shorten.
const LEAST_PAUSE: Duration = Duration::from_millis(200);
/// The most tools of a server.
const TOOLS: usize = 1_000;
/// How long a server may take to end.
const END: Duration = Duration::from_secs(10);
/// The code of the failure of a call whose server is not there.
pub(in crate::toolbox) const UNAVAILABLE: &str = "server_unavailable";

/// An MCP server.
pub(in crate::toolbox) struct McpServer {
    name: String,
    way: Way,
    hidden: Hidden,
    timeout: Duration,
    /// The largest message, in bytes.
    message_bytes: usize,
    state: watch::Sender<State>,
    /// Where its calls leave.
    gate: Gate,
    /// What it offered last; nothing where that was not what is pinned.
    offer: ArcSwap<Offer>,
    /// The only offer that is taken.
    pin: Option<Pin>,
    /// What it offered when that was taken last.
    taken: ArcSwap<Offer>,
    /// Is notified when somebody wants it while it is down.
    wanted: Notify,
    /// Is notified when the connection has to be made anew.
    broken: Notify,
    stop: CancellationToken,
    up: ServerUp,
    pub(in crate::toolbox) metrics: Arc<ToolCalls>,
}

/// What became of an offer.
enum Offered {
    /// It is what agents see. Its sha256, hexadecimal.
    Taken(String),
    /// It is not what is pinned; in words.
    Refused(String),
}

/// How it is with the connection.
#[derive(Clone)]
enum State {
    /// It is being made.
    Connecting,
    Up(Peer<RoleClient>),
    /// There is none, for this reason.
    Down(String),
}

impl McpServer {
    /// The server of a section of the configuration. Secrets are read from the environment.
    pub(in crate::toolbox) fn new(
        name: &str,
        config: &McpConfig,
        result_bytes: usize,
        metrics: &ToolMetrics,
    ) -> Result<Self, GrantError> {
        let (way, hidden) = config.checked(name, |name| std::env::var(name).ok())?;
        Ok(Self {
            name: name.to_owned(),
            way,
            hidden,
            timeout: config.timeout,
            // As JSON an answer is longer, and pictures come along that nobody wants.
            message_bytes: result_bytes.saturating_mul(2).saturating_add(8 << 20),
            state: watch::Sender::new(State::Connecting),
            gate: Gate::default(),
            offer: ArcSwap::default(),
            pin: config.tools_sha256,
            taken: ArcSwap::default(),
            wanted: Notify::new(),
            broken: Notify::new(),
            stop: CancellationToken::new(),
            up: metrics.server(name),
            metrics: metrics.tool(name),
        })
    }

    /// Keeps the connection until it is to stop.
    pub(in crate::toolbox) async fn keep(self: Arc<Self>) {
        let mut pause = PAUSES.0;
        loop {
            let began = Instant::now();
            self.state.send_replace(State::Connecting);
            let ended = self.connected().await;
            self.up.set(false);
            if self.stop.is_cancelled() {
                break;
            }
            let server = &self.name;
            if began.elapsed() >= GOOD {
                pause = PAUSES.0;
            }
            warn!(target: "mcp", server, "not connected: {ended}; retrying in {}", humantime::format_duration(pause));
            self.state.send_replace(State::Down(ended));
            let next = async {
                // Nobody is to make it begin again and again.
                sleep(LEAST_PAUSE).await;
                tokio::select! {
                    () = sleep(pause.saturating_sub(LEAST_PAUSE)) => {}
                    () = self.wanted.notified() => {}
                }
            };
            if self.stop.run_until_cancelled(next).await.is_none() {
                break;
            }
            pause = (pause * 2).min(PAUSES.1);
        }
        self.state.send_replace(State::Down("this server is being stopped".to_owned()));
    }

    /// Connects, and returns why that was not possible, or why the connection has ended.
    async fn connected(&self) -> String {
        let changed = Arc::new(Notify::new());
        let listener = Listener { changed: changed.clone() };
        let connecting = async {
            let most = self.message_bytes;
            let connection = connect(&self.name, &self.way, &self.hidden, listener, self.gate.clone(), most).await?;
            let sha256 = match self.read_offer(connection.peer()).await? {
                Offered::Taken(sha256) => sha256,
                Offered::Refused(why) => return Err(why),
            };
            Ok::<_, String>((connection, sha256))
        };
        let (connection, tools_sha256) = match self.stop.run_until_cancelled(timeout(CONNECT, connecting)).await {
            Some(Ok(Ok(connection))) => connection,
            Some(Ok(Err(why))) => return why,
            Some(Err(_)) => return format!("it did not answer within {}", humantime::format_duration(CONNECT)),
            None => return String::new(),
        };
        let (peer, end) = (connection.peer().clone(), connection.cancellation_token());
        let mut ended = pin!(connection.waiting());
        let (server, tools) = (&self.name, self.offer.load().len());
        info!(target: "mcp", server, tools, tools_sha256, "connected");
        self.up.set(true);
        // What was broken before is not meant.
        let mut broken = pin!(self.broken.notified());
        broken.as_mut().enable();
        self.state.send_replace(State::Up(peer.clone()));
        let why = loop {
            tokio::select! {
                _ = &mut ended => return "the connection was closed".to_owned(),
                () = &mut broken => break "a call did not reach it, or its answer did not arrive".to_owned(),
                () = self.stop.cancelled() => break String::new(),
                () = changed.notified() => match timeout(CONNECT, self.read_offer(&peer)).await {
                    Ok(Ok(Offered::Taken(tools_sha256))) => {
                        let tools = self.offer.load().len();
                        info!(target: "mcp", server, tools, tools_sha256, "its tools have changed");
                    }
                    Ok(Ok(Offered::Refused(why))) => break why,
                    Ok(Err(why)) => warn!(target: "mcp", server, "did not list its tools: {why}"),
                    Err(_) => warn!(target: "mcp", server, "did not list its tools"),
                },
            }
        };
        end.cancel();
        let _ = timeout(END, ended).await;
        why
    }

    /// Reads what the server offers, and takes it if it is what is pinned.
    async fn read_offer(&self, peer: &Peer<RoleClient>) -> Result<Offered, String> {
        let (mut tools, mut cursor) = (Vec::new(), None);
        loop {
            let page = peer.list_tools(Some(PaginatedRequestParams::default().with_cursor(cursor))).await;
            let page = page.map_err(|error| self.shown(&error))?;
            tools.extend(page.tools);
            cursor = page.next_cursor;
            if cursor.is_none() || tools.len() >= TOOLS {
                break;
            }
        }
        let server = &self.name;
        if tools.len() > TOOLS || cursor.is_some() {
            warn!(target: "mcp", server, "offers more than {TOOLS} tools: the rest is left out");
            tools.truncate(TOOLS);
        }
        let (offer, left_out) = offer(server, tools);
        for why in left_out {
            warn!(target: "mcp", server, "offers the tool {why}: it is left out");
        }
        let sha256 = digest(&offer);
        let offer = Arc::new(offer);
        let shown = hex::encode(sha256);
        if self.pin.is_some_and(|pin| !pin.is(sha256)) {
            self.offer.store(Arc::default());
            return Ok(Offered::Refused(format!(
                "its tools are not those that are pinned ({}); `tools_sha256 = \"{shown}\"` in `[mcp.{server}]` would \
                 accept these",
                difference(&self.taken.load(), &offer)
            )));
        }
        self.taken.store(offer.clone());
        self.offer.store(offer);
        Ok(Offered::Taken(shown))
    }

    fn shown(&self, error: &ServiceError) -> String {
        shorten(&self.hidden.hide(causes(error)), 500)
    }

    /// Its tools, as far as is known.
    pub(in crate::toolbox) fn offer(&self) -> Arc<Offer> {
        self.offer.load_full()
    }

    /// Whether it is known what it offers: it was not only just begun with.
    pub(in crate::toolbox) fn is_up(&self) -> bool {
        matches!(*self.state.borrow(), State::Up(_))
    }

    /// Waits until a connection that is being made is there or has failed, at most as long as a call takes.
    pub(in crate::toolbox) async fn settled(&self) {
        let mut state = self.state.subscribe();
        let settled = state.wait_for(|state| !matches!(state, State::Connecting));
        drop(timeout(self.timeout.min(CONNECT), settled).await);
    }

    /// Calls a tool by the name that agents call it. The caller's key is the same when the call is made again.
    pub(in crate::toolbox) async fn call(
        &self,
        name: &str,
        arguments: &str,
        caller: &Caller,
    ) -> Result<String, Failure> {
        let seconds = self.timeout.as_secs_f64();
        timeout(self.timeout, self.called(name, arguments, caller)).await.unwrap_or_else(|_| {
            let message =
                format!("The tool `{name}` took longer than {seconds} seconds (`timeout` in `[mcp.{}]`).", self.name);
            Err(failure(FailureKind::Timeout, "timeout", message))
        })
    }

    async fn called(&self, name: &str, arguments: &str, caller: &Caller) -> Result<String, Failure> {
        let peer = self.peer().await?;
        let Some(tool) = self.offer.load().get(name).cloned() else {
            return Err(failure(FailureKind::NotFound, "unknown_tool", format!("There is no tool `{name}`.")));
        };
        let arguments = serde_json::from_str(arguments).unwrap_or_default();
        let mut params = CallToolRequestParams::new(tool.name).with_arguments(arguments);
        let mut meta = rmcp::model::RequestMetaObject::default();
        meta.0.insert(KEY.to_owned(), Value::from(caller.key.as_str()));
        params.meta = Some(meta);
        let _calling = self.gate.begin(&caller.key, &caller.lease);
        // Dropped in the middle, it tells the server that nobody wants the answer any more.
        let answered = match peer.call_tool_once(params).await {
            Ok(rmcp::model::CallToolResponse::Complete(result)) => answer(result),
            Ok(_) => Err(self.unavailable("it requests a feature that this server does not have")),
            Err(ServiceError::McpError(error)) => {
                let invalid = error.code == ErrorCode::INVALID_PARAMS;
                let kind = if invalid { FailureKind::Invalid } else { FailureKind::Other };
                Err(failure(kind, "tool_error", shorten(&error.message, 8_192)))
            }
            Err(error) => {
                if matches!(error, ServiceError::TransportSend(_) | ServiceError::TransportClosed) {
                    self.broken.notify_waiters();
                }
                Err(self.unavailable(&self.shown(&error)))
            }
        };
        match answered {
            Ok(text) => Ok(self.hidden.hide(text)),
            Err(failure) => Err(Failure { message: self.hidden.hide(failure.message), ..failure }),
        }
    }

    /// The connection; one that was lost is made again first.
    async fn peer(&self) -> Result<Peer<RoleClient>, Failure> {
        let mut state = self.state.subscribe();
        if matches!(*state.borrow_and_update(), State::Down(_)) {
            self.wanted.notify_one();
            // The pause ends, and with it this state.
            let _ = self.stop.run_until_cancelled(state.changed()).await;
        }
        loop {
            let now = state.borrow_and_update().clone();
            match now {
                State::Up(peer) => return Ok(peer),
                State::Down(why) => return Err(self.unavailable(&why)),
                State::Connecting => {
                    if state.changed().await.is_err() {
                        return Err(self.unavailable("it is gone"));
                    }
                }
            }
        }
    }

    fn unavailable(&self, why: &str) -> Failure {
        let message = format!("The MCP server `{}` is not available: {why}.", self.name);
        failure(FailureKind::Unavailable, UNAVAILABLE, message)
    }

    /// Ends the connection, and with it the keeping of it.
    pub(in crate::toolbox) fn stop(&self) {
        self.stop.cancel();
    }
}

impl std::fmt::Debug for McpServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("McpServer").field("name", &self.name).finish_non_exhaustive()
    }
}
