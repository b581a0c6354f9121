//! Pieces of statements.

use std::{collections::HashSet, fmt::Write as _};

use outlast_protocol::ResponseId;
use sqlx::{
    Any, AnyConnection, Row as _,
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

/// The most rows of one statement. PostgreSQL takes 65,535 parameters and SQLite 32,766.
pub(super) const ROWS: usize = 1_000;

pub(super) fn query<'q>(sql: String) -> Query<'q, Any, AnyArguments> {
    sqlx::query(sqlx::AssertSqlSafe(sql))
}

/// `$1,$2,…`
pub(super) fn placeholders(count: usize) -> String {
    let mut sql = String::new();
    for number in 1..=count {
        let _ = write!(sql, "{}${number}", if number == 1 { "" } else { "," });
    }
    sql
}

/// `($1,$2),($3,$4),…`: `rows` rows of `columns` columns.
pub(super) fn rows_of(rows: usize, columns: usize) -> String {
    let mut sql = String::with_capacity(rows * columns * 6);
    for row in 0..rows {
        sql.push_str(if row == 0 { "(" } else { ",(" });
        for column in 1..=columns {
            let _ = write!(sql, "{}${}", if column == 1 { "" } else { "," }, row * columns + column);
        }
        sql.push(')');
    }
    sql
}

/// Deletes the rows whose `column` is one of `ids`.
pub(super) async fn delete(
    connection: &mut AnyConnection,
    table: &str,
    column: &str,
    ids: &[&ResponseId],
) -> Result<(), StoreError> {
    for ids in ids.chunks(ROWS) {
        let sql = format!("DELETE FROM {table} WHERE {column} IN ({})", placeholders(ids.len()));
        let query = ids.iter().fold(query(sql), |query, id| query.bind(id.as_str().to_owned()));
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
