//! The commit log that the last stop has left: its tails move to their tables.

use std::collections::{HashMap, HashSet};

use futures::TryStreamExt as _;
use outlast_protocol::ResponseId;
use sqlx::{AnyConnection, Row as _};
use tracing::error;

use super::{
    Store, StoreError, WriteConnection,
    commit_log::{Damaged, Kind, records},
    segments::{self, Part, Row},
    sql::{batches, placeholders, query_of},
    transaction,
};

/// The id of the last row of the log.
pub(super) async fn last_row(connection: &mut AnyConnection) -> Result<i64, StoreError> {
    let row = sqlx::query("SELECT COALESCE(MAX(id), 0) AS last FROM commit_log").fetch_one(connection).await?;
    Ok(row.try_get("last")?)
}

impl WriteConnection {
    /// Flushes all tails. Returns the runs of which something cannot be read or be put into its table.
    pub(super) async fn recover(&mut self) -> Result<HashSet<ResponseId>, StoreError> {
        let Store { backend, commit_log, .. } = self.store.clone();
        let (ownership, connection) = self.owned().await?;
        let mut transaction = transaction::begin(connection, backend).await?;
        ownership.fence(&mut transaction).await?;
        let said = read(&mut transaction).await?;
        let said = of_active(&mut transaction, said).await?;
        let (ids, mut damaged): (Vec<_>, _) = (said.keys().collect(), HashSet::new());
        for kind in Kind::ALL {
            let reached = segments::reached(&mut transaction, kind.table(), &ids).await?;
            let mut tails = Vec::new();
            for (id, parts) in &said {
                let next = reached.get(id.as_str()).map_or(0, |last| last + 1);
                let (tail, whole) = joined(kind, &parts[kind as usize], next);
                tails.extend(tail.map(|tail| (id, tail)));
                if !whole {
                    error!(response = %id, "the last events of the run are incomplete in the commit log");
                    damaged.insert(id.clone());
                }
            }
            let rows: Vec<_> = tails
                .iter()
                .map(|(id, part)| Row { id, first: part.first, last: part.last, bytes: &part.bytes })
                .collect();
            let refused = segments::try_append(&mut transaction, kind.table(), &rows).await?;
            // A log is for people: its run is resumed without it.
            if kind != Kind::Logs {
                damaged.extend(refused);
            }
        }
        sqlx::query("DELETE FROM commit_log").execute(&mut *transaction).await?;
        transaction.commit().await?;
        commit_log.lock().clear();
        Ok(damaged)
    }
}

/// What a run has said, by kind, in the order in which it was committed.
type Said = [Vec<Part>; 3];

async fn read(connection: &mut AnyConnection) -> Result<HashMap<ResponseId, Said>, StoreError> {
    let mut said: HashMap<ResponseId, Said> = HashMap::new();
    let mut rows = sqlx::query("SELECT id, records FROM commit_log ORDER BY id").fetch(connection);
    while let Some(row) = rows.try_next().await? {
        let bytes: Vec<u8> = row.try_get("records")?;
        for record in records(&bytes) {
            match record {
                Ok((id, kind, part)) => said.entry(id).or_default()[kind as usize].push(part),
                Err(Damaged) => {
                    let row: i64 = row.try_get("id")?;
                    error!(row, "a row of the commit log is damaged: what comes after the damage in it is lost");
                }
            }
        }
    }
    Ok(said)
}

/// Those of runs that have not ended: the tails of the others went into their tables with their ends.
async fn of_active(
    connection: &mut AnyConnection,
    mut said: HashMap<ResponseId, Said>,
) -> Result<HashMap<ResponseId, Said>, StoreError> {
    let ids: Vec<_> = said.keys().cloned().collect();
    let mut active = HashSet::new();
    for ids in batches(&ids) {
        let holes = placeholders(connection, ids.len());
        let sql = format!("SELECT id FROM responses WHERE ended_at IS NULL AND id IN ({holes})");
        let query = query_of(sql, ids);
        for row in query.fetch_all(&mut *connection).await? {
            active.insert(row.try_get::<String, _>("id")?);
        }
    }
    said.retain(|id, _| active.contains(id.as_str()));
    Ok(said)
}

/// What of these parts comes from the number `next` on, in one; and whether all of it is there. Some may be in the table, or
/// twice in the log.
fn joined(kind: Kind, parts: &[Part], mut next: u64) -> (Option<Part>, bool) {
    let mut joined: Option<Part> = None;
    for part in parts {
        if part.first > next {
            return (joined, false);
        }
        let new = match next.checked_sub(1) {
            Some(last) => part.clone().after(kind, last),
            None => Some(part.clone()),
        };
        let Some(new) = new else { continue };
        next = new.last + 1;
        joined = Some(match joined {
            Some(before) => before.with(&new.bytes, new.last),
            None => new,
        });
    }
    (joined, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(first: u64, last: u64) -> Part {
        let bytes = (first..=last).flat_map(|number| format!("{number}\n").into_bytes()).collect();
        Part { first, last, bytes }
    }

    #[test]
    fn what_is_in_the_table_or_twice_in_the_log_is_taken_once() {
        let parts = [part(0, 1), part(2, 2), part(2, 2), part(3, 5)];
        for next in 0..=6 {
            let (tail, whole) = joined(Kind::Journal, &parts, next);
            assert_eq!((tail, whole), ((next < 6).then(|| part(next, 5)), true), "{next}");
        }
    }

    #[test]
    fn what_is_not_whole_is_told() {
        assert_eq!(joined(Kind::Journal, &[part(1, 1)], 0), (None, false));
        assert_eq!(joined(Kind::Journal, &[part(0, 0), part(2, 2)], 0), (Some(part(0, 0)), false));
    }
}
