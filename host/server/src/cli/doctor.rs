//! `outlast doctor`: what is wrong with this machine, in sentences.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use bytesize::ByteSize;
use clap::Args;
use outlast_plugin::Source;
use outlast_runtime::clock::{in_milliseconds, milliseconds};
use outlast_store::{Backend, Diagnosis, diagnose};
use rustix::{
    fs::{Access, access, statvfs},
    process::{Resource, getrlimit},
};
use serde_json::json;

use super::{check::build, outcome, output::say};
use crate::config::{Config, Flags};

/// How far the clocks of this machine and of its database may be apart.
const CLOCKS: Duration = Duration::from_secs(5);
/// Free space of a disk below which a server is in danger, in bytes.
const DISK: u64 = 1 << 30;
/// Descriptors that a server needs beside those of connections.
const DESCRIPTORS: u64 = 1_000;

/// Say what is wrong with this machine, the database, the folders, the clock and the limits.
///
/// Run it as the server's user and with its configuration. It connects to the database and reads; it changes nothing, and the
/// server may run. The exit code is 0 when a server can work here: what is only worth knowing is a warning.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    outlast doctor --config outlast.toml\n  \
    sudo -u outlast outlast doctor --config /etc/outlast/outlast.toml --json")]
pub(super) struct Doctor {
    /// The configuration file of the server (TOML).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ok,
    Warning,
    Problem,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// What was looked at, and what was found.
#[derive(Debug)]
struct Finding {
    about: &'static str,
    state: State,
    says: String,
}

fn ok(about: &'static str, says: impl Into<String>) -> Finding {
    Finding { about, state: State::Ok, says: says.into() }
}

fn warning(about: &'static str, says: impl Into<String>) -> Finding {
    Finding { about, state: State::Warning, says: says.into() }
}

fn problem(about: &'static str, says: impl Into<String>) -> Finding {
    Finding { about, state: State::Problem, says: says.into() }
}

impl Doctor {
    pub(super) fn run(self) -> Result<(), String> {
        outcome(async {
            let findings = examine(self.config.as_deref()).await;
            if self.json {
                let all = findings.iter().map(
                    |Finding { about, state, says }| json!({ "about": about, "state": state.word(), "says": says }),
                );
                say!("{:#}", serde_json::Value::from_iter(all))?;
            } else {
                for Finding { about, state, says } in &findings {
                    say!("{:8} {about}: {says}", state.word())?;
                }
            }
            match findings.iter().filter(|finding| finding.state == State::Problem).count() {
                0 => Ok(()),
                1 => Err("there is a problem".to_owned()),
                problems => Err(format!("there are {problems} problems")),
            }
        })
    }
}

async fn examine(file: Option<&Path>) -> Vec<Finding> {
    let config = match Config::read(file, &Flags::default()) {
        Ok(config) => config,
        // Nothing else can be known without it.
        Err(error) => return vec![problem("configuration", error.to_string())],
    };
    let mut findings: Vec<_> = config.warnings.iter().map(|says| warning("configuration", says)).collect();
    findings.push(match build(&config) {
        Ok(models) if models.is_empty() => warning(
            "configuration",
            "no model provider: set OPENAI_API_KEY or OPENAI_BASE_URL, or [providers.NAME]; agents that need none work",
        ),
        Ok(_) => ok("configuration", "it can be used"),
        Err(why) => problem("configuration", why),
    });
    findings.extend(listen(&config));
    findings.extend(database(&config).await);
    findings.extend(config.plugins.iter().filter_map(plugins));
    findings.extend(cache(&config));
    findings.extend(limits(&config));
    findings
}

/// Whether the address is free, or a server is there.
fn listen(config: &Config) -> Option<Finding> {
    let address = config.listen;
    Some(match TcpListener::bind(address) {
        Ok(_) => ok("listen", format!("{address} is free")),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            warning("listen", format!("{address} is in use: by this server, if it runs"))
        }
        Err(error) => problem("listen", format!("cannot listen on {address}: {error}")),
    })
}

async fn database(config: &Config) -> Vec<Finding> {
    let Ok(database) = config.database.resolve(|name| std::env::var(name).ok()) else { return Vec::new() };
    let found = match diagnose(&database).await {
        Ok(found) => found,
        Err(error) => return vec![problem("database", error.to_string())],
    };
    let Diagnosis { shown, schema, known, bytes, in_use, .. } = &found;
    let size = ByteSize::b(*bytes).display().iec();
    let server = if *in_use { ", and a server is using it" } else { "" };
    let mut findings = vec![match schema {
        None => ok("database", format!("{shown} is empty: the server creates its tables{server}")),
        Some(schema) if schema < known => warning(
            "database",
            format!(
                "{shown} ({size}) has schema {schema}: this version changes it to {known} when it starts, and an older \
                 one cannot use it then; make a backup first"
            ),
        ),
        Some(_) => ok("database", format!("{shown} ({size}) can be used{server}")),
    }];
    if let (Backend::Sqlite, Some(file)) = (found.backend, &found.file) {
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        findings.extend(space("database", folder));
        if let Ok(metadata) = fs::metadata(file)
            && metadata.mode() & 0o077 != 0
        {
            let mode = metadata.mode() & 0o777;
            findings.push(warning(
                "database",
                format!(
                    "{shown} can be used by other users (mode {mode:04o}); the server makes it 0600 when it starts"
                ),
            ));
        }
    }
    findings.push(clock(&found, milliseconds(SystemTime::now())));
    findings
}

/// Whether the clock of this machine fits to what is in the database, and to the clock of its server.
fn clock(found: &Diagnosis, now: i64) -> Finding {
    let apart = |other: i64| Duration::from_millis(now.abs_diff(other));
    let limit = in_milliseconds(CLOCKS);
    match (found.latest, found.clock) {
        (Some(latest), _) if latest > now + limit => problem(
            "clock",
            format!(
                "the latest response in the database is {:?} in the future: this machine's clock was set back; set it \
                 right, or timers and retention are late by that much",
                Duration::from_secs(apart(latest).as_secs())
            ),
        ),
        (_, Some(clock)) if apart(clock) > CLOCKS => warning(
            "clock",
            format!(
                "this machine and PostgreSQL are {:?} apart; run NTP on both",
                Duration::from_secs(apart(clock).as_secs())
            ),
        ),
        _ => ok("clock", "it agrees with the database"),
    }
}

/// Whether a disk has room.
fn space(about: &'static str, folder: &Path) -> Option<Finding> {
    let shown = folder.display();
    Some(match statvfs(folder) {
        Err(error) => problem(about, format!("the folder {shown} cannot be examined: {error}")),
        Ok(_) if access(folder, Access::WRITE_OK | Access::EXEC_OK).is_err() => {
            problem(about, format!("the folder {shown} cannot be written to by this user"))
        }
        Ok(disk) => {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            let size = ByteSize::b(free).display().iec();
            match free < DISK {
                true => warning(about, format!("the disk of {shown} has {size} free; runs wait while it is full")),
                false => ok(about, format!("the disk of {shown} has {size} free")),
            }
        }
    })
}

/// Whether a place that plugins come from is there, and who else may put some into it.
fn plugins(source: &Source) -> Option<Finding> {
    let Source::Path(path) = source else { return None };
    let shown = path.display();
    Some(match fs::metadata(path) {
        Err(error) => problem("plugins", format!("{shown}: {error}")),
        Ok(metadata) if metadata.mode() & 0o002 != 0 => problem(
            "plugins",
            format!(
                "{shown} can be written by every user of this machine, so each of them can add an agent; run `chmod \
                 o-w`"
            ),
        ),
        Ok(_) if fs::File::open(path).is_err() => problem("plugins", format!("{shown} cannot be read by this user")),
        Ok(_) => ok("plugins", format!("{shown} can be read; `outlast plugin list` says what is served of it")),
    })
}

fn cache(config: &Config) -> Option<Finding> {
    let folder = config.cache_folder()?;
    Some(match folder.ancestors().find(|folder| folder.is_dir()) {
        Some(there) if access(there, Access::WRITE_OK | Access::EXEC_OK).is_ok() => {
            ok("cache", format!("compiled code is stored in {}", folder.display()))
        }
        _ => warning(
            "cache",
            format!(
                "compiled code cannot be stored in {}: each start compiles all plugins again; `cache` names another \
                 folder",
                folder.display()
            ),
        ),
    })
}

/// Whether this machine allows what the configuration wants.
fn limits(config: &Config) -> Vec<Finding> {
    let live = config.live_runs();
    let mut findings = vec![ok("limits", live.to_string())];
    let wanted = config.limits.connections.connections as u64 + DESCRIPTORS;
    let allowed = getrlimit(Resource::Nofile).maximum;
    if let Some(allowed) = allowed.filter(|allowed| *allowed < wanted) {
        findings.push(warning(
            "limits",
            format!(
                "limits.connections = {} needs {wanted} open files, and this user may have {allowed}: raise it (`ulimit \
                 -n`, LimitNOFILE= of systemd), or lower the limit",
                config.limits.connections.connections
            ),
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(latest: Option<i64>, clock: Option<i64>) -> Diagnosis {
        Diagnosis {
            shown: "o.db".to_owned(),
            backend: Backend::Sqlite,
            file: None,
            in_use: false,
            schema: Some(1),
            known: 1,
            bytes: 0,
            latest,
            clock,
        }
    }

    #[test]
    fn a_clock_that_was_set_back_is_a_problem() {
        let state = |latest, other| clock(&found(latest, other), 1_000_000).state;
        assert_eq!(state(None, None), State::Ok);
        assert_eq!(state(Some(1_001_000), None), State::Ok);
        assert_eq!(state(Some(1_100_000), None), State::Problem);
        assert_eq!(state(Some(900_000), Some(900_000)), State::Warning);
        assert_eq!(state(Some(900_000), Some(1_001_000)), State::Ok);
    }
}
