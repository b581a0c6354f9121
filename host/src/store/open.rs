//! Opening a database: pool, ownership, schema.

use std::{borrow::Cow, fs::File, path::Path, time::Duration};

use sqlx::{
    AnyConnection, AnyPool, Connection as _, Executor as _, SqlStr,
    any::AnyPoolOptions,
    migrate::{Migration, MigrationType, Migrator},
};

use super::{StoreError, WriteConnection};
use crate::lease::Lease;

/// How long a call waits for a free connection, or for another process's lock on an SQLite file.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// How long the owner of a PostgreSQL database may be silent before another server takes over, by default.
pub const LEASE: Duration = Duration::from_secs(15);

/// The schema, version by version. A released version is never edited.
const MIGRATIONS: [(i64, &str, &str); 7] = [
    (1, "responses", include_str!("../../migrations/0001_responses.sql")),
    (2, "conversations", include_str!("../../migrations/0002_conversations.sql")),
    (3, "secrets", include_str!("../../migrations/0003_secrets.sql")),
    (4, "owner", include_str!("../../migrations/0004_owner.sql")),
    (5, "journal", include_str!("../../migrations/0005_journal.sql")),
    (6, "state", include_str!("../../migrations/0006_state.sql")),
    (7, "runs", include_str!("../../migrations/0007_runs.sql")),
];

/// Which database it is, for the few statements that differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// A file beside the server.
    Sqlite,
    /// A server of its own.
    Postgres,
}

/// The database.
#[derive(Clone, Debug)]
pub struct Store {
    pub(super) pool: AnyPool,
    pub(super) backend: Backend,
    /// For people: the URL without its password.
    shown: String,
    /// How long the owner of a PostgreSQL database may be silent before another server takes over.
    pub(super) lease: Duration,
    /// Whether this server still is the owner. Endless on SQLite, where a lock on a file decides.
    pub(super) held: Lease,
    /// Held as long as the store lives.
    _lock: Option<std::sync::Arc<File>>,
}

impl Store {
    /// Opens `database`, a PostgreSQL URL (`postgres://…`) or the path of an SQLite file, which is made when it
    /// is not there. Brings the schema up to date.
    ///
    /// # Errors
    ///
    /// [`StoreError::Owned`] when another server uses an SQLite file; [`StoreError::Open`] when there is no such
    /// database; [`StoreError::Migration`] when its schema is newer than this server or was changed by hand.
    pub async fn open(database: &str) -> Result<Self, StoreError> {
        sqlx::any::install_default_drivers();
        let (backend, url, shown) = if database.starts_with("postgres://") || database.starts_with("postgresql://") {
            (Backend::Postgres, database.to_owned(), without_password(database))
        } else {
            let path = database.strip_prefix("sqlite:").map_or(database, |path| path.trim_start_matches("//"));
            (Backend::Sqlite, sqlite_url(path), path.to_owned())
        };
        let open = |reason: String| StoreError::Open { url: shown.clone(), reason };
        let lock = match backend {
            Backend::Sqlite => Some(lock_file(&shown)?.into()),
            Backend::Postgres => None,
        };
        let pool = AnyPoolOptions::new()
            .max_connections(match backend {
                Backend::Sqlite => 4,
                Backend::Postgres => 8,
            })
            .acquire_timeout(PATIENCE)
            .after_connect(move |connection, _| Box::pin(prepare(connection, backend)))
            .connect(&url)
            .await
            .map_err(|error| open(error.to_string()))?;
        let held = match backend {
            Backend::Sqlite => Lease::endless(),
            Backend::Postgres => Lease::none(),
        };
        let store = Self { pool, backend, shown, lease: LEASE, held, _lock: lock };
        store.migrate().await?;
        Ok(store)
    }

    /// The same, with another lease than [`LEASE`].
    #[must_use]
    pub fn leased_for(self, lease: Duration) -> Self {
        Self { lease, ..self }
    }

    /// The lease of this server, to look at before whatever is done for a run that is kept. It begins with the
    /// [`writer`](Self::writer).
    pub fn held(&self) -> &Lease {
        &self.held
    }

    /// Which database it is.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Where the data is, for people: a path, or a URL without its password.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1").execute(&self.pool).await?;
        Ok(())
    }

    /// The connection that all writes of runs go through. It is the owner of the database, and must be
    /// [kept](WriteConnection::keep).
    ///
    /// # Errors
    ///
    /// [`StoreError::Owned`] when another server owns a PostgreSQL database and lives.
    pub async fn writer(&self) -> Result<WriteConnection, StoreError> {
        WriteConnection::open(self.clone()).await
    }

    /// Closes every connection, the write connection excepted.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    async fn migrate(&self) -> Result<(), StoreError> {
        let migrations = MIGRATIONS.iter().map(|&(version, name, sql)| {
            Migration::new(version, Cow::Borrowed(name), MigrationType::Simple, SqlStr::from_static(sql), false)
        });
        Ok(Migrator::with_migrations(migrations.collect()).run(&self.pool).await?)
    }
}

async fn prepare(connection: &mut AnyConnection, backend: Backend) -> Result<(), sqlx::Error> {
    match backend {
        Backend::Sqlite => {
            // FULL: a commit is on the disk when it returns, so it survives a power cut too. Under group commit it
            // costs next to nothing.
            connection.execute("PRAGMA journal_mode = WAL").await?;
            connection.execute("PRAGMA synchronous = FULL").await?;
            connection.execute("PRAGMA busy_timeout = 1000").await?;
        }
        Backend::Postgres => {
            connection.execute("SET statement_timeout = '10s'").await?;
        }
    }
    connection.ping().await
}

fn sqlite_url(path: &str) -> String {
    let mut escaped = String::new();
    for character in path.chars() {
        match character {
            '%' | '?' | '#' => escaped.push_str(&format!("%{:02X}", u32::from(character))),
            _ => escaped.push(character),
        }
    }
    format!("sqlite://{escaped}?mode=rwc")
}

fn lock_file(database: &str) -> Result<File, StoreError> {
    let path = format!("{database}.lock");
    let open = |error: std::io::Error| StoreError::Open {
        url: database.to_owned(),
        reason: format!("cannot lock {path}: {error}"),
    };
    if let Some(folder) = Path::new(database).parent().filter(|folder| !folder.as_os_str().is_empty())
        && !folder.is_dir()
    {
        let reason = format!("there is no folder {}", folder.display());
        return Err(StoreError::Open { url: database.to_owned(), reason });
    }
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(open)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(StoreError::Owned(database.to_owned())),
        Err(std::fs::TryLockError::Error(error)) => Err(open(error)),
    }
}

fn without_password(url: &str) -> String {
    let (Some(scheme), Some(at)) = (url.find("://"), url.rfind('@')) else { return url.to_owned() };
    let user = url[scheme + 3..at].split(':').next().unwrap_or_default();
    let rest = url[at + 1..].split('?').next().unwrap_or_default();
    format!("{}://{user}@{rest}", &url[..scheme])
}
