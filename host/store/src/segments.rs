//! The tables that only grow: events, journals, logs. Each row has consecutive numbers of one run.

use std::collections::HashMap;

use outlast_protocol::ResponseId;
use sqlx::{AnyConnection, Connection as _, Row as _, any::AnyRow};
use tracing::error;

use super::{
    Store, StoreError,
    commit_log::Kind,
    pool::Pool,
    sql::{batches, placeholders, query, query_of, rows_of},
};

/// One of these tables, and its columns.
pub(super) struct Table {
    name: &'static str,
    first: &'static str,
    last: &'static str,
    bytes: &'static str,
}

/// What subscribers have seen or may see.
pub(super) const EVENTS: Table =
    Table { name: "events", first: "first_sequence", last: "last_sequence", bytes: "frames" };
/// What the imports of runs have answered.
pub(super) const JOURNAL: Table =
    Table { name: "journal", first: "first_position", last: "last_position", bytes: "entries" };
/// What agents have written to their logs.
pub(super) const LOGS: Table = Table { name: "run_logs", first: "first_line", last: "last_line", bytes: "lines" };

/// Consecutive events, entries or lines of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// The number of the first.
    pub first: u64,
    /// The number of the last.
    pub last: u64,
    /// All, one after the other.
    pub bytes: Vec<u8>,
}

/// A row of one of them.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    pub id: &'a ResponseId,
    pub first: u64,
    pub last: u64,
    pub bytes: &'a [u8],
}

impl Store {
    /// What a run has said from the number `from` on, in order: the next parts, at most `most`.
    pub(super) async fn parts(
        &self,
        kind: Kind,
        id: &ResponseId,
        from: u64,
        most: usize,
    ) -> Result<Vec<Part>, StoreError> {
        // Before the table: what is flushed meanwhile is in both then, and never in neither.
        let mut tail = self.commit_log.lock().tail(id, kind);
        let mut parts = read(&self.pool, kind.table(), id, from, most).await?;
        if tail.is_none() && parts.is_empty() {
            // Who has just been admitted may be seen in the database before it is in memory.
            let _committed = self.committing.read().await;
            tail = self.commit_log.lock().tail(id, kind);
        }
        if parts.len() < most {
            let tail = match parts.last() {
                Some(row) => tail.and_then(|tail| tail.after(kind, row.last)),
                None => tail.filter(|tail| tail.last >= from),
            };
            parts.extend(tail);
        }
        // What was read before may have become one row with what comes now.
        if from > 0 && parts.first().is_some_and(|part| part.first < from) {
            let first = parts.remove(0);
            parts.splice(..0, first.after(kind, from - 1));
        }
        Ok(parts)
    }
}

/// The rows with something from the number `from` on. The first may begin before it.
async fn read(pool: &Pool, table: &Table, id: &ResponseId, from: u64, most: usize) -> Result<Vec<Part>, StoreError> {
    let Table { name, first, last, bytes } = table;
    // The index has the first numbers: so a table is not read from its beginning, wherever `from` is.
    let sql = format!(
        "SELECT {first} AS first, {last} AS last, {bytes} AS bytes FROM {name} WHERE response_id = $1 \
         AND {first} >= COALESCE((SELECT MAX({first}) FROM {name} WHERE response_id = $1 AND {first} <= $2), 0) \
         AND {last} >= $2 ORDER BY {first} LIMIT $3"
    );
    let whole = |number| i64::try_from(number).unwrap_or(i64::MAX);
    let query = query(sql).bind(id.as_str().to_owned()).bind(whole(from)).bind(whole(most as u64));
    let number = |row: &AnyRow, name| row.try_get::<i64, _>(name).map(i64::cast_unsigned);
    let part = |row: &AnyRow| -> Result<_, StoreError> {
        Ok(Part { first: number(row, "first")?, last: number(row, "last")?, bytes: row.try_get("bytes")? })
    };
    query.fetch_all(pool).await?.iter().map(part).collect()
}

/// Adds rows. Returns the runs that have another row in the place of one of these: what they would add is not there. A row
/// that is there and is the beginning of one of these was written by a transaction of which the answer did not come: the
/// rest is added.
pub(super) async fn append(
    connection: &mut AnyConnection,
    table: &Table,
    rows: &[Row<'_>],
) -> Result<Vec<ResponseId>, StoreError> {
    let mut contradicted = Vec::new();
    let Table { name, first, last, bytes } = table;
    for rows in batches(rows) {
        let sql = format!(
            "INSERT INTO {name} (response_id, {first}, {last}, {bytes}) VALUES {} \
             ON CONFLICT (response_id, {first}) DO NOTHING",
            rows_of(connection, rows.len(), 4)
        );
        let mut query = query(sql);
        for row in rows {
            query = query
                .bind(row.id.as_str().to_owned())
                .bind(row.first.cast_signed())
                .bind(row.last.cast_signed())
                .bind(row.bytes.to_vec());
        }
        if query.execute(&mut *connection).await?.rows_affected() == rows.len() as u64 {
            continue;
        }
        let there = there(connection, table, rows).await?;
        let mut rest = Vec::new();
        for row in rows {
            match there.get(&(row.id.as_str().to_owned(), row.first.cast_signed())) {
                Some((last, bytes)) if *last == row.last.cast_signed() && bytes == row.bytes => {}
                Some((last, bytes)) if *last < row.last.cast_signed() && row.bytes.starts_with(bytes) => {
                    rest.push(Row { first: last.cast_unsigned() + 1, bytes: &row.bytes[bytes.len()..], ..*row });
                }
                _ => contradicted.push(row.id.clone()),
            }
        }
        contradicted.extend(Box::pin(append(connection, table, &rest)).await?);
    }
    Ok(contradicted)
}

/// Adds those rows that the database takes. Returns the runs of the others.
pub(super) async fn try_append(
    connection: &mut AnyConnection,
    table: &Table,
    rows: &[Row<'_>],
) -> Result<Vec<ResponseId>, StoreError> {
    let mut all = connection.begin().await?;
    match append(&mut all, table, rows).await {
        Ok(contradicted) => {
            all.commit().await?;
            return Ok(contradicted);
        }
        Err(error) if error.is_an_outage() => return Err(error),
        Err(_) => all.rollback().await?,
    }
    let mut refused = Vec::new();
    for row in rows {
        let mut one = connection.begin().await?;
        match append(&mut one, table, &[*row]).await {
            Ok(contradicted) => {
                one.commit().await?;
                refused.extend(contradicted);
            }
            Err(error) if error.is_an_outage() => return Err(error),
            Err(error) => {
                error!(response = %row.id, %error, "the database refuses the last events of the run");
                one.rollback().await?;
                refused.push(row.id.clone());
            }
        }
    }
    Ok(refused)
}

/// The rows that stand in the places of these: last number and bytes, by response and first number.
async fn there(
    connection: &mut AnyConnection,
    Table { name, first, last, bytes }: &Table,
    rows: &[Row<'_>],
) -> Result<HashMap<(String, i64), (i64, Vec<u8>)>, StoreError> {
    let sql = format!(
        "SELECT response_id AS id, {first} AS first, {last} AS last, {bytes} AS bytes FROM {name} \
         WHERE (response_id, {first}) IN (VALUES {})",
        rows_of(connection, rows.len(), 2)
    );
    let query =
        rows.iter().fold(query(sql), |query, row| query.bind(row.id.as_str().to_owned()).bind(row.first.cast_signed()));
    let mut there = HashMap::new();
    for row in query.fetch_all(&mut *connection).await? {
        there.insert((row.try_get("id")?, row.try_get("first")?), (row.try_get("last")?, row.try_get("bytes")?));
    }
    Ok(there)
}

/// The last number of each of these runs in a table; none of those that are not in it.
pub(super) async fn reached(
    connection: &mut AnyConnection,
    Table { name, last, .. }: &Table,
    ids: &[&ResponseId],
) -> Result<HashMap<String, u64>, StoreError> {
    let mut reached = HashMap::new();
    for ids in batches(ids) {
        let sql = format!(
            "SELECT response_id AS id, MAX({last}) AS last FROM {name} WHERE response_id IN ({}) GROUP BY response_id",
            placeholders(connection, ids.len())
        );
        let query = query_of(sql, ids);
        for row in query.fetch_all(&mut *connection).await? {
            reached.insert(row.try_get("id")?, row.try_get::<i64, _>("last")?.cast_unsigned());
        }
    }
    Ok(reached)
}
