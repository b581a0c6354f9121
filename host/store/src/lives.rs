//! Runs over the lives of the server: which have an instance, which sleep, and how often they were cut off.
//!
//! A run that may have brought the server down must not do so for ever, and must not take its neighbours with it. So
//! before a run is executed its row says so, and a start that finds such a row counts: that run had an instance when a
//! life ended badly. One that sleeps, waits for its turn, or was stopped in order is not counted.

use outlast_protocol::{ConversationId, ResponseId, TerminalStatus};
use sqlx::{AnyConnection, Row as _, any::AnyRow};
use tracing::error;

use super::{
    Store, StoreError, WriteConnection,
    sql::{batches, delete, placeholders, query, query_of, response_id, rows_of},
    webhooks,
};

/// The columns of an [`ActiveRun`].
const ACTIVE_RUN: &str = "id, principal, epoch, agent, component, previous_response_id AS previous, history_turns, \
    history, conversation_id AS conversation, request, created_at";

/// Where a run that has not ended stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It has an instance, or is about to have one.
    Executing,
    /// It sleeps without one until this time, in milliseconds since 1970.
    Asleep(i64),
    /// It has none, and is to be executed as soon as there is a place.
    Waiting,
}

/// The runs that were active.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TakenOver {
    /// Those that go on, oldest first.
    pub runs: Vec<TakenRun>,
    /// Those whose rows cannot be read: they are to be [ended](Store::end_unreadable).
    pub unreadable: Vec<ResponseId>,
}

/// A run that was taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakenRun {
    /// The id of its response.
    pub id: ResponseId,
    /// Whose it is.
    pub principal: String,
    /// The ownership under which it runs from now on.
    pub epoch: i64,
    /// The name of its agent.
    pub agent: String,
    /// When it was accepted, in milliseconds since 1970.
    pub created_at: i64,
    /// How often it was cut off by the end of a life, since it last got on or was executed for a while without harm.
    pub attempts: i64,
    /// How often it was cut off by the end of a life, since it last got on.
    pub crashes: i64,
    /// Until when it sleeps, in milliseconds since 1970; none when it does not sleep.
    pub wake_at: Option<i64>,
    /// How many events it has.
    pub events: u64,
    /// How many entries its journal has.
    pub entries: u64,
}

/// What is needed to execute a run again.
#[derive(Clone, Debug)]
pub struct ActiveRun {
    /// The id of its response.
    pub id: ResponseId,
    /// Whose it is.
    pub principal: String,
    /// The ownership under which it runs.
    pub epoch: i64,
    /// The name of its agent.
    pub agent: String,
    /// The sha256 of its component, hexadecimal.
    pub component: String,
    /// The response that it continues.
    pub previous: Option<ResponseId>,
    /// How many responses, from `previous` back, are its history; none: all that there are.
    pub turns: Option<i64>,
    /// The conversation that it belongs to.
    pub conversation: Option<ConversationId>,
    /// The items of that conversation, JSON, when it was deleted meanwhile.
    pub history: Option<String>,
    /// The request as it was accepted, JSON.
    pub request: String,
    /// When it was accepted, in milliseconds since 1970.
    pub created_at: i64,
}

impl WriteConnection {
    /// Takes over the runs that have not ended, oldest first: at a start, those that the last stop cut off. From now on
    /// only writes under their new epochs count. Those that had an instance until now are counted.
    pub async fn take_over(&mut self) -> Result<TakenOver, StoreError> {
        const REACHED: &str = "COALESCE((SELECT MAX(last_sequence) + 1 FROM events \
            WHERE response_id = responses.id), 0) AS events, \
            COALESCE((SELECT MAX(last_position) + 1 FROM journal WHERE response_id = responses.id), 0) AS entries";
        let damaged = self.recover().await?;
        let (ownership, connection) = self.owned().await?;
        // Once: a start that fails behind this finds nobody who has an instance.
        query(format!(
            "WITH cut (id, events, entries) AS (SELECT responses.id, {REACHED} FROM responses \
             LEFT JOIN lives ON lives.response_id = responses.id \
             WHERE ended_at IS NULL AND COALESCE(lives.executing, 1) = 1) \
             INSERT INTO lives (response_id, executing, wake_at, attempts, crashes, progress) \
             SELECT id, 0, NULL, 1, 1, events + entries FROM cut WHERE 1 = 1 \
             ON CONFLICT (response_id) DO UPDATE SET executing = 0, wake_at = NULL, progress = excluded.progress, \
             attempts = CASE WHEN excluded.progress > lives.progress THEN 1 ELSE lives.attempts + 1 END, \
             crashes = CASE WHEN excluded.progress > lives.progress THEN 1 ELSE lives.crashes + 1 END"
        ))
        .execute(&mut *connection)
        .await?;
        sqlx::query("UPDATE responses SET epoch = epoch + 1 WHERE ended_at IS NULL").execute(&mut *connection).await?;
        let sql = format!(
            "SELECT id, principal, epoch, agent, created_at, lives.attempts AS attempts, crashes, wake_at, {REACHED} \
             FROM responses JOIN lives ON lives.response_id = responses.id WHERE ended_at IS NULL ORDER BY created_at"
        );
        let rows = query(sql).fetch_all(&mut *connection).await?;
        ownership.limit(connection).await?;
        let mut taken = TakenOver::default();
        for row in &rows {
            match (taken_run(row), response_id(row.try_get("id")?)) {
                (Ok(run), _) if damaged.contains(&run.id) => taken.unreadable.push(run.id),
                (Ok(run), _) => taken.runs.push(run),
                (Err(error), Ok(id)) => {
                    error!(response = %id, %error, "a run cannot be taken over; it ends");
                    taken.unreadable.push(id);
                }
                (Err(error), Err(_)) => error!(%error, "a run cannot be taken over"),
            }
        }
        Ok(taken)
    }
}

impl Store {
    /// A run that has not ended.
    pub async fn active_run(&self, id: &ResponseId) -> Result<Option<ActiveRun>, StoreError> {
        let sql = format!("SELECT {ACTIVE_RUN} FROM responses WHERE id = $1 AND ended_at IS NULL");
        let row = query(sql).bind(id.as_str().to_owned()).fetch_optional(&self.pool).await?;
        row.as_ref().map(active_run).transpose()
    }

    /// Ends a run whose row cannot be read as failed, with this response, JSON. `now` is in milliseconds since 1970.
    pub async fn end_unreadable(
        &self,
        id: &ResponseId,
        response: &str,
        background: bool,
        now: i64,
    ) -> Result<(), StoreError> {
        let mut transaction = self.begin().await?;
        // Its times are written anew: they may be what cannot be read.
        let ended = sqlx::query(
            "UPDATE responses SET status = 'failed', created_at = $2, ended_at = $2, response = $3, history = NULL \
             WHERE id = $1 AND ended_at IS NULL RETURNING principal",
        )
        .bind(id.as_str().to_owned())
        .bind(now)
        .bind(response.to_owned())
        .fetch_optional(&mut *transaction)
        .await?;
        if let Some(principal) = ended.and_then(|row| row.try_get("principal").ok()) {
            let told = (id, principal, TerminalStatus::Failed, now, background);
            webhooks::write_for(&mut transaction, &[told]).await?;
        }
        for table in ["journal", "lives"] {
            delete(&mut transaction, table, "response_id", &[id]).await?;
        }
        Ok(transaction.commit().await?)
    }

    /// Forgets how often these runs were resumed: they were executed for a while without harm.
    pub async fn forgive_attempts(&self, ids: &[&ResponseId]) -> Result<(), StoreError> {
        let mut transaction = self.begin().await?;
        for ids in batches(ids) {
            let holes = placeholders(&transaction, ids.len());
            let sql = format!("UPDATE lives SET attempts = 0 WHERE response_id IN ({holes})");
            let query = query_of(sql, ids);
            query.execute(&mut *transaction).await?;
        }
        Ok(transaction.commit().await?)
    }
}

/// Writes where runs stand, each under the epoch of its owner.
pub(super) async fn set_phases(
    connection: &mut AnyConnection,
    rows: &[(&ResponseId, i64, Phase)],
) -> Result<(), StoreError> {
    let sql = format!(
        "WITH stands (id, epoch, executing, wake_at) AS (VALUES {}) \
         INSERT INTO lives (response_id, executing, wake_at, attempts, crashes, progress) \
         SELECT stands.id, stands.executing, NULLIF(stands.wake_at, -1), 0, 0, 0 FROM stands JOIN responses \
         ON responses.id = stands.id AND responses.epoch = stands.epoch WHERE responses.ended_at IS NULL \
         ON CONFLICT (response_id) DO UPDATE SET executing = excluded.executing, wake_at = excluded.wake_at",
        rows_of(connection, rows.len(), 4)
    );
    let mut query = query(sql);
    for (id, epoch, phase) in rows {
        let (executing, wake_at) = match phase {
            Phase::Executing => (1_i64, -1),
            Phase::Asleep(until) => (0, *until),
            Phase::Waiting => (0, -1),
        };
        query = query.bind(id.as_str().to_owned()).bind(*epoch).bind(executing).bind(wake_at);
    }
    query.execute(connection).await?;
    Ok(())
}

/// Removes what is said of runs that have ended. How often one was resumed stays, for the operator.
pub(super) async fn remove(connection: &mut AnyConnection, ids: &[&ResponseId]) -> Result<(), StoreError> {
    for ids in batches(ids) {
        let sql = format!(
            "DELETE FROM lives WHERE response_id IN ({}) AND attempts = 0",
            placeholders(connection, ids.len())
        );
        let query = query_of(sql, ids);
        query.execute(&mut *connection).await?;
    }
    Ok(())
}

fn taken_run(row: &AnyRow) -> Result<TakenRun, StoreError> {
    Ok(TakenRun {
        id: response_id(row.try_get("id")?)?,
        principal: row.try_get("principal")?,
        epoch: row.try_get("epoch")?,
        agent: row.try_get("agent")?,
        created_at: row.try_get("created_at")?,
        attempts: row.try_get("attempts")?,
        crashes: row.try_get("crashes")?,
        wake_at: row.try_get("wake_at")?,
        events: row.try_get::<i64, _>("events")?.cast_unsigned(),
        entries: row.try_get::<i64, _>("entries")?.cast_unsigned(),
    })
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
        turns: row.try_get("history_turns")?,
        conversation: conversation
            .map(|name| ConversationId::parse(&name).ok_or_else(|| damaged(&name)))
            .transpose()?,
        history: row.try_get("history")?,
        request: row.try_get("request")?,
        created_at: row.try_get("created_at")?,
    })
}
