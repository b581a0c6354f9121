//! What happens to the server.
//!
//! A run that does not get on over five starts is given up, by design: it may be what brings the server down. So no more
//! than two starts in a row are cut short, and between two faults the server has a moment to get on. Should a run be
//! given up nevertheless, because the machine was that slow, it must have seen as many starts: [`super::check`].

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::time::sleep;

use sqlx::{Connection as _, Row as _};

use super::{
    journals::{Journals, marker},
    letters::Letterbox,
    marks::Marks,
    upstream::Upstream,
};
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
/// Responses are kept for so much longer than the round has lasted when a life begins: those that the clients look at
/// stay, and those that were aged go soon, as it is looked for them in a fraction of that time.
const KEPT: Duration = Duration::from_secs(40);
/// Runs of which a row is damaged, at most.
const POISONED: usize = 3;

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
    marks: Arc<Marks>,
    /// How many responses were aged.
    pub aged: BTreeSet<String>,
    begun: Instant,
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
        (upstream, letterbox, marks): (Upstream, Letterbox, Arc<Marks>),
    ) -> Self {
        let plugins = plugins::folder("courier");
        let begun = Instant::now();
        let server = Server::start(options(&database, &upstream, &letterbox, plugins.path(), 0, Some(KEPT)));
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
            marks,
            aged: BTreeSet::new(),
            begun,
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
        self.age().await;
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
        self.launch_keeping(None);
        self.listen().await;
    }

    /// An orderly stop and start when all runs have ended.
    pub async fn restart_idle(&mut self) {
        self.server.terminate();
        assert!(self.server.ended().await.success());
        self.launch_keeping(None);
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
        self.poison().await;
    }

    async fn read_journals(&mut self) {
        if self.cluster.as_ref().is_none_or(Postgres::running) {
            let settled = self.random.bool();
            self.journals.read(&self.database, self.server.dir(), self.life, settled, &self.marks).await;
        }
    }

    fn database_runs(&self) -> bool {
        self.cluster.as_ref().is_none_or(Postgres::running)
    }

    /// Lets those be old that clients say have been kept long enough.
    async fn age(&mut self) {
        if !self.database_runs() {
            return;
        }
        let new: Vec<String> = self.marks.expired.lock().difference(&self.aged).cloned().collect();
        if new.is_empty() {
            return;
        }
        let mut connection = self.database.connect(self.server.dir()).await;
        for id in new {
            let query = sqlx::query("UPDATE responses SET ended_at = 1 WHERE id = $1 AND ended_at IS NOT NULL");
            query.bind(id.clone()).execute(&mut connection).await.unwrap();
            self.aged.insert(id);
        }
        connection.close().await.unwrap();
    }

    /// Damages, now and then, a row of a run that goes on: of the response, its journal or its events. Turns are spared,
    /// because their clients wait for each other.
    async fn poison(&mut self) {
        let done = self.marks.poisoned.lock().len();
        if !self.database_runs() || done >= POISONED || self.random.u8(..4) > 0 {
            return;
        }
        let mut connection = self.database.connect(self.server.dir()).await;
        let query = "SELECT id, request FROM responses WHERE ended_at IS NULL AND conversation_id IS NULL \
                     AND previous_response_id IS NULL ORDER BY id";
        let runs: Vec<_> = sqlx::query(query).fetch_all(&mut connection).await.unwrap();
        let runs: Vec<_> =
            runs.iter().map(|row| (row.get::<String, _>("id"), row.get::<String, _>("request"))).collect();
        let runs: Vec<_> = runs.into_iter().filter(|(id, _)| !self.marks.is_poisoned(id)).collect();
        if let Some((id, request)) = self.random.choice(&runs) {
            let (what, update) = match self.random.u8(..3) {
                0 => ("damaged: the request of a run", "UPDATE responses SET request = '{' WHERE id = $1"),
                1 => ("damaged: the journal of a run", "UPDATE journal SET entries = $2 WHERE response_id = $1"),
                _ => ("damaged: the events of a run", "UPDATE events SET frames = $2 WHERE response_id = $1"),
            };
            let mut query = sqlx::query(update).bind(id.clone());
            if update.contains("$2") {
                query = query.bind(b"nobody can read this\n".to_vec());
            }
            if query.execute(&mut connection).await.unwrap().rows_affected() > 0 {
                self.marks.poisoned.lock().insert(id.clone(), marker(request));
                self.count(what);
            }
        }
        connection.close().await.unwrap();
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
        self.journals.read(&self.database, self.server.dir(), self.life, false, &self.marks).await;
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
            self.journals.read(&self.database, self.server.dir(), life, true, &self.marks).await;
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
        self.launch_keeping(Some(self.begun.elapsed() + KEPT));
    }

    /// `kept`: how long responses are kept.
    fn launch_keeping(&mut self, kept: Option<Duration>) {
        self.life += 1;
        let plugins = self.plugins.path();
        self.server.launch_with(options(&self.database, &self.upstream, &self.letterbox, plugins, self.life, kept));
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

fn options(
    database: &Database,
    upstream: &Upstream,
    letterbox: &Letterbox,
    plugins: &Path,
    life: u64,
    kept: Option<Duration>,
) -> Options {
    let options = Options::new(database.clone()).survives_full_disk().plugins(plugins);
    let options = options.config(&format!("drain_timeout = \"300ms\"\nlease = \"{}s\"", LEASE.as_secs()));
    let options = match kept {
        Some(kept) => options.config(&format!("retention = \"{}s\"", kept.as_secs())),
        None => options,
    };
    let options = options.config("[limits]\nidle_after = \"300ms\"");
    letterbox.options(upstream.options(options, life), life)
}
