//! The journals of runs as they stand in a database: in their table, and what was committed last in the commit log.

use std::collections::BTreeMap;

use sqlx::{AnyConnection, Row as _};

/// The kind of a record of the commit log that is about a journal.
const JOURNAL: u8 = 1;

/// All journals, lines of JSON, by the ids of their responses.
pub async fn journals(connection: &mut AnyConnection) -> BTreeMap<String, Vec<u8>> {
    let mut journals: BTreeMap<String, (u64, Vec<u8>)> = BTreeMap::new();
    // The log first: what moves to the table meanwhile is in both then.
    let log = sqlx::query("SELECT records FROM commit_log ORDER BY id").fetch_all(&mut *connection).await.unwrap();
    let table = "SELECT response_id, last_position, entries FROM journal ORDER BY response_id, first_position";
    for row in sqlx::query(table).fetch_all(connection).await.unwrap() {
        let (next, entries) = journals.entry(row.get(0)).or_default();
        *next = row.get::<i64, _>(1).cast_unsigned() + 1;
        entries.extend(row.get::<Vec<u8>, _>(2));
    }
    for row in log {
        let records: Vec<u8> = row.get(0);
        let mut rest = &records[..];
        while let Some((&kind, after)) = rest.split_first() {
            let (&length, after) = after.split_first().unwrap();
            let (id, after) = after.split_at(usize::from(length));
            let (numbers, after) = after.split_at(20);
            let (first, last) = (&numbers[..8], &numbers[8..16]);
            let [first, last] = [first, last].map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap()));
            let length = u32::from_le_bytes(numbers[16..].try_into().unwrap());
            let (bytes, after) = after.split_at(length as usize);
            rest = after;
            if kind != JOURNAL {
                continue;
            }
            let (next, entries) = journals.entry(String::from_utf8(id.to_vec()).unwrap()).or_default();
            // It may be in the table, or stand in the log twice.
            if first == *next {
                *next = last + 1;
                entries.extend(bytes);
            }
        }
    }
    journals.into_iter().map(|(id, (_, entries))| (id, entries)).collect()
}

/// Puts another journal in the place of a run's: lines of JSON. The server must be down.
pub async fn set_journal(connection: &mut AnyConnection, id: &str, entries: &str) {
    sqlx::query("DELETE FROM journal WHERE response_id = $1").bind(id).execute(&mut *connection).await.unwrap();
    // What the log has of these numbers is taken for written.
    let last = entries.lines().count() as i64 - 1;
    let query = sqlx::query("INSERT INTO journal VALUES ($1, 0, $2, $3)");
    query.bind(id).bind(last.max(0)).bind(entries.as_bytes().to_vec()).execute(connection).await.unwrap();
}
