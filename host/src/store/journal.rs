//! Taking over runs with their journals, and keeping components.

use std::collections::HashMap;

use sqlx::{Row as _, any::AnyRow};
use tracing::error;

use super::{Store, StoreError, WriteConnection, commit::query, responses::response_id};
use crate::protocol::{ConversationId, ResponseId};

/// The columns of an [`ActiveRun`].
const ACTIVE_RUN: &str = "id, principal, epoch, agent, component, previous_response_id AS previous, \
    conversation_id AS conversation, request, created_at";

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

/// What is needed to execute a run again.
#[derive(Clone, Debug)]
pub struct ActiveRun {
    /// The id of its response.
    pub id: ResponseId,
    /// Whose it is.
    pub principal: String,
    /// The ownership under which it runs from now on.
    pub epoch: i64,
    /// The name of its agent.
    pub agent: String,
    /// The sha256 of its component, hexadecimal.
    pub component: String,
    /// The response that it goes on from.
    pub previous: Option<ResponseId>,
    /// The conversation that it is a turn of.
    pub conversation: Option<ConversationId>,
    /// The request as it was accepted, JSON.
    pub request: String,
    /// When it was accepted, in milliseconds since 1970.
    pub created_at: i64,
}

impl WriteConnection {
    /// Takes over the runs that have not ended, oldest first: at a start, those that the last stop cut off. From now on
    /// only writes under their new epochs count. A row that cannot be read is reported and left as it is.
    pub async fn take_over(&mut self) -> Result<Vec<ActiveRun>, StoreError> {
        let rows =
            query(format!("UPDATE responses SET epoch = epoch + 1 WHERE ended_at IS NULL RETURNING {ACTIVE_RUN}"))
                .fetch_all(self.connection().await?)
                .await?;
        let read = |row| active_run(row).inspect_err(|error| error!(%error, "a run cannot be taken over"));
        let mut runs: Vec<_> = rows.iter().filter_map(|row| read(row).ok()).collect();
        runs.sort_by_key(|run| run.created_at);
        Ok(runs)
    }
}

impl Store {
    /// The journal of a run, in order.
    pub async fn journal(&self, id: &ResponseId) -> Result<Vec<JournalSegment>, StoreError> {
        let rows = sqlx::query(
            "SELECT first_position, last_position, entries FROM journal WHERE response_id = $1 ORDER BY first_position",
        )
        .bind(id.as_str().to_owned())
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(JournalSegment {
                    first: row.try_get::<i64, _>("first_position")?.cast_unsigned(),
                    last: row.try_get::<i64, _>("last_position")?.cast_unsigned(),
                    lines: row.try_get("entries")?,
                })
            })
            .collect()
    }

    /// A run that has not ended.
    pub async fn active_run(&self, id: &ResponseId) -> Result<Option<ActiveRun>, StoreError> {
        let sql = format!("SELECT {ACTIVE_RUN} FROM responses WHERE id = $1 AND ended_at IS NULL");
        let row = query(sql).bind(id.as_str().to_owned()).fetch_optional(&self.pool).await?;
        row.as_ref().map(active_run).transpose()
    }

    /// Counts that every run that has not ended is resumed, and returns how often each was since it last got on.
    pub async fn count_attempts(&self) -> Result<HashMap<ResponseId, i64>, StoreError> {
        let rows = sqlx::query(
            "WITH reached (id, progress) AS (SELECT id, \
             COALESCE((SELECT MAX(last_sequence) + 1 FROM events WHERE response_id = responses.id), 0) + \
             COALESCE((SELECT MAX(last_position) + 1 FROM journal WHERE response_id = responses.id), 0) \
             FROM responses WHERE ended_at IS NULL) \
             UPDATE responses SET progress = reached.progress, \
             attempts = CASE WHEN reached.progress > responses.progress THEN 1 ELSE responses.attempts + 1 END \
             FROM reached WHERE responses.id = reached.id RETURNING responses.id AS id, responses.attempts AS attempts",
        )
        .fetch_all(&self.pool)
        .await?;
        let read = |row: &AnyRow| Some((response_id(row.try_get("id").ok()?).ok()?, row.try_get("attempts").ok()?));
        Ok(rows.iter().filter_map(read).collect())
    }

    /// Forgets how often the active runs were resumed.
    pub async fn forgive_attempts(&self) -> Result<(), StoreError> {
        sqlx::query("UPDATE responses SET attempts = 0 WHERE ended_at IS NULL AND attempts > 0")
            .execute(&self.pool)
            .await?;
        Ok(())
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

fn active_run(row: &AnyRow) -> Result<ActiveRun, StoreError> {
    let conversation: Option<String> = row.try_get("conversation")?;
    let damaged = |name: &str| StoreError::Damaged(format!("`{name}` is not the name of a conversation"));
    Ok(ActiveRun {
        id: response_id(row.try_get("id")?)?,
        principal: row.try_get("principal")?,
        epoch: row.try_get("epoch")?,
        agent: row.try_get("agent")?,
        component: row.try_get("component")?,
        previous: row.try_get::<Option<String>, _>("previous")?.map(response_id).transpose()?,
        conversation: conversation
            .map(|name| ConversationId::parse(&name).ok_or_else(|| damaged(&name)))
            .transpose()?,
        request: row.try_get("request")?,
        created_at: row.try_get("created_at")?,
    })
}
