//! Reading and removing responses.

use sqlx::{Row as _, any::AnyRow};

use super::{Store, StoreError, commit::delete};
use crate::protocol::{ResponseId, Status};

/// The most responses that are removed at once, and about how many segments of events with them: few enough that the
/// writer of the runs hardly waits.
const REMOVED: (i64, i64) = (100, 500);

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

/// One response as a turn of a conversation.
#[derive(Clone, Debug)]
pub struct Turn {
    /// How far it is.
    pub status: Status,
    /// The request as it was accepted, JSON.
    pub request: String,
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

    /// The response that an idempotency key of a principal names, and the fingerprint it was sent with.
    pub async fn response_of_key(
        &self,
        principal: &str,
        key: &str,
    ) -> Result<Option<(ResponseId, String)>, StoreError> {
        let row = sqlx::query("SELECT id, fingerprint FROM responses WHERE principal = $1 AND idempotency_key = $2")
            .bind(principal.to_owned())
            .bind(key.to_owned())
            .fetch_optional(&self.pool)
            .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some((response_id(row.try_get("id")?)?, row.try_get("fingerprint")?)))
    }

    /// A response and those that it goes on from, oldest first; empty when there is no such response for this
    /// principal. The chain ends where a response is gone, and after `most` responses.
    pub async fn turns(&self, principal: &str, id: &ResponseId, most: i64) -> Result<Vec<Turn>, StoreError> {
        let rows = sqlx::query(
            "WITH RECURSIVE chain (id, previous, status, request, response, depth) AS ( \
             SELECT id, previous_response_id, status, request, response, 1 FROM responses \
             WHERE id = $1 AND principal = $2 \
             UNION ALL \
             SELECT responses.id, responses.previous_response_id, responses.status, responses.request, \
             responses.response, chain.depth + 1 FROM responses JOIN chain ON responses.id = chain.previous \
             WHERE responses.principal = $2 AND chain.depth < $3) \
             SELECT id, status, request, response FROM chain ORDER BY depth DESC",
        )
        .bind(id.as_str().to_owned())
        .bind(principal.to_owned())
        .bind(most)
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| {
                let status: String = row.try_get("status")?;
                Ok(Turn {
                    status: Status::parse(&status).ok_or_else(|| StoreError::Damaged(format!("status `{status}`")))?,
                    request: row.try_get("request")?,
                    response: row.try_get("response")?,
                })
            })
            .collect()
    }

    /// Removes a response of a principal, its events and its key; false when there is none. It must have ended.
    pub async fn delete_response(&self, principal: &str, id: &ResponseId) -> Result<bool, StoreError> {
        let mut transaction = self.begin().await?;
        let deleted = sqlx::query("DELETE FROM responses WHERE id = $1 AND principal = $2")
            .bind(id.as_str().to_owned())
            .bind(principal.to_owned())
            .execute(&mut *transaction)
            .await?
            .rows_affected();
        if deleted > 0 {
            for table in ["events", "journal", "run_logs", "run_usage"] {
                delete(&mut transaction, table, "response_id", &[id]).await?;
            }
        }
        transaction.commit().await?;
        Ok(deleted > 0)
    }

    /// Removes some of the responses that ended before `time` (milliseconds since 1970), oldest first, each with its
    /// events and its key; returns how many.
    pub async fn remove_ended(&self, time: i64) -> Result<u64, StoreError> {
        let rows = sqlx::query(
            "SELECT id, (SELECT COUNT(*) FROM events WHERE response_id = responses.id) AS segments FROM responses \
             WHERE ended_at < $1 ORDER BY ended_at LIMIT $2",
        )
        .bind(time)
        .bind(REMOVED.0)
        .fetch_all(&self.pool)
        .await?;
        let (mut ids, mut segments) = (Vec::new(), 0);
        for row in &rows {
            segments += row.try_get::<i64, _>("segments")?;
            if segments > REMOVED.1 && !ids.is_empty() {
                break;
            }
            ids.push(response_id(row.try_get("id")?)?);
        }
        if ids.is_empty() {
            return Ok(0);
        }
        let ids: Vec<&ResponseId> = ids.iter().collect();
        let mut transaction = self.begin().await?;
        delete(&mut transaction, "responses", "id", &ids).await?;
        for table in ["events", "run_logs", "run_usage"] {
            delete(&mut transaction, table, "response_id", &ids).await?;
        }
        transaction.commit().await?;
        Ok(ids.len() as u64)
    }
}

fn stored(row: &AnyRow) -> Result<StoredResponse, StoreError> {
    let id: String = row.try_get("id")?;
    let status: String = row.try_get("status")?;
    Ok(StoredResponse {
        status: Status::parse(&status).ok_or_else(|| StoreError::Damaged(format!("{id} has the status `{status}`")))?,
        id: response_id(id)?,
        epoch: row.try_get("epoch")?,
        response: row.try_get("response")?,
    })
}

pub(super) fn response_id(text: String) -> Result<ResponseId, StoreError> {
    ResponseId::parse(&text).ok_or_else(|| StoreError::Damaged(format!("`{text}` is not an id of a response")))
}
