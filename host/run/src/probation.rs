//! Runs that may have brought the server down are let in a few at a time.
//!
//! After a life that ended badly nobody knows which run was to blame. Those that had an instance in two such lives, and did
//! not get on in between, are executed again in small groups, the most suspicious first: whoever does no harm for a while is
//! forgiven, and a run that brings the server down is counted with fewer and fewer others beside it. So it is alone when it
//! is counted for the last time, and its neighbours are not ended with it.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::{
    Manager, Run,
    life::{Begin, Later},
};

/// From how many attempts on a run is suspicious.
pub(super) const SUSPICIOUS: i64 = 2;
/// How long a run must be executed to have done no harm.
const PROBATION: Duration = Duration::from_secs(1);

/// How many runs with so many attempts are let in at once.
fn group(attempts: i64) -> usize {
    match attempts {
        ..=2 => 16,
        3 => 4,
        _ => 1,
    }
}

/// Lets these runs in, each with its number of attempts.
pub(super) fn let_in(manager: &Arc<Manager>, mut suspects: Vec<(Arc<Run>, i64)>) {
    if suspects.is_empty() {
        return;
    }
    info!(
        runs = suspects.len(),
        "runs that were executed when the server last ended badly are resumed a few at a time"
    );
    suspects.sort_by_key(|(_, attempts)| -attempts);
    let mut held: Vec<_> = suspects.into_iter().map(|(run, attempts)| hold(manager, run, attempts)).collect();
    let manager = manager.clone();
    tokio::spawn(async move {
        while let Some(first) = held.first() {
            let rest = held.split_off(group(first.attempts).min(held.len()));
            watch(&manager, std::mem::replace(&mut held, rest)).await;
        }
    });
}

/// A run that is not executed yet.
struct Held {
    run: Arc<Run>,
    attempts: i64,
    turn: oneshot::Sender<()>,
    began: oneshot::Receiver<()>,
}

fn hold(manager: &Arc<Manager>, run: Arc<Run>, attempts: i64) -> Held {
    let ((turn, let_go), (say, began)) = (oneshot::channel(), oneshot::channel());
    let later = Later { turn: Some(let_go), began: Some(say), ..Later::default() };
    manager.live(run.clone(), Begin::Later(later), None, manager.token());
    Held { run, attempts, turn, began }
}

/// Executes a group, and forgives those that do no harm.
async fn watch(manager: &Manager, group: Vec<Held>) {
    let mut runs = Vec::new();
    let mut began = Vec::new();
    for held in group {
        // Fails when the run has ended meanwhile.
        let _ = held.turn.send(());
        runs.push(held.run);
        began.push(held.began);
    }
    join_all(began).await;
    let ended = join_all(runs.iter().map(|run| run.feed.wait(|feed| feed.closed().then_some(()))));
    if tokio::time::timeout(PROBATION, ended).await.is_ok() {
        return;
    }
    let left: Vec<_> = runs.iter().filter(|run| !run.feed.closed()).map(|run| &run.id).collect();
    if let Err(error) = manager.store().forgive_attempts(&left).await {
        warn!(%error, "cannot write that runs are not suspicious any more");
    }
}
