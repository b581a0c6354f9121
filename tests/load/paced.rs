//! Streams at a model's pace: when each token arrives, and what it costs.
//!
//! Without pauses every commit has many events of each run. At a model's pace it has one, and whatever is paid per run and
//! commit is paid for each token.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::{Duration, Instant},
};

use memchr::memmem;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::LocalSet,
};

use crate::{
    Arguments, WORDS, frames, fresh,
    generator::{DELTA, END},
    harness::{
        database::Database,
        metrics::{self, Metrics},
        postgres::Postgres,
        process,
        server::{Options, Server},
    },
    pace::{self, PACE},
    peer::Peer,
    post,
};

/// How many streams at once.
const STREAMS: [usize; 5] = [100, 500, 1_000, 2_000, 4_000];

/// What one line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// `chat` over the paced upstream.
    Chat { store: bool },
    /// `echo` with as much delay.
    Echo,
}

/// One line.
#[derive(Debug)]
pub struct Row {
    /// What was measured.
    pub what: String,
    /// How many streams at once.
    pub streams: usize,
    /// The figures.
    pub paced: Paced,
}

/// What was measured.
#[derive(Debug, Default)]
pub struct Paced {
    /// Text deltas that came in the time.
    pub deltas: u64,
    /// Those of them that came in one piece with another one before them.
    pub bunched: u64,
    /// From one delta to the next at the client, sorted.
    pub gaps: Vec<Duration>,
    /// From the request to the first text, sorted.
    pub first_delta: Vec<Duration>,
    /// The time.
    pub elapsed: Duration,
    /// Processor time of the server in it.
    pub cpu: Duration,
    /// How often its threads were switched.
    pub switches: u64,
    /// Transactions in it.
    pub commits: u64,
    /// Processor time of PostgreSQL, all its processes; none on SQLite.
    pub database_cpu: Option<Duration>,
    /// Bytes that the database has written to its log; none where there is no database.
    pub log_bytes: Option<u64>,
}

impl Paced {
    /// Time for each delta, in microseconds.
    pub fn each(&self, time: Duration) -> f64 {
        time.as_secs_f64() * 1e6 / self.deltas.max(1) as f64
    }
}

/// Measures all lines.
pub async fn measure(arguments: &Arguments, databases: &[&'static str], measured: Duration) -> Vec<Row> {
    let sample = Server::start(Database::Sqlite);
    let pace = Peer::start(pace::ARGUMENT, &frames(&sample).await);
    drop(sample);
    let mut rows = Vec::new();
    let streams = STREAMS.into_iter().filter(|streams| arguments.streams.is_none_or(|only| only == *streams));
    for streams in streams {
        eprintln!("paced floor, {streams} streams");
        let load = Load { streams, request: post(pace::FLOOR, &json!({})), measured };
        let paced = load.run(pace.address(), pace.id(), None).await;
        rows.push(Row { what: "paced floor".to_owned(), streams, paced });
        for name in databases {
            for kind in [Kind::Chat { store: true }, Kind::Chat { store: false }, Kind::Echo] {
                if *name != "SQLite" && kind != (Kind::Chat { store: true }) {
                    continue;
                }
                let what = kind.what(name);
                eprintln!("{what}, {streams} streams");
                let database = fresh(name).await;
                let server = Server::start(options(database.clone(), &pace, streams));
                let load = Load { streams, request: kind.request(), measured };
                let paced = load.run(server.address(), server.id(), Some((&server, &database))).await;
                rows.push(Row { what, streams, paced });
            }
        }
    }
    rows
}

fn options(database: Database, pace: &Peer, streams: usize) -> Options {
    let config = format!(
        "[limits]\nmax_live_runs = {}\n[providers.paced]\nbase_url = \"http://{}{}\"\n",
        streams + 64,
        pace.address(),
        pace::UPSTREAM
    );
    Options::new(database).config(&config)
}

impl Kind {
    fn what(self, database: &str) -> String {
        match self {
            Self::Chat { store: true } => format!("`chat`, durable, {database}"),
            Self::Chat { store: false } => "`chat`, `store: false`".to_owned(),
            Self::Echo => format!("`echo`, durable, {database}"),
        }
    }

    fn request(self) -> Vec<u8> {
        let body = match self {
            Self::Chat { store } => {
                json!({"model": "chat/paced/model", "input": "Hello", "stream": true, "store": store})
            }
            Self::Echo => json!({
                "model": "echo", "input": crate::text(), "stream": true,
                "metadata": {"delay_ms": PACE.as_millis().to_string()},
            }),
        };
        post("/v1/responses", &body)
    }
}

/// So many streams, each one reply after the other.
struct Load {
    streams: usize,
    request: Vec<u8>,
    measured: Duration,
}

struct Shared {
    request: Vec<u8>,
    counting: Cell<bool>,
    paced: RefCell<Paced>,
}

/// What is read before the time and after it.
struct Counters {
    cpu: Duration,
    switches: u64,
    database_cpu: Option<Duration>,
    commits: u64,
    log_bytes: Option<u64>,
}

impl Load {
    async fn run(self, address: &str, id: u32, server: Option<(&Server, &Database)>) -> Paced {
        let Self { streams, request, measured } = self;
        let shared = Rc::new(Shared { request, counting: Cell::new(false), paced: RefCell::default() });
        let tasks = LocalSet::new();
        let reply = PACE * u32::try_from(WORDS).unwrap();
        let mut running = Vec::new();
        for number in 0..streams {
            let shared = shared.clone();
            let address = address.to_owned();
            // Spread over the time of a reply, as people are.
            let begin = reply.mul_f64(number as f64 / streams as f64);
            running.push(tasks.spawn_local(async move {
                tokio::time::sleep(begin).await;
                let stream = TcpStream::connect(address).await.unwrap();
                stream.set_nodelay(true).unwrap();
                client(stream, &shared).await;
            }));
        }
        tasks.run_until(tokio::time::sleep(reply.mul_f64(1.3))).await;
        let before = tasks.run_until(Counters::read(id, server)).await;
        shared.counting.set(true);
        let start = Instant::now();
        tasks.run_until(tokio::time::sleep(measured)).await;
        shared.counting.set(false);
        let mut paced = shared.paced.take();
        paced.elapsed = start.elapsed();
        let after = tasks.run_until(Counters::read(id, server)).await;
        assert!(running.iter().all(|client| !client.is_finished()), "a client failed");
        drop(tasks);
        paced.cpu = after.cpu - before.cpu;
        paced.switches = after.switches - before.switches;
        paced.commits = after.commits - before.commits;
        paced.database_cpu = after.database_cpu.zip(before.database_cpu).map(|(after, before)| after - before);
        paced.log_bytes = after.log_bytes.zip(before.log_bytes).map(|(after, before)| after.saturating_sub(before));
        paced.gaps.sort_unstable();
        paced.first_delta.sort_unstable();
        paced
    }
}

impl Counters {
    async fn read(id: u32, server: Option<(&Server, &Database)>) -> Self {
        let (cpu, switches) = (process::cpu_time(id), process::switches(id));
        let Some((server, database)) = server else {
            return Self { cpu, switches, database_cpu: None, commits: 0, log_bytes: None };
        };
        let metrics: Metrics = metrics::metrics(&server.client()).await;
        let commits = metrics.value("outlast_commit_duration_seconds_count") as u64;
        let (database_cpu, log_bytes) = match database {
            Database::Sqlite => (None, process::written_bytes(id)),
            Database::Postgres(_) => {
                let postgres = Postgres::shared().unwrap();
                (Some(postgres.cpu_time()), Some(postgres.log_bytes().await))
            }
        };
        Self { cpu, switches, database_cpu, commits, log_bytes }
    }
}

async fn client(mut stream: TcpStream, shared: &Shared) {
    let mut bytes = Vec::with_capacity(64 << 10);
    loop {
        bytes.clear();
        let start = Instant::now();
        stream.write_all(&shared.request).await.unwrap();
        let mut last: Option<Instant> = None;
        while !bytes.ends_with(END) {
            // A mark may have come in two halves.
            let seen = bytes.len().saturating_sub(DELTA.len() - 1);
            let length = stream.read_buf(&mut bytes).await.unwrap();
            assert!(length > 0, "the server closed the connection after: {}", String::from_utf8_lossy(&bytes));
            let deltas = memmem::find_iter(&bytes[seen..], DELTA).count();
            if deltas == 0 {
                continue;
            }
            let now = Instant::now();
            if shared.counting.get() {
                let mut paced = shared.paced.borrow_mut();
                paced.deltas += deltas as u64;
                paced.bunched += deltas as u64 - 1;
                match last {
                    Some(last) => paced.gaps.push(now - last),
                    None => paced.first_delta.push(now - start),
                }
                paced.gaps.extend(std::iter::repeat_n(Duration::ZERO, deltas - 1));
            }
            last = Some(now);
        }
        let whole = bytes.starts_with(b"HTTP/1.1 200") && memmem::rfind(&bytes, b"response.failed").is_none();
        assert!(whole && last.is_some(), "not a whole stream: {}", String::from_utf8_lossy(&bytes));
    }
}
