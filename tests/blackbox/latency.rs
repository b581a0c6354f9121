//! How much a busy neighbour may hold up another run.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{
    client::Client,
    database::{Database, both_databases},
    plugins,
    server::{Options, Server},
};

both_databases!(alone: four_endless_loops_hold_up_a_stream_by_less_than_a_tenth_of_a_second);

const DELAY: Duration = Duration::from_millis(10);
const ADDED: Duration = Duration::from_millis(100);
/// Another program on the machine can hold up everything: only what holds in none of so many tries is a defect.
const TRIES: usize = 5;

async fn four_endless_loops_hold_up_a_stream_by_less_than_a_tenth_of_a_second(database: Database) {
    let folder = plugins::hostile_folder();
    let server = Server::start(Options::new(database).plugins(folder.path()));
    let client = server.client();
    // What the machine and the database do by themselves is not what the neighbours add.
    let alone = longest_gap(&client).await;
    let mut loops = Vec::new();
    for _ in 0..4 {
        let mut stream = client.stream(json!({"model": "hostile", "input": "spin"})).await;
        stream.until(|event| event.kind == "response.in_progress").await;
        loops.push(stream);
    }
    let mut worst = Vec::new();
    for _ in 0..TRIES {
        let gap = longest_gap(&client).await;
        if gap < alone.max(DELAY) + ADDED {
            return;
        }
        worst.push(gap);
    }
    panic!("the longest gaps between two events: {worst:?}, and {alone:?} without the loops");
}

/// The longest time between two events of a stream that has one every [`DELAY`].
async fn longest_gap(client: &Client) -> Duration {
    let request = json!({"model": "echo", "input": "word ".repeat(200), "metadata": {"delay_ms": "10"}});
    let mut stream = client.stream(request).await;
    stream.until_delta(1).await;
    let (mut last, mut gap) = (Instant::now(), Duration::ZERO);
    while stream.next().await.is_some() {
        gap = gap.max(last.elapsed());
        last = Instant::now();
    }
    gap
}
