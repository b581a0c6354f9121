//! A TCP proxy whose connections can die without being closed, as behind a firewall that has forgotten them.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
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
    task: JoinHandle<()>,
}

impl Proxy {
    /// A proxy in front of a port of this machine.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = listener.local_addr().unwrap().port();
        let (deaths, seen) = watch::channel(0);
        let made = Arc::<AtomicUsize>::default();
        let count = made.clone();
        let task = tokio::spawn(async move {
            let mut pumps = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
                count.fetch_add(1, Ordering::Relaxed);
                let ((from, to), (back, home)) = (client.into_split(), server.into_split());
                pumps.spawn(pump(from, home, seen.clone()));
                pumps.spawn(pump(back, to, seen.clone()));
            }
        });
        Self { port: here, deaths, made, task }
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
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Forwards until one side closes. From a death on, holds both ends open and does nothing.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut deaths: watch::Receiver<usize>) {
    deaths.borrow_and_update();
    let mut buffer = vec![0; 65_536];
    loop {
        let read = tokio::select! {
            biased;
            _ = deaths.changed() => return std::future::pending().await,
            read = from.read(&mut buffer) => read,
        };
        match read {
            Ok(length) if length > 0 => {
                if to.write_all(&buffer[..length]).await.is_err() {
                    return;
                }
            }
            _ => return,
        }
    }
}
