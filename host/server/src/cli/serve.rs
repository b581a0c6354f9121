//! `outlast serve`: the server.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::IsTerminal as _,
    net::SocketAddr,
    panic::PanicHookInfo,
    path::PathBuf,
    sync::Arc,
};

use clap::Args;
use outlast_plugin::{Allocator, BINDINGS};
use outlast_store::Backend;
use tokio::sync::Notify;
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;

use super::{output::print, pid_file::PidFile};
use crate::{
    config::{Config, Flags, LogFormat},
    heap,
    log::{Flush, Log},
    reconfigure::Reread,
    sandbox::{self, Entered},
    server::Server,
};

/// Run the server.
///
/// Every setting has a place in the configuration file, can be given in the environment (OUTLAST_LISTEN,
/// OUTLAST_LIMITS__RUN_TIMEOUT, …), and some have a flag here. Flags win over the environment, the environment
/// over the file. SIGTERM and Ctrl-C shut the server down gracefully; a second one stops it at once. SIGHUP makes it
/// read its keys and its certificate again and look at the plugin folder.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    outlast serve --plugins plugins\n  \
    outlast serve --config outlast.toml --listen 127.0.0.1:9000")]
pub(super) struct Serve {
    /// The configuration file (TOML). Without it, defaults and the environment hold.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to listen [default: 127.0.0.1:8642]. Addresses beyond loopback need a key.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// The path of an SQLite file, or a PostgreSQL URL [default: outlast.db].
    #[arg(long, value_name = "FILE|URL")]
    database: Option<String>,
    /// A folder whose *.wasm files are loaded as agents, a file, or an oci:// reference with its digest. May be given
    /// several times.
    #[arg(long, value_name = "DIR|FILE|REFERENCE")]
    plugins: Vec<String>,
}

impl Serve {
    pub(super) fn run(self) -> Result<(), String> {
        heap::give_back();
        let Self { config, listen, database, plugins } = self;
        let flags = Flags { listen, database, plugins };
        let reread: Reread = Arc::new(move || Config::read(config.as_deref(), &flags));
        let config = reread().map_err(|error| format!("configuration: {error}"))?;
        // While there is one thread, which all others come from.
        let Entered(holds) = sandbox::enter(&config);
        let _flush = log(&config)?;
        info!("the sandbox of this server: {}", holds.join(", "));
        for warning in &config.warnings {
            warn!("configuration: {warning}");
        }
        let main = runtime("outlast", |builder| builder)?;
        // Busy agents come back to their queue every millisecond; whoever waits for a timer or a socket there is
        // looked after each time, not every 61 times.
        let guests = runtime("outlast-agent", |builder| builder.event_interval(2).global_queue_interval(2))?;
        let served = main.block_on(serve(config, reread, &guests));
        guests.shutdown_background();
        main.shutdown_background();
        served
    }
}

async fn serve(config: Config, reread: Reread, guests: &Runtime) -> Result<(), String> {
    let stop = CancellationToken::new();
    let hangup = Arc::new(Notify::new());
    watch_signals(stop.clone(), hangup.clone())?;
    let _pid_file = config.pid_file.as_deref().map(PidFile::write).transpose()?;
    let server = Server::start(config, guests.handle().clone()).await.map_err(|error| error.to_string())?;
    greet(&server);
    server.serve(stop, hangup, reread).await.map_err(|error| error.to_string())
}

/// Says where the server is and what it has, as far as somebody reads it: it waits for nobody.
fn greet(server: &Server) {
    let greeting = greeting(server);
    let printed = std::thread::Builder::new().spawn(move || {
        if let Err(why) = print(greeting) {
            warn!("the greeting cannot be printed: {why}");
        }
    });
    if let Err(error) = printed {
        warn!(%error, "the greeting cannot be printed");
    }
}

fn greeting(server: &Server) -> String {
    let url = server.url();
    let manager = server.manager();
    let agents = manager.agents().served();
    let agents: Vec<_> = agents.iter().map(|agent| agent.description.name.as_str()).collect();
    let backend = match manager.store().backend() {
        Backend::Sqlite => "SQLite",
        Backend::Postgres => "PostgreSQL",
    };
    let toolbox = manager.agents().toolbox();
    let tools: Vec<_> = toolbox.served().iter().map(|tool| tool.description.name.clone()).collect();
    let tools: Vec<_> = tools.into_iter().chain(toolbox.servers().map(|name| format!("{name} (MCP)"))).collect();
    let models = match server.models().is_empty() {
        true => "none: set OPENAI_API_KEY or OPENAI_BASE_URL, or [providers.NAME] in the configuration".to_owned(),
        false => server.models().providers().join(", "),
    };
    let allocator = match server.allocator() {
        Allocator::OnDemand => "on demand",
        Allocator::Pooling => "from a pool",
    };
    let mut lines = vec![format!("outlast {} listening on {url}", env!("CARGO_PKG_VERSION"))];
    lines.push(format!("  agents  {}", agents.join(", ")));
    if !tools.is_empty() {
        lines.push(format!("  tools   {}", tools.join(", ")));
    }
    lines.push(format!("  data    {} ({backend})", manager.store().shown()));
    lines.push(format!("  models  {models}"));
    lines.push(format!("  limits  {}; instances {allocator}", server.live_runs()));
    lines.push(format!("  try     curl -N {url}/v1/responses -H 'content-type: application/json' \\"));
    lines.push(
        "            -d '{\"model\":\"echo\",\"stream\":true,\"input\":\"Hello from a run that outlives its client\",\
         \"metadata\":{\"delay_ms\":\"300\"}}'\n"
            .to_owned(),
    );
    lines.join("\n")
}

fn runtime(name: &str, adjust: impl FnOnce(&mut Builder) -> &mut Builder) -> Result<Runtime, String> {
    let mut builder = Builder::new_multi_thread();
    builder.enable_all().thread_name(name);
    adjust(&mut builder).build().map_err(|error| format!("cannot start threads: {error}"))
}

/// Begins the log. It is written to its end when the value is dropped.
fn log(config: &Config) -> Result<Flush, String> {
    let filter = EnvFilter::try_new(&config.log)
        .map_err(|error| format!("configuration: log = \"{}\" is not a filter like `info`: {error}", config.log))?;
    // No setting lets the calls of imports into a server's log: `outlast plugin run --trace` shows them. Nor what MCP
    // servers are started with and answer: it may be secret.
    let filter = [BINDINGS, "rmcp", "process_wrap"].into_iter().try_fold(filter, |filter, target| {
        let off = format!("{target}=off").parse().map_err(|error| format!("{target}: {error}"))?;
        Ok::<_, String>(filter.add_directive(off))
    })?;
    let coloured = std::io::stderr().is_terminal() && config.log_format == LogFormat::Text;
    let (writer, flush) =
        Log::start(config.log_format, coloured).map_err(|error| format!("cannot start the log: {error}"))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(coloured)
        .log_internal_errors(false)
        .with_writer(writer);
    match config.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    std::panic::set_hook(Box::new(log_panic));
    Ok(flush)
}

/// A panic is a line of the log like any other: the usual way would wait for standard error.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let (thread, place) = (thread.name().unwrap_or("?"), panic.location().map(ToString::to_string));
    let (place, message) = (place.as_deref().unwrap_or("?"), panic.payload_as_str().unwrap_or("not a text"));
    let backtrace = Backtrace::capture();
    match backtrace.status() {
        BacktraceStatus::Captured => error!(thread, %backtrace, "panicked at {place}: {message}"),
        _ => error!(thread, "panicked at {place}: {message}"),
    }
}

fn watch_signals(stop: CancellationToken, hangup: Arc<Notify>) -> Result<(), String> {
    let watch = |kind| signal(kind).map_err(|error| format!("cannot watch signals: {error}"));
    let (mut terminate, mut interrupt) = (watch(SignalKind::terminate())?, watch(SignalKind::interrupt())?);
    let mut reload = watch(SignalKind::hangup())?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = reload.recv() => {
                    hangup.notify_one();
                    continue;
                }
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if stop.is_cancelled() {
                std::process::exit(130);
            }
            stop.cancel();
        }
    });
    Ok(())
}
