//! Opening a database: pool and schema.

use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, Instant},
};

use outlast_runtime::lease::Lease;
use sqlx::{
    AnyConnection, Connection as _, SqlStr,
    any::AnyPoolOptions,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
};
use tokio::sync::{Mutex, RwLock};

use super::{
    StoreError, WriteConnection,
    commit_log::CommitLog,
    connect::{PostgresUrl, backend_of, prepare, sqlite_in_words},
    file::{DatabaseFile, sqlite_path},
    pool::Pool,
    transaction::WriteLock,
    wal,
};

/// How long a call waits for a free connection, or for another process's lock on an SQLite file.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// How long the owner of a PostgreSQL database may be silent before another server takes over, by default.
pub const LEASE: Duration = Duration::from_secs(15);

/// The schema, version by version. A released version is never edited.
const MIGRATIONS: [(i64, &str, &str); 12] = [
    (1, "responses", include_str!("../migrations/0001_responses.sql")),
    (2, "conversations", include_str!("../migrations/0002_conversations.sql")),
    (3, "secrets", include_str!("../migrations/0003_secrets.sql")),
    (4, "owner", include_str!("../migrations/0004_owner.sql")),
    (5, "journal", include_str!("../migrations/0005_journal.sql")),
    (6, "state", include_str!("../migrations/0006_state.sql")),
    (7, "runs", include_str!("../migrations/0007_runs.sql")),
    (8, "lives", include_str!("../migrations/0008_lives.sql")),
    (9, "conversations changed", include_str!("../migrations/0009_conversations_changed.sql")),
    (10, "served", include_str!("../migrations/0010_served.sql")),
    (11, "commit log", include_str!("../migrations/0011_commit_log.sql")),
    (12, "webhooks", include_str!("../migrations/0012_webhooks.sql")),
];

/// The last version of the schema.
pub(super) const KNOWN_SCHEMA: i64 = MIGRATIONS[MIGRATIONS.len() - 1].0;

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
    pub(super) pool: Pool,
    pub(super) backend: Backend,
    /// For people: the URL without its password.
    shown: String,
    pub(super) url: Arc<str>,
    /// How long the owner of a PostgreSQL database may be silent before another server takes over.
    pub(super) lease: Duration,
    /// When the database was found well last. Whoever looks holds it.
    pub(super) checked: Arc<Mutex<Option<Instant>>>,
    /// The file of an SQLite database, held as long as the store lives.
    pub(super) file: Option<Arc<DatabaseFile>>,
    /// What was committed and is not yet in its tables.
    pub(super) commit_log: Arc<parking_lot::Mutex<CommitLog>>,
    /// Held while a transaction is committed, until what it has committed is in the commit log's memory.
    pub(super) committing: Arc<RwLock<()>>,
    /// Whose turn it is to write to an SQLite database.
    pub(super) turn: WriteLock,
    /// Whether this server still is the owner. Endless on SQLite, where a lock on a file decides.
    pub(super) held: Lease,
}

impl Store {
    /// Opens `database`, a PostgreSQL URL (`postgres://…`) or the path of an SQLite file, which is made when it
    /// is not there. Brings the schema of an SQLite database up to date; that of a PostgreSQL database is the owner's
    /// to change: [`writer`](Self::writer) does.
    ///
    /// # Errors
    ///
    /// [`StoreError::Owned`] when another server uses an SQLite file; [`StoreError::Open`] when there is no such
    /// database, which says what is wrong; [`StoreError::ForeignLog`] when an SQLite file has the log of another one;
    /// [`StoreError::Newer`] and [`StoreError::Migration`] when its schema is newer than this server or was changed by
    /// hand.
    pub async fn open(database: &str) -> Result<Self, StoreError> {
        sqlx::any::install_default_drivers();
        let backend = backend_of(database)
            .map_err(|reason| StoreError::Open { url: format!("{:?}", without_password(database)), reason })?;
        match backend {
            Backend::Sqlite => Self::open_sqlite(database).await,
            Backend::Postgres => Self::open_postgres(database).await,
        }
    }

    async fn open_sqlite(database: &str) -> Result<Self, StoreError> {
        let path = sqlite_path(database);
        let open = |reason: String| StoreError::Open { url: path.to_owned(), reason };
        let file = DatabaseFile::open(path)?;
        wal::check(&file)?;
        let url = file.url().map_err(open)?;
        let store =
            Self::new(Backend::Sqlite, &url, path, Some(file.into())).map_err(|error| open(error.to_string()))?;
        let mut connection = store.connect().await.map_err(|error| match error {
            StoreError::Unavailable(super::Outage::Database(error)) => open(sqlite_in_words(&error)),
            error => open(error.to_string()),
        })?;
        store.migrate(&mut connection).await?;
        let _ = connection.close().await;
        Ok(store)
    }

    async fn open_postgres(url: &str) -> Result<Self, StoreError> {
        let shown = without_password(url);
        let open = |reason: String| StoreError::Open { url: shown.clone(), reason };
        PostgresUrl::parse(url).map_err(open)?.probe(url).await.map_err(open)?;
        Self::new(Backend::Postgres, url, &shown, None).map_err(|error| open(error.to_string()))
    }

    fn new(backend: Backend, url: &str, shown: &str, file: Option<Arc<DatabaseFile>>) -> Result<Self, sqlx::Error> {
        let for_pool = file.clone();
        let pool = AnyPoolOptions::new()
            .max_connections(match backend {
                Backend::Sqlite => 4,
                Backend::Postgres => 8,
            })
            .acquire_timeout(PATIENCE)
            .after_connect(move |connection, _| {
                let file = for_pool.clone();
                Box::pin(async move { prepare(connection, file.as_deref()).await })
            })
            .connect_lazy(url)?
            .into();
        let (checked, commit_log, committing, turn) = Default::default();
        let held = match backend {
            Backend::Sqlite => Lease::endless(),
            Backend::Postgres => Lease::none(),
        };
        Ok(Self {
            pool,
            backend,
            shown: shown.to_owned(),
            url: url.into(),
            lease: LEASE,
            held,
            checked,
            file,
            commit_log,
            committing,
            turn,
        })
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

    /// The connection that all writes of runs go through. It is the owner of the database, and must be
    /// [kept](WriteConnection::keep). Brings the schema of a PostgreSQL database up to date.
    ///
    /// # Errors
    ///
    /// [`StoreError::Owned`] when another server owns a PostgreSQL database and lives; [`StoreError::Newer`] and
    /// [`StoreError::Migration`] when its schema cannot be brought up to date.
    pub async fn writer(&self) -> Result<WriteConnection, StoreError> {
        WriteConnection::open(self.clone()).await
    }

    /// Closes every connection, the write connection excepted.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Brings the schema up to date.
    pub(super) async fn migrate(&self, connection: &mut AnyConnection) -> Result<(), StoreError> {
        let migrations = MIGRATIONS.iter().map(|&(version, name, sql)| {
            Migration::new(version, Cow::Borrowed(name), MigrationType::Simple, SqlStr::from_static(sql), false)
        });
        Migrator::with_migrations(migrations.collect()).run(connection).await.map_err(|error| match error {
            MigrateError::VersionMissing(found) if found > KNOWN_SCHEMA => {
                StoreError::Newer { database: self.shown.clone(), found, known: KNOWN_SCHEMA }
            }
            error => error.into(),
        })
    }
}

pub(super) fn without_password(url: &str) -> String {
    let Some(scheme) = url.find("://") else { return url.to_owned() };
    let (scheme, rest) = (&url[..scheme], &url[scheme + 3..]);
    // A password may have an `@`; what comes behind `?` may be one.
    let (user, rest) = match rest.rsplit_once('@') {
        Some((user, rest)) => (format!("{}@", user.split(':').next().unwrap_or_default()), rest),
        None => (String::new(), rest),
    };
    format!("{scheme}://{user}{}", rest.split('?').next().unwrap_or_default())
}
