//! Clients that ask for one stream after the other, each on a connection that it keeps.
//!
//! They speak HTTP over bare sockets and look for marks in the bytes, because a client that parses costs more than
//! the server that it measures.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::{Duration, Instant},
};

use memchr::memmem;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::LocalSet,
};

use crate::harness::process;

const EVENT: &[u8] = b"event: ";
/// Begins the frame of a text delta.
pub const DELTA: &[u8] = b"event: response.output_text.delta\n";
const DONE: &[u8] = b"data: [DONE]\n\n";
/// The last chunk of a body.
pub const END: &[u8] = b"\r\n0\r\n\r\n";

/// What to measure.
#[derive(Debug)]
pub struct Load {
    /// How many clients at once.
    pub clients: usize,
    /// The request that each sends again and again.
    pub request: Vec<u8>,
    /// For how long, after a fifth of that to warm up. Longer where the runs take so long that few would end in it.
    pub measured: Duration,
}

/// How many runs of each client must end, on average.
const LEAST_RUNS: u64 = 4;
/// How many times longer than asked for the measuring may take for that.
const MOST_ROUNDS: u32 = 10;

/// What was measured.
#[derive(Debug, Default)]
pub struct Measured {
    /// Runs that ended in the time.
    pub runs: u64,
    /// Events that came in the time.
    pub events: u64,
    /// The time.
    pub elapsed: Duration,
    /// Processor time of the server in it.
    pub cpu: Duration,
    /// From the request to the first event, sorted.
    pub first_event: Vec<Duration>,
    /// From the request to the first text, sorted.
    pub first_delta: Vec<Duration>,
}

impl Load {
    /// Puts the load on the server at `address`, whose process is `server`.
    pub async fn run(self, address: &str, server: u32) -> Measured {
        let Self { clients, request, measured } = self;
        let shared = Rc::new(Shared { request, counting: Cell::new(false), measured: RefCell::default() });
        let tasks = LocalSet::new();
        let mut running = Vec::new();
        for _ in 0..clients {
            let (shared, stream) = (shared.clone(), TcpStream::connect(address).await.unwrap());
            stream.set_nodelay(true).unwrap();
            running.push(tasks.spawn_local(async move { client(stream, &shared).await }));
        }
        tasks.run_until(tokio::time::sleep(measured / 5)).await;
        shared.counting.set(true);
        let (start, cpu) = (Instant::now(), process::cpu_time(server));
        for _ in 0..MOST_ROUNDS {
            tasks.run_until(tokio::time::sleep(measured)).await;
            if shared.measured.borrow().runs >= LEAST_RUNS * clients as u64 {
                break;
            }
        }
        let mut result = shared.measured.take();
        result.elapsed = start.elapsed();
        result.cpu = process::cpu_time(server) - cpu;
        // A client ends only by a panic, which it has shown.
        assert!(running.iter().all(|client| !client.is_finished()), "a client failed");
        assert!(result.runs > 0, "no run ended in {:?}", result.elapsed);
        drop(tasks);
        result.first_event.sort_unstable();
        result.first_delta.sort_unstable();
        result
    }
}

struct Shared {
    request: Vec<u8>,
    counting: Cell<bool>,
    measured: RefCell<Measured>,
}

async fn client(mut stream: TcpStream, shared: &Shared) {
    let mut bytes = Vec::with_capacity(128 << 10);
    loop {
        bytes.clear();
        let start = Instant::now();
        stream.write_all(&shared.request).await.unwrap();
        let (mut first_event, mut first_delta) = (None, None);
        while !bytes.ends_with(END) {
            let before = bytes.len();
            // A mark may have come in two halves.
            let seen = before.saturating_sub(DELTA.len());
            let length = stream.read_buf(&mut bytes).await.unwrap();
            assert!(length > 0, "the server closed the connection after: {}", String::from_utf8_lossy(&bytes));
            if shared.counting.get() {
                // A mark that began before `before` ends behind it, or was counted.
                let from = before.saturating_sub(EVENT.len() - 1);
                shared.measured.borrow_mut().events += memmem::find_iter(&bytes[from..], EVENT).count() as u64;
            }
            if first_delta.is_none() {
                let new = &bytes[seen..];
                if first_event.is_none() && memmem::find(new, EVENT).is_some() {
                    first_event = Some(start.elapsed());
                }
                if memmem::find(new, DELTA).is_some() {
                    first_delta = Some(start.elapsed());
                }
            }
        }
        let whole = bytes.starts_with(b"HTTP/1.1 200") && memmem::rfind(&bytes, DONE).is_some();
        assert!(whole, "not a whole stream: {}", String::from_utf8_lossy(&bytes));
        if shared.counting.get() {
            let mut measured = shared.measured.borrow_mut();
            measured.runs += 1;
            measured.first_event.extend(first_event);
            measured.first_delta.extend(first_delta);
        }
    }
}
