//! Files that are being loaded.
//!
//! Each is loaded by a task of its own, so that one that takes minutes holds up no other. A look waits as long as there is
//! progress, and the next one takes over what became ready meanwhile. As many are begun at once as there are cores; one
//! that takes long lets others begin.

use std::{fmt, path::PathBuf, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{
    FutureExt as _, StreamExt as _,
    future::{BoxFuture, Shared},
    stream::FuturesUnordered,
};
use sha2::{Digest as _, Sha256};
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::files::{Stamp, read};
use crate::{
    refused::Refused,
    supply::{plugin::Plugin, registry::Registry},
};

/// How long a file keeps others from being begun.
const TURN: Duration = Duration::from_secs(10);

/// What reading a file led to.
#[derive(Clone, Debug)]
pub(super) enum Candidate {
    /// It changed meanwhile.
    Moving,
    /// It has the same bytes as before.
    Same,
    Fits(Plugin, Bytes),
    Refused(Refused),
}

/// A file that is being loaded. It is given up when all copies of this are dropped.
#[derive(Clone)]
pub(super) struct Loading {
    /// The file as it was.
    pub(super) stamp: Stamp,
    /// Whether it was there at the first look.
    pub(super) early: bool,
    candidate: Shared<BoxFuture<'static, Candidate>>,
}

impl Loading {
    /// Begins to load a file, under which `serving` serves.
    pub(super) fn begin(
        registry: &Arc<Registry>,
        path: PathBuf,
        stamp: Stamp,
        serving: Option<Plugin>,
        early: bool,
        now: i64,
    ) -> Self {
        let registry = registry.clone();
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            let permit = registry.load_permits().acquire_owned().await;
            let mut loaded = pin!(candidate(&registry, path, stamp, serving, now));
            tokio::select! {
                loaded = &mut loaded => return loaded,
                () = sleep(TURN) => drop(permit),
            }
            loaded.await
        }));
        let failed = |error| Candidate::Refused(Refused(format!("loading it failed: {error}")));
        let candidate = async move { task.await.unwrap_or_else(failed) };
        Self { stamp, early, candidate: candidate.boxed().shared() }
    }

    /// One that is ready.
    #[cfg(test)]
    pub(super) fn done(candidate: Candidate, early: bool) -> Self {
        let candidate = futures::future::ready(candidate).boxed().shared();
        Self { stamp: Stamp::default(), early, candidate }
    }

    /// What it led to; none while it is loaded.
    pub(super) fn ready(&self) -> Option<Candidate> {
        self.candidate.clone().now_or_never()
    }
}

impl fmt::Debug for Loading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loading").field("stamp", &self.stamp).finish_non_exhaustive()
    }
}

/// Waits until these are ready, or none of them has become so for this long.
pub(super) async fn settle(loading: Vec<Loading>, patience: Duration) {
    let mut open: FuturesUnordered<_> = loading.into_iter().map(|loading| loading.candidate).collect();
    while let Ok(Some(_)) = timeout(patience, open.next()).await {}
}

/// Reads a file and loads what is in it.
async fn candidate(registry: &Registry, path: PathBuf, stamp: Stamp, serving: Option<Plugin>, now: i64) -> Candidate {
    let wasm = match read(&path, stamp, registry.plugin_bytes()).await {
        Ok(wasm) => wasm,
        Err(why) => return Candidate::Refused(why),
    };
    if Stamp::of(&path).await != stamp {
        return Candidate::Moving;
    }
    if serving.is_some_and(|plugin| plugin.sha256() == hex::encode(Sha256::digest(&wasm))) {
        return Candidate::Same;
    }
    match registry.load_file(&path, wasm.clone(), now).await {
        Ok(plugin) => Candidate::Fits(plugin, wasm),
        Err(why) => Candidate::Refused(why),
    }
}
