//! Puts the rooms together, and takes them apart in order.

use std::{net::SocketAddr, panic::resume_unwind, path::PathBuf, sync::Arc, time::Duration};

use outlast_http::{Api, Bodies, Certificates, Hosts, Keys};
use outlast_metrics::Metrics;
use outlast_model::{ModelConfigError, Models};
use outlast_plugin::{
    Allocator, CacheError, Courier, Engine, Fetched, Folder, FolderError, GrantError, Grants, PluginVersion, Refused,
    Registry, Source, Trust,
};
use outlast_run::{Manager, Queues, RunSecrets, Seal, Services, Webhooks, Writer};
use outlast_runtime::clock::Clock;
use outlast_store::{ServedPlugin, Store, StoreError};
use tokio::{
    net::TcpListener,
    runtime::Handle,
    sync::Notify,
    task::{JoinError, JoinSet},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{info, warn};

use crate::{
    config::{CacheConfig, Config},
    machine::LiveRuns,
    reconfigure::{Exchange, Reread},
    reload::{self, LookError, Missing},
};

/// The folder for what comes from registries, in that for compiled code.
pub(crate) const FETCHED: &str = "oci";
/// How long the last connection to the database may take to be closed.
const LAST_CLOSE: Duration = Duration::from_secs(10);

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Where it is.
    #[error("configuration: database {0}")]
    Database(String),
    /// A model provider.
    #[error(transparent)]
    Models(#[from] ModelConfigError),
    /// What an agent is granted.
    #[error(transparent)]
    Grants(#[from] GrantError),
    /// The pages that may use it.
    #[error("configuration: {0}")]
    Origins(String),
    /// What it shows over TLS.
    #[error("configuration: {0}")]
    Tls(String),
    /// The address.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, std::io::Error),
    /// The plugin folder.
    #[error(transparent)]
    Plugins(#[from] FolderError),
    /// A file that the configuration names.
    #[error("configuration: plugins: there is no file {0}")]
    NoPlugin(String),
    /// A bundled agent.
    #[error("{0}")]
    Bundled(Refused),
    /// A folder for a while.
    #[error("cannot make a temporary folder: {0}")]
    Scratch(std::io::Error),
    /// The folder for compiled code.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// Who is told when responses end.
    #[error("webhooks: {0}")]
    Webhooks(String),
    /// The WebAssembly engine.
    #[error("cannot run WebAssembly on this machine: {0}")]
    Engine(String),
}

/// Why a server has ended that was not asked to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// It does not own its database any more.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Nobody accepts connections any more.
    #[error("the server no longer accepts connections: {0}")]
    Deaf(String),
}

/// A server that is ready to serve.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    certificates: Option<Arc<Certificates>>,
    manager: Arc<Manager>,
    api: Api,
    config: Config,
    models: Arc<Models>,
    writers: JoinSet<Result<(), StoreError>>,
    /// Lets the writers end.
    close: CancellationToken,
    folder: Option<Folder>,
    missing: Option<Missing>,
}

impl Server {
    /// Takes the address, opens the database, loads the agents, and lets the runs go on that the last stop cut off.
    /// `guests` is the runtime on which agents run.
    ///
    /// # Errors
    ///
    /// The server cannot start; the error says why.
    pub async fn start(config: Config, guests: Handle) -> Result<Self, StartError> {
        let limits = config.run_limits();
        let metrics = Arc::new(Metrics::new(limits.max_live_runs, config.limits.connections.connections));
        let models = Arc::new(Models::new(&config.models(), &metrics.models)?);
        let grants = Grants::new(config.agents.clone(), config.tools_config(), config.plugin_limits(), &metrics)?;
        let certificates = config.tls.clone().map(|files| Certificates::open(files, metrics.clone()));
        let certificates = certificates.transpose().map_err(StartError::Tls)?;
        // Taken early, so that two servers do not both do the long part before one of them fails.
        let listener =
            TcpListener::bind(config.listen).await.map_err(|error| StartError::Listen(config.listen, error))?;
        let address = listener.local_addr().map_err(|error| StartError::Listen(config.listen, error))?;
        let database = config.database.resolve(|name| std::env::var(name).ok()).map_err(StartError::Database)?;
        let store = Store::open(&database).await?.leased_for(config.lease);
        let mut connection = store.writer().await?;
        let active = connection.take_over().await?;
        let clock = Clock::system();
        // From here on they keep the database this server's, however long the rest takes.
        let (durable, durable_queue) = Writer::new(Some(connection), clock.clone(), &metrics.commits);
        let (ephemeral, ephemeral_queue) = Writer::new(None, clock.clone(), &metrics.commits);
        let keep = config.lease / 3;
        let close = CancellationToken::new();
        let writers = [durable, ephemeral].map(|writer| writer.run(keep, close.clone())).into_iter().collect();

        let engine = config.pool().map_or_else(Engine::new, Engine::pooled);
        let engine = engine.map_err(|error| StartError::Engine(format!("{error:#}")))?;
        let engine = cached(engine.with_memory(config.instances_memory()), &config)?;
        let now = clock.seconds();
        let mut registry = Registry::new(engine, models.clone(), grants, config.signatures());
        for (sha256, wasm) in registry.add_bundled(now).await.map_err(StartError::Bundled)? {
            store.keep_component(&sha256, &wasm, clock.milliseconds()).await?;
        }
        let served = store.served().await?.into_iter();
        registry.know_served(served.map(|ServedPlugin { kind, name, version }| PluginVersion { kind, name, version }));
        let registry = Arc::new(registry);
        registry.toolbox().start();
        let (paths, missing) = plugins(&config).await?;
        let mut folder = (!paths.is_empty()).then(|| Folder::new(paths));
        if let Some(folder) = &mut folder {
            let looked = reload::look(folder, &registry, &store, Trust::Now).await;
            looked.map_err(|error| match error {
                LookError::Folder(error) => StartError::from(error),
                LookError::Store(error) => error.into(),
            })?;
        }
        warn_of_unknown(&registry);
        if !config.require_signature {
            warn_of_unpinned(&registry);
        }
        store.remove_components(&registry.components()).await?;

        let seal = Seal::of(&store).await?;
        let secrets = RunSecrets::of(&store, clock.milliseconds()).await?;
        let courier = Courier::new(config.webhook_private.clone()).map_err(StartError::Webhooks)?;
        let (limit, bell) = (config.limits.webhooks, durable_queue.deliveries());
        let webhooks =
            Webhooks::new(store.clone(), seal.clone(), courier, limit, metrics.webhooks.clone(), clock.clone(), bell);
        let configured = config.webhooks().map_err(StartError::Webhooks)?;
        webhooks.configure(&configured).await.map_err(|error| StartError::Webhooks(error.message))?;
        let manager = Manager::new(
            store,
            registry,
            limits,
            config.shares(),
            Services {
                queues: Queues { durable: durable_queue, ephemeral: ephemeral_queue },
                seal,
                secrets,
                guests,
                metrics: metrics.clone(),
            },
        );
        metrics.runs.resumed.inc_by(outlast_run::resume(&manager, active) as u64);
        let api = Api {
            manager: manager.clone(),
            webhooks,
            keys: Arc::new(Keys::new(&config.keys, clock, metrics.http.clone())),
            hosts: if config.keys.is_empty() { Hosts::local(&config.allowed_hosts) } else { Hosts::any() },
            origins: config.origins().map_err(StartError::Origins)?,
            bodies: Bodies::new(config.limits.api.bodies_bytes, config.limits.api.body_bytes, !config.keys.is_empty()),
            limits: config.limits.api,
            metrics,
        };
        Ok(Self { listener, address, certificates, manager, api, config, models, writers, close, folder, missing })
    }

    /// Where the server listens: `http://127.0.0.1:8642`.
    pub fn url(&self) -> String {
        let scheme = if self.certificates.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// How many runs may go on at once, and why not more.
    pub fn live_runs(&self) -> LiveRuns {
        self.config.live_runs()
    }

    /// How instances get their memory.
    pub fn allocator(&self) -> Allocator {
        self.config.allocator
    }

    /// The runs.
    pub fn manager(&self) -> &Manager {
        &self.manager
    }

    /// The upstream models.
    pub fn models(&self) -> &Models {
        &self.models
    }

    /// Serves until `stop`; when `hangup` is notified, the keys are taken from what `reread` reads, and the certificate
    /// and the plugin folder are looked at. Then readiness is false and new runs are refused, the runs that go on have
    /// `drain_timeout` to finish, the others are left to the next start or ended, every stream ends, and the database is
    /// closed.
    ///
    /// # Errors
    ///
    /// Another server has taken over the database, or connections are not accepted any more: this one stops where it stands.
    pub async fn serve(self, stop: CancellationToken, hangup: Arc<Notify>, reread: Reread) -> Result<(), ServeError> {
        let Self { listener, certificates, manager, api, config, mut writers, close, folder, missing, .. } = self;
        let closing = CancellationToken::new();
        let limits = config.connection_limits();
        let metrics = api.metrics.clone();
        let (keys, look) = (api.keys.clone(), Arc::new(Notify::new()));
        let following = certificates.clone().map(|it| AbortOnDropHandle::new(tokio::spawn(it.follow())));
        let tls = certificates.clone();
        let exchange = Exchange { keys, certificates, manager: manager.clone(), metrics: metrics.clone(), reread };
        let exchanging = AbortOnDropHandle::new(tokio::spawn(exchange.follow(hangup, look.clone())));
        let routes = outlast_http::router(api.clone());
        let mut connections =
            tokio::spawn(outlast_http::serve(listener, tls, routes, limits, metrics, closing.clone()));
        let expiry = tokio::spawn(outlast_run::expire(manager.clone(), config.retentions(), stop.clone()));
        let reload = tokio::spawn(reload::follow(manager.clone(), folder, missing, look));
        let told = CancellationToken::new();
        let mut delivering = AbortOnDropHandle::new(tokio::spawn(api.webhooks.clone().deliver(told.clone())));
        let stopped = async {
            stop.cancelled().await;
            info!("shutting down");
            reload.abort();
            manager.drain(config.drain_timeout).await;
            told.cancel();
            if let Err(error) = (&mut delivering).await {
                warn!(%error, "the task that delivers to webhooks has panicked");
            }
            manager.agents().toolbox().stop().await;
        };
        let watched = async {
            tokio::select! {
                () = stopped => closing.cancel(),
                // A server that nobody can reach is restarted by whoever watches its process, and only then.
                ended = &mut connections => return Err(deaf(ended)),
            }
            connections.await.map_err(|error| deaf(Err(error)))
        };
        let served = tokio::select! {
            served = watched => served,
            Some(ended) = writers.join_next() => {
                ended.unwrap_or_else(|error| resume_unwind(error.into_panic())).map_err(ServeError::from)
            }
        };
        expiry.abort();
        reload.abort();
        drop((exchanging, following));
        // What goes on at a server that was replaced is cut off, and waited for by nobody.
        if served.is_ok() {
            manager.store().close().await;
            // The writer's connection last: on SQLite, whoever closes last brings the file up to date.
            close.cancel();
            let _ = tokio::time::timeout(LAST_CLOSE, async { while writers.join_next().await.is_some() {} }).await;
            info!("stopped");
        }
        writers.shutdown().await;
        served
    }
}

/// Why the accept loop has ended that should not have.
fn deaf(ended: Result<(), JoinError>) -> ServeError {
    ServeError::Deaf(ended.map_or_else(|error| error.to_string(), |()| "its task has ended".to_owned()))
}

/// The folders and files that serve. What comes from registries is fetched; what they do not give now is told, too.
async fn plugins(config: &Config) -> Result<(Vec<PathBuf>, Option<Missing>), StartError> {
    let references = config.plugins.iter().filter_map(|source| match source {
        Source::Registry(reference) => Some(reference.clone()),
        Source::Path(_) => None,
    });
    let references: Vec<_> = references.collect();
    let fetched = match references.is_empty() {
        true => None,
        false => Some(fetched(config)?),
    };
    let mut paths = Vec::new();
    for source in &config.plugins {
        paths.push(match (source, &fetched) {
            (Source::Path(path), _) => {
                if source.folder().is_none() && !path.exists() {
                    return Err(StartError::NoPlugin(path.display().to_string()));
                }
                path.clone()
            }
            (Source::Registry(reference), Some(fetched)) => fetched.path(reference),
            (Source::Registry(_), None) => continue,
        });
    }
    let missing = match fetched {
        Some(fetched) => Some(reload::fetch(fetched, references).await),
        None => None,
    };
    Ok((paths, missing))
}

/// What was fetched from registries.
fn fetched(config: &Config) -> Result<Fetched, StartError> {
    let limits = config.fetch_limits();
    match config.cache_folder() {
        Some(folder) => Ok(Fetched::open(&folder.join(FETCHED), limits)?),
        None => Fetched::temporary(limits).map_err(StartError::Scratch),
    }
}

/// Tells of sections of agents that are not there: a name may be misspelt.
fn warn_of_unknown(registry: &Registry) {
    for name in registry.grants().names().filter(|name| registry.get(name).is_none()) {
        let served = registry.served();
        let names: Vec<_> = served.iter().map(|agent| agent.description.name.as_str()).collect();
        warn!(
            "the configuration has a section for the agent `{name}`, which is not loaded; loaded: {}",
            names.join(", ")
        );
    }
}

/// Tells of agents and tool components that are granted something and may be any component of their name.
fn warn_of_unpinned(registry: &Registry) {
    for section in registry.grants().unpinned(|agent| registry.get(agent).is_some()) {
        warn!(
            "`[{section}]` grants something to any component with this name: `sha256 = \"…\"` in it lets only one have \
             it (`outlast plugin list --json` has the digests)"
        );
    }
}

/// The engine, with the folder for compiled code that the configuration names.
pub(crate) fn cached(engine: Engine, config: &Config) -> Result<Engine, CacheError> {
    match (&config.cache, config.cache_folder()) {
        (CacheConfig::Enabled(false), _) => Ok(engine),
        (_, None) => {
            warn!("there is no folder for compiled code: neither XDG_CACHE_HOME nor HOME is set, nor `cache`");
            Ok(engine)
        }
        (CacheConfig::Folder(_), Some(folder)) => engine.cached_in(&folder),
        // Nobody asked for it: a server without a place to write starts all the same, later.
        (CacheConfig::Enabled(true), Some(folder)) => match engine.clone().cached_in(&folder) {
            Err(error @ CacheError::Io(..)) => {
                warn!("compiled code is not stored: {error}");
                Ok(engine)
            }
            opened => opened,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_server_that_accepts_no_connections_any_more_ends_and_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config {
            listen: ([127, 0, 0, 1], 0).into(),
            database: folder.path().join("outlast.db").display().to_string().as_str().into(),
            cache: CacheConfig::Enabled(false),
            ..Config::default()
        };
        // More than a semaphore takes. What is read from a file is checked; this makes the accept loop panic.
        config.limits.connections.connections = usize::MAX;
        let server = Server::start(config, Handle::current()).await.unwrap();
        let served = server.serve(CancellationToken::new(), Arc::default(), Arc::new(|| Ok(Config::default()))).await;
        assert!(matches!(&served, Err(ServeError::Deaf(why)) if why.contains("panicked")), "{served:?}");
    }
}
