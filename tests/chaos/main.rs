//! The chaos test: many clients, and a server that is killed, stopped, paused, and robbed of its database, at moments
//! that a seed chooses. Nothing may be lost, come twice, or contradict what a client saw.
//!
//! ```text
//! cargo test -p outlast --test chaos
//! OUTLAST_CHAOS_SEED=7 OUTLAST_CHAOS_SECONDS=3600 cargo test --release -p outlast --test chaos sqlite -- --nocapture
//! ```
//!
//! | variable | default | |
//! |---|---|---|
//! | `OUTLAST_CHAOS_SEED` | 3 | of everything that is chosen |
//! | `OUTLAST_CHAOS_SECONDS` | 20 | how long the faults go on, on each database |
//!
//! It goes in rounds of at most 20 seconds of faults. Each has a fresh database and a seed of its own, the next number,
//! so that a round of a long night can be seen again alone. The choices come from the seed; the moments at which they
//! meet the server are the machine's, so that a seed that has failed may have to be tried more than once.
//!
//! | module | what it is |
//! |---|---|
//! | [`runs`] | what is asked for, and what must come of it |
//! | [`halls`] | conversations in which several clients take turns |
//! | [`marks`] | what the test itself has deleted, aged and damaged |
//! | [`clients`] | who asks, and comes back until the run has ended |
//! | [`upstream`] | the model, which counts its calls |
//! | [`letters`] | where requests with effects arrive, which are counted too |
//! | [`faults`] | what happens to the server |
//! | [`journals`] | what was recorded when it was killed |
//! | [`check`] | what must hold when all is over |
//! | [`report`] | what happened |

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod check;
mod clients;
mod faults;
mod halls;
#[path = "../harness/mod.rs"]
mod harness;
mod journals;
mod letters;
mod marks;
mod report;
mod runs;
mod upstream;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use clients::{Client, Seen, World};
use faults::Faults;
use harness::{
    database::{self, Database},
    postgres::Postgres,
    process, wait,
};
use letters::Letterbox;
use marks::Marks;
use report::{Again, Report};
use upstream::Upstream;

/// Clients at once.
const CLIENTS: u64 = 24;
/// The longest round.
const ROUND: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite() {
    rounds("sqlite").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres() {
    rounds("postgres").await;
}

async fn rounds(test: &'static str) {
    let _alone = database::alone().await;
    process::raise_open_files();
    let mut seed = setting("OUTLAST_CHAOS_SEED", 3);
    let mut left = Duration::from_secs(setting("OUTLAST_CHAOS_SECONDS", ROUND.as_secs()));
    while !left.is_zero() {
        let length = left.min(ROUND);
        left -= length;
        let cluster = match test {
            "postgres" => match Postgres::private() {
                Some(cluster) => Some(cluster),
                None => return,
            },
            _ => None,
        };
        round(Again { test, seed, length }, cluster).await;
        seed += 1;
    }
}

fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} must be a whole number; it is {text:?}")),
        Err(_) => default,
    }
}

async fn round(again: Again, cluster: Option<Postgres>) {
    let begun = Instant::now();
    let database = match &cluster {
        Some(cluster) => Database::Postgres(cluster.database().await),
        None => Database::Sqlite,
    };
    let (upstream, letterbox) = (Upstream::start(again.seed).await, Letterbox::start().await);
    let marks = Arc::<Marks>::default();
    let others = (upstream.clone(), letterbox.clone(), marks.clone());
    let mut faults = Faults::start(again.seed, database, cluster, others);
    let world = World::new(faults.url(), letterbox.url(), marks);
    let mut clients: JoinSet<Vec<Seen>> =
        (0..CLIENTS).map(|n| Client::new(world.clone(), again.seed, n).work()).collect();

    let end = begun + again.length;
    let mut seen = Vec::new();
    while Instant::now() < end {
        faults.one().await;
        // A client that failed is a reason to stop at once.
        while let Some(ended) = clients.try_join_next() {
            seen.extend(finished(ended));
        }
    }
    faults.last().await;
    world.stop();
    let rest = async {
        while let Some(ended) = clients.join_next().await {
            seen.extend(finished(ended));
        }
    };
    wait::within(wait::PATIENCE * 2, "every client sees the end of its run", rest).await;

    let checked = check::all(&mut faults, &world, &upstream, &letterbox, &seen).await;
    Report { again: &again, took: begun.elapsed(), faults: &faults, seen: &seen, checked }.print();
}

fn finished(ended: Result<Vec<Seen>, tokio::task::JoinError>) -> Vec<Seen> {
    match ended {
        Ok(seen) => seen,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
