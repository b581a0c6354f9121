//! Conversations and their items, except what belongs to the life of a run: the write guard and the checkpoint are
//! written in the transaction that admits or ends the response.

use outlast_protocol::{Conversation, ConversationId};
use sqlx::{AnyConnection, Row as _};

use super::{
    Backend, Store, StoreError,
    batch::NewResponse,
    sql::{batches, query, rows_of},
    transaction::WriteTransaction,
};

/// The most conversations that are looked for at once.
const UNCHANGED: i64 = 100;

/// The condition that the conversation's write guard names a response that is still being made. A guard whose
/// response is gone is none.
///
/// It reads another row than the conversation's. On PostgreSQL a statement that has waited for a row reads that row anew,
/// but all others as they were when it began: whoever writes under this condition [locks](lock) the conversation first, in
/// a statement of its own.
pub(super) const GUARDED: &str = "EXISTS (SELECT 1 FROM responses WHERE responses.id = \
                                  conversations.active_response_id AND responses.ended_at IS NULL)";

/// A conversation as a request finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConversationHead {
    /// The response that is being made.
    pub active: Option<String>,
    /// The position of the next item: the version of the history.
    pub position: i64,
}

/// An item to be added to a conversation.
#[derive(Clone, Copy, Debug)]
pub struct NewItem<'a> {
    /// Its id.
    pub id: &'a str,
    /// The item, JSON.
    pub item: &'a str,
}

/// Which items of a conversation are asked for.
#[derive(Clone, Debug, Default)]
pub struct ItemRange {
    /// Oldest first.
    pub ascending: bool,
    /// Those that come, in this order, after the item at this position.
    pub after: Option<i64>,
    /// Those that come, in this order, before the item at this position.
    pub before: Option<i64>,
    /// The most items.
    pub limit: i64,
}

/// What became of a write to a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is done.
    Yes,
    /// There is no such conversation, or no such item.
    NotFound,
    /// A response is being made in the conversation.
    Guarded,
}

impl Store {
    /// Makes a conversation with these items. `created_at` is in milliseconds since 1970.
    pub async fn create_conversation(
        &self,
        principal: &str,
        id: &ConversationId,
        created_at: i64,
        metadata: &str,
        items: &[NewItem<'_>],
    ) -> Result<(), StoreError> {
        let mut transaction = self.begin().await?;
        sqlx::query(
            "INSERT INTO conversations (principal, id, created_at, changed_at, metadata, next_position) \
             VALUES ($1, $2, $3, $3, $4, $5)",
        )
        .bind(principal.to_owned())
        .bind(id.as_str().to_owned())
        .bind(created_at)
        .bind(metadata.to_owned())
        .bind(count(items))
        .execute(&mut *transaction)
        .await?;
        append(&mut transaction, principal, id.as_str(), 0, items).await?;
        Ok(transaction.commit().await?)
    }

    /// A conversation of a principal.
    pub async fn conversation(&self, principal: &str, id: &ConversationId) -> Result<Option<Conversation>, StoreError> {
        let row = sqlx::query(
            "SELECT created_at, metadata, (SELECT id FROM responses WHERE responses.id = \
             conversations.latest_completed_response_id AND responses.deleted_at IS NULL) AS latest, (SELECT id FROM responses WHERE responses.id = \
             conversations.active_response_id AND responses.ended_at IS NULL) AS active FROM conversations \
             WHERE principal = $1 AND id = $2",
        )
        .bind(principal.to_owned())
        .bind(id.as_str().to_owned())
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let metadata: String = row.try_get("metadata")?;
        Ok(Some(Conversation {
            id: id.to_string(),
            object: "conversation".to_owned(),
            created_at: row.try_get::<i64, _>("created_at")? / 1_000,
            metadata: serde_json::from_str(&metadata).map_err(|error| StoreError::Damaged(format!("{id}: {error}")))?,
            latest_completed_response_id: row.try_get("latest")?,
            active_response_id: row.try_get("active")?,
        }))
    }

    /// What a request needs to know of a conversation.
    pub async fn conversation_head(
        &self,
        principal: &str,
        id: &ConversationId,
    ) -> Result<Option<ConversationHead>, StoreError> {
        let row = sqlx::query(
            "SELECT next_position, (SELECT id FROM responses WHERE responses.id = conversations.active_response_id \
             AND responses.ended_at IS NULL) AS active FROM conversations WHERE principal = $1 AND id = $2",
        )
        .bind(principal.to_owned())
        .bind(id.as_str().to_owned())
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(ConversationHead { active: row.try_get("active")?, position: row.try_get("next_position")? }))
    }

    /// Replaces the metadata, JSON; false when there is no such conversation. `now` is in milliseconds since 1970.
    pub async fn set_conversation_metadata(
        &self,
        principal: &str,
        id: &ConversationId,
        metadata: &str,
        now: i64,
    ) -> Result<bool, StoreError> {
        self.still_there()?;
        let sql = "UPDATE conversations SET metadata = $3, changed_at = $4 WHERE principal = $1 AND id = $2";
        let updated = sqlx::query(sql)
            .bind(principal.to_owned())
            .bind(id.as_str().to_owned())
            .bind(metadata.to_owned())
            .bind(now)
            .execute(&self.pool)
            .await?;
        Ok(updated.rows_affected() > 0)
    }

    /// Removes a conversation, its items, and what agents keep for it; false when there is none. Its responses stay, and
    /// one that is being made goes on: it keeps the items that it goes on from until it has ended.
    pub async fn delete_conversation(&self, principal: &str, id: &ConversationId) -> Result<bool, StoreError> {
        loop {
            let Some(head) = self.conversation_head(principal, id).await? else { return Ok(false) };
            if self.try_delete_conversation(principal, id, head.active).await? {
                return Ok(true);
            }
            // A response has begun or ended meanwhile, or the conversation is gone.
        }
    }

    async fn try_delete_conversation(
        &self,
        principal: &str,
        id: &ConversationId,
        active: Option<String>,
    ) -> Result<bool, StoreError> {
        let mut transaction = self.begin().await?;
        if let Some(active) = &active {
            // The response before the conversation, as its end does. Nothing is added to the conversation meanwhile.
            let kept = sqlx::query("UPDATE responses SET history = '[]' WHERE id = $1 AND ended_at IS NULL");
            if kept.bind(active.clone()).execute(&mut *transaction).await?.rows_affected() == 0 {
                return Ok(false);
            }
            let items = sqlx::query(
                "SELECT item FROM conversation_items WHERE principal = $1 AND conversation_id = $2 ORDER BY position",
            );
            let items = items.bind(principal.to_owned()).bind(id.as_str().to_owned());
            let items = items.fetch_all(&mut *transaction).await?;
            let items: Vec<String> = items.iter().map(|row| row.try_get("item")).collect::<Result<_, _>>()?;
            let history = format!("[{}]", items.join(","));
            let kept = sqlx::query("UPDATE responses SET history = $1 WHERE id = $2");
            kept.bind(history).bind(active.clone()).execute(&mut *transaction).await?;
        }
        lock(&mut transaction, self.backend, &[(principal, id.as_str())]).await?;
        // The conversation before what belongs to it: who keeps something for it has locked it, or finds it gone.
        let sql = format!(
            "DELETE FROM conversations WHERE principal = $1 AND id = $2 AND {}",
            if active.is_some() { "active_response_id = $3".to_owned() } else { format!("NOT {GUARDED}") }
        );
        let deleted = query(sql).bind(principal.to_owned()).bind(id.as_str().to_owned());
        let deleted = active.into_iter().fold(deleted, |deleted, active| deleted.bind(active));
        if deleted.execute(&mut *transaction).await?.rows_affected() == 0 {
            return Ok(false);
        }
        remove_parts(&mut transaction, principal, id.as_str()).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Lets the time of those conversations begin `now` of which it is not known when they were changed last: an older
    /// version has written them.
    pub async fn date_conversations(&self, now: i64) -> Result<(), StoreError> {
        self.still_there()?;
        let dated = sqlx::query("UPDATE conversations SET changed_at = $1 WHERE changed_at IS NULL");
        dated.bind(now).execute(&self.pool).await?;
        Ok(())
    }

    /// Some conversations that nobody has changed since `time` (milliseconds since 1970) and in which no response is
    /// being made, oldest first: the principal and the id of each.
    pub async fn unchanged_conversations(&self, time: i64) -> Result<Vec<(String, String)>, StoreError> {
        let sql = format!(
            "SELECT principal, id FROM conversations WHERE changed_at < $1 AND NOT {GUARDED} ORDER BY changed_at LIMIT $2"
        );
        let rows = query(sql).bind(time).bind(UNCHANGED).fetch_all(&self.pool).await?;
        rows.iter().map(|row| Ok((row.try_get("principal")?, row.try_get("id")?))).collect()
    }

    /// Removes a conversation, its items, and what agents keep for it, if that still holds for it; false when it does not.
    pub async fn remove_unchanged(&self, principal: &str, id: &str, time: i64) -> Result<bool, StoreError> {
        let mut transaction = self.begin().await?;
        lock(&mut transaction, self.backend, &[(principal, id)]).await?;
        let sql =
            format!("DELETE FROM conversations WHERE principal = $1 AND id = $2 AND changed_at < $3 AND NOT {GUARDED}");
        let deleted = query(sql).bind(principal.to_owned()).bind(id.to_owned()).bind(time);
        if deleted.execute(&mut *transaction).await?.rows_affected() == 0 {
            return Ok(false);
        }
        remove_parts(&mut transaction, principal, id).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Adds items at the end of a conversation in which no response is being made. `now` is in milliseconds since 1970.
    pub async fn add_items(
        &self,
        principal: &str,
        id: &ConversationId,
        items: &[NewItem<'_>],
        now: i64,
    ) -> Result<Written, StoreError> {
        let mut transaction = self.begin().await?;
        lock(&mut transaction, self.backend, &[(principal, id.as_str())]).await?;
        let sql = format!(
            "UPDATE conversations SET next_position = next_position + $3, changed_at = $4 \
             WHERE principal = $1 AND id = $2 AND NOT {GUARDED} RETURNING next_position"
        );
        let query = query(sql).bind(principal.to_owned()).bind(id.as_str().to_owned()).bind(count(items)).bind(now);
        let Some(row) = query.fetch_optional(&mut *transaction).await? else {
            return self.why_not_written(transaction, principal, id).await;
        };
        let first = row.try_get::<i64, _>("next_position")? - count(items);
        append(&mut transaction, principal, id.as_str(), first, items).await?;
        transaction.commit().await?;
        Ok(Written::Yes)
    }

    /// Removes an item of a conversation in which no response is being made. `now` is in milliseconds since 1970.
    pub async fn delete_item(
        &self,
        principal: &str,
        id: &ConversationId,
        item: &str,
        now: i64,
    ) -> Result<Written, StoreError> {
        if no_id(item) {
            return Ok(Written::NotFound);
        }
        let mut transaction = self.begin().await?;
        lock(&mut transaction, self.backend, &[(principal, id.as_str())]).await?;
        // The update takes the row, so that no response begins meanwhile; its history would have the item.
        let sql = format!(
            "UPDATE conversations SET next_position = next_position + 1, changed_at = $3 \
             WHERE principal = $1 AND id = $2 AND NOT {GUARDED}"
        );
        let query = query(sql).bind(principal.to_owned()).bind(id.as_str().to_owned()).bind(now);
        if query.execute(&mut *transaction).await?.rows_affected() == 0 {
            return self.why_not_written(transaction, principal, id).await;
        }
        let deleted =
            sqlx::query("DELETE FROM conversation_items WHERE principal = $1 AND conversation_id = $2 AND id = $3")
                .bind(principal.to_owned())
                .bind(id.as_str().to_owned())
                .bind(item.to_owned())
                .execute(&mut *transaction)
                .await?;
        if deleted.rows_affected() == 0 {
            return Ok(Written::NotFound);
        }
        transaction.commit().await?;
        Ok(Written::Yes)
    }

    /// How large the items are that [`history`](Self::history) gives, in bytes. They are not read for it.
    pub async fn conversation_bytes(&self, principal: &str, id: &ConversationId, most: i64) -> Result<u64, StoreError> {
        let sql = "SELECT CAST(COALESCE(SUM(size), 0) AS BIGINT) AS size FROM (SELECT OCTET_LENGTH(item) AS size \
                   FROM conversation_items WHERE principal = $1 AND conversation_id = $2 ORDER BY position LIMIT $3) AS sizes";
        let query = sqlx::query(sql).bind(principal.to_owned()).bind(id.as_str().to_owned()).bind(most);
        Ok(query.fetch_one(&self.pool).await?.try_get::<i64, _>("size")?.unsigned_abs())
    }

    /// The items of a conversation, JSON, oldest first, at most `most`.
    pub async fn history(&self, principal: &str, id: &ConversationId, most: i64) -> Result<Vec<String>, StoreError> {
        self.items(principal, id, &ItemRange { ascending: true, limit: most, ..ItemRange::default() }).await
    }

    /// Items of a conversation, JSON.
    pub async fn items(
        &self,
        principal: &str,
        id: &ConversationId,
        range: &ItemRange,
    ) -> Result<Vec<String>, StoreError> {
        let (order, later, earlier) = if range.ascending { ("ASC", ">", "<") } else { ("DESC", "<", ">") };
        let (first, last) = if range.ascending { (-1, i64::MAX) } else { (i64::MAX, -1) };
        let sql = format!(
            "SELECT item FROM conversation_items WHERE principal = $1 AND conversation_id = $2 \
             AND position {later} $3 AND position {earlier} $4 ORDER BY position {order} LIMIT $5"
        );
        let query = query(sql)
            .bind(principal.to_owned())
            .bind(id.as_str().to_owned())
            .bind(range.after.unwrap_or(first))
            .bind(range.before.unwrap_or(last))
            .bind(range.limit);
        query.fetch_all(&self.pool).await?.iter().map(|row| Ok(row.try_get("item")?)).collect()
    }

    /// An item of a conversation, JSON, with its position. Of several with one id, the latest.
    pub async fn item(
        &self,
        principal: &str,
        id: &ConversationId,
        item: &str,
    ) -> Result<Option<(i64, String)>, StoreError> {
        if no_id(item) {
            return Ok(None);
        }
        let row = sqlx::query(
            "SELECT position, item FROM conversation_items WHERE principal = $1 AND conversation_id = $2 AND id = $3 \
             ORDER BY position DESC LIMIT 1",
        )
        .bind(principal.to_owned())
        .bind(id.as_str().to_owned())
        .bind(item.to_owned())
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| Ok((row.try_get("position")?, row.try_get("item")?))).transpose()
    }

    async fn why_not_written(
        &self,
        transaction: WriteTransaction,
        principal: &str,
        id: &ConversationId,
    ) -> Result<Written, StoreError> {
        transaction.rollback().await?;
        let head = self.conversation_head(principal, id).await?;
        Ok(if head.is_some() { Written::Guarded } else { Written::NotFound })
    }
}

/// Lets the conversations begin to exist that have names, where they do not yet.
pub(super) async fn begin_named(connection: &mut AnyConnection, rows: &[&NewResponse]) -> Result<(), StoreError> {
    let named = rows.iter().filter_map(|row| row.conversation.as_ref().map(|(id, _)| (row, id)));
    let mut named: Vec<_> = named.filter(|(_, id)| id.is_name()).collect();
    named.sort_unstable_by_key(|(row, id)| (row.principal.as_str(), id.as_str()));
    for rows in batches(&named) {
        let sql = format!(
            "INSERT INTO conversations (principal, id, created_at, changed_at, metadata, next_position) VALUES {} \
             ON CONFLICT DO NOTHING",
            rows_of(connection, rows.len(), 6)
        );
        let mut query = query(sql);
        for (row, id) in rows {
            query = query
                .bind(row.principal.clone())
                .bind(id.as_str().to_owned())
                .bind(row.created_at)
                .bind(row.created_at)
                .bind("{}")
                .bind(0_i64);
        }
        query.execute(&mut *connection).await?;
    }
    Ok(())
}

/// Locks conversations for the rest of the transaction, in the order of their names: two transactions that lock several
/// do not wait for each other. SQLite has one writer at a time, who has begun as such.
pub(super) async fn lock(
    connection: &mut AnyConnection,
    backend: Backend,
    conversations: &[(&str, &str)],
) -> Result<(), StoreError> {
    if backend == Backend::Sqlite {
        return Ok(());
    }
    let mut sorted = conversations.to_vec();
    sorted.sort_unstable();
    for rows in batches(&sorted) {
        let sql = format!(
            "SELECT 1 AS one FROM conversations WHERE (principal, id) IN (VALUES {}) ORDER BY principal, id FOR UPDATE",
            rows_of(connection, rows.len(), 2)
        );
        let query = rows
            .iter()
            .fold(query(sql), |query, (principal, id)| query.bind((*principal).to_owned()).bind((*id).to_owned()));
        query.fetch_all(&mut *connection).await?;
    }
    Ok(())
}

/// Adds items to a conversation, the first at the position `first`.
pub(super) async fn append(
    connection: &mut AnyConnection,
    principal: &str,
    conversation: &str,
    first: i64,
    items: &[NewItem<'_>],
) -> Result<(), StoreError> {
    let mut position = first;
    for rows in batches(items) {
        let sql = format!(
            "INSERT INTO conversation_items (principal, conversation_id, position, id, item) VALUES {}",
            rows_of(connection, rows.len(), 5)
        );
        let mut query = query(sql);
        for row in rows {
            query = query
                .bind(principal.to_owned())
                .bind(conversation.to_owned())
                .bind(position)
                .bind(row.id.to_owned())
                .bind(row.item.to_owned());
            position += 1;
        }
        query.execute(&mut *connection).await?;
    }
    Ok(())
}

/// Removes what belongs to a conversation.
async fn remove_parts(connection: &mut AnyConnection, principal: &str, id: &str) -> Result<(), StoreError> {
    for table in ["conversation_items", "state"] {
        let sql = format!("DELETE FROM {table} WHERE principal = $1 AND conversation_id = $2");
        query(sql).bind(principal.to_owned()).bind(id.to_owned()).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Whether this cannot be the id of a stored item: PostgreSQL's text has no NUL, and fails when it is asked for one.
fn no_id(item: &str) -> bool {
    item.contains('\0')
}

pub(super) fn count(items: &[NewItem<'_>]) -> i64 {
    i64::try_from(items.len()).unwrap_or(i64::MAX)
}
