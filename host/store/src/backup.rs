//! A copy of an SQLite database, made while a server writes to it, and the way back.
//!
//! The copy is one state of the database: that of the moment in which it begins. It is written under another name and
//! gets its own when it is whole and on the disk, so a file that has the name of a backup is one. Free pages are left
//! out.
//!
//! A restore loses nothing: what was in the place of the database is renamed, together with its write-ahead log, which
//! belongs to it.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use outlast_runtime::private;
use sqlx::{AnyConnection, Connection as _, Executor as _, Row as _};

use super::{
    Backend, StoreError,
    connect::{backend_of, connect, sqlite_in_words},
    file::{DatabaseFile, sqlite_path, url_of, with_suffix},
    open::{KNOWN_SCHEMA, without_password},
    size::INCREMENTAL,
    wal,
};

/// What a copy is called until it is whole.
const PARTIAL: &str = ".partial";
/// How long a copy waits for another program's lock, in milliseconds.
const BUSY: &str = "PRAGMA busy_timeout = 10000";

/// Why a database is not backed up or restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// PostgreSQL has its own tools.
    #[error(
        "{0} is a PostgreSQL database: back it up with `pg_dump --format=custom --file=FILE URL`, and restore it with \
         `pg_restore --clean --if-exists --dbname=URL FILE` while no server uses it"
    )]
    Postgres(String),
    /// The file to be written is there already.
    #[error("{0} exists already; name another file")]
    Exists(PathBuf),
    /// A file cannot be read or written.
    #[error("{path}: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file is not a database that this version can use.
    #[error("{path} is not a backup that can be restored: {reason}")]
    NotABackup {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What was copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    /// The size of the copy, in bytes.
    pub bytes: u64,
    /// How many responses it has.
    pub responses: i64,
    /// The version of its schema.
    pub schema: i64,
    /// Where a restore has put what was there before; none where nothing was.
    pub before: Option<PathBuf>,
}

/// Copies the SQLite database at `database` into the new file `to`, also while a server uses it. The file is nobody
/// else's: mode 0600. Takes time in proportion to the size of the database; meanwhile the write-ahead log grows.
///
/// # Errors
///
/// Nothing has been written then.
pub async fn backup(database: &str, to: &Path) -> Result<Copied, BackupError> {
    let path = sqlite(database)?;
    if !path.is_file() {
        let reason = "there is no such file".to_owned();
        return Err(StoreError::Open { url: database.to_owned(), reason }.into());
    }
    if fs::symlink_metadata(to).is_ok() {
        return Err(BackupError::Exists(to.to_owned()));
    }
    let (mut source, _) = open_in_use(database).await?;
    let partial = Partial::new(with_suffix(to, PARTIAL))?;
    let into = text(&partial.0)?;
    // What comes out gives pages back when they are free, also where the database itself is older than that. In one that
    // does so already it would be a write, for nothing.
    let mode =
        source.fetch_one("SELECT auto_vacuum AS mode FROM pragma_auto_vacuum").await.map_err(StoreError::from)?;
    if mode.try_get::<i64, _>("mode").map_err(StoreError::from)? != INCREMENTAL {
        source.execute("PRAGMA auto_vacuum = INCREMENTAL").await.map_err(StoreError::from)?;
    }
    sqlx::query("VACUUM INTO $1").bind(into).execute(&mut source).await.map_err(|error| refused(database, &error))?;
    let _ = source.close().await;
    let copied = examine(&partial.0).await.map_err(|reason| not_a_backup(&path, reason))?;
    partial.becomes(to)?;
    Ok(copied)
}

/// Puts the backup `from` in the place of the SQLite database at `database`, which no server may use. What was there
/// is renamed.
///
/// # Errors
///
/// The database is as it was then.
pub async fn restore(from: &Path, database: &str) -> Result<Copied, BackupError> {
    let path = sqlite(database)?;
    let given = fs::metadata(from).map_err(at(from))?;
    if !given.is_file() {
        return Err(not_a_backup(from, "it is not a file".to_owned()));
    }
    let was_there = fs::metadata(&path).is_ok_and(|file| file.len() > 0);
    let held = DatabaseFile::open(database)?;
    let path = held.path().to_owned();
    if fs::canonicalize(from).map_err(at(from))? == path {
        return Err(not_a_backup(from, "it is the database itself".to_owned()));
    }
    let partial = Partial::new(with_suffix(&path, PARTIAL))?;
    fs::copy(from, &partial.0).map_err(at(from))?;
    // A copy of the file alone, made while a server ran, lacks what was in its log: it is taken where it is there.
    let log = with_suffix(from, "-wal");
    if log.is_file() {
        fs::copy(&log, with_suffix(&partial.0, "-wal")).map_err(at(&log))?;
    }
    let copied = examine(&partial.0).await.map_err(|reason| not_a_backup(from, reason))?;
    let before = was_there.then(|| free_name(&path));
    if let Some(before) = &before {
        for suffix in ["-wal", "-shm", ""] {
            rename(&with_suffix(&path, suffix), &with_suffix(before, suffix))?;
        }
    }
    partial.becomes(&path)?;
    Ok(Copied { before, ..copied })
}

/// The path of an SQLite database.
fn sqlite(database: &str) -> Result<PathBuf, BackupError> {
    match backend_of(database) {
        Ok(Backend::Sqlite) => Ok(sqlite_path(database).into()),
        Ok(Backend::Postgres) => Err(BackupError::Postgres(without_password(database))),
        Err(reason) => Err(StoreError::Open { url: without_password(database), reason }.into()),
    }
}

/// A connection to an SQLite file that is there, and whether a server uses it now. Where none does, SQLite is about to replay
/// the log that lies beside the file.
pub(super) async fn open_in_use(database: &str) -> Result<(AnyConnection, bool), StoreError> {
    let in_use = match DatabaseFile::open(database) {
        Ok(file) => wal::check(&file).map(|()| false)?,
        Err(StoreError::Owned(_)) => true,
        Err(error) => return Err(error),
    };
    Ok((open_file(Path::new(sqlite_path(database))).await?, in_use))
}

async fn open_file(path: &Path) -> Result<AnyConnection, StoreError> {
    sqlx::any::install_default_drivers();
    let shown = path.display().to_string();
    let url = url_of(path).map_err(|reason| StoreError::Open { url: shown.clone(), reason })?;
    let mut connection = connect(&url).await.map_err(|error| refused(&shown, &error))?;
    connection.execute(BUSY).await.map_err(|error| refused(&shown, &error))?;
    Ok(connection)
}

fn refused(database: &str, error: &sqlx::Error) -> StoreError {
    StoreError::Open { url: database.to_owned(), reason: sqlite_in_words(error) }
}

/// Reads the whole of a copy that no one else has, and says why it is not a database of this server.
async fn examine(path: &Path) -> Result<Copied, String> {
    let mut connection = open_file(path).await.map_err(|error| error.to_string())?;
    let looked = look(&mut connection).await.map_err(|error| sqlite_in_words(&error));
    let _ = connection.close().await;
    let (responses, schema) = looked??;
    let bytes = fs::metadata(path).map_err(|error| error.to_string())?.len();
    Ok(Copied { bytes, responses, schema, before: None })
}

async fn look(connection: &mut AnyConnection) -> Result<Result<(i64, i64), String>, sqlx::Error> {
    let row = connection.fetch_one("SELECT integrity_check AS found FROM pragma_integrity_check LIMIT 1").await?;
    let found: String = row.try_get("found")?;
    if found != "ok" {
        return Ok(Err(format!("it is damaged: {found}")));
    }
    let tables = "SELECT COUNT(*) AS tables FROM sqlite_master WHERE type = 'table' AND name IN \
                  ('_sqlx_migrations', 'responses', 'events')";
    if connection.fetch_one(tables).await?.try_get::<i64, _>("tables")? != 3 {
        return Ok(Err("it is an SQLite database, but not one of Outlast".to_owned()));
    }
    let schema = schema_of(connection).await?;
    if schema > KNOWN_SCHEMA {
        return Ok(Err(format!(
            "it was written by a newer version of Outlast: its schema has version {schema}, and this one knows \
             {KNOWN_SCHEMA}. Restore it with the newer version"
        )));
    }
    // Into the file, so that it is whole without a log beside it.
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").await?;
    let count = connection.fetch_one("SELECT COUNT(*) AS responses FROM responses").await?;
    Ok(Ok((count.try_get("responses")?, schema)))
}

/// The version of the schema of a database that has one.
pub(super) async fn schema_of(connection: &mut AnyConnection) -> Result<i64, sqlx::Error> {
    let row = connection.fetch_one("SELECT COALESCE(MAX(version), 0) AS version FROM _sqlx_migrations").await?;
    row.try_get("version")
}

/// A name for what was there, which nothing has.
fn free_name(path: &Path) -> PathBuf {
    let names = (1_u32..).map(|number| with_suffix(path, &format!(".before-restore-{number}")));
    let mut free = names.filter(|name| fs::symlink_metadata(name).is_err());
    free.next().unwrap_or_else(|| with_suffix(path, ".before-restore"))
}

fn rename(from: &Path, to: &Path) -> Result<(), BackupError> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done.map_err(at(from)),
    }
}

fn text(path: &Path) -> Result<String, BackupError> {
    let reason = || "its path is not UTF-8".to_owned();
    path.to_str().map(str::to_owned).ok_or_else(|| not_a_backup(path, reason()))
}

fn not_a_backup(path: &Path, reason: String) -> BackupError {
    BackupError::NotABackup { path: path.to_owned(), reason }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_owned();
    move |error| BackupError::File { path, error }
}

/// A file that is not whole yet; removed when it is dropped before it has its name.
#[derive(Debug)]
struct Partial(PathBuf);

impl Partial {
    fn new(path: PathBuf) -> Result<Self, BackupError> {
        // Left by one that was killed.
        let partial = Self(path);
        partial.remove();
        drop(private::open(&partial.0).map_err(at(&partial.0))?);
        Ok(partial)
    }

    fn becomes(self, path: &Path) -> Result<(), BackupError> {
        File::open(&self.0).and_then(|file| file.sync_all()).map_err(at(&self.0))?;
        fs::rename(&self.0, path).map_err(at(path))?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(at(folder))
    }

    fn remove(&self) {
        for suffix in ["", "-wal", "-shm", "-journal"] {
            let _ = fs::remove_file(with_suffix(&self.0, suffix));
        }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        self.remove();
    }
}
