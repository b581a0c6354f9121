//! The real binary, as a process of its own.

use std::{
    io::{BufRead as _, BufReader, Read},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
};

use serde_json::Value;
use sqlx::AnyConnection;
use tempfile::TempDir;

use super::{
    client::Client,
    database::Database,
    journal::journals,
    process::{self, Signal},
    scratch, wait,
};

/// The server under test, built by cargo for these tests.
pub const BINARY: &str = env!("CARGO_BIN_EXE_outlast");

/// How a server is started.
#[derive(Clone, Debug)]
pub struct Options {
    database: Database,
    /// Whether the configuration names it, and not `--database`.
    configured: bool,
    plugins: Option<PathBuf>,
    config: Option<String>,
    env: Vec<(String, String)>,
    args: Vec<String>,
    ignored: Option<i32>,
    stderr: Option<Arc<OwnedFd>>,
    inherited: Option<Arc<OwnedFd>>,
}

impl Options {
    /// Defaults, on this database.
    pub fn new(database: Database) -> Self {
        let (env, args) = (Vec::new(), Vec::new());
        Self {
            database,
            configured: false,
            plugins: None,
            config: None,
            env,
            args,
            ignored: None,
            stderr: None,
            inherited: None,
        }
    }

    /// Defaults, on this database, which the configuration or the environment names.
    pub fn configured(database: Database) -> Self {
        Self { configured: true, ..Self::new(database) }
    }

    /// Defaults, with these words for `--database`. Nothing is known of the database.
    pub fn named(database: &str) -> Self {
        Self::new(Database::Postgres(database.to_owned()))
    }

    /// Sets `--plugins`.
    pub fn plugins(mut self, folder: &Path) -> Self {
        self.plugins = Some(folder.to_owned());
        self
    }

    /// Adds lines to the configuration file.
    pub fn config(mut self, toml: &str) -> Self {
        let config = self.config.get_or_insert_default();
        config.push_str(toml);
        config.push('\n');
        self
    }

    /// Replaces the configuration file.
    pub fn reconfigured(mut self, toml: &str) -> Self {
        self.config = Some(toml.to_owned());
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds an argument after `serve`.
    pub fn arg(mut self, argument: &str) -> Self {
        self.args.push(argument.to_owned());
        self
    }

    /// Lets the server write its log there, and not to the test.
    pub fn stderr(mut self, file: impl Into<OwnedFd>) -> Self {
        self.stderr = Some(Arc::new(file.into()));
        self
    }

    /// Leaves a descriptor open for the server, and for whoever it starts.
    pub fn inheriting(mut self, descriptor: impl Into<OwnedFd>) -> Self {
        self.inherited = Some(Arc::new(descriptor.into()));
        self
    }

    /// Lets the server be told by an error, not by a signal, that a file may not grow: see
    /// [`Server::forbid_writes`].
    pub fn survives_full_disk(mut self) -> Self {
        self.ignored = Some(libc::SIGXFSZ);
        self
    }
}

impl From<Database> for Options {
    fn from(database: Database) -> Self {
        Self::new(database)
    }
}

/// A server. Killed when it is dropped; its output is shown when the test fails.
#[derive(Debug)]
pub struct Server {
    options: Options,
    dir: TempDir,
    process: Option<Child>,
    url: String,
    stdout: Output,
    stderr: Output,
    /// What its earlier lives wrote to standard error.
    earlier: String,
}

impl Server {
    /// Starts a server in a folder of its own, on a free port, and returns when it listens.
    pub fn start(options: impl Into<Options>) -> Self {
        let mut server = Self::prepared(options.into());
        server.launch();
        server.listen();
        server
    }

    /// Starts a server that is expected to refuse, and returns how it ended and what it wrote to standard error.
    pub fn refused(options: impl Into<Options>) -> (ExitStatus, String) {
        let mut server = Self::prepared(options.into());
        server.launch();
        let status = server.wait();
        (status, server.stderr.closed())
    }

    fn prepared(options: Options) -> Self {
        Self {
            options,
            dir: scratch::dir("server-"),
            process: None,
            url: String::new(),
            stdout: Output::default(),
            stderr: Output::default(),
            earlier: String::new(),
        }
    }

    fn launch(&mut self) {
        let mut command = Command::new(BINARY);
        // Nothing of the environment of the tests reaches the server.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if ["OUTLAST_", "OPENAI_", "RUST_LOG", "XDG_"].iter().any(|prefix| text.starts_with(prefix)) {
                command.env_remove(&name);
            }
        }
        let options = &self.options;
        command.env("XDG_CACHE_HOME", scratch::caches());
        command.current_dir(self.dir.path()).arg("serve");
        if !options.args.iter().any(|argument| argument == "--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        if !options.configured {
            command.arg("--database").arg(options.database.argument(self.dir.path()));
        }
        if let Some(folder) = &options.plugins {
            command.arg("--plugins").arg(folder);
        }
        if let Some(config) = &options.config {
            let path = self.dir.path().join("outlast.toml");
            std::fs::write(&path, config).unwrap();
            command.arg("--config").arg(path);
        }
        command.args(&options.args).envs(options.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(stderr) = &options.stderr {
            command.stderr(stderr.try_clone().unwrap());
        }
        if let Some(signal) = options.ignored {
            // SAFETY: one system call, which is allowed between fork and exec.
            unsafe {
                use std::os::unix::process::CommandExt as _;
                command.pre_exec(move || {
                    libc::signal(signal, libc::SIG_IGN);
                    Ok(())
                });
            }
        }
        if let Some(descriptor) = &options.inherited {
            use std::os::{fd::AsRawFd as _, unix::process::CommandExt as _};
            let descriptor = descriptor.as_raw_fd();
            // SAFETY: one system call, which is allowed between fork and exec; the descriptor is open until then.
            unsafe {
                command.pre_exec(move || {
                    libc::fcntl(descriptor, libc::F_SETFD, 0);
                    Ok(())
                });
            }
        }
        let mut child = process::spawn(command, Signal::KILL).unwrap();
        self.earlier.push_str(&self.stderr.text());
        self.stdout = Output::read(child.stdout.take().unwrap());
        self.stderr = child.stderr.take().map(Output::read).unwrap_or_default();
        self.process = Some(child);
    }

    fn listen(&mut self) {
        wait::eventually_blocking("the server listens", || match self.begun() {
            Begun::Listening => Some(()),
            Begun::NotYet => None,
            Begun::Ended(status) => {
                panic!("the server ended with {status} before it listened:\n{}", self.stderr.text())
            }
        });
    }

    /// Starts it again on the same data, with other options, and does not wait until it listens.
    pub fn launch_with(&mut self, options: Options) {
        assert!(self.process.is_none(), "it runs already");
        self.options = options;
        self.launch();
    }

    /// One look at how far a start is.
    pub fn begun(&mut self) -> Begun {
        let before = "listening on ";
        let ended = self.process.as_mut().unwrap().try_wait().unwrap();
        match (self.stdout.line_with(before), ended) {
            (Some(line), _) => {
                let (_, url) = line.split_once(before).unwrap();
                self.url = url.split_whitespace().next().unwrap().to_owned();
                Begun::Listening
            }
            (None, None) => Begun::NotYet,
            (None, Some(status)) => Begun::Ended(status),
        }
    }

    /// Where it listens: `http://127.0.0.1:PORT`, or `https://` with TLS.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The address without the scheme.
    pub fn address(&self) -> &str {
        self.url.split_once("://").map_or("", |(_, address)| address)
    }

    /// A client for it.
    pub fn client(&self) -> Client {
        Client::new(&self.url)
    }

    /// How it was started.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The folder that holds its data.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The ids of all responses that its database has.
    pub async fn response_ids(&self) -> Vec<String> {
        self.options.database.response_ids(self.dir.path()).await
    }

    /// A connection to its database.
    pub async fn database(&self) -> AnyConnection {
        self.options.database.connect(self.dir.path()).await
    }

    /// The names of the entries in the journal of a response.
    pub async fn entries(&self, id: &str) -> Vec<String> {
        let lines = journals(&mut self.database().await).await.remove(id).unwrap_or_default();
        let entries = serde_json::Deserializer::from_slice(&lines).into_iter::<Value>();
        entries.map(|entry| entry.unwrap()["name"].as_str().unwrap().to_owned()).collect()
    }

    /// Waits until a response has a journal, and gives it: a line for each entry. An import whose call can be seen is in the
    /// journal a moment later.
    pub async fn journal(&self, id: &str) -> String {
        let mut database = self.database().await;
        wait::eventually("the journal has an entry", async || {
            Some(String::from_utf8(journals(&mut database).await.remove(id)?).unwrap())
        })
        .await
    }

    /// What it has written to standard output.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// What it has written to standard error.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// What all its lives have written to standard error.
    pub fn log(&self) -> String {
        format!("{}{}", self.earlier, self.stderr.text())
    }

    /// Waits for a line on standard error that contains all of `parts`, and returns it.
    pub fn logged(&self, parts: &[&str]) -> String {
        wait::eventually_blocking(format!("the log has a line with {parts:?}"), || {
            self.stderr().lines().find(|line| parts.iter().all(|part| line.contains(part))).map(str::to_owned)
        })
    }

    /// Kills it as a power cut would.
    pub fn kill9(&mut self) {
        self.signal(Signal::KILL);
        self.wait();
    }

    /// Asks it to stop. It goes on until it has drained.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Tells it to look at its plugin folder.
    pub fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    /// Stops its clock: it does nothing until [`Server::cont`].
    pub fn stop(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn cont(&self) {
        self.signal(Signal::CONT);
    }

    /// Waits until it has ended, and lets other futures run meanwhile.
    pub async fn ended(&mut self) -> ExitStatus {
        let process = self.process.as_mut().unwrap();
        let status = wait::eventually("the server ends", async || process.try_wait().unwrap()).await;
        self.process = None;
        status
    }

    /// Waits until it has ended.
    pub fn wait(&mut self) -> ExitStatus {
        let process = self.process.as_mut().unwrap();
        let status = wait::eventually_blocking("the server ends", || process.try_wait().unwrap());
        self.process = None;
        status
    }

    /// Whether it is still there.
    pub fn running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.try_wait().unwrap().is_none())
    }

    /// Kills it, if it runs, and starts it again on the same data, at another port.
    pub fn restart(&mut self) {
        if self.process.is_some() {
            self.kill9();
        }
        self.launch();
        self.listen();
    }

    /// The same, with other options.
    pub fn restart_with(&mut self, options: Options) {
        self.options = options;
        self.restart();
    }

    /// Makes every write to a file fail, as on a full or read-only disk, or lifts that. Needs
    /// [`Options::survives_full_disk`].
    pub fn forbid_writes(&self, forbidden: bool) {
        use rustix::process::{Resource, Rlimit, prlimit};
        let current = forbidden.then_some(0);
        let process = self.process.as_ref().unwrap();
        prlimit(Some(process::pid(process)), Resource::Fsize, Rlimit { current, maximum: None }).unwrap();
    }

    /// Leaves its process alone, so that another one can be started in its place.
    pub fn leave(&mut self) -> Left {
        Left(self.process.take().unwrap())
    }

    /// The process's id.
    pub fn id(&self) -> u32 {
        self.process.as_ref().unwrap().id()
    }

    fn signal(&self, signal: Signal) {
        process::signal(self.process.as_ref().unwrap(), signal);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process::signal(&process, Signal::KILL);
            let _ = process.wait();
        }
        if std::thread::panicking() {
            println!("--- standard output of the server\n{}", self.stdout.text());
            println!("--- standard error of the server\n{}{}---", self.earlier, self.stderr.text());
        }
    }
}

/// A process of a server that was left alone. Killed when it is dropped.
#[derive(Debug)]
pub struct Left(Child);

impl Left {
    /// Lets it go on after [`Server::stop`].
    pub fn cont(&self) {
        process::signal(&self.0, Signal::CONT);
    }

    /// Waits until it has ended.
    pub async fn ended(&mut self) -> ExitStatus {
        wait::eventually("the server that was left ends", async || self.0.try_wait().unwrap()).await
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        if self.0.try_wait().is_ok_and(|ended| ended.is_none()) {
            process::signal(&self.0, Signal::KILL);
            let _ = self.0.wait();
        }
    }
}

/// How far the start of a server is.
#[derive(Clone, Copy, Debug)]
pub enum Begun {
    /// It does not listen yet.
    NotYet,
    /// It listens, or did so before it ended.
    Listening,
    /// It ended before it listened.
    Ended(ExitStatus),
}

/// What a process has written to one of its outputs so far.
#[derive(Debug, Default)]
struct Output {
    text: Arc<Mutex<String>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Output {
    fn read(from: impl Read + Send + 'static) -> Self {
        let text = Arc::<Mutex<String>>::default();
        let written = text.clone();
        let reader = std::thread::spawn(move || {
            let mut from = BufReader::new(from);
            let mut line = Vec::new();
            while from.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                written.lock().unwrap().push_str(&String::from_utf8_lossy(&line));
                line.clear();
            }
        });
        Self { text, reader: Some(reader) }
    }

    fn text(&self) -> String {
        self.text.lock().unwrap().clone()
    }

    /// Everything, once the process has ended.
    fn closed(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        self.text()
    }

    fn line_with(&self, part: &str) -> Option<String> {
        let text = self.text.lock().unwrap();
        // A line is whole when its end has come.
        let line = text.split_inclusive('\n').find(|line| line.contains(part) && line.ends_with('\n'));
        line.map(|line| line.trim_end().to_owned())
    }
}
