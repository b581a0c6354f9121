//! Many runs that sleep without an instance, and wake all at once.

use std::time::{Duration, Instant};

use futures::{StreamExt as _, stream};
use serde_json::json;

use crate::harness::{
    client::Client,
    database::Database,
    plugins, process,
    server::{Options, Server},
    wait,
};

/// How many requests are under way at once.
const CLIENTS: usize = 32;
/// How long everything together may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// What runs that sleep cost, and how long it takes to wake them.
#[derive(Clone, Copy, Debug)]
pub struct Sleeping {
    /// How many.
    pub runs: usize,
    /// How long it took to begin them all.
    pub begun: Duration,
    /// Resident memory, in KiB for each.
    pub resident: f64,
    /// From the moment at which all wake to the end of the last one.
    pub woken: Duration,
}

/// Begins so many runs that wake at one moment, `asleep` from now, weighs them while they sleep, and waits for their
/// ends.
pub async fn measure(database: Database, runs: usize, asleep: Duration) -> Sleeping {
    let folder = plugins::hostile_folder();
    let limits = format!("[limits]\nmax_runs = {}\nidle_after = \"1s\"\nrun_timeout = \"1h\"", runs + 8);
    let server = Server::start(Options::new(database).plugins(folder.path()).config(&limits));
    let client = server.client();
    client.post(json!({"model": "hostile", "input": "wait 1"})).await.ok();
    let before = process::rss(server.id());

    let (start, wakes) = (Instant::now(), Instant::now() + asleep);
    let begin = |_| begin(&client, wakes);
    stream::iter(0..runs).map(begin).buffer_unordered(CLIENTS).collect::<()>().await;
    let begun = start.elapsed();
    assert!(Instant::now() < wakes, "{runs} runs took {begun:?} to begin; give them longer");
    let resident = (process::rss(server.id()) as f64 - before as f64) / runs as f64;

    tokio::time::sleep_until(wakes.into()).await;
    wait::eventually_within(PATIENCE, "all have woken and ended", async || {
        (client.get_path("/readyz").await.body["runs"] == 0).then_some(())
    })
    .await;
    Sleeping { runs, begun, resident, woken: wakes.elapsed() }
}

async fn begin(client: &Client, wakes: Instant) {
    loop {
        let left = wakes.saturating_duration_since(Instant::now()).as_millis();
        let answer =
            client.post(json!({"model": "hostile", "input": format!("wait {left}"), "background": true})).await;
        match answer.status {
            200 => return,
            // All places are taken for a moment: those who have them are on their way to sleep.
            429 => tokio::time::sleep(Duration::from_millis(20)).await,
            status => panic!("{status}: {}", answer.body),
        }
    }
}
