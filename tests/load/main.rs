//! The load benchmark.
//!
//! ```text
//! cargo bench -p outlast --bench load
//! cargo bench -p outlast --bench load -- --quick
//! ```
//!
//! Starts the real server and measures `echo` streams of 100 words without delay, durable and ephemeral, on SQLite
//! and PostgreSQL, streams of `chat` and `echo` at a model's pace, turns with a long history, the memory of 1,000 waiting runs, that of 50,000 that sleep without an instance and how long it takes
//! to wake them, how long a start takes that has runs to resume, and the two settings of `allocator`. In the same minutes it measures the floor: a bare
//! handler that streams the same frames from memory. Compare ratios, not figures of different days: the generator and
//! the server share the machine. The table is Markdown, on standard output.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod allocators;
mod floor;
mod generator;
#[path = "../harness/mod.rs"]
mod harness;
mod histories;
mod pace;
mod paced;
mod peer;
mod report;
mod resuming;
mod sleeping;
mod waiting;

use std::{path::PathBuf, time::Duration};

use clap::Parser;
use serde_json::{Value, json};
use tokio::runtime;

use generator::Load;
use harness::{
    database::Database,
    postgres::Postgres,
    process,
    raw::Connection,
    server::{Options, Server},
};
use peer::Peer;
use report::{Report, Row};

/// Words in a stream, and so text deltas.
const WORDS: usize = 100;
/// How many clients at once.
const CLIENTS: [usize; 3] = [1, 64, 256];

/// Measures the server under load, and a bare handler beside it.
#[derive(Debug, Parser)]
struct Arguments {
    /// Measure for a second and a half instead of five seconds each.
    #[arg(long)]
    quick: bool,
    /// Measure each for so many seconds.
    #[arg(long, value_name = "N")]
    seconds: Option<f64>,
    /// Let so many runs sleep, instead of 50,000, or 5,000 when it is quick.
    #[arg(long, value_name = "N")]
    sleepers: Option<usize>,
    /// Leave PostgreSQL out.
    #[arg(long)]
    sqlite_only: bool,
    /// Measure this part alone.
    #[arg(long, value_name = "PART")]
    only: Option<Part>,
    /// Of the paced streams, measure so many alone.
    #[arg(long, value_name = "N")]
    streams: Option<usize>,
    /// Be the model and the floor at a model's pace, with these frames.
    #[arg(long, value_name = "FILE", hide = true)]
    pace: Option<PathBuf>,
    /// Be the floor, and stream these frames.
    #[arg(long, value_name = "FILE", hide = true)]
    floor: Option<PathBuf>,
    /// What cargo says to a benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// A part of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Streams of `echo`, and the floor.
    Streams,
    /// Streams at a model's pace, and the paced floor.
    Paced,
    /// The memory of runs that wait.
    Waiting,
    /// Runs that sleep without an instance.
    Sleeping,
    /// Turns with a long history.
    Histories,
    /// Starts that resume runs.
    Resuming,
    /// The settings of `allocator`.
    Allocators,
}

fn main() {
    let arguments = Arguments::parse();
    if let Some(frames) = &arguments.floor {
        return floor::serve(frames);
    }
    if let Some(frames) = &arguments.pace {
        process::raise_open_files();
        return pace::serve(frames);
    }
    if !arguments.bench {
        println!("This is a benchmark: cargo bench -p outlast --bench load");
        return;
    }
    process::raise_open_files();
    // One thread: it must not take more of the machine than it needs.
    runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(measure(&arguments));
}

async fn measure(arguments: &Arguments) {
    let seconds = arguments.seconds.unwrap_or(if arguments.quick { 1.5 } else { 5.0 });
    let measured = Duration::from_secs_f64(seconds);
    let mut report = Report::new(measured);
    let mut databases = vec![("SQLite", Database::Sqlite)];
    if !arguments.sqlite_only && Postgres::shared().is_some() {
        databases.push(("PostgreSQL", Database::postgres().await.unwrap()));
    }

    if arguments.measures(Part::Streams) {
        streams(&databases, measured, &mut report).await;
    }
    if arguments.measures(Part::Paced) {
        let names: Vec<_> = databases.iter().map(|(name, _)| *name).collect();
        report.paced(paced::measure(arguments, &names, measured * 2).await);
    }
    for (name, _) in databases.iter().filter(|_| arguments.measures(Part::Waiting)) {
        eprintln!("{} waiting runs on {name}", waiting::RUNS);
        report.waiting(name, waiting::measure(Options::new(fresh(name).await)).await);
    }
    for (name, _) in databases.iter().filter(|_| arguments.measures(Part::Sleeping)) {
        eprintln!("{} sleeping runs on {name}", arguments.sleepers());
        report.sleeping(name, sleeping::measure(fresh(name).await, arguments.sleepers(), arguments.sleep()).await);
    }
    for (name, _) in databases.iter().filter(|_| arguments.measures(Part::Resuming)) {
        eprintln!("{} resumed runs on {name}", resuming::RUNS);
        report.resuming(name, resuming::measure(fresh(name).await).await);
    }
    for (name, _) in databases.iter().filter(|_| arguments.measures(Part::Histories)) {
        eprintln!("long histories on {name}");
        report.histories(name, histories::measure(fresh(name).await).await);
    }
    if arguments.measures(Part::Allocators) {
        eprintln!("allocators");
        report.allocators(allocators::measure(measured).await);
    }
    print!("{report}");
}

/// A database of this kind that nothing has used.
async fn fresh(name: &str) -> Database {
    if name == "SQLite" { Database::Sqlite } else { Database::postgres().await.unwrap() }
}

async fn streams(databases: &[(&'static str, Database)], measured: Duration, report: &mut Report) {
    let mut servers = Vec::new();
    for (name, database) in databases {
        eprintln!("starting the server on {name}");
        servers.push((*name, Server::start(database.clone())));
    }
    let floor = Peer::start(floor::ARGUMENT, &frames(&servers[0].1).await);

    // All variants of one number of clients are measured together, so that a busy neighbour meets them all.
    for clients in CLIENTS {
        let load = |path: &str, store: bool| Load { clients, request: request(path, &text(), store), measured };
        for (name, server) in &servers {
            for store in [true, false] {
                let kind = if store { "durable" } else { "ephemeral" };
                eprintln!("{kind} on {name}, {clients} clients");
                let result = load("/v1/responses", store).run(server.address(), server.id()).await;
                report.add(Row { what: format!("{kind}, {name}"), clients, result });
            }
        }
        for (what, path) in [(report::FLOOR, floor::A_WRITE_EACH), (report::FLOOR_ONE_WRITE, floor::ONE_WRITE)] {
            eprintln!("{what}, {clients} clients");
            let result = load(path, true).run(floor.address(), floor.id()).await;
            report.add(Row { what: what.to_owned(), clients, result });
        }
    }
}

impl Arguments {
    fn measures(&self, part: Part) -> bool {
        self.only.is_none_or(|only| only == part)
    }

    fn sleepers(&self) -> usize {
        self.sleepers.unwrap_or(if self.quick { 5_000 } else { 50_000 })
    }

    /// Long enough to begin them all first: 250 a second.
    fn sleep(&self) -> Duration {
        Duration::from_secs(10 + self.sleepers() as u64 / 250)
    }
}

fn text() -> String {
    let words: Vec<_> = (0..WORDS).map(|n| format!("word{n}")).collect();
    words.join(" ")
}

fn request(path: &str, input: &str, store: bool) -> Vec<u8> {
    post(path, &json!({"model": "echo", "input": input, "stream": true, "store": store}))
}

fn post(path: &str, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}"
    );
    format!("{head}\r\n\r\n{body}").into_bytes()
}

/// The frames of one run, for the floor to stream.
async fn frames(server: &Server) -> Vec<u8> {
    let mut connection = Connection::open(server.address()).await;
    connection.send(&request("/v1/responses", &text(), true)).await;
    assert_eq!(connection.head().await.status, 200);
    connection.chunks().await.concat()
}
