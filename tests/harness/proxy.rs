//! A TCP proxy whose connections can die without being closed, as behind a firewall that has forgotten them, or exactly
//! when a transaction is committed.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// A proxy. Its connections end when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    /// How often the connections died.
    deaths: watch::Sender<usize>,
    made: Arc<AtomicUsize>,
    /// Whether the answer to the next `COMMIT` is lost.
    losing: Arc<AtomicBool>,
    /// How many such answers were lost.
    lost: Arc<AtomicUsize>,
    /// Whether new connections are closed.
    closed: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// A proxy in front of a port of this machine.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = listener.local_addr().unwrap().port();
        let (deaths, seen) = watch::channel(0);
        let made = Arc::<AtomicUsize>::default();
        let (losing, closed) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let lost = Arc::<AtomicUsize>::default();
        let (count, armed, refused, answers) = (made.clone(), losing.clone(), closed.clone(), lost.clone());
        let task = tokio::spawn(async move {
            let mut pumps = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                if refused.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
                count.fetch_add(1, Ordering::Relaxed);
                let ((from, to), (back, home)) = (client.into_split(), server.into_split());
                let cut = Arc::<AtomicBool>::default();
                let there = Way::There { losing: armed.clone(), cut: cut.clone() };
                pumps.spawn(pump(from, home, seen.clone(), there));
                pumps.spawn(pump(back, to, seen.clone(), Way::Back { cut, lost: answers.clone() }));
            }
        });
        Self { port: here, deaths, made, losing, lost, closed, task }
    }

    /// Where it listens, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many connections were made through it.
    pub fn made(&self) -> usize {
        self.made.load(Ordering::Relaxed)
    }

    /// Forwards nothing more on the connections that are there, and closes none of them. New ones work.
    pub fn let_die(&self) {
        self.deaths.send_modify(|deaths| *deaths += 1);
    }

    /// Cuts the connection that sends the next `COMMIT`, once the database has answered: the answer is lost.
    pub fn lose_an_answer_to_commit(&self) {
        self.losing.store(true, Ordering::SeqCst);
    }

    /// How many answers to `COMMIT` were lost.
    pub fn lost(&self) -> usize {
        self.lost.load(Ordering::SeqCst)
    }

    /// Lets nobody in any more.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Lets everybody in again.
    pub fn open(&self) {
        self.closed.store(false, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One direction of a connection.
enum Way {
    /// To the database.
    There { losing: Arc<AtomicBool>, cut: Arc<AtomicBool> },
    /// From the database. Where it is cut, the next bytes are lost, and the connection with them.
    Back { cut: Arc<AtomicBool>, lost: Arc<AtomicUsize> },
}

impl Way {
    /// Whether the connection ends before these bytes are forwarded.
    fn ends_at(&self, bytes: &[u8]) -> bool {
        match self {
            Self::There { losing, cut } => {
                if bytes.windows(6).any(|window| window == b"COMMIT") && losing.swap(false, Ordering::SeqCst) {
                    cut.store(true, Ordering::SeqCst);
                }
                false
            }
            Self::Back { cut, lost } => {
                let ends = cut.load(Ordering::SeqCst);
                lost.fetch_add(usize::from(ends), Ordering::SeqCst);
                ends
            }
        }
    }
}

/// Forwards until one side closes. From a death on, holds both ends open and does nothing.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut deaths: watch::Receiver<usize>, way: Way) {
    deaths.borrow_and_update();
    let mut buffer = vec![0; 65_536];
    loop {
        let read = tokio::select! {
            biased;
            _ = deaths.changed() => return std::future::pending().await,
            read = from.read(&mut buffer) => read,
        };
        match read {
            Ok(length) if length > 0 && !way.ends_at(&buffer[..length]) => {
                if to.write_all(&buffer[..length]).await.is_err() {
                    return;
                }
            }
            _ => return,
        }
    }
}
