//! The tables that only grow: events, journals, logs. Each row has consecutive numbers of one run.

use std::collections::HashMap;

use outlast_protocol::ResponseId;
use sqlx::{AnyConnection, Row as _, any::AnyRow};

use super::{
    StoreError,
    pool::Pool,
    sql::{ROWS, query, rows_of},
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

/// A row of one of them.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    pub id: &'a ResponseId,
    pub first: u64,
    pub last: u64,
    pub bytes: &'a [u8],
}

/// The next rows of a run that hold something from the number `from` on, in order, at most `most`: first number, last
/// number, bytes. The first row may begin before `from`.
pub(super) async fn read(
    pool: &Pool,
    table: &Table,
    id: &ResponseId,
    from: u64,
    most: i64,
) -> Result<Vec<(u64, u64, Vec<u8>)>, StoreError> {
    let Table { name, first, last, bytes } = table;
    // The index has the first numbers: so a table is not read from its beginning, wherever `from` is.
    let sql = format!(
        "SELECT {first} AS first, {last} AS last, {bytes} AS bytes FROM {name} WHERE response_id = $1 \
         AND {first} >= COALESCE((SELECT MAX({first}) FROM {name} WHERE response_id = $1 AND {first} <= $2), 0) \
         AND {last} >= $2 ORDER BY {first} LIMIT $3"
    );
    let query = query(sql).bind(id.as_str().to_owned()).bind(i64::try_from(from).unwrap_or(i64::MAX)).bind(most);
    let number = |row: &AnyRow, name| row.try_get::<i64, _>(name).map(i64::cast_unsigned);
    let rows = query.fetch_all(pool).await?;
    rows.iter().map(|row| Ok((number(row, "first")?, number(row, "last")?, row.try_get("bytes")?))).collect()
}

/// Adds rows. Returns the runs that have another row in the place of one of these: what they would add is not there.
pub(super) async fn append(
    connection: &mut AnyConnection,
    table: &Table,
    rows: &[Row<'_>],
) -> Result<Vec<ResponseId>, StoreError> {
    let mut contradicted = Vec::new();
    let Table { name, first, last, bytes } = table;
    for rows in rows.chunks(ROWS) {
        let sql = format!(
            "INSERT INTO {name} (response_id, {first}, {last}, {bytes}) VALUES {} \
             ON CONFLICT (response_id, {first}) DO NOTHING",
            rows_of(rows.len(), 4)
        );
        let mut query = query(sql);
        for row in rows {
            query = query
                .bind(row.id.as_str().to_owned())
                .bind(row.first.cast_signed())
                .bind(row.last.cast_signed())
                .bind(row.bytes.to_vec());
        }
        if query.execute(&mut *connection).await?.rows_affected() < rows.len() as u64 {
            contradicted.extend(others(connection, table, rows).await?);
        }
    }
    Ok(contradicted)
}

/// The runs of those `rows` that are not in the table as they are here. A batch that is written again, because the fate
/// of its transaction was unknown, finds its own rows.
async fn others(
    connection: &mut AnyConnection,
    Table { name, first, last, bytes }: &Table,
    rows: &[Row<'_>],
) -> Result<Vec<ResponseId>, StoreError> {
    let sql = format!(
        "SELECT response_id AS id, {first} AS first, {last} AS last, {bytes} AS bytes FROM {name} \
         WHERE (response_id, {first}) IN (VALUES {})",
        rows_of(rows.len(), 2)
    );
    let query =
        rows.iter().fold(query(sql), |query, row| query.bind(row.id.as_str().to_owned()).bind(row.first.cast_signed()));
    let mut there: HashMap<(String, i64), (i64, Vec<u8>)> = HashMap::new();
    for row in query.fetch_all(&mut *connection).await? {
        there.insert((row.try_get("id")?, row.try_get("first")?), (row.try_get("last")?, row.try_get("bytes")?));
    }
    let differs = |row: &&Row<'_>| {
        let found = there.get(&(row.id.as_str().to_owned(), row.first.cast_signed()));
        found.is_none_or(|(last, bytes)| *last != row.last.cast_signed() || bytes != row.bytes)
    };
    Ok(rows.iter().filter(differs).map(|row| row.id.clone()).collect())
}
