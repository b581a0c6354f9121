//! How much is kept.

use sqlx::Row as _;

use super::{Backend, Store, StoreError};

/// How much a database holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreSize {
    /// Responses, active ones included.
    pub responses: i64,
    /// Its size in bytes, with the write-ahead log of an SQLite file.
    pub bytes: i64,
    /// When the oldest response was made, in milliseconds since 1970; none when there is no response.
    pub oldest: Option<i64>,
}

impl Store {
    /// Measures the database. Takes time in proportion to the number of responses: milliseconds for 100,000.
    pub async fn size(&self) -> Result<StoreSize, StoreError> {
        // Two indexes: the rows themselves are large.
        let count = "SELECT (SELECT COUNT(*) FROM responses) - (SELECT COUNT(*) FROM responses \
                     WHERE deleted_at IS NOT NULL) AS responses";
        let row = sqlx::query(count).fetch_one(&self.pool).await?;
        let responses = row.try_get("responses")?;
        let row = sqlx::query(match self.backend {
            Backend::Sqlite => "SELECT page_count * page_size AS bytes FROM pragma_page_count, pragma_page_size",
            Backend::Postgres => "SELECT pg_database_size(current_database()) AS bytes",
        });
        let bytes: i64 = row.fetch_one(&self.pool).await?.try_get("bytes")?;
        let log = self.file.as_ref().map_or(0, |file| file.wal_bytes());
        let bytes = bytes.saturating_add(i64::try_from(log).unwrap_or(i64::MAX));
        // Ids begin with the time at which they were made, and have an index.
        let row =
            sqlx::query("SELECT created_at FROM responses ORDER BY id LIMIT 1").fetch_optional(&self.pool).await?;
        let oldest = row.map(|row| row.try_get("created_at")).transpose()?;
        Ok(StoreSize { responses, bytes, oldest })
    }
}
