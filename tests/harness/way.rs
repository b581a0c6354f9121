//! A way to a server that can be closed: who sets out meanwhile waits in the middle of its connection.
//!
//! It passes bytes on to the server. Closed, it takes no connections, and its queue is full: the kernel drops what comes,
//! and whoever connects tries again and again, for some seconds. Once it is open, the connection comes about, whatever
//! the process does that wanted it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinHandle,
};

use super::wait;

/// A way.
#[derive(Debug)]
pub struct Way {
    listener: Arc<TcpListener>,
    target: String,
    taking: Mutex<Option<JoinHandle<()>>>,
    /// What fills the queue.
    filler: Mutex<Option<TcpStream>>,
    passing: Arc<Mutex<Vec<Arc<Passing>>>>,
}

/// A connection over a way.
#[derive(Debug, Default)]
pub struct Passing {
    sent: AtomicU64,
    ended: AtomicBool,
}

impl Way {
    /// A way to this address, which is open.
    pub async fn to(target: &str) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        // Room for one.
        let listener = Arc::new(socket.listen(0).unwrap());
        let (taking, filler, passing) = (Mutex::default(), Mutex::default(), Arc::default());
        let way = Self { listener, target: target.to_owned(), taking, filler, passing };
        way.open();
        way
    }

    /// Host and port.
    pub fn address(&self) -> String {
        self.listener.local_addr().unwrap().to_string()
    }

    /// Closes it. Connections that are there stay.
    pub async fn close(&self) {
        let taking = self.taking.lock().take().expect("it is open");
        taking.abort();
        assert!(taking.await.is_err());
        let filler = TcpStream::connect(self.address()).await.unwrap();
        *self.filler.lock() = Some(filler);
    }

    /// Opens it.
    pub fn open(&self) {
        self.filler.lock().take();
        let (listener, target, passing) = (self.listener.clone(), self.target.clone(), self.passing.clone());
        *self.taking.lock() = Some(tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let one = Arc::<Passing>::default();
                passing.lock().push(one.clone());
                tokio::spawn(pass(client, target.clone(), one));
            }
        }));
    }

    /// Waits until somebody is on the way, and cannot get on.
    pub async fn is_wanted(&self) {
        self.connections("02", "a connection that is being made").await;
    }

    /// Waits until somebody's connection is there.
    pub async fn is_reached(&self) {
        self.connections("01", "a connection").await;
    }

    /// The connections so far.
    pub fn passing(&self) -> Vec<Arc<Passing>> {
        self.passing.lock().clone()
    }

    async fn connections(&self, state: &str, what: &str) {
        let port = format!(":{:04X}", self.listener.local_addr().unwrap().port());
        wait::eventually(format!("{what} to {}", self.address()), async || {
            let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
            let mut lines = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
            lines.any(|fields| fields[2].ends_with(&port) && fields[3] == state).then_some(())
        })
        .await;
    }
}

impl Passing {
    /// Waits for its end, and gives how many bytes who made it has sent.
    pub async fn sent(&self) -> u64 {
        wait::eventually("the connection ends", async || self.ended.load(Ordering::Acquire).then_some(())).await;
        self.sent.load(Ordering::Acquire)
    }
}

async fn pass(client: TcpStream, target: String, passing: Arc<Passing>) {
    let server = TcpStream::connect(target).await.unwrap();
    let (mut asks, mut hears) = client.into_split();
    let (mut answers, mut listens) = server.into_split();
    let back = tokio::spawn(async move { tokio::io::copy(&mut answers, &mut hears).await });
    let mut buffer = vec![0; 65_536];
    while let Ok(length @ 1..) = asks.read(&mut buffer).await {
        passing.sent.fetch_add(length as u64, Ordering::AcqRel);
        if listens.write_all(&buffer[..length]).await.is_err() {
            break;
        }
    }
    passing.ended.store(true, Ordering::Release);
    drop(listens);
    let _ = back.await;
}
