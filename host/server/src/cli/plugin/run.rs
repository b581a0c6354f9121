//! `outlast plugin run`: an agent in the terminal, without a server.

use std::{
    io::{IsTerminal as _, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Args;
use outlast_plugin::{Agent, ToolPattern};
use outlast_protocol::{CreateRequest, Event, Item, Response, Status, TerminalStatus, frames, payloads};
use outlast_run::Manager;
use serde_json::{Map, Value};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::{EnvFilter, Layer as _, layer::SubscriberExt as _};

use super::trace;
use crate::{
    cli::output::{Events, gone, note, print},
    config::{Config, Flags},
    local::{self, Local},
};

/// How long a run that is stopped may take to end.
const END: Duration = Duration::from_secs(5);
/// The exit code after Ctrl-C.
const INTERRUPTED: i32 = 130;
/// The exit code when nobody reads what the agent says: a shell's for a program that SIGPIPE has ended.
const UNREAD: i32 = 141;

/// Run an agent in the terminal, without a server.
///
/// Its text goes to standard output as it is produced, everything else to standard error. The exit code is 0 when the
/// response is completed, 1 when it is not, 130 after Ctrl-C, and 141 when its output is no longer read. Nothing is
/// stored.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  outlast plugin run helper.wasm \"What can you do?\" --trace")]
pub(in crate::cli) struct Run {
    /// The component.
    component: PathBuf,
    /// The user's input; `-` or nothing reads standard input.
    input: Option<String>,
    /// The upstream model, which a client would write after the agent's name: `gpt-4o` for `chat/gpt-4o`.
    #[arg(long)]
    model: Option<String>,
    /// The request's other fields, by the Responses API's names; with `input`, that is what the user says.
    #[arg(long, value_name = "JSON|@FILE")]
    request: Option<String>,
    /// The agent's configuration; without it, what the configuration file says of the agent.
    #[arg(long, value_name = "JSON|@FILE")]
    agent_config: Option<String>,
    /// The configuration file of a server (TOML): its providers, agents and limits hold here too.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A tool component whose tools the agent may call, beside those that the configuration grants it. May be repeated.
    #[arg(long, value_name = "FILE")]
    tool: Vec<PathBuf>,
    /// Show every call of an import: what it was asked, what it answered, and how long it took.
    #[arg(long)]
    trace: bool,
    /// Print the events as a client gets them, one a line.
    #[arg(long)]
    json: bool,
    /// What is logged, as a filter of `tracing`; `plugin=…` is what the agent logs.
    #[arg(long, value_name = "FILTER", default_value = "warn,genai=off,rmcp=off,plugin=trace")]
    log: String,
}

impl Run {
    pub(in crate::cli) fn run(self) -> Result<(), String> {
        let filter = EnvFilter::try_new(&self.log)
            .map_err(|error| format!("--log \"{}\" is not a filter like `info`: {error}", self.log))?;
        let coloured = std::io::stderr().is_terminal();
        let log = tracing_subscriber::fmt::layer().with_writer(move || Events { coloured }).without_time().compact();
        // It would say on standard error that standard error cannot be written.
        let log = log.with_ansi(coloured).log_internal_errors(false);
        let calls = self.trace.then(|| trace::layer(|call| note!("{call}")));
        trace::subscribe(tracing_subscriber::registry().with(calls).with(log.with_filter(filter)))?;
        // Before Ctrl-C is heard: it must end what waits for a terminal.
        let fields = self.fields()?;
        let runtime = tokio::runtime::Runtime::new().map_err(|error| format!("cannot start threads: {error}"))?;
        let ended = runtime.block_on(self.execute(fields));
        runtime.shutdown_background();
        match ended? {
            Ended::Response(response) => judged(&response),
            // Whoever presses Ctrl-C knows why it has ended.
            Ended::Interrupted => std::process::exit(INTERRUPTED),
            Ended::Unread => std::process::exit(UNREAD),
        }
    }

    async fn execute(self, fields: Map<String, Value>) -> Result<Ended, String> {
        let mut interrupt = interrupts()?;
        let config = Config::read(self.config.as_deref(), &Flags::default());
        let config = config.map_err(|error| format!("configuration: {error}"))?;
        let local = Local::open(config).await.map_err(|error| error.to_string())?;
        let mut agent = tokio::select! {
            agent = load(&local, &self.component) => agent?,
            _ = interrupt.recv() => return Ok(Ended::Interrupted),
        };
        let said = local.config().agents.get(&agent.description.name).cloned().unwrap_or_default();
        // This is its author's terminal: who has the keys of models here may use them.
        if said.models.is_none() {
            agent = agent.with_all_models();
        }
        if !self.tool.is_empty() {
            let tools = local.serve_tools(&self.tool).await.map_err(|why| why.to_string())?;
            let patterns = tools.into_iter().map(ToolPattern::try_from).collect::<Result<Vec<_>, _>>()?;
            agent = agent.and_tools(patterns);
        }
        let config = self.agent_config.as_deref().map_or(Ok(said.config), |text| object("--agent-config", text))?;
        agent = agent.with_config(&config).map_err(|why| why.to_string())?;
        let request = request(&local, &agent, self.model.as_deref(), fields)?;
        local.start_servers();
        let manager = local.manager(agent).await.map_err(|error| error.to_string())?;
        let ended = self.follow(&manager, request, interrupt).await;
        local.stop_servers().await;
        ended
    }

    /// The fields of the request.
    fn fields(&self) -> Result<Map<String, Value>, String> {
        let mut fields = self.request.as_deref().map_or(Ok(Map::new()), |text| object("--request", text))?;
        let input = match self.input.as_deref() {
            Some("-") => Some(standard_input()?),
            None if !fields.contains_key("input") => Some(standard_input()?),
            given => given.map(str::to_owned),
        };
        if let Some(input) = input {
            fields.insert("input".to_owned(), input.into());
        }
        Ok(fields)
    }

    /// Shows what the agent says, until its end.
    async fn follow(
        &self,
        manager: &Arc<Manager>,
        request: CreateRequest,
        mut interrupt: Signal,
    ) -> Result<Ended, String> {
        let began = Instant::now();
        let mut subscription = local::begin(manager, request).await.map_err(|refusal| refusal.to_string())?;
        let mut screen = Screen { json: self.json, at_line: true };
        loop {
            let next = tokio::select! {
                next = subscription.next() => next.map_err(|error| error.to_string())?,
                _ = interrupt.recv() => {
                    drop(subscription);
                    manager.drain(END).await;
                    return Ok(Ended::Interrupted);
                }
            };
            let Some(bytes) = next else { return Err("the run was lost".to_owned()) };
            if gone() {
                // Nobody reads what it says any more: it goes no further.
                drop(subscription);
                manager.drain(END).await;
                return Ok(Ended::Unread);
            }
            if self.json {
                for payload in payloads(&bytes) {
                    screen.line(&payload)?;
                }
            }
            for frame in frames(&bytes) {
                let frame = frame.map_err(|error| format!("an event cannot be read: {error}"))?;
                if let Some(response) = screen.show(frame.event)? {
                    if gone() {
                        return Ok(Ended::Unread);
                    }
                    if self.trace {
                        note!(
                            "{:>9}  {}",
                            format!("{:.1} ms", began.elapsed().as_secs_f64() * 1e3),
                            summary(&response)
                        );
                    }
                    return Ok(Ended::Response(Box::new(response)));
                }
            }
        }
    }
}

enum Ended {
    Response(Box<Response>),
    Interrupted,
    Unread,
}

/// Hears Ctrl-C from now on.
pub(super) fn interrupts() -> Result<Signal, String> {
    signal(SignalKind::interrupt()).map_err(|error| format!("cannot watch signals: {error}"))
}

/// What the exit code is to say.
fn judged(response: &Response) -> Result<(), String> {
    match (&response.error, &response.incomplete_details) {
        (Some(error), _) => Err(format!("the response failed: {} ({})", error.message, error.code)),
        (None, Some(details)) => Err(format!("the response is incomplete: {}", details.reason)),
        (None, None) if response.status == Status::Terminal(TerminalStatus::Completed) => Ok(()),
        (None, None) => Err(format!("the response is {}", response.status)),
    }
}

fn summary(response: &Response) -> String {
    let tokens = response
        .usage
        .as_ref()
        .map(|usage| format!(", {} input and {} output tokens", usage.input_tokens, usage.output_tokens));
    format!("{}{}", response.status, tokens.unwrap_or_default())
}

/// Loads a component; the error names its file.
pub(super) async fn load(local: &Local, component: &Path) -> Result<Agent, String> {
    local.load(component).await.map_err(|why| format!("{}: {why}", component.display()))
}

/// The request that a client would send to this agent.
pub(super) fn request(
    local: &Local,
    agent: &Agent,
    model: Option<&str>,
    mut fields: Map<String, Value>,
) -> Result<CreateRequest, String> {
    let name = &agent.description.name;
    let model = model.map_or_else(|| name.clone(), |model| format!("{name}/{model}"));
    fields.insert("model".to_owned(), model.into());
    CreateRequest::from_fields(fields, &local.config().limits.api.request()).map_err(|error| error.message)
}

/// A JSON object that was given as it is, or by the name of its file.
fn object(flag: &str, text: &str) -> Result<Map<String, Value>, String> {
    let read;
    let text = match text.strip_prefix('@') {
        Some(file) => {
            read = std::fs::read_to_string(file).map_err(|error| format!("{flag}: cannot read {file}: {error}"))?;
            &read
        }
        None => text,
    };
    serde_json::from_str(text).map_err(|error| format!("{flag} is not a JSON object: {error}"))
}

fn standard_input() -> Result<String, String> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).map_err(|error| format!("cannot read standard input: {error}"))?;
    Ok(text.trim_end_matches('\n').to_owned())
}

/// Standard output.
struct Screen {
    json: bool,
    /// Whether a new line has begun.
    at_line: bool,
}

impl Screen {
    /// Shows an event; the response, if it is the last one.
    fn show(&mut self, event: Event<'_>) -> Result<Option<Response>, String> {
        match event {
            Event::TextDelta { delta, .. } | Event::RefusalDelta { delta, .. } => self.text(&delta)?,
            Event::ItemDone { item, .. } => match &*item {
                Item::Message { .. } => self.end_line()?,
                Item::FunctionCall { name, arguments, call_id, .. }
                | Item::CustomToolCall { name, input: arguments, call_id, .. }
                    if !self.json =>
                {
                    note!("the client is to call {name}({arguments}) as {call_id}");
                }
                call if call.is_call() && !self.json => {
                    let shown = serde_json::to_string(call).map_err(|error| error.to_string())?;
                    note!("the client is to answer {shown}");
                }
                _ => {}
            },
            Event::Completed { response } | Event::Failed { response } | Event::Incomplete { response } => {
                self.end_line()?;
                return Ok(Some(response.into_owned()));
            }
            _ => {}
        }
        Ok(None)
    }

    fn text(&mut self, text: &str) -> Result<(), String> {
        if self.json || text.is_empty() {
            return Ok(());
        }
        self.at_line = text.ends_with('\n');
        print(text)
    }

    fn end_line(&mut self) -> Result<(), String> {
        if !std::mem::replace(&mut self.at_line, true) { print("\n") } else { Ok(()) }
    }

    fn line(&mut self, line: &[u8]) -> Result<(), String> {
        print(String::from_utf8_lossy(line))?;
        print("\n")
    }
}
