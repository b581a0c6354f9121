//! What happens to the server.
//!
//! A run that does not get on over five starts is given up, by design: it may be what brings the server down. So no more
//! than two starts in a row are cut short, and between two faults the server has a moment to get on. Should a run be
//! given up nevertheless, because the machine was that slow, it must have seen as many starts: [`super::check`].

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::time::sleep;

use super::{journals::Journals, letters::Letterbox, upstream::Upstream};
use crate::harness::{
    database::Database,
    plugins,
    postgres::Postgres,
    server::{Begun, Options, Server},
    wait,
};

/// How long a server on PostgreSQL may be silent. Pauses are sometimes longer.
const LEASE: Duration = Duration::from_secs(1);
/// Starts in a row that are cut short.
const CUT_SHORT: usize = 2;

/// The server, and what befalls it.
#[derive(Debug)]
pub struct Faults {
    pub server: Server,
    pub database: Database,
    pub journals: Journals,
    /// Which life of the server this is.
    pub life: u64,
    /// How often each thing happened.
    pub counts: BTreeMap<&'static str, usize>,
    cluster: Option<Postgres>,
    upstream: Upstream,
    letterbox: Letterbox,
    plugins: TempDir,
    url: Arc<Mutex<String>>,
    random: fastrand::Rng,
    /// How long the last whole start took.
    start: Duration,
}

impl Faults {
    /// Starts a server.
    pub fn start(
        seed: u64,
        database: Database,
        cluster: Option<Postgres>,
        upstream: Upstream,
        letterbox: Letterbox,
    ) -> Self {
        let plugins = plugins::folder("courier");
        let begun = Instant::now();
        let server = Server::start(options(&database, &upstream, &letterbox, plugins.path(), 0));
        Self {
            url: Arc::new(Mutex::new(server.url().to_owned())),
            server,
            database,
            journals: Journals::default(),
            life: 0,
            counts: BTreeMap::new(),
            cluster,
            upstream,
            letterbox,
            plugins,
            random: fastrand::Rng::with_seed(!seed),
            start: begun.elapsed(),
        }
    }

    /// Where the server listens, or did last.
    pub fn url(&self) -> Arc<Mutex<String>> {
        self.url.clone()
    }

    /// One fault, and a moment without one.
    pub async fn one(&mut self) {
        self.moment(50..1_300).await;
        assert!(self.server.running(), "the server ended by itself");
        match self.random.u8(..10) {
            0..5 => {
                self.kill("killed").await;
                self.start_again().await;
            }
            5 => self.terminate().await,
            6 if self.cluster.is_some() => self.replace().await,
            6 | 7 => self.pause().await,
            _ => self.outage().await,
        }
    }

    /// The last one: a kill, and a start that nothing disturbs.
    pub async fn last(&mut self) {
        self.kill("killed").await;
        self.launch();
        self.listen().await;
    }

    /// An orderly stop and start when all runs have ended.
    pub async fn restart_idle(&mut self) {
        self.server.terminate();
        assert!(self.server.ended().await.success());
        self.launch();
        self.listen().await;
    }

    async fn moment(&mut self, milliseconds: std::ops::Range<u64>) {
        sleep(Duration::from_millis(self.random.u64(milliseconds))).await;
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    async fn kill(&mut self, what: &'static str) {
        self.server.kill9();
        self.count(what);
        self.read_journals().await;
    }

    async fn read_journals(&mut self) {
        if self.cluster.as_ref().is_none_or(Postgres::running) {
            let settled = self.random.bool();
            self.journals.read(&self.database, self.server.dir(), self.life, settled).await;
        }
    }

    async fn terminate(&mut self) {
        self.server.terminate();
        if self.random.u8(..3) == 0 {
            self.moment(0..400).await;
            self.kill("killed while it stopped").await;
        } else {
            let status = self.server.ended().await;
            assert!(status.success(), "SIGTERM: {status}");
            self.count("stopped in order");
            self.read_journals().await;
        }
        self.start_again().await;
    }

    async fn pause(&mut self) {
        self.server.stop();
        self.moment(50..1_500).await;
        if self.random.u8(..4) == 0 {
            self.kill("killed while it was paused").await;
            self.start_again().await;
        } else {
            self.server.cont();
            self.count("paused");
        }
    }

    /// A server that is silent for longer than its lease, and goes on when another one has its runs.
    async fn replace(&mut self) {
        self.server.stop();
        let mut old = self.server.leave();
        self.moment(0..LEASE.as_millis() as u64).await;
        self.journals.read(&self.database, self.server.dir(), self.life, false).await;
        self.launch();
        self.listen().await;
        self.moment(0..500).await;
        old.cont();
        let status = old.ended().await;
        assert!(!status.success(), "a server that was replaced: {status}");
        self.count("replaced by another server");
    }

    async fn outage(&mut self) {
        match &self.cluster {
            Some(cluster) if self.random.bool() => cluster.crash(),
            Some(cluster) => cluster.stop(),
            None => self.server.forbid_writes(true),
        }
        self.moment(50..2_000).await;
        if self.random.u8(..3) > 0 {
            match &self.cluster {
                Some(cluster) => cluster.start(),
                None => self.server.forbid_writes(false),
            }
            self.count("database took no writes");
            return;
        }
        // The next life of a server on SQLite may write anyway.
        self.kill("killed while the database took no writes").await;
        if self.cluster.is_some() {
            let life = self.life;
            if self.random.bool() {
                self.start_in_vain().await;
            }
            self.cluster.as_ref().unwrap().start();
            self.journals.read(&self.database, self.server.dir(), life, true).await;
        }
        self.start_again().await;
    }

    /// A server whose database is gone does not start.
    async fn start_in_vain(&mut self) {
        self.launch();
        let ended = wait::eventually("a start without a database fails", async || match self.server.begun() {
            Begun::NotYet => None,
            Begun::Listening => panic!("it listens, and its database is gone"),
            Begun::Ended(status) => Some(status),
        });
        assert!(!ended.await.success());
        self.server.wait();
        self.count("started without its database");
    }

    fn launch(&mut self) {
        self.life += 1;
        let plugins = self.plugins.path();
        self.server.launch_with(options(&self.database, &self.upstream, &self.letterbox, plugins, self.life));
    }

    /// Starts the server; sometimes kills it at some moment of the start, or right after, and starts it once more.
    async fn start_again(&mut self) {
        for _ in 0..CUT_SHORT {
            if self.random.u8(..3) > 0 {
                break;
            }
            self.launch();
            let end = Instant::now() + self.start.mul_f64(self.random.f64() * 1.3);
            let mut listened = false;
            while Instant::now() < end {
                listened = listened || self.listens();
                sleep(Duration::from_millis(2)).await;
            }
            self.kill(if listened { "killed as soon as it listened" } else { "killed while it started" }).await;
        }
        let begun = Instant::now();
        self.launch();
        self.listen().await;
        self.start = begun.elapsed();
    }

    async fn listen(&mut self) {
        wait::eventually("the server listens", async || self.listens().then_some(())).await;
    }

    /// Whether it listens. Then the clients know where.
    fn listens(&mut self) -> bool {
        match self.server.begun() {
            Begun::NotYet => false,
            Begun::Listening => {
                self.server.url().clone_into(&mut self.url.lock());
                true
            }
            Begun::Ended(status) => panic!("the server ended with {status} before it listened"),
        }
    }
}

fn options(database: &Database, upstream: &Upstream, letterbox: &Letterbox, plugins: &Path, life: u64) -> Options {
    let options = Options::new(database.clone()).survives_full_disk().plugins(plugins);
    let options = options.config(&format!("drain_timeout = \"300ms\"\nlease = \"{}s\"", LEASE.as_secs()));
    letterbox.options(upstream.options(options, life), life)
}
