//! A throw-away PostgreSQL from the system's binaries.
//!
//! One cluster for all tests of a process, a database for each test; a test that stops the cluster gets one of its
//! own. It is as durable as a real one: `fsync` stays on. Where PostgreSQL is not installed, the tests say so and
//! run on SQLite alone; in continuous integration that is a failure.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    net::TcpListener,
    os::unix::{
        fs::{MetadataExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use tempfile::TempDir;

use super::{
    notice,
    process::{self, Signal},
    scratch, wait,
};

/// A cluster.
#[derive(Debug)]
pub struct Postgres {
    pub(super) installed: &'static Installed,
    dir: TempDir,
    port: u16,
    process: Mutex<Option<Child>>,
    log: Arc<Mutex<String>>,
    databases: AtomicU32,
}

/// What is there to run.
#[derive(Debug)]
pub(super) struct Installed {
    folder: PathBuf,
    /// Whom to run it as: it refuses to run as root.
    pub(super) user: Option<(u32, u32)>,
}

impl Postgres {
    /// The cluster that the tests of this process share; none where PostgreSQL is not installed.
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Postgres>> = OnceLock::new();
        SHARED.get_or_init(Self::private).as_ref()
    }

    /// A cluster that one test has for itself; none where PostgreSQL is not installed.
    pub fn private() -> Option<Self> {
        let installed = installed()?;
        let dir = scratch::dir("pg-");
        if let Some((uid, gid)) = installed.user {
            chown(dir.path(), Some(uid), Some(gid)).unwrap();
        }
        let made = installed
            .command("initdb")
            .args(["--auth=trust", "--username=outlast", "--encoding=UTF8", "--locale=C", "--no-sync", "--pgdata"])
            .arg(dir.path().join("data"))
            .output()
            .unwrap();
        assert!(made.status.success(), "initdb failed: {}", String::from_utf8_lossy(&made.stderr));
        let cluster = Self {
            installed,
            dir,
            port: free_port(),
            process: Mutex::default(),
            log: Arc::default(),
            databases: AtomicU32::new(0),
        };
        cluster.start();
        Some(cluster)
    }

    /// Makes a database and returns its URL.
    pub async fn database(&self) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.execute(&format!("CREATE DATABASE {name}")).await;
        self.url(&name)
    }

    /// Executes a statement as the administrator.
    pub async fn execute(&self, statement: &str) {
        let mut connection = PgConnection::connect(&self.url("postgres")).await.unwrap();
        connection.execute(AssertSqlSafe(statement)).await.unwrap();
        connection.close().await.unwrap();
    }

    /// Processor time of all its processes that live.
    pub fn cpu_time(&self) -> Duration {
        let id = self.process.lock().unwrap().as_ref().unwrap().id();
        process::children(id).into_iter().chain([id]).map(process::cpu_time).sum()
    }

    /// How many bytes it has written to its write-ahead log.
    pub async fn log_bytes(&self) -> u64 {
        let mut connection = PgConnection::connect(&self.url("postgres")).await.unwrap();
        let sql = "SELECT (pg_current_wal_insert_lsn() - '0/0')::BIGINT";
        let bytes: i64 = sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        bytes.unsigned_abs()
    }

    /// Lets nobody in without this password, from its next start on.
    pub async fn asks_for(&self, password: &str) {
        let rules = self.dir.path().join("hba.conf");
        std::fs::write(&rules, "host all all 127.0.0.1/32 scram-sha-256\n").unwrap();
        self.execute(&format!("ALTER USER outlast PASSWORD '{password}'")).await;
        self.execute(&format!("ALTER SYSTEM SET hba_file = '{}'", rules.display())).await;
        self.stop();
        self.start();
    }

    /// The port that it listens to, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    fn url(&self, database: &str) -> String {
        format!("postgres://outlast@127.0.0.1:{}/{database}", self.port)
    }

    /// Starts the cluster, and returns when it takes connections.
    pub fn start(&self) {
        let mut process = self.process.lock().unwrap();
        assert!(process.is_none(), "the cluster runs already");
        self.log.lock().unwrap().clear();
        let mut command = self.installed.command("postgres");
        command.arg("-D").arg(self.dir.path().join("data")).args(["-h", "127.0.0.1", "-p", &self.port.to_string()]);
        for setting in ["max_connections=200", "listen_addresses=127.0.0.1", "logging_collector=off"] {
            command.args(["-c", setting]);
        }
        command.arg("-c").arg(format!("unix_socket_directories={}", self.dir.path().display()));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = process::spawn(command, Signal::QUIT).unwrap();
        let (stderr, log) = (child.stderr.take().unwrap(), self.log.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut log = log.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        wait::eventually_blocking("PostgreSQL takes connections", || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("PostgreSQL ended with {status}:\n{}", self.log.lock().unwrap());
            }
            self.log.lock().unwrap().contains("ready to accept connections").then_some(())
        });
        *process = Some(child);
    }

    /// Stops the cluster: every connection is cut, nothing that was committed is lost.
    pub fn stop(&self) {
        self.end(Signal::INT);
    }

    /// Stops the cluster as a power cut would: at its next start it recovers from its log.
    pub fn crash(&self) {
        self.end(Signal::QUIT);
    }

    /// Whether the cluster runs.
    pub fn running(&self) -> bool {
        self.process.lock().unwrap().is_some()
    }

    fn end(&self, signal: Signal) {
        let Some(mut child) = self.process.lock().unwrap().take() else { return };
        process::signal(&child, signal);
        child.wait().unwrap();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.crash();
    }
}

impl Installed {
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.folder.join(program));
        // Messages in English: one of them is waited for.
        command.env("LC_ALL", "C").current_dir("/");
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }
}

fn installed() -> Option<&'static Installed> {
    static INSTALLED: OnceLock<Option<Installed>> = OnceLock::new();
    let found = INSTALLED.get_or_init(|| find().map_err(missing).ok());
    found.as_ref()
}

fn missing(why: String) {
    assert!(!notice::in_ci(), "PostgreSQL not found: {why}. Install it with `apt-get install postgresql`.");
    notice::once(&format!("PostgreSQL not found: {why}. These tests ran on SQLite alone."));
}

fn find() -> Result<Installed, String> {
    let mut folders: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|entries| entries.flatten().map(|entry| entry.path().join("bin")).collect())
        .unwrap_or_default();
    // The newest first.
    versions.sort_by_key(|path| std::cmp::Reverse(version(path)));
    folders.extend(versions);
    let folder = folders
        .into_iter()
        .find(|folder| ["initdb", "postgres"].iter().all(|program| folder.join(program).is_file()))
        .ok_or("there is no `initdb` in PATH or /usr/lib/postgresql")?;
    let me = std::fs::metadata("/proc/self").map(|process| process.uid()).unwrap_or(1);
    let user = if me == 0 { Some(user("postgres").ok_or("as root it needs a user `postgres`")?) } else { None };
    Ok(Installed { folder, user })
}

fn version(bin: &Path) -> u32 {
    let name = bin.parent().and_then(Path::file_name).and_then(|name| name.to_str());
    name.and_then(|name| name.parse().ok()).unwrap_or(0)
}

fn user(name: &str) -> Option<(u32, u32)> {
    let mut users = String::new();
    std::fs::File::open("/etc/passwd").ok()?.read_to_string(&mut users).ok()?;
    let fields: Vec<_> = users.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|line| line[0] == name)?;
    Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
}

pub(super) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
