//! Connecting to a database, and saying in words why it cannot be done.

use std::{io::ErrorKind, str::FromStr as _, time::Duration};

use sqlx::{
    AnyConnection, Connection as _, Executor as _, Row as _, SqlSafeStr as _,
    postgres::{PgConnectOptions, PgSslMode},
};
use tracing::debug;

use super::{Backend, Store, StoreError, file::DatabaseFile, wal};

/// How long the making of a connection may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// For a connection to PostgreSQL that is dead and not closed: the server ends its side after about eleven seconds.
/// Whoever waits on this side has a limit of its own.
const KEEPALIVE: &str = "SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3; \
                         SET tcp_user_timeout = 10000";

const POOLER: &str = "this is a PgBouncer, or another pooler, that gives a session to several clients (`pool_mode = \
                      transaction` or `statement`). The server keeps a lock in its session: set `pool_mode = session` \
                      for this database, or name PostgreSQL itself";

/// Where a PostgreSQL database is, and as whom.
#[derive(Debug)]
pub(super) struct PostgresUrl {
    options: PgConnectOptions,
}

impl PostgresUrl {
    /// Reads a URL. The error says what is wrong with it.
    pub fn parse(url: &str) -> Result<Self, String> {
        const RESERVED: &str = "in a user or a password write `@` as %40, `:` as %3A, `/` as %2F, `?` as %3F, `#` as \
                                %23 and `%` as %25";
        if url.contains('#') {
            return Err(format!("a URL has no `#`: {RESERVED}"));
        }
        let options = PgConnectOptions::from_str(url);
        let options = options.map_err(|error| format!("the URL cannot be read ({error}): {RESERVED}"))?;
        Ok(Self { options })
    }

    /// Connects once, to see whether it can be done and whether a session is this server's alone.
    pub async fn probe(&self, url: &str) -> Result<(), String> {
        let say = |error| self.in_words(&error);
        let mut one = connect(url).await.map_err(say)?;
        let mut other = connect(url).await.map_err(say)?;
        let shared = shares_sessions(&mut one, &mut other).await;
        for connection in [one, other] {
            let _ = connection.close().await;
        }
        match shared.map_err(say)? {
            true => Err(POOLER.to_owned()),
            false => Ok(()),
        }
    }

    fn in_words(&self, error: &sqlx::Error) -> String {
        let options = &self.options;
        let place = match options.get_socket() {
            Some(socket) => format!("the socket in {}", socket.display()),
            None => format!("{}:{}", options.get_host(), options.get_port()),
        };
        let (user, name) = (options.get_username(), options.get_database().unwrap_or(options.get_username()));
        match error {
            sqlx::Error::Io(error) if error.kind() == ErrorKind::TimedOut => {
                format!("{place} did not answer within {PATIENCE:?}")
            }
            sqlx::Error::Io(error) if error.kind() == ErrorKind::ConnectionRefused => {
                format!("nothing listens at {place}; start PostgreSQL, or correct host and port")
            }
            sqlx::Error::Io(error) => format!("{place} cannot be reached: {error}"),
            sqlx::Error::Tls(error) if matches!(options.get_ssl_mode(), PgSslMode::Prefer | PgSslMode::Allow) => {
                format!("TLS with {place} failed: {error}")
            }
            sqlx::Error::Tls(error) => format!("TLS with {place} failed: {error}; see `sslmode` and `sslrootcert`"),
            sqlx::Error::Database(database) => {
                let message = database.message();
                match database.code().as_deref() {
                    Some("28P01") => format!("the password of the user `{user}` is wrong"),
                    Some("28000") => format!("{place} does not let the user `{user}` in: {message}"),
                    Some("3D000") => format!("{place} has no database `{name}`; make it with `createdb {name}`"),
                    Some("53300") => format!("{place} has no connection free: {message}"),
                    Some("57P03") => format!("{place} is starting or stopping: {message}; try again"),
                    Some("42501") => format!("the user `{user}` lacks a right: {message}"),
                    // What PgBouncer says of a parameter that it was not told to ignore.
                    Some("08P01") if message.contains("extra_float_digits") => format!(
                        "{place} is a PgBouncer that refuses to be connected to ({message}): set \
                         `ignore_startup_parameters = extra_float_digits` and `pool_mode = session`, or name PostgreSQL \
                         itself"
                    ),
                    Some("08P01") if message.contains("transaction") => POOLER.to_owned(),
                    _ => format!("{place} says: {message}"),
                }
            }
            error => error.to_string(),
        }
    }
}

/// Whether two connections that are open at once have one session between them. Without arguments, so that nothing is
/// prepared: that would fail where it is so.
async fn shares_sessions(one: &mut AnyConnection, other: &mut AnyConnection) -> Result<bool, sqlx::Error> {
    async fn session(connection: &mut AnyConnection) -> Result<i32, sqlx::Error> {
        connection.fetch_one("SELECT pg_backend_pid() AS pid").await?.try_get("pid")
    }
    let first = session(one).await?;
    // A pooler must give this one a session until it ends, and the one that was used last is the first to be given.
    other.execute("BEGIN").await?;
    let second = session(other).await?;
    let again = session(one).await?;
    other.execute("ROLLBACK").await?;
    Ok(first == second || first != again)
}

/// Why an SQLite file that is there cannot be used.
pub(super) fn sqlite_in_words(error: &sqlx::Error) -> String {
    let sqlx::Error::Database(database) = error else { return error.to_string() };
    let code = database.code().and_then(|code| code.parse::<u32>().ok()).unwrap_or_default();
    match code & 0xff {
        5 | 6 => "another program holds its lock (a backup, `sqlite3` in a transaction); end that first".to_owned(),
        8 => "it is read-only: the server's user must be able to write the file and its folder".to_owned(),
        10 => format!("the disk does not read or write it: {}", database.message()),
        11 => format!("it is damaged ({}); restore a backup", database.message()),
        13 => "the disk is full".to_owned(),
        14 => "it, its `-wal` or its `-shm` cannot be opened: the server's user must be able to write them and their \
               folder"
            .to_owned(),
        26 => "it is not an SQLite database; name another path".to_owned(),
        _ => database.message().to_owned(),
    }
}

/// A bare connection.
pub(super) async fn connect(url: &str) -> Result<AnyConnection, sqlx::Error> {
    let late = || sqlx::Error::Io(std::io::Error::new(ErrorKind::TimedOut, "the database did not answer in time"));
    tokio::time::timeout(PATIENCE, AnyConnection::connect(url)).await.unwrap_or_else(|_| Err(late()))
}

impl Store {
    /// A connection that is none of the pool's.
    pub(super) async fn connect(&self) -> Result<AnyConnection, StoreError> {
        self.still_there()?;
        let mut connection = connect(&self.url).await?;
        prepare(&mut connection, self.file.as_deref()).await?;
        Ok(connection)
    }
}

/// Makes a new connection what it should be.
pub(super) async fn prepare(connection: &mut AnyConnection, file: Option<&DatabaseFile>) -> Result<(), sqlx::Error> {
    match file {
        Some(file) => {
            // Not another one, that took its place.
            file.still_there().map_err(|outage| sqlx::Error::Io(std::io::Error::other(outage)))?;
            connection.execute("PRAGMA busy_timeout = 1000").await?;
            // Before anything else is in it. In one that has tables it would be a write, for nothing.
            if file.is_empty() {
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL").await?;
            }
            // FULL: a commit is on the disk when it returns, so it survives a power cut too. Under group commit it
            // costs next to nothing.
            connection.execute("PRAGMA journal_mode = WAL").await?;
            connection.execute("PRAGMA synchronous = FULL").await?;
            let limit = format!("PRAGMA journal_size_limit = {}", wal::LIMIT);
            connection.execute(sqlx::AssertSqlSafe(limit).into_sql_str()).await?;
        }
        None => {
            connection.execute("SET statement_timeout = '10s'").await?;
            // Not every system has them.
            if let Err(error @ sqlx::Error::Database(_)) = connection.execute(KEEPALIVE).await {
                debug!(%error, "PostgreSQL takes no keepalives");
            }
        }
    }
    Ok(())
}

/// Which database a name means.
pub(super) fn backend_of(database: &str) -> Result<Backend, String> {
    let give = "give the path of an SQLite file, or postgres://user:password@host/name";
    match database.split_once(':') {
        _ if database.trim().is_empty() => Err(format!("its name is empty; {give}")),
        Some(("postgres" | "postgresql", rest)) if rest.starts_with("//") => Ok(Backend::Postgres),
        Some(("" | "sqlite", "memory:" | ":memory:" | "//:memory:")) => {
            Err("a database in memory would be lost when the server ends; give the path of a file".to_owned())
        }
        Some((scheme, rest)) if rest.starts_with("//") && scheme != "sqlite" => {
            Err(format!("there is no database for `{scheme}://`; {give}"))
        }
        _ => Ok(Backend::Sqlite),
    }
}
