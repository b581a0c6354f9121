//! Whether the database takes what runs write.

use std::time::{Duration, Instant};

use sqlx::{Connection as _, Row as _};

use super::{Backend, Outage, Store, StoreError, sql::query};

/// How long a good answer holds: however often somebody asks, the database is asked so often at most.
const FRESH: Duration = Duration::from_secs(1);
/// The longest that a look may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// The tables that there must be.
const TABLES: [&str; 14] = [
    "responses",
    "events",
    "conversations",
    "conversation_items",
    "secrets",
    "owner",
    "journal",
    "commit_log",
    "components",
    "state",
    "run_logs",
    "run_usage",
    "lives",
    "probe",
];

impl Store {
    /// Whether runs can begin as far as the database is concerned: it answers, its tables are there, and it takes writes.
    /// On SQLite this takes the lock for writing for a moment, and makes sure that the file is the one that was opened.
    /// What only a write can tell, a full disk, the writer knows.
    ///
    /// At most one look goes on at a time, and a good one holds for a second. It takes 3 seconds at most.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] or [`StoreError::TimedOut`]: the error says why.
    pub async fn check(&self) -> Result<(), StoreError> {
        let looked = async {
            let mut checked = self.checked.lock().await;
            if checked.is_some_and(|checked| checked.elapsed() < FRESH) {
                // The path costs nothing to look at.
                return self.still_there();
            }
            *checked = None;
            self.look().await?;
            *checked = Some(Instant::now());
            Ok(())
        };
        tokio::time::timeout(PATIENCE, looked).await.unwrap_or(Err(StoreError::TimedOut(PATIENCE)))
    }

    /// Whether the file of an SQLite database is still the one that was opened.
    pub(super) fn still_there(&self) -> Result<(), StoreError> {
        Ok(self.file.as_ref().map_or(Ok(()), |file| file.still_there())?)
    }

    async fn look(&self) -> Result<(), StoreError> {
        self.still_there()?;
        let mut connection = self.pool.acquire().await?;
        // It fails where one is gone, and reads none.
        let all = TABLES.map(|table| format!("SELECT 1 AS there FROM {table} WHERE 1 = 0")).join(" UNION ALL ");
        query(all).fetch_all(&mut *connection).await?;
        match self.backend {
            Backend::Sqlite => {
                connection.begin_with("BEGIN IMMEDIATE").await?.rollback().await?;
            }
            Backend::Postgres => {
                let standby = "SELECT pg_is_in_recovery() AS standby, \
                               current_setting('transaction_read_only') = 'on' AS read_only";
                let row = sqlx::query(standby).fetch_one(&mut *connection).await?;
                let why = if row.try_get("standby")? {
                    "it is a standby"
                } else if row.try_get("read_only")? {
                    "its transactions are read-only by default"
                } else {
                    return Ok(());
                };
                // A session keeps what it was told when it began: the next look must not ask one of these.
                let _ = connection.close().await;
                self.pool.forget_idle();
                return Err(Outage::ReadOnly(why).into());
            }
        }
        Ok(())
    }
}
