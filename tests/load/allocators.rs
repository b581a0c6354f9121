//! How instances get their memory, compared: `allocator`.

use std::time::Duration;

use crate::{
    generator::Load,
    harness::{
        database::Database,
        server::{Options, Server},
    },
    request,
    waiting::{self, Waiting},
};

/// The settings.
const ALLOCATORS: [&str; 2] = ["on-demand", "pooling"];
/// How often each is measured, by turns. The best counts: what disturbs makes slower, and nothing makes faster.
const ROUNDS: usize = 3;
const CLIENTS: usize = 64;

/// What was measured of one.
#[derive(Debug)]
pub struct Figures {
    /// Its setting.
    pub allocator: &'static str,
    /// Ephemeral runs of one word, in a second, with 64 clients.
    pub runs_per_second: f64,
    /// Time of a processor for each of them.
    pub cpu: Duration,
    /// Runs that wait.
    pub waiting: Waiting,
}

/// Measures them all.
pub async fn measure(measured: Duration) -> Vec<Figures> {
    let options = |allocator: &str| Options::new(Database::Sqlite).config(&format!("allocator = \"{allocator}\""));
    let servers: Vec<_> = ALLOCATORS.iter().map(|allocator| (*allocator, Server::start(options(allocator)))).collect();
    let mut best = vec![(0.0, Duration::MAX); servers.len()];
    for _ in 0..ROUNDS {
        for ((_, server), (runs, cpu)) in servers.iter().zip(&mut best) {
            let load = Load { clients: CLIENTS, request: request("/v1/responses", "word", false), measured };
            let result = load.run(server.address(), server.id()).await;
            *runs = f64::max(*runs, result.runs as f64 / result.elapsed.as_secs_f64());
            *cpu = (*cpu).min(result.cpu / u32::try_from(result.runs).unwrap_or(u32::MAX));
        }
    }
    drop(servers);
    let mut figures = Vec::new();
    for (allocator, (runs_per_second, cpu)) in ALLOCATORS.into_iter().zip(best) {
        let waiting = waiting::measure(options(allocator)).await;
        figures.push(Figures { allocator, runs_per_second, cpu, waiting });
    }
    figures
}
