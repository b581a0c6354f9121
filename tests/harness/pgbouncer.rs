//! A throw-away PgBouncer from the system's `pgbouncer`, in front of a throw-away PostgreSQL.
//!
//! Where it is not installed, the tests say so and end; in continuous integration that is a failure.

use std::{
    net::TcpStream,
    os::unix::{fs::chown, process::CommandExt as _},
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use super::{
    notice,
    postgres::{self, Postgres},
    process::{self, Signal},
    scratch, wait,
};

/// A pooler. Ends when it is dropped.
#[derive(Debug)]
pub struct PgBouncer {
    process: Child,
    port: u16,
    _dir: TempDir,
}

impl PgBouncer {
    /// A pooler with these lines in its configuration; none where `pgbouncer` is not installed.
    pub fn before(postgres: &Postgres, lines: &str) -> Option<Self> {
        let program = notice::installed("pgbouncer", "PgBouncer", "the tests of poolers did nothing")?;
        let (dir, port) = (scratch::dir("pgbouncer-"), postgres::free_port());
        let config = dir.path().join("pgbouncer.ini");
        // With `any`, everybody comes in, as the user of the database.
        let text = format!(
            "[databases]\n* = user=outlast host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nauth_type = any\nunix_socket_dir =\n{lines}\n",
            postgres.port(),
        );
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new(program);
        command.arg(&config).current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // It refuses to run as root.
        if let Some((uid, gid)) = postgres.installed.user {
            chown(dir.path(), Some(uid), Some(gid)).unwrap();
            command.uid(uid).gid(gid);
        }
        let mut process = process::spawn(command, Signal::KILL).unwrap();
        wait::eventually_blocking("PgBouncer takes connections", || {
            assert!(process.try_wait().unwrap().is_none(), "PgBouncer has ended");
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        Some(Self { process, port, _dir: dir })
    }

    /// The URL of a database through it.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://outlast@127.0.0.1:{}/{database}", self.port)
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        process::signal(&self.process, Signal::KILL);
        let _ = self.process.wait();
    }
}
