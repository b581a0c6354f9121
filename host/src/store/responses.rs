//! Reading and removing responses.

use sqlx::{Row as _, any::AnyRow};

use super::{Store, StoreError};
use crate::protocol::{ResponseId, Status};

/// A row of `responses`, without the request.
#[derive(Clone, Debug)]
pub struct StoredResponse {
    /// Its id.
    pub id: ResponseId,
    /// How far it is.
    pub status: Status,
    /// The ownership under which it runs or ran.
    pub epoch: i64,
    /// The final response object, JSON; none while the run is active.
    pub response: Option<String>,
}

impl Store {
    /// A response of a principal; none when there is none or it is another principal's.
    pub async fn response(&self, principal: &str, id: &ResponseId) -> Result<Option<StoredResponse>, StoreError> {
        let row = sqlx::query("SELECT id, status, epoch, response FROM responses WHERE id = $1 AND principal = $2")
            .bind(id.as_str().to_owned())
            .bind(principal.to_owned())
            .fetch_optional(&self.pool)
            .await?;
        row.as_ref().map(stored).transpose()
    }

    /// Responses that have not ended, oldest first: at a start, those whose run was cut off by the last stop.
    pub async fn active_responses(&self) -> Result<Vec<StoredResponse>, StoreError> {
        let rows =
            sqlx::query("SELECT id, status, epoch, response FROM responses WHERE ended_at IS NULL ORDER BY created_at")
                .fetch_all(&self.pool)
                .await?;
        rows.iter().map(stored).collect()
    }
}

fn stored(row: &AnyRow) -> Result<StoredResponse, StoreError> {
    let id: String = row.try_get("id")?;
    let status: String = row.try_get("status")?;
    Ok(StoredResponse {
        status: Status::parse(&status).ok_or_else(|| StoreError::Damaged(format!("{id} has the status `{status}`")))?,
        id: ResponseId::parse(&id).ok_or(StoreError::Damaged(format!("`{id}` is not an id of a response")))?,
        epoch: row.try_get("epoch")?,
        response: row.try_get("response")?,
    })
}
