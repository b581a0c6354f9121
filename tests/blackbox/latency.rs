//! How much a busy neighbour may hold up another run.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{
    client::Client,
    database::{Database, both_databases},
    events, plugins,
    server::{Options, Server},
};

both_databases!(alone: four_endless_loops_hold_up_a_stream_by_less_than_a_tenth_of_a_second);

/// What the loops may add to the longest gap between two events.
const ADDED: Duration = Duration::from_millis(100);
/// Another program on the machine can hold up everything: only what holds in none of so many tries is a defect.
const TRIES: usize = 5;

async fn four_endless_loops_hold_up_a_stream_by_less_than_a_tenth_of_a_second(database: Database) {
    let folder = plugins::hostile_folder();
    let server = Server::start(Options::new(database).plugins(folder.path()));
    let client = server.client();
    let mut gaps = Vec::new();
    for _ in 0..TRIES {
        let alone = longest_gap(&client).await;
        let mut loops = Vec::new();
        for _ in 0..4 {
            let mut stream = client.stream(json!({"model": "hostile", "input": "spin"})).await;
            let events = stream.until(|event| event.kind == "response.in_progress").await;
            loops.push(events::response_id(&events));
        }
        let beside = longest_gap(&client).await;
        if beside < alone + ADDED {
            return;
        }
        gaps.push((alone, beside));
        for id in loops {
            client.cancel(&id).await.response();
        }
    }
    panic!("the longest gaps between two events, alone and beside the loops: {gaps:?}");
}

/// The longest time between two events of a run that says a word every ten milliseconds.
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
