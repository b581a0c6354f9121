//! Journals, and the components that runs go on with.

use outlast_protocol::ResponseId;
use sqlx::Row as _;

use super::{Store, StoreError, commit_log::Kind, segments::Part};

/// Consecutive entries of one run's journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalSegment {
    /// The number of the first entry.
    pub first: u64,
    /// The number of the last entry.
    pub last: u64,
    /// The entries, each a line of JSON with its line feed.
    pub lines: Vec<u8>,
}

impl Store {
    /// The journal of a run, in order.
    pub async fn journal(&self, id: &ResponseId) -> Result<Vec<JournalSegment>, StoreError> {
        let parts = self.parts(Kind::Journal, id, 0, usize::MAX).await?.into_iter();
        Ok(parts.map(|Part { first, last, bytes }| JournalSegment { first, last, lines: bytes }).collect())
    }

    /// Keeps a component, if it is not kept already. `now` is in milliseconds since 1970.
    pub async fn keep_component(&self, sha256: &str, wasm: &[u8], now: i64) -> Result<(), StoreError> {
        let known = sqlx::query("SELECT 1 AS one FROM components WHERE sha256 = $1").bind(sha256.to_owned());
        if known.fetch_optional(&self.pool).await?.is_some() {
            return Ok(());
        }
        sqlx::query("INSERT INTO components (sha256, wasm, created_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING")
            .bind(sha256.to_owned())
            .bind(wasm.to_vec())
            .bind(now)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// A component that was kept.
    pub async fn component(&self, sha256: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let row = sqlx::query("SELECT wasm FROM components WHERE sha256 = $1")
            .bind(sha256.to_owned())
            .fetch_optional(&self.pool)
            .await?;
        row.map(|row| Ok(row.try_get("wasm")?)).transpose()
    }

    /// Removes the components that no active run needs, those in `loaded` excepted.
    pub async fn remove_components(&self, loaded: &[String]) -> Result<(), StoreError> {
        let unused = "SELECT sha256 FROM components WHERE NOT EXISTS \
                      (SELECT 1 FROM responses WHERE component = components.sha256 AND ended_at IS NULL)";
        let remove = "DELETE FROM components WHERE sha256 = $1 AND NOT EXISTS \
                      (SELECT 1 FROM responses WHERE component = components.sha256 AND ended_at IS NULL)";
        for row in sqlx::query(unused).fetch_all(&self.pool).await? {
            let sha256: String = row.try_get("sha256")?;
            if !loaded.contains(&sha256) {
                sqlx::query(remove).bind(sha256).execute(&self.pool).await?;
            }
        }
        Ok(())
    }
}
