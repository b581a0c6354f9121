//! What agents keep beyond their runs, for a principal.
//!
//! It is written by the writer of the runs, in the transaction that also has what its run said and read until then.

use std::collections::{BTreeMap, HashSet};

use outlast_protocol::ResponseId;
use sqlx::{AnyConnection, Row as _};

use super::{
    Backend, Store, StoreError,
    sql::{batches, query, rows_of},
};

/// Whose state it is: an agent's, by its name, for one principal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateOwner {
    /// The principal.
    pub principal: String,
    /// The agent.
    pub agent: String,
}

/// Where a value lies.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StatePlace {
    /// The conversation that it belongs to; empty for none.
    pub conversation: String,
    /// The key.
    pub key: String,
}

/// A value that a run has set, or a key that it has removed.
#[derive(Clone, Copy, Debug)]
pub struct StateWrite<'a> {
    /// The run.
    pub run: &'a ResponseId,
    /// Whose it is.
    pub owner: &'a StateOwner,
    /// Where it lies.
    pub place: &'a StatePlace,
    /// The value; none removes it.
    pub value: Option<&'a [u8]>,
}

impl Store {
    /// The value of a key.
    pub async fn state(&self, owner: &StateOwner, place: &StatePlace) -> Result<Option<Vec<u8>>, StoreError> {
        let row = sqlx::query(
            "SELECT value FROM state WHERE principal = $1 AND agent = $2 AND conversation_id = $3 AND key = $4",
        )
        .bind(owner.principal.clone())
        .bind(owner.agent.clone())
        .bind(place.conversation.clone())
        .bind(place.key.clone().into_bytes())
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| Ok(row.try_get("value")?)).transpose()
    }

    /// The next keys that begin with `prefix` and come behind `after`, in the order of their bytes, at most `most`.
    pub async fn state_keys(
        &self,
        owner: &StateOwner,
        conversation: &str,
        prefix: &str,
        after: &str,
        most: usize,
    ) -> Result<Vec<String>, StoreError> {
        let rows = sqlx::query(
            "SELECT key FROM state WHERE principal = $1 AND agent = $2 AND conversation_id = $3 \
             AND key >= $4 AND key < $5 AND key > $6 ORDER BY key LIMIT $7",
        )
        .bind(owner.principal.clone())
        .bind(owner.agent.clone())
        .bind(conversation.to_owned())
        .bind(prefix.as_bytes().to_vec())
        .bind(behind(prefix))
        .bind(after.as_bytes().to_vec())
        .bind(i64::try_from(most).unwrap_or(i64::MAX))
        .fetch_all(&self.pool)
        .await?;
        let damaged = |_| StoreError::Damaged("a key of an agent's state is not text".to_owned());
        rows.iter().map(|row| String::from_utf8(row.try_get("key")?).map_err(damaged)).collect()
    }

    /// How much there is of it, in bytes, where an entry counts as its key, its value and `entry` bytes.
    pub async fn state_bytes(&self, owner: &StateOwner, entry: u32) -> Result<usize, StoreError> {
        let sql = format!(
            "SELECT CAST(COALESCE(SUM(LENGTH(key) + LENGTH(value) + {entry}), 0) AS BIGINT) AS bytes \
             FROM state WHERE principal = $1 AND agent = $2"
        );
        let row = query(sql).bind(owner.principal.clone()).bind(owner.agent.clone()).fetch_one(&self.pool).await?;
        Ok(usize::try_from(row.try_get::<i64, _>("bytes")?).unwrap_or_default())
    }
}

/// The first bytes behind all texts that begin with `prefix`.
fn behind(prefix: &str) -> Vec<u8> {
    let mut bytes = prefix.as_bytes().to_vec();
    // No byte of UTF-8 is 255.
    match bytes.last_mut() {
        Some(last) => *last += 1,
        None => bytes.push(u8::MAX),
    }
    bytes
}

/// Writes these in their order, and returns the runs whose conversation is gone: what they keep for it is not kept.
pub(super) async fn keep(
    connection: &mut AnyConnection,
    backend: Backend,
    writes: &[StateWrite<'_>],
) -> Result<HashSet<ResponseId>, StoreError> {
    let (mut without_conversation, mut last) = (HashSet::new(), BTreeMap::new());
    let there = conversations(connection, backend, writes).await?;
    for write in writes {
        let conversation = &write.place.conversation;
        if conversation.is_empty() || there.contains(&(write.owner.principal.clone(), conversation.clone())) {
            last.insert((write.owner, write.place), write.value);
        } else {
            without_conversation.insert(write.run.clone());
        }
    }
    let (set, removed): (Vec<_>, Vec<_>) = last.into_iter().partition(|(_, value)| value.is_some());
    for rows in batches(&set) {
        let sql = format!(
            "INSERT INTO state (principal, agent, conversation_id, key, value) VALUES {} \
             ON CONFLICT (principal, agent, conversation_id, key) DO UPDATE SET value = excluded.value",
            rows_of(connection, rows.len(), 5)
        );
        let mut query = query(sql);
        for ((owner, place), value) in rows {
            query = query
                .bind(owner.principal.clone())
                .bind(owner.agent.clone())
                .bind(place.conversation.clone())
                .bind(place.key.clone().into_bytes())
                .bind(value.unwrap_or_default().to_vec());
        }
        query.execute(&mut *connection).await?;
    }
    for rows in batches(&removed) {
        let sql = format!(
            "DELETE FROM state WHERE (principal, agent, conversation_id, key) IN (VALUES {})",
            rows_of(connection, rows.len(), 4)
        );
        let mut query = query(sql);
        for ((owner, place), _) in rows {
            query = query
                .bind(owner.principal.clone())
                .bind(owner.agent.clone())
                .bind(place.conversation.clone())
                .bind(place.key.clone().into_bytes());
        }
        query.execute(&mut *connection).await?;
    }
    Ok(without_conversation)
}

/// The conversations of these writes that are there, and stay until the transaction ends.
async fn conversations(
    connection: &mut AnyConnection,
    backend: Backend,
    writes: &[StateWrite<'_>],
) -> Result<HashSet<(String, String)>, StoreError> {
    let named = writes.iter().filter(|write| !write.place.conversation.is_empty());
    let wanted: HashSet<_> = named.map(|write| (&write.owner.principal, &write.place.conversation)).collect();
    let wanted: Vec<_> = wanted.into_iter().collect();
    let mut there = HashSet::new();
    for rows in batches(&wanted) {
        let lock = match backend {
            // The transaction has the only lock for writing already.
            Backend::Sqlite => "",
            Backend::Postgres => "ORDER BY principal, id FOR SHARE",
        };
        let sql = format!(
            "SELECT principal, id FROM conversations WHERE (principal, id) IN (VALUES {}) {lock}",
            rows_of(connection, rows.len(), 2)
        );
        let query =
            rows.iter().fold(query(sql), |query, (principal, id)| query.bind((*principal).clone()).bind((*id).clone()));
        for row in query.fetch_all(&mut *connection).await? {
            there.insert((row.try_get("principal")?, row.try_get("id")?));
        }
    }
    Ok(there)
}

#[cfg(test)]
mod tests {
    use super::behind;

    #[test]
    fn what_begins_with_a_prefix_lies_before_its_end() {
        for (prefix, inside, outside) in [("a", "a\u{10ffff}", "b"), ("ü", "üz", "ý"), ("a\u{7f}", "a\u{7f}z", "b")]
        {
            assert!(inside.as_bytes() < &behind(prefix)[..] && outside.as_bytes() >= &behind(prefix)[..], "{prefix}");
        }
        assert!("\u{10ffff}".as_bytes() < &behind("")[..]);
    }
}
