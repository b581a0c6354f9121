//! Runs that a kill cut off, and how long the next start takes to bring them to where they were.

use std::time::{Duration, Instant};

use futures::{StreamExt as _, stream};
use serde_json::json;

use crate::harness::{
    database::Database,
    journal::journals,
    plugins,
    server::{Options, Server},
    wait,
};

/// How many runs are cut off at once.
pub const RUNS: usize = 1_000;
/// How many answers of its imports the run has whose replay is measured.
pub const ENTRIES: usize = 10_000;
/// How often a replay is measured.
const REPLAYS: usize = 5;
/// How many requests are under way at once.
const CLIENTS: usize = 32;

/// From the start of a process to the end of the last run, which had nothing left to wait for.
#[derive(Clone, Copy, Debug)]
pub struct Resuming {
    /// With one run of one journal entry; the median.
    pub one: Duration,
    /// With one run of [`ENTRIES`]; the median.
    pub entries: Duration,
    /// With [`RUNS`].
    pub runs: Duration,
}

/// Kills a server in the middle of runs that wait, starts it again when their time is over, and takes the time.
pub async fn measure(database: Database) -> Resuming {
    let folder = plugins::hostile_folder();
    let limits = format!("[limits]\nmax_live_runs = {}", RUNS + 8);
    let mut server = Server::start(Options::new(database).plugins(folder.path()).config(&limits));
    let one = median(&mut server, 1).await;
    let entries = median(&mut server, ENTRIES).await;

    // Long enough to begin them all first.
    let wakes = Instant::now() + Duration::from_secs(5);
    let client = server.client();
    let begin = async |_| {
        let left = wakes.saturating_duration_since(Instant::now()).as_millis();
        client.post(json!({"model": "hostile", "input": format!("wait {left}"), "background": true})).await.ok();
    };
    stream::iter(0..RUNS).map(begin).buffer_unordered(CLIENTS).collect::<()>().await;
    // Whose sleep is not in the journal would sleep again.
    let mut database = server.database().await;
    wait::eventually("all sleep", async || (journals(&mut database).await.len() == RUNS).then_some(())).await;
    assert!(Instant::now() < wakes, "{RUNS} runs took more than five seconds to begin");
    let runs = resumed(&mut server, wakes).await;
    Resuming { one, entries, runs }
}

async fn median(server: &mut Server, entries: usize) -> Duration {
    let mut all = Vec::new();
    for _ in 0..REPLAYS {
        let request = json!({"model": "hostile", "input": format!("naps {entries} 1000")});
        let mut events = server.client().stream(request).await;
        events.until_delta(1).await;
        let wakes = Instant::now() + Duration::from_secs(1);
        all.push(resumed(server, wakes).await);
    }
    all.sort();
    all[REPLAYS / 2]
}

/// Kills the server, waits until its runs are due, starts it, and waits until they have ended.
async fn resumed(server: &mut Server, wakes: Instant) -> Duration {
    server.kill9();
    tokio::time::sleep_until(wakes.into()).await;
    let start = Instant::now();
    server.restart();
    let client = server.client();
    let ended = async || (client.get_path("/readyz").await.body["runs"] == 0).then_some(());
    wait::eventually("all have ended", ended).await;
    start.elapsed()
}
