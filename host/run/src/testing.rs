//! The rooms of a server around its runs, with a clock that stands until a test moves it.

use std::{sync::Arc, time::Duration};

use outlast_metrics::Metrics;
use outlast_model::{Models, ModelsConfig};
use outlast_plugin::{Engine, Grants, PluginLimits, Registry, Signatures, ToolsConfig};
use outlast_protocol::{CreateRequest, RequestLimits, ResponseId};
use outlast_runtime::clock::Clock;
use outlast_store::Store;
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::{Created, Manager, Queues, Run, RunLimits, RunSecrets, Seal, Services, Shares, Subscription, Writer};

/// Whose the runs are.
pub(crate) const ANN: &str = "ann";
/// What the clock shows at first, since 1970.
pub(crate) const BEGIN: Duration = Duration::from_secs(1_800_000_000);
/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(60);

/// A manager with its database, on a folder that is gone with this.
pub(crate) struct Rooms {
    pub clock: Clock,
    pub store: Store,
    pub manager: Arc<Manager>,
    pub queues: Queues,
    pub limits: RunLimits,
    pub metrics: Arc<Metrics>,
    _folder: TempDir,
}

impl Rooms {
    /// Without agents.
    pub(crate) async fn open(limits: RunLimits) -> Self {
        Self::with(limits, false).await
    }

    /// With the bundled agents.
    pub(crate) async fn with_agents(limits: RunLimits) -> Self {
        Self::with(limits, true).await
    }

    async fn with(limits: RunLimits, agents: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (clock, metrics) = (Clock::standing(BEGIN), Arc::new(Metrics::new(1, 1)));
        let models = Arc::new(Models::new(&ModelsConfig::default(), &metrics.models).unwrap());
        let (granted, tools) = (Default::default(), ToolsConfig::default());
        let grants = Grants::new(granted, tools, PluginLimits::default(), &metrics).unwrap();
        let mut registry = Registry::new(Engine::new().unwrap(), models, grants, Signatures::default());
        let store = Store::open(folder.path().join("a.db").to_str().unwrap()).await.unwrap();
        if agents {
            for (sha256, wasm) in registry.add_bundled(clock.seconds()).await.unwrap() {
                store.keep_component(&sha256, &wasm, clock.milliseconds()).await.unwrap();
            }
        }
        let connection = store.writer().await.unwrap();
        let (writer, durable) = Writer::new(Some(connection), clock.clone(), &metrics.commits);
        tokio::spawn(writer.run(Duration::from_secs(5), CancellationToken::new()));
        let (_, ephemeral) = Writer::new(None, clock.clone(), &metrics.commits);
        let queues = Queues { durable, ephemeral };
        let services = Services {
            queues: queues.clone(),
            seal: Seal::of(&store).await.unwrap(),
            secrets: RunSecrets::of(&store, 1).await.unwrap(),
            guests: Handle::current(),
            metrics: metrics.clone(),
        };
        let manager = Manager::new(store.clone(), Arc::new(registry), limits, Shares::default(), services);
        Self { clock, store, manager, queues, limits, metrics, _folder: folder }
    }

    /// Begins a run of this request.
    pub(crate) async fn begin(&self, request: Value) -> (Subscription, Arc<Run>) {
        let limits = RequestLimits { text_bytes: 1_000, input_items: 10 };
        let request = CreateRequest::parse(request.to_string().as_bytes(), &limits).unwrap();
        let Created::Now(subscription) = self.manager.create(ANN, request, None).await.unwrap() else { panic!() };
        let id = subscription.id().clone();
        let run = self.manager.live.lock().runs[&id].clone();
        (subscription, run)
    }

    /// The text of a response; none when it is not there.
    pub(crate) async fn text(&self, id: &ResponseId) -> Option<String> {
        let row = self.store.response(ANN, id).await.unwrap()?;
        let response: Value = serde_json::from_str(&row.response.unwrap_or_default()).unwrap_or_default();
        Some(response["output"][0]["content"][0]["text"].as_str().unwrap_or_default().to_owned())
    }
}

/// Waits until it is so.
pub(crate) async fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let so = async {
        while !is() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, so).await.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"));
}
