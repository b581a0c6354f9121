//! Reading and removing responses.
//!
//! What an active run goes on from is not removed before the run has ended. A response that its principal deletes
//! meanwhile is hidden: nobody sees it any more, and it goes once no active run needs it.

use std::collections::HashSet;

use outlast_protocol::{ResponseId, Status};
use sqlx::{AnyConnection, Row as _, any::AnyRow};

use super::{
    Store, StoreError,
    sql::{RESPONSE_TABLES, delete, placeholders, query, query_of, response_id},
};

/// The most responses that are removed at once, and about how many segments of events with them: few enough that the
/// writer of the runs hardly waits.
const REMOVED: (i64, i64) = (100, 500);
/// The most deleted responses that are looked at at once.
const DELETED: i64 = 500;

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
pub struct PastResponse {
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
        let row = sqlx::query(
            "SELECT id, status, epoch, response FROM responses WHERE id = $1 AND principal = $2 \
                               AND deleted_at IS NULL",
        )
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
    /// principal. The chain ends where a response is gone or deleted, and after `most` responses.
    pub async fn turns(&self, principal: &str, id: &ResponseId, most: i64) -> Result<Vec<PastResponse>, StoreError> {
        self.chain(principal, id, most, "deleted_at IS NULL").await
    }

    /// The `turns` responses that a run was told of when it was accepted, oldest first, deleted ones included; none: all
    /// that are there.
    pub async fn turns_of_run(
        &self,
        principal: &str,
        previous: &ResponseId,
        turns: Option<i64>,
    ) -> Result<Vec<PastResponse>, StoreError> {
        self.chain(principal, previous, turns.unwrap_or(i64::MAX), "1 = 1").await
    }

    /// How large the requests and responses are that [`turns`](Self::turns) gives, in bytes. They are not read for it.
    pub async fn turns_bytes(&self, principal: &str, id: &ResponseId, most: i64) -> Result<u64, StoreError> {
        let sql = format!(
            "{} SELECT CAST(COALESCE(SUM({}), 0) AS BIGINT) AS size FROM chain",
            chain_of("deleted_at IS NULL"),
            of_chain("OCTET_LENGTH(request) + COALESCE(OCTET_LENGTH(response), 0)")
        );
        let query = query(sql).bind(id.as_str().to_owned()).bind(principal.to_owned()).bind(most);
        Ok(query.fetch_one(&self.pool).await?.try_get::<i64, _>("size")?.unsigned_abs())
    }

    async fn chain(
        &self,
        principal: &str,
        id: &ResponseId,
        most: i64,
        condition: &'static str,
    ) -> Result<Vec<PastResponse>, StoreError> {
        let sql = format!(
            "{} SELECT {} AS status, {} AS request, {} AS response FROM chain ORDER BY depth DESC",
            chain_of(condition),
            of_chain("status"),
            of_chain("request"),
            of_chain("response")
        );
        let query = query(sql).bind(id.as_str().to_owned()).bind(principal.to_owned()).bind(most);
        let rows = query.fetch_all(&self.pool).await?;
        rows.iter()
            .map(|row| {
                let status: String = row.try_get("status")?;
                Ok(PastResponse {
                    status: Status::parse(&status).ok_or_else(|| StoreError::Damaged(format!("status `{status}`")))?,
                    request: row.try_get("request")?,
                    response: row.try_get("response")?,
                })
            })
            .collect()
    }

    /// Removes a response of a principal, its events and its key; false when there is none. It must have ended. What an
    /// active run goes on from is hidden, until [`remove_deleted`](Self::remove_deleted) removes it. `now` is in
    /// milliseconds since 1970.
    ///
    /// No run must be admitted meanwhile that goes on from it.
    pub async fn delete_response(&self, principal: &str, id: &ResponseId, now: i64) -> Result<bool, StoreError> {
        let mut transaction = self.begin().await?;
        let hidden = sqlx::query(
            "UPDATE responses SET deleted_at = $3, idempotency_key = NULL, fingerprint = NULL \
             WHERE id = $1 AND principal = $2 AND deleted_at IS NULL",
        )
        .bind(id.as_str().to_owned())
        .bind(principal.to_owned())
        .bind(now)
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        let gone = hidden > 0 && needed(&mut transaction, &[id]).await?.is_empty();
        if gone {
            remove(&mut transaction, &[id]).await?;
        }
        transaction.commit().await?;
        if gone {
            self.commit_log.lock().forget(id);
        }
        Ok(hidden > 0)
    }

    /// Removes some of the responses that ended before `time` (milliseconds since 1970), oldest first, each with its
    /// events and its key, those excepted that active runs go on from. Returns how many were looked at and the end of
    /// the last of them, and how many went: the next call begins `after` that.
    ///
    /// No run must be admitted meanwhile that goes on from another.
    pub async fn remove_ended(&self, time: i64, after: &Swept) -> Result<Swept, StoreError> {
        let sql = "SELECT id, ended_at, (SELECT COUNT(*) FROM events WHERE response_id = responses.id) AS segments \
                   FROM responses WHERE ended_at < $1 AND (ended_at > $2 OR (ended_at = $2 AND id > $3)) \
                   ORDER BY ended_at, id LIMIT $4";
        let (ended_at, last) = (after.ended_at, after.id.as_ref().map_or("", ResponseId::as_str));
        let query = sqlx::query(sql).bind(time).bind(ended_at).bind(last.to_owned()).bind(REMOVED.0);
        let rows = query.fetch_all(&self.pool).await?;
        let (mut ids, mut segments, mut swept) = (Vec::new(), 0, Swept { removed: 0, ..after.clone() });
        for row in &rows {
            segments += row.try_get::<i64, _>("segments")?;
            if segments > REMOVED.1 && !ids.is_empty() {
                break;
            }
            ids.push(response_id(row.try_get("id")?)?);
            swept.ended_at = row.try_get("ended_at")?;
        }
        swept.looked_at = ids.len() as u64;
        swept.id = ids.last().cloned().or(swept.id);
        swept.removed = self.remove_unneeded(&ids).await?;
        Ok(swept)
    }

    /// Removes some of the responses that were deleted while an active run went on from them, if none does any more;
    /// returns how many.
    pub async fn remove_deleted(&self) -> Result<u64, StoreError> {
        let sql = "SELECT id FROM responses WHERE deleted_at IS NOT NULL ORDER BY deleted_at LIMIT $1";
        let rows = sqlx::query(sql).bind(DELETED).fetch_all(&self.pool).await?;
        let ids: Vec<_> = rows.iter().map(|row| response_id(row.try_get("id")?)).collect::<Result<_, StoreError>>()?;
        self.remove_unneeded(&ids).await
    }

    async fn remove_unneeded(&self, ids: &[ResponseId]) -> Result<u64, StoreError> {
        if ids.is_empty() {
            return Ok(0);
        }
        let all: Vec<&ResponseId> = ids.iter().collect();
        let mut transaction = self.begin().await?;
        let needed = needed(&mut transaction, &all).await?;
        let unneeded: Vec<_> = all.into_iter().filter(|id| !needed.contains(id.as_str())).collect();
        remove(&mut transaction, &unneeded).await?;
        transaction.commit().await?;
        Ok(unneeded.len() as u64)
    }
}

/// How far the responses were looked through that have been kept long enough.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// How many were looked at in the last step.
    pub looked_at: u64,
    /// How many of them were removed.
    pub removed: u64,
    /// The end of the last one, in milliseconds since 1970, and its id.
    ended_at: i64,
    id: Option<ResponseId>,
}

/// Removes responses with all that belongs to them.
async fn remove(connection: &mut AnyConnection, ids: &[&ResponseId]) -> Result<(), StoreError> {
    for (table, column) in RESPONSE_TABLES {
        delete(connection, table, column, ids).await?;
    }
    Ok(())
}

/// The response `$1` of the principal `$2` and those that it goes on from, `$3` at most, for which the condition holds, as
/// `chain (id, previous, depth)`. Without their texts, which each step would carry along.
///
/// Each row is looked up by its id in a query of its own: PostgreSQL would read the whole table for each step instead,
/// where it does not know yet how large the table is.
fn chain_of(condition: &str) -> String {
    format!(
        "WITH RECURSIVE chain (id, previous, depth) AS ( \
         SELECT id, previous_response_id, 1 FROM responses WHERE id = $1 AND principal = $2 AND {condition} \
         UNION ALL \
         SELECT chain.previous, (SELECT previous_response_id FROM responses WHERE id = chain.previous), \
         chain.depth + 1 FROM chain WHERE chain.depth < $3 AND \
         (SELECT 1 FROM responses WHERE id = chain.previous AND principal = $2 AND {condition}) = 1)"
    )
}

/// A column of the response at a place of a chain.
fn of_chain(column: &str) -> String {
    format!("(SELECT {column} FROM responses WHERE id = chain.id)")
}

/// Those of `ids` that active runs go on from, directly or not.
async fn needed(connection: &mut AnyConnection, ids: &[&ResponseId]) -> Result<HashSet<String>, StoreError> {
    // From each of them down to whatever goes on from it. Most have nobody, and are left at once.
    let sql = format!(
        "WITH RECURSIVE behind (root, id, ended_at) AS ( \
         SELECT previous_response_id, id, ended_at FROM responses WHERE previous_response_id IN ({}) \
         UNION \
         SELECT behind.root, responses.id, responses.ended_at FROM responses \
         JOIN behind ON responses.previous_response_id = behind.id) \
         SELECT DISTINCT root FROM behind WHERE ended_at IS NULL",
        placeholders(connection, ids.len())
    );
    let query = query_of(sql, ids);
    query.fetch_all(connection).await?.iter().map(|row| Ok(row.try_get("root")?)).collect()
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
