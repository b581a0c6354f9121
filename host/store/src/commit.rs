//! Group commit: the writes of many runs, in one transaction.
//!
//! One statement per table and batch, however many runs are in it; and what runs say is one row of the commit log, see
//! `commit_log`.

use std::{collections::HashSet, time::Duration};

use outlast_protocol::{ResponseId, Segment, TerminalStatus};
use sqlx::{AnyConnection, Connection as _, Row as _};

use super::{
    Batch, Committed, ConversationItem, EndedResponse, JournalSegment, LogSegment, NewItem, NewResponse, Phase, Store,
    StoreError, Uncommitted,
    commit_log::{Kind, Piece, Plan, Wanted},
    conversations::{self, GUARDED},
    lives,
    ownership::Ownership,
    recovery, runs,
    segments::{self, Part, Row},
    sql::{RESPONSE_TABLES, batches, delete, missing, placeholders, query, query_of, rows_of},
    state, transaction, webhooks,
};

/// How long a connection that is given up may take to say so.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The connection that writes.
#[derive(Debug)]
pub struct WriteConnection {
    pub(super) store: Store,
    ownership: Ownership,
    connection: Option<AnyConnection>,
}

impl WriteConnection {
    pub(super) async fn open(store: Store) -> Result<Self, StoreError> {
        let mut ownership = Ownership::none(store.clone());
        let mut connection = ownership.take().await?;
        let last = recovery::last_row(&mut connection).await?;
        store.commit_log.lock().begin_after(last);
        Ok(Self { store, ownership, connection: Some(connection) })
    }

    /// Keeps the database this server's. To be called at least every third of the lease; [`commit`](Self::commit) does
    /// the same.
    ///
    /// # Errors
    ///
    /// [`StoreError::Replaced`] when another server owns the database: nothing will be written any more.
    pub async fn keep(&mut self) -> Result<(), StoreError> {
        let kept = within(self.ownership.commit_limit(), async { self.connection().await.map(drop) }).await;
        self.drop_after(kept).await
    }

    /// Closes the connection. On SQLite the last one to close brings the file up to date and removes its log.
    pub async fn close(self) {
        if let Some(connection) = self.connection {
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, connection.close()).await;
        }
    }

    /// Writes a row that nobody reads, to see whether the database takes writes. `now` is in milliseconds since 1970.
    ///
    /// # Errors
    ///
    /// It does not; [`StoreError::Replaced`] as above.
    pub async fn probe(&mut self, now: i64) -> Result<(), StoreError> {
        let limit = self.ownership.commit_limit();
        let written = within(limit, async {
            sqlx::query(
                "INSERT INTO probe (id, written_at) VALUES (1, $1) \
                 ON CONFLICT (id) DO UPDATE SET written_at = excluded.written_at",
            )
            .bind(now)
            .execute(self.connection().await?)
            .await?;
            Ok(())
        });
        let written = written.await;
        self.drop_after(written).await
    }

    /// Writes `batch`, all of it or nothing, but for what [`Committed`] names.
    ///
    /// Writing the same batch again, after an error that left its fate unknown, changes nothing.
    ///
    /// # Errors
    ///
    /// [`Uncommitted`] says whether the batch may be in the database all the same.
    pub async fn commit(&mut self, batch: &Batch<'_>) -> Result<Committed, Uncommitted> {
        let mut asked = false;
        let committed = within(self.ownership.commit_limit(), self.try_commit(batch, &mut asked)).await;
        self.drop_after(committed).await.map_err(|error| {
            let unknown = asked && !error.denies_a_commit();
            Uncommitted { error, unknown }
        })
    }

    /// After an error the state of the connection is unknown, a transaction may be open on it. A new one is cheap beside
    /// finding out.
    async fn drop_after<T>(&mut self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        let Err(error) = &result else { return result };
        if self.connection.is_some() {
            self.ownership.suspend();
        }
        match self.connection.take() {
            // It may be dead: nothing more is said on it.
            Some(connection) if matches!(error, StoreError::TimedOut(_)) => {
                drop(connection);
                self.ownership.forget_idle();
            }
            Some(connection) => {
                let _ = tokio::time::timeout(CLOSE_TIMEOUT, connection.close()).await;
            }
            None => {}
        }
        result
    }

    /// Sets `asked` before the database is asked to commit: from then on, an error does not say that it has not.
    async fn try_commit(&mut self, batch: &Batch<'_>, asked: &mut bool) -> Result<Committed, StoreError> {
        let Store { backend, commit_log, committing, turn, .. } = self.store.clone();
        let (ownership, connection) = self.owned().await?;
        let _turn = turn.wait(backend).await;
        let mut transaction = transaction::begin(connection, backend).await?;
        ownership.fence(&mut transaction).await?;
        for (table, column) in RESPONSE_TABLES {
            delete(&mut transaction, table, column, &batch.abandoned).await?;
        }
        let (mut committed, mut known) = (Committed::default(), HashSet::new());
        for rows in batches(&batch.admitted) {
            admit(&mut transaction, rows, &mut committed.key_conflicts, &mut known).await?;
        }
        let turns = batch.admitted.iter().copied().filter(|row| row.conversation.is_some());
        let turns: Vec<_> =
            turns.filter(|row| !committed.key_conflicts.contains(&row.id) && !known.contains(&row.id)).collect();
        conversations::begin_named(&mut transaction, &turns).await?;
        let places: Vec<_> = turns
            .iter()
            .filter_map(|row| Some((row.principal.as_str(), row.conversation.as_ref()?.0.as_str())))
            .collect();
        conversations::lock(&mut transaction, backend, &places).await?;
        for rows in batches(&turns) {
            let conflicts = guard(&mut transaction, rows).await?;
            delete(&mut transaction, "responses", "id", &conflicts.iter().collect::<Vec<_>>()).await?;
            committed.conversation_conflicts.extend(conflicts);
        }
        let mut plan = commit_log.lock().plan(&wanted(batch, &committed));
        committed.contradicted.extend(plan.contradicted.iter().cloned());
        let given_up = batch.ended.iter().filter(|row| row.given_up).map(|row| &row.id).collect();
        let contradicted = keep(&mut transaction, &mut plan, &given_up).await?;
        committed.contradicted.extend(contradicted);
        let usage: Vec<_> = batch.usage.iter().filter(|(id, _)| !committed.refused(id)).copied().collect();
        for rows in batches(&usage) {
            runs::set_usage(&mut transaction, rows).await?;
        }
        let writes: Vec<_> = batch.state.iter().filter(|write| !committed.refused(write.run)).copied().collect();
        if !writes.is_empty() {
            committed.without_conversation = state::keep(&mut transaction, backend, &writes).await?;
        }
        for rows in batches(&batch.phases) {
            lives::set_phases(&mut transaction, rows).await?;
        }
        let ended: Vec<_> =
            batch.ended.iter().copied().filter(|row| !committed.contradicted.contains(&row.id)).collect();
        for rows in batches(&ended) {
            let Ends { superseded, deliveries } = end(&mut transaction, rows).await?;
            committed.superseded.extend(superseded);
            committed.deliveries += deliveries;
            let over: Vec<_> = rows.iter().filter(|row| !committed.superseded.contains(&row.id)).collect();
            let journaled = over.iter().filter(|row| row.journaled && !plan.unjournaled.contains(&row.id));
            let journaled: Vec<_> = journaled.map(|row| &row.id).collect();
            delete(&mut transaction, "journal", "response_id", &journaled).await?;
            let lived: Vec<_> = over.iter().filter(|row| row.lived).map(|row| &row.id).collect();
            lives::remove(&mut transaction, &lived).await?;
        }
        *asked = true;
        let _committing = committing.write().await;
        transaction.commit().await?;
        let over = batch.abandoned.iter().copied().chain(&committed.contradicted);
        commit_log.lock().apply(plan, over);
        ownership.tidy(connection).await;
        Ok(committed)
    }

    /// The connection, of a server that still owns the database.
    pub(super) async fn connection(&mut self) -> Result<&mut AnyConnection, StoreError> {
        Ok(self.owned().await?.1)
    }

    pub(super) async fn owned(&mut self) -> Result<(&mut Ownership, &mut AnyConnection), StoreError> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.ownership.connection().await?,
        };
        let connection = self.connection.insert(connection);
        self.ownership.keep(connection).await?;
        Ok((&mut self.ownership, connection))
    }
}

/// What the log has to be told.
fn wanted<'a>(batch: &'a Batch<'_>, committed: &Committed) -> Wanted<'a> {
    let events = batch.segments.iter().map(|(id, segment)| {
        let Segment { first, last, frames } = segment;
        Piece { id, kind: Kind::Events, first: *first, last: *last, bytes: frames }
    });
    let journal = batch.entries.iter().map(|(id, entries)| {
        let JournalSegment { first, last, lines } = entries;
        Piece { id, kind: Kind::Journal, first: *first, last: *last, bytes: lines }
    });
    let logs = batch.logs.iter().map(|(id, logs)| {
        let LogSegment { first, last, lines } = logs;
        Piece { id, kind: Kind::Logs, first: *first, last: *last, bytes: lines }
    });
    let passive = batch.phases.iter().filter(|(.., phase)| *phase != Phase::Executing);
    Wanted {
        pieces: events.chain(journal).chain(logs).filter(|piece| !committed.refused(piece.id)).collect(),
        ended: batch.ended.iter().map(|row| &row.id).collect(),
        passive: passive.map(|(id, ..)| *id).collect(),
    }
}

/// Writes the row of the commit log, and flushes tails: those of runs that were given up as far as the database takes them.
/// Returns the runs that contradict what is in their tables.
async fn keep(
    connection: &mut AnyConnection,
    plan: &mut Plan<'_>,
    given_up: &HashSet<&ResponseId>,
) -> Result<HashSet<ResponseId>, StoreError> {
    let mut contradicted = HashSet::new();
    for kind in Kind::ALL {
        let rows = plan.flush.iter().filter_map(|(id, parts)| {
            let Part { first, last, bytes } = parts[kind as usize].as_ref()?;
            Some(Row { id, first: *first, last: *last, bytes })
        });
        let (doubtful, rows): (Vec<_>, Vec<_>) = rows.partition(|row| given_up.contains(row.id));
        if !doubtful.is_empty() {
            segments::try_append(connection, kind.table(), &doubtful).await?;
        }
        let found = segments::append(connection, kind.table(), &rows).await?;
        // A log is for people: a line that another attempt has written is no reason to end the run.
        if kind != Kind::Logs {
            contradicted.extend(found);
        }
    }
    if !plan.records.is_empty() {
        let insert = sqlx::query("INSERT INTO commit_log (id, records) VALUES ($1, $2)");
        insert.bind(plan.row).bind(std::mem::take(&mut plan.records)).execute(&mut *connection).await?;
    }
    if let Some(needed) = plan.sweep {
        sqlx::query("DELETE FROM commit_log WHERE id < $1").bind(needed).execute(connection).await?;
    }
    Ok(contradicted)
}

async fn within<T>(limit: Duration, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    tokio::time::timeout(limit, call).await.unwrap_or(Err(StoreError::TimedOut(limit)))
}

/// Admits responses: all but those whose keys are `taken`, and those that are `known` already, from a commit whose answer
/// did not come.
async fn admit(
    connection: &mut AnyConnection,
    rows: &[&NewResponse],
    taken: &mut HashSet<ResponseId>,
    known: &mut HashSet<ResponseId>,
) -> Result<(), StoreError> {
    let sql = format!(
        "INSERT INTO responses (id, principal, status, epoch, agent, component, previous_response_id, \
         history_turns, idempotency_key, fingerprint, created_at, request, conversation_id) VALUES {} \
         ON CONFLICT DO NOTHING RETURNING id",
        rows_of(connection, rows.len(), 13)
    );
    let mut query = query(sql);
    for row in rows {
        query = query
            .bind(row.id.as_str().to_owned())
            .bind(row.principal.clone())
            .bind(row.status.as_str())
            .bind(row.epoch)
            .bind(row.agent.clone())
            .bind(row.component.clone())
            .bind(row.previous.as_ref().map(|id| id.as_str().to_owned()))
            .bind(row.turns)
            .bind(row.key.as_ref().map(|key| key.key.clone()))
            .bind(row.key.as_ref().map(|key| key.fingerprint.clone()))
            .bind(row.created_at)
            .bind(row.request.clone())
            .bind(row.conversation.as_ref().map(|(id, _)| id.as_str().to_owned()));
    }
    let absent = missing(&query.fetch_all(&mut *connection).await?, rows.iter().map(|row| &row.id))?;
    if absent.is_empty() {
        return Ok(());
    }
    let sql = format!("SELECT id FROM responses WHERE id IN ({})", placeholders(connection, absent.len()));
    let there = query_of(sql, &absent);
    taken.extend(missing(&there.fetch_all(connection).await?, absent.iter())?);
    known.extend(absent.into_iter().filter(|id| !taken.contains(id)));
    Ok(())
}

/// Sets the write guards of the conversations of these responses, which are locked, and returns the responses for which
/// that was not possible.
async fn guard(connection: &mut AnyConnection, rows: &[&NewResponse]) -> Result<Vec<ResponseId>, StoreError> {
    let turns = || rows.iter().filter_map(|row| row.conversation.as_ref().map(|(id, position)| (row, id, *position)));
    let sql = format!(
        "WITH turn (principal, id, response_id, position) AS (VALUES {}) \
         UPDATE conversations SET active_response_id = turn.response_id FROM turn \
         WHERE conversations.principal = turn.principal AND conversations.id = turn.id \
         AND conversations.next_position = turn.position AND NOT {GUARDED} \
         RETURNING conversations.active_response_id AS id",
        rows_of(connection, rows.len(), 4)
    );
    let mut query = query(sql);
    for (row, id, position) in turns() {
        query = query
            .bind(row.principal.clone())
            .bind(id.as_str().to_owned())
            .bind(row.id.as_str().to_owned())
            .bind(position);
    }
    missing(&query.fetch_all(connection).await?, rows.iter().map(|row| &row.id))
}

/// What became of the ends of responses.
struct Ends {
    /// Those that had ended otherwise already.
    superseded: Vec<ResponseId>,
    /// How many deliveries to webhooks were written.
    deliveries: u64,
}

/// Ends responses by compare-and-set, and writes whom that is told.
async fn end(connection: &mut AnyConnection, rows: &[&EndedResponse]) -> Result<Ends, StoreError> {
    let sql = format!(
        "WITH ending (id, epoch, status, ended_at, response) AS (VALUES {}) \
         UPDATE responses SET status = ending.status, ended_at = ending.ended_at, response = ending.response, \
         history = NULL FROM ending WHERE responses.id = ending.id AND responses.epoch = ending.epoch \
         AND (responses.ended_at IS NULL OR responses.response = ending.response) \
         RETURNING responses.id AS id, responses.principal AS principal, responses.conversation_id AS conversation",
        rows_of(connection, rows.len(), 5)
    );
    let mut query = query(sql);
    for row in rows {
        query = query
            .bind(row.id.as_str().to_owned())
            .bind(row.epoch)
            .bind(row.status.as_str())
            .bind(row.ended_at)
            .bind(row.response.clone());
    }
    let written = query.fetch_all(&mut *connection).await?;
    let mut told = Vec::with_capacity(written.len());
    for row in &written {
        let (id, principal): (String, String) = (row.try_get("id")?, row.try_get("principal")?);
        let Some(ended) = rows.iter().find(|ended| ended.id.as_str() == id) else { continue };
        if let Some(conversation) = row.try_get::<Option<String>, _>("conversation")? {
            end_turn(connection, &principal, &conversation, ended).await?;
        }
        told.push((&ended.id, principal, ended.status, ended.ended_at, ended.background));
    }
    let deliveries = webhooks::write_for(connection, &told).await?;
    Ok(Ends { superseded: missing(&written, rows.iter().map(|row| &row.id))?, deliveries })
}

/// Clears the write guard of a conversation, and adds the turn to it if the response is completed or incomplete. Nothing happens
/// when the guard is not this response's: the conversation was deleted, or this was written before.
async fn end_turn(
    connection: &mut AnyConnection,
    principal: &str,
    conversation: &str,
    ended: &EndedResponse,
) -> Result<(), StoreError> {
    if !matches!(ended.status, TerminalStatus::Completed | TerminalStatus::Incomplete) {
        sqlx::query(
            "UPDATE conversations SET active_response_id = NULL, changed_at = $4 WHERE principal = $1 AND id = $2 \
             AND active_response_id = $3",
        )
        .bind(principal.to_owned())
        .bind(conversation.to_owned())
        .bind(ended.id.as_str().to_owned())
        .bind(ended.ended_at)
        .execute(connection)
        .await?;
        return Ok(());
    }
    let items: Vec<_> = ended.items.iter().map(|ConversationItem { id, item }| NewItem { id, item }).collect();
    let count = conversations::count(&items);
    let row = sqlx::query(
        "UPDATE conversations SET active_response_id = NULL, latest_completed_response_id = CASE WHEN $6 = 'completed' \
         THEN $3 ELSE latest_completed_response_id END, next_position = next_position + $4, changed_at = $5 WHERE \
         principal = $1 AND id = $2 AND active_response_id = $3 RETURNING next_position",
    )
    .bind(principal.to_owned())
    .bind(conversation.to_owned())
    .bind(ended.id.as_str().to_owned())
    .bind(count)
    .bind(ended.ended_at)
    .bind(ended.status.as_str())
    .fetch_optional(&mut *connection)
    .await?;
    let Some(row) = row else { return Ok(()) };
    let first = row.try_get::<i64, _>("next_position")? - count;
    conversations::append(connection, principal, conversation, first, &items).await
}
