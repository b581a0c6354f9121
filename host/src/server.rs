//! Puts the rooms together, and takes them apart in order.

use std::{net::SocketAddr, panic::resume_unwind, sync::Arc, time::SystemTime};

use tokio::{net::TcpListener, runtime::Handle, sync::Notify, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    config::{self, CacheConfig, Config, bytes},
    http::{self, Api, ApiLimits, ConnectionLimits, Keys},
    metrics::Metrics,
    model::{ModelConfigError, Models},
    plugin::{CacheError, Engine, Folder, GrantError, Grants, Refused, Registry, Trust},
    reload::{self, LookError},
    run::{self, Manager, Queues, Seal, Services, Writer},
    store::{Store, StoreError},
};

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A model provider.
    #[error(transparent)]
    Models(#[from] ModelConfigError),
    /// What an agent is granted.
    #[error(transparent)]
    Grants(#[from] GrantError),
    /// The address.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, std::io::Error),
    /// The plugin folder.
    #[error("cannot read the plugin folder {0}: {1}")]
    Plugins(String, std::io::Error),
    /// A bundled agent.
    #[error("{0}")]
    Bundled(Refused),
    /// A folder for a while.
    #[error("cannot make a temporary folder: {0}")]
    Scratch(std::io::Error),
    /// The folder for compiled code.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The WebAssembly engine.
    #[error("cannot run WebAssembly on this machine: {0}")]
    Engine(String),
}

/// A server that is ready to serve.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    manager: Arc<Manager>,
    api: Api,
    config: Config,
    models: Arc<Models>,
    writers: JoinSet<Result<(), StoreError>>,
    folder: Option<Folder>,
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
        let metrics = Arc::new(Metrics::new(limits.max_live_runs, config.limits.connections));
        let models = Arc::new(Models::new(&config.models(), &metrics.models)?);
        let plugin_limits = config.plugin_limits();
        let grants = Grants::new(config.agents.clone(), config.tools_config(), &plugin_limits, &metrics)?;
        // Taken early, so that two servers do not both do the long part before one of them fails.
        let listener =
            TcpListener::bind(config.listen).await.map_err(|error| StartError::Listen(config.listen, error))?;
        let address = listener.local_addr().map_err(|error| StartError::Listen(config.listen, error))?;
        let store = Store::open(&config.database).await?.leased_for(config.lease);
        let mut connection = store.writer().await?;
        let active = connection.take_over().await?;
        // From here on they keep the database this server's, however long the rest takes.
        let (durable, durable_queue) = Writer::new(Some(connection), &metrics.commits);
        let (ephemeral, ephemeral_queue) = Writer::new(None, &metrics.commits);
        let keep = config.lease / 3;
        let writers = [durable, ephemeral].map(|writer| writer.run(keep)).into_iter().collect();

        let engine = cached(Engine::new().map_err(|error| StartError::Engine(format!("{error:#}")))?, &config.cache)?;
        let now = run::seconds(SystemTime::now());
        let mut registry = Registry::new(engine, plugin_limits, models.clone(), grants, config.signatures());
        for (sha256, wasm) in registry.add_bundled(now).await.map_err(StartError::Bundled)? {
            store.keep_component(&sha256, &wasm, run::milliseconds(SystemTime::now())).await?;
        }
        registry.toolbox().start();
        let mut folder = config.plugins.clone().map(Folder::new);
        if let Some(folder) = &mut folder {
            let looked = reload::look(folder, &registry, &store, Trust::Now).await;
            looked.map_err(|error| match error {
                LookError::Folder(error) => StartError::Plugins(folder.path().display().to_string(), error),
                LookError::Store(error) => error.into(),
            })?;
        }
        let served = registry.served();
        let served: Vec<&str> = served.iter().map(|agent| agent.sha256.as_str()).collect();
        store.remove_components(&served).await?;

        let seal = Seal::of(&store).await?;
        let manager = Manager::new(
            store,
            Arc::new(registry),
            limits,
            config.principal_limits(),
            Services {
                queues: Queues { durable: durable_queue, ephemeral: ephemeral_queue },
                seal,
                guests,
                metrics: metrics.clone(),
            },
        );
        metrics.runs.resumed.inc_by(run::resume(&manager, active).await? as u64);
        let api = Api {
            manager: manager.clone(),
            keys: Arc::new(Keys::new(&config.keys)),
            limits: ApiLimits {
                body_bytes: bytes(config.limits.body_bytes),
                body_timeout: config.limits.body_timeout,
                keep_alive: config.limits.keep_alive,
                websocket: config.websocket_limits(),
                request: config.request_limits(),
            },
            metrics,
        };
        Ok(Self { listener, address, manager, api, config, models, writers, folder })
    }

    /// Where the server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The runs.
    pub fn manager(&self) -> &Manager {
        &self.manager
    }

    /// The upstream models.
    pub fn models(&self) -> &Models {
        &self.models
    }

    /// Serves until `stop`; `hangup` is notified when the plugin folder is to be looked at. Then readiness is false and new runs are refused, the runs that go on have
    /// `drain_timeout` to finish, the others are left to the next start or ended, every stream ends, and the database is
    /// closed.
    ///
    /// # Errors
    ///
    /// Another server has taken over the database: this one stops where it stands.
    pub async fn serve(self, stop: CancellationToken, hangup: Arc<Notify>) -> Result<(), StoreError> {
        let Self { listener, manager, api, config, mut writers, folder, .. } = self;
        let closing = CancellationToken::new();
        let limits =
            ConnectionLimits { connections: config.limits.connections, header_timeout: config.limits.header_timeout };
        let metrics = api.metrics.clone();
        let connections = tokio::spawn(http::serve(listener, http::router(api), limits, metrics, closing.clone()));
        let expiry = tokio::spawn(run::expire(manager.store().clone(), config.retention, stop.clone()));
        let reload = tokio::spawn(reload::follow(manager.clone(), folder, hangup));
        let stopped = async {
            stop.cancelled().await;
            info!("shutting down");
            reload.abort();
            manager.drain(config.drain_timeout).await;
            manager.agents().toolbox().stop().await;
            closing.cancel();
            if let Err(error) = connections.await {
                error!(%error, "the server's accept loop failed");
            }
        };
        let served = tokio::select! {
            () = stopped => Ok(()),
            Some(ended) = writers.join_next() => ended.unwrap_or_else(|error| resume_unwind(error.into_panic())),
        };
        writers.shutdown().await;
        expiry.abort();
        reload.abort();
        // What goes on at a server that was replaced is cut off, and waited for by nobody.
        if served.is_ok() {
            manager.store().close().await;
            info!("stopped");
        }
        served
    }
}

/// The engine, with the folder for compiled code that the configuration names.
fn cached(engine: Engine, cache: &CacheConfig) -> Result<Engine, CacheError> {
    match cache {
        CacheConfig::Enabled(false) => Ok(engine),
        CacheConfig::Folder(folder) => engine.cached_in(folder),
        CacheConfig::Enabled(true) => match config::default_cache(|name| std::env::var_os(name)) {
            None => {
                warn!("there is no folder for compiled code: neither XDG_CACHE_HOME nor HOME is set, nor `cache`");
                Ok(engine)
            }
            // Nobody asked for it: a server without a place to write starts all the same, later.
            Some(folder) => match engine.clone().cached_in(&folder) {
                Err(error @ CacheError::Io(..)) => {
                    warn!("compiled code is not kept: {error}");
                    Ok(engine)
                }
                opened => opened,
            },
        },
    }
}
