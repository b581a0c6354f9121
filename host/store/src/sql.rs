//! Pieces of statements.

use std::{borrow::Borrow, collections::HashSet, fmt::Write as _};

use outlast_protocol::ResponseId;
use sqlx::{
    Any, AnyConnection, Database as _, Postgres, Row as _,
    any::{AnyArguments, AnyRow},
    query::Query,
};

use super::StoreError;

/// The tables that hold a response, and the columns with its id.
pub(super) const RESPONSE_TABLES: [(&str, &str); 6] = [
    ("events", "response_id"),
    ("journal", "response_id"),
    ("run_logs", "response_id"),
    ("run_usage", "response_id"),
    ("lives", "response_id"),
    ("responses", "id"),
];

/// The most rows of one statement, a power of two. PostgreSQL takes 65,535 parameters and SQLite 32,766.
pub(super) const ROWS: usize = 1_024;

/// Divides rows into as few statements as there are shapes for: a statement has a power of two rows, so that the database
/// prepares each of a few once, and not one for each number of rows.
pub(super) fn batches<T>(mut rows: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let most = 1 << rows.len().min(ROWS).checked_ilog2()?;
        rows.split_off(..most)
    })
}

pub(super) fn query<'q>(sql: String) -> Query<'q, Any, AnyArguments> {
    sqlx::query(sqlx::AssertSqlSafe(sql))
}

/// A query whose only parameters are these ids, in order.
pub(super) fn query_of<'q>(sql: String, ids: &[impl Borrow<ResponseId>]) -> Query<'q, Any, AnyArguments> {
    ids.iter().fold(query(sql), |query, id| query.bind(id.borrow().as_str().to_owned()))
}

/// `$1,$2,…`
pub(super) fn placeholders(connection: &AnyConnection, count: usize) -> String {
    let mut sql = String::with_capacity(count * 5);
    holes(&mut sql, numbered(connection), 1, count);
    sql
}

/// `($1,$2),($3,$4),…`: `rows` rows of `columns` columns.
pub(super) fn rows_of(connection: &AnyConnection, rows: usize, columns: usize) -> String {
    let (numbered, mut sql) = (numbered(connection), String::with_capacity(rows * columns * 6));
    for row in 0..rows {
        sql.push_str(if row == 0 { "(" } else { ",(" });
        holes(&mut sql, numbered, row * columns + 1, columns);
        sql.push(')');
    }
    sql
}

/// Whether the holes of a statement have numbers. To SQLite these are names, and the driver asks for the name of each, which
/// is searched in a list of all: with some thousand holes that was a third of all the processor time.
fn numbered(connection: &AnyConnection) -> bool {
    connection.backend_name() == Postgres::NAME
}

fn holes(sql: &mut String, numbered: bool, first: usize, count: usize) {
    for number in first..first + count {
        if number > first {
            sql.push(',');
        }
        if numbered {
            let _ = write!(sql, "${number}");
        } else {
            sql.push('?');
        }
    }
}

/// Deletes the rows whose `column` is one of `ids`.
pub(super) async fn delete(
    connection: &mut AnyConnection,
    table: &str,
    column: &str,
    ids: &[&ResponseId],
) -> Result<(), StoreError> {
    for ids in batches(ids) {
        let sql = format!("DELETE FROM {table} WHERE {column} IN ({})", placeholders(connection, ids.len()));
        let query = query_of(sql, ids);
        query.execute(&mut *connection).await?;
    }
    Ok(())
}

/// Those of `ids` that are not among the `written` rows.
pub(super) fn missing<'a>(
    written: &[AnyRow],
    ids: impl Iterator<Item = &'a ResponseId>,
) -> Result<Vec<ResponseId>, StoreError> {
    let written: HashSet<String> = written.iter().map(|row| row.try_get("id")).collect::<Result<_, _>>()?;
    Ok(ids.filter(|id| !written.contains(id.as_str())).cloned().collect())
}

/// An id as it stands in a row.
pub(super) fn response_id(text: String) -> Result<ResponseId, StoreError> {
    ResponseId::parse(&text).ok_or_else(|| StoreError::Damaged(format!("`{text}` is not an id of a response")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_divided_into_powers_of_two() {
        let rows: Vec<_> = (0..2_500).collect();
        let sizes: Vec<_> = batches(&rows).map(<[_]>::len).collect();
        assert_eq!(sizes, [1_024, 1_024, 256, 128, 64, 4]);
        assert_eq!(batches(&rows).flatten().copied().collect::<Vec<_>>(), rows);
        assert_eq!(batches::<u8>(&[]).count(), 0);
    }
}
