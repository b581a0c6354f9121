//! The plugin folder is followed while the server runs.
//!
//! The folder is watched, and looked at now and then besides: a file system may not tell what happens in it. SIGHUP
//! makes a look at once. What a look finds serves the next run; a run that goes on keeps the component that it began
//! with, which is kept in the database before it is served for the first time.
//!
//! What comes from a registry is a file like any other once it is fetched. A registry that does not answer is asked
//! again, and holds up nothing else.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, stream};
use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode},
};
use outlast_plugin::{Fetched, Folder, FolderError, OciReference, PluginVersion, Refused, Registry, Serving, Trust};
use outlast_run::Manager;
use outlast_runtime::clock::{milliseconds, seconds};
use outlast_store::{ServedPlugin, Store, StoreError};
use tokio::{
    sync::Notify,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};

/// How long a file must be the same to be read, and how long a change of the folder is waited on for others.
const SETTLE: Duration = Duration::from_millis(250);
/// The pause between two looks at a folder that is watched.
const LOOK: Duration = Duration::from_secs(10);
/// The pause between two looks at one that cannot be watched.
const LOOK_UNWATCHED: Duration = Duration::from_secs(2);
/// The pause between two attempts to fetch what a registry did not give.
const FETCH_AGAIN: Duration = Duration::from_secs(30);
/// How many components are fetched at once.
const FETCHES: usize = 4;
/// How often components that no run needs any more are looked for.
const SWEEP: Duration = Duration::from_secs(1);
/// How often the database is looked through for components that no run needs any more, where no sweep gives a reason to:
/// a run that sleeps has no component in memory, and may end without waking.
const REMOVE: Duration = Duration::from_secs(600);

/// Looks at the folder once, and lets what it finds serve. Whether another look is needed soon.
///
/// # Errors
///
/// The folder cannot be read, or the database does not keep a component. Nothing has changed then.
pub async fn look(
    folder: &mut Folder,
    registry: &Arc<Registry>,
    store: &Store,
    trust: Trust,
) -> Result<Looked, LookError> {
    let now = std::time::SystemTime::now();
    let change = folder.look(registry, trust, seconds(now)).await?;
    for (sha256, wasm) in &change.components {
        store.keep_component(sha256, wasm, milliseconds(now)).await?;
    }
    if registry.remembers_served() {
        let begins: Vec<_> = change.begins().collect();
        for PluginVersion { kind, name, version } in begins.iter().cloned() {
            store.keep_served(&ServedPlugin { kind, name, version }).await?;
        }
        registry.know_served(begins);
    }
    let looked = Looked { unsettled: change.unsettled, changed: change.changed };
    let Serving { agents, tools } = folder.apply(change);
    if looked.changed {
        registry.toolbox().serve(tools);
        registry.serve(agents);
    }
    Ok(looked)
}

/// What a look led to.
#[derive(Clone, Copy, Debug)]
pub struct Looked {
    /// A file is being written.
    pub unsettled: bool,
    /// Others serve than before.
    pub changed: bool,
}

/// Why a look failed.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// The folder cannot be read.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A component cannot be kept.
    #[error("a new component cannot be stored, and does not serve yet: {0}")]
    Store(#[from] StoreError),
}

/// What a registry did not give yet.
#[derive(Debug)]
pub struct Missing {
    fetched: Fetched,
    references: Vec<OciReference>,
}

/// Fetches these components, several at once. What did not come.
pub async fn fetch(fetched: Fetched, references: Vec<OciReference>) -> Missing {
    let fetching = references.iter().map(|reference| fetched.fetch(reference));
    let outcomes: Vec<_> = stream::iter(fetching).buffered(FETCHES).collect().await;
    let mut missing = Vec::new();
    for (reference, outcome) in references.into_iter().zip(outcomes) {
        if let Err(Refused(why)) = outcome {
            warn!(plugin = %reference, "not served: {why}; retrying every {FETCH_AGAIN:?}");
            missing.push(reference);
        }
    }
    Missing { fetched, references: missing }
}

impl Missing {
    /// Tries again until everything is there.
    async fn retry(self, changed: Arc<Notify>) {
        let Self { fetched, mut references } = self;
        while !references.is_empty() {
            tokio::time::sleep(FETCH_AGAIN).await;
            let mut missing = Vec::new();
            for reference in references {
                match fetched.fetch(&reference).await {
                    Ok(()) => changed.notify_one(),
                    Err(_) => missing.push(reference),
                }
            }
            references = missing;
        }
        // What was fetched for a while is there as long as it serves.
        std::future::pending::<()>().await;
    }
}

/// Follows the folder until it is dropped. `hangup` is notified when the operator wants a look at once.
pub async fn follow(manager: Arc<Manager>, folder: Option<Folder>, missing: Option<Missing>, hangup: Arc<Notify>) {
    let registry = manager.agents().clone();
    let mut sweep = interval(SWEEP);
    let mut next_removal = Instant::now() + REMOVE;
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let Some(mut folder) = folder else {
        loop {
            tokio::select! {
                _ = sweep.tick() => tidy(&manager, &mut next_removal).await,
                () = hangup.notified() => info!("there is no plugin folder to look at: `plugins` names one"),
            }
        }
    };
    let changed = Arc::new(Notify::new());
    let _fetching = missing.map(|missing| AbortOnDropHandle::new(tokio::spawn(missing.retry(changed.clone()))));
    let watcher = watch(&folder, changed.clone());
    let pause = if watcher.is_some() { LOOK } else { LOOK_UNWATCHED };
    // Something may have changed between the look of the start and now.
    let mut next = Instant::now();
    let mut failed = false;
    loop {
        let trust = tokio::select! {
            _ = sweep.tick() => {
                tidy(&manager, &mut next_removal).await;
                continue;
            }
            () = changed.notified() => {
                next = next.min(Instant::now() + SETTLE);
                continue;
            }
            () = hangup.notified() => Trust::Now,
            () = sleep_until(next) => Trust::Settled,
        };
        let looked = look(&mut folder, &registry, manager.store(), trust).await;
        next = Instant::now() + if looked.as_ref().is_ok_and(|looked| looked.unsettled) { SETTLE } else { pause };
        match looked {
            Ok(looked) => {
                failed = false;
                if looked.changed {
                    manager.measure_agents();
                }
                if trust == Trust::Now {
                    info!(changed = looked.changed, "looked at the plugin folder, as asked");
                }
            }
            Err(error) => {
                // Once, and each time that somebody asks.
                if !std::mem::replace(&mut failed, true) || trust == Trust::Now {
                    error!("{error}; all agents are unchanged");
                }
            }
        }
    }
}

/// Drops what no run needs any more: components from memory and, from `next` on or when there was one, from the
/// database.
async fn tidy(manager: &Manager, next: &mut Instant) {
    if !manager.agents().sweep() && Instant::now() < *next {
        return;
    }
    *next = Instant::now() + REMOVE;
    // What is here stays: a run may have begun with it that is not in the database yet.
    if let Err(error) = manager.store().remove_components(&manager.agents().components()).await {
        warn!(%error, "components that no run needs any longer cannot be removed from the database now");
    }
}

/// Watches the folders as long as the watcher lives; none where that is not possible.
fn watch(folder: &Folder, changed: Arc<Notify>) -> Option<RecommendedWatcher> {
    let heard = move |event: notify::Result<notify::Event>| {
        // Reading a file is an event, too, and the looks read.
        let read =
            |kind: &EventKind| matches!(kind, EventKind::Access(kind) if *kind != AccessKind::Close(AccessMode::Write));
        if !event.is_ok_and(|event| read(&event.kind)) {
            changed.notify_one();
        }
    };
    let watching = notify::recommended_watcher(heard).and_then(|mut watcher| {
        for folder in folder.watched() {
            watcher.watch(&folder, RecursiveMode::NonRecursive)?;
        }
        Ok(watcher)
    });
    match watching {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            warn!("the plugin folder cannot be watched, and is looked at every {LOOK_UNWATCHED:?}: {error}");
            None
        }
    }
}
