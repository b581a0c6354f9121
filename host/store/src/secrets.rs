//! What this server knows and nobody else.

use sqlx::Row as _;

use super::{Store, StoreError};

impl Store {
    /// The secret of this name. When there is none yet, it is `new` from now on, for every later start.
    pub async fn secret(&self, name: &str, new: &[u8]) -> Result<Vec<u8>, StoreError> {
        sqlx::query("INSERT INTO secrets (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING")
            .bind(name.to_owned())
            .bind(hex::encode(new))
            .execute(&self.pool)
            .await?;
        let row = sqlx::query("SELECT value FROM secrets WHERE name = $1")
            .bind(name.to_owned())
            .fetch_one(&self.pool)
            .await?;
        let value: String = row.try_get("value")?;
        hex::decode(value).map_err(|_| StoreError::Damaged(format!("the secret `{name}` is not hexadecimal")))
    }

    /// When the last one of the runs that have not ended was accepted, in milliseconds since 1970; 0 without runs.
    pub async fn last_accepted(&self) -> Result<i64, StoreError> {
        let last = "SELECT CAST(COALESCE(MAX(created_at), 0) AS BIGINT) AS last FROM responses WHERE ended_at IS NULL";
        let row = sqlx::query(last).fetch_one(&self.pool).await?;
        Ok(row.try_get("last")?)
    }
}
