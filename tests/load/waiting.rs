//! The memory of runs that wait.

use std::time::Duration;

use serde_json::json;

use crate::harness::{
    process,
    raw::Connection,
    server::{Options, Server},
};

/// How many wait at once.
pub const RUNS: usize = 1_000;

/// Resident memory, in KiB for each waiting run.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    /// With a client that reads its stream: the connection's memory is in it.
    pub watched: f64,
    /// After the clients have gone.
    pub alone: f64,
    /// Threads of the process meanwhile.
    pub threads: u64,
    /// Mappings of memory for each.
    pub mappings: f64,
}

/// Starts a server with these options, lets runs wait in it, and weighs it.
pub async fn measure(options: Options) -> Waiting {
    let server = Server::start(options.config(&format!("[limits]\nmax_live_runs = {}", RUNS + 8)));
    // What the server takes once, it has taken before it is weighed.
    let client = server.client();
    for _ in 0..16 {
        client.stream(json!({"model": "echo", "input": "a b c"})).await.unchecked().rest().await;
    }
    let before = settled(&server).await;
    let mapped = process::mappings(server.id());
    let mut connections = Vec::new();
    for _ in 0..RUNS {
        let mut connection = Connection::open(server.address()).await;
        let request = json!({
            "model": "echo", "input": "a b c d e f", "stream": true, "metadata": {"delay_ms": "10000"},
        });
        connection.post(&request).await;
        connections.push(connection);
    }
    for connection in &mut connections {
        assert_eq!(connection.head().await.status, 200);
        let mut seen = Vec::new();
        while memchr::memmem::find(&seen, b"event: response.output_text.delta").is_none() {
            seen.extend(connection.chunk().await.expect("the run waits"));
        }
    }
    let watched = settled(&server).await;
    let threads = process::threads(server.id());
    let mappings = (process::mappings(server.id()) as f64 - mapped as f64) / RUNS as f64;
    drop(connections);
    let alone = settled(&server).await;
    let each = |rss: u64| (rss as f64 - before as f64) / RUNS as f64;
    Waiting { watched: each(watched), alone: each(alone), threads, mappings }
}

/// Resident memory once it has stopped changing.
async fn settled(server: &Server) -> u64 {
    let mut last = process::rss(server.id());
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = process::rss(server.id());
        if now.abs_diff(last) < 64 {
            return now;
        }
        last = now;
    }
    last
}
