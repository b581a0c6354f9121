//! What is the matter with a database, without changing it.

use std::{fs, path::PathBuf};

use sqlx::{AnyConnection, Connection as _, Executor as _, Row as _};

use super::{
    Backend, StoreError,
    backup::{open_in_use, schema_of},
    connect::{PostgresUrl, backend_of, connect, sqlite_in_words},
    file::sqlite_path,
    open::{KNOWN_SCHEMA, without_password},
};

/// What a look at a database has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// Where it is, without its password.
    pub shown: String,
    /// Which database it is.
    pub backend: Backend,
    /// The file of an SQLite database, whether it is there or not.
    pub file: Option<PathBuf>,
    /// Whether a server uses an SQLite file now.
    pub in_use: bool,
    /// The version of its schema; none where it has none yet.
    pub schema: Option<i64>,
    /// The version that this program knows.
    pub known: i64,
    /// Its size in bytes.
    pub bytes: u64,
    /// When its latest response was made, in milliseconds since 1970.
    pub latest: Option<i64>,
    /// What time it is there, in milliseconds since 1970; none where it has no clock of its own.
    pub clock: Option<i64>,
}

/// Looks at a database: connects to it, and reads. An SQLite file that is not there is not made.
///
/// # Errors
///
/// It cannot be used; the error says why.
pub async fn diagnose(database: &str) -> Result<Diagnosis, StoreError> {
    sqlx::any::install_default_drivers();
    let shown = without_password(database);
    let open = |reason: String| StoreError::Open { url: shown.clone(), reason };
    let backend = backend_of(database).map_err(open)?;
    let nothing = Diagnosis {
        shown: shown.clone(),
        backend,
        file: None,
        in_use: false,
        schema: None,
        known: KNOWN_SCHEMA,
        bytes: 0,
        latest: None,
        clock: None,
    };
    let mut found = match backend {
        Backend::Sqlite => {
            let path = PathBuf::from(sqlite_path(database));
            let nothing = Diagnosis { file: Some(path.clone()), ..nothing };
            let Ok(metadata) = fs::metadata(&path) else { return Ok(nothing) };
            let (mut connection, in_use) = open_in_use(database).await?;
            let nothing = Diagnosis { in_use, bytes: metadata.len(), ..nothing };
            let found = look(&mut connection, nothing).await.map_err(|error| open(sqlite_in_words(&error)));
            let _ = connection.close().await;
            found?
        }
        Backend::Postgres => {
            PostgresUrl::parse(database).map_err(open)?.probe(database).await.map_err(open)?;
            let mut connection = connect(database).await?;
            let sql = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT) AS clock, \
                       pg_database_size(current_database()) AS bytes";
            let row = connection.fetch_one(sql).await?;
            let bytes = row.try_get::<i64, _>("bytes")?.unsigned_abs();
            let nothing = Diagnosis { clock: Some(row.try_get("clock")?), bytes, ..nothing };
            let found = look(&mut connection, nothing).await;
            let _ = connection.close().await;
            found?
        }
    };
    found.shown = shown;
    if let Some(newer) = found.schema.filter(|schema| *schema > KNOWN_SCHEMA) {
        return Err(StoreError::Newer { database: found.shown, found: newer, known: KNOWN_SCHEMA });
    }
    Ok(found)
}

async fn look(connection: &mut AnyConnection, found: Diagnosis) -> Result<Diagnosis, sqlx::Error> {
    let there = match found.backend {
        Backend::Sqlite => "SELECT COUNT(*) AS tables FROM sqlite_master WHERE name = '_sqlx_migrations'",
        Backend::Postgres => "SELECT CAST(COUNT(to_regclass('_sqlx_migrations')) AS BIGINT) AS tables",
    };
    if connection.fetch_one(there).await?.try_get::<i64, _>("tables")? == 0 {
        return Ok(found);
    }
    let schema = schema_of(connection).await?;
    if schema == 0 {
        return Ok(found);
    }
    let latest = connection.fetch_optional("SELECT created_at FROM responses ORDER BY id DESC LIMIT 1").await?;
    let latest = latest.map(|row| row.try_get("created_at")).transpose()?;
    Ok(Diagnosis { schema: Some(schema), latest, ..found })
}
