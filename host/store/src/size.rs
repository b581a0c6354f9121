//! How much is kept.

use sqlx::{Executor as _, Row as _, SqlSafeStr as _};

use super::{Backend, Store, StoreError, sql::query};

/// How much of an SQLite file may be free, in bytes, before it is made smaller: free pages are used again.
const FREE_BYTES: i64 = 64 << 20;
/// Or which part of it.
const FREE_PART: i64 = 4;
/// The mode of `auto_vacuum` in which an SQLite file gives pages back when it is asked to.
pub(super) const INCREMENTAL: i64 = 2;
/// How many pages one step gives back.
const STEP: i64 = 256;

/// What a row counts beside what is in it, in bytes.
pub const STORED_ROW: u64 = 100;

/// How much a database holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreSize {
    /// Responses, active ones included.
    pub responses: i64,
    /// Its size in bytes, with the write-ahead log of an SQLite file.
    pub bytes: i64,
    /// When the oldest response was made, in milliseconds since 1970; none when there is no response.
    pub oldest: Option<i64>,
    /// Deliveries to webhooks that wait.
    pub pending_deliveries: i64,
    /// Since when the oldest of them waits, in milliseconds since 1970.
    pub oldest_delivery: Option<i64>,
}

impl Store {
    /// How much a principal keeps, in bytes: its responses with their events and logs, its conversations and their items,
    /// and [`STORED_ROW`] for each row. Takes time in proportion to how many rows those are; what is in them is not read.
    pub async fn stored_bytes(&self, principal: &str) -> Result<u64, StoreError> {
        // What goes when a run ends does not count, nor does what agents keep: that has a limit of its own.
        let sql = format!(
            "SELECT CAST(COALESCE(SUM(size), 0) AS BIGINT) AS size FROM ( \
             SELECT OCTET_LENGTH(request) + COALESCE(OCTET_LENGTH(response), 0) + {STORED_ROW} AS size \
             FROM responses WHERE principal = $1 \
             UNION ALL SELECT OCTET_LENGTH(frames) + {STORED_ROW} FROM events \
             JOIN responses ON responses.id = events.response_id WHERE responses.principal = $1 \
             UNION ALL SELECT OCTET_LENGTH(lines) + {STORED_ROW} FROM run_logs \
             JOIN responses ON responses.id = run_logs.response_id WHERE responses.principal = $1 \
             UNION ALL SELECT OCTET_LENGTH(metadata) + {STORED_ROW} FROM conversations WHERE principal = $1 \
             UNION ALL SELECT OCTET_LENGTH(item) + {STORED_ROW} FROM conversation_items WHERE principal = $1) AS sizes"
        );
        let row = query(sql).bind(principal.to_owned()).fetch_one(&self.pool).await?;
        Ok(row.try_get::<i64, _>("size")?.unsigned_abs())
    }

    /// Gives some of the free pages of an SQLite file back to the file system, where it has many: more than 64 MiB, and
    /// more than a quarter of it. Whether there are more. A file of a version before this one keeps its size, until it is
    /// restored from a backup.
    pub async fn shrink(&self) -> Result<bool, StoreError> {
        if self.backend != Backend::Sqlite {
            return Ok(false);
        }
        let look = "SELECT freelist_count AS free, page_count AS pages, page_size AS size, auto_vacuum AS mode \
                    FROM pragma_freelist_count, pragma_page_count, pragma_page_size, pragma_auto_vacuum";
        let row = sqlx::query(look).fetch_one(&self.pool).await?;
        let (free, pages, size): (i64, i64, i64) = (row.try_get("free")?, row.try_get("pages")?, row.try_get("size")?);
        if row.try_get::<i64, _>("mode")? != INCREMENTAL || free * size <= FREE_BYTES || free <= pages / FREE_PART {
            return Ok(false);
        }
        let mut transaction = self.begin().await?;
        let step = sqlx::AssertSqlSafe(format!("PRAGMA incremental_vacuum({STEP})")).into_sql_str();
        transaction.fetch_all(step).await?;
        transaction.commit().await?;
        Ok(true)
    }

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
        let pending = "SELECT COUNT(*) AS pending, MIN(queued_at) AS oldest FROM webhook_deliveries \
                       WHERE state = 'pending'";
        let pending = sqlx::query(pending).fetch_one(&self.pool).await?;
        let (pending_deliveries, oldest_delivery) = (pending.try_get("pending")?, pending.try_get("oldest")?);
        Ok(StoreSize { responses, bytes, oldest, pending_deliveries, oldest_delivery })
    }
}
