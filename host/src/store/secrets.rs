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
}
