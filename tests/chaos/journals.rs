//! What was recorded when the server was killed.
//!
//! While it is dead, its database is read: of a run whose journal has the end of a model's call, the model may not be
//! asked again. An SQLite file is copied before, so that the server itself finds it as it was left.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use sqlx::Row as _;

use super::runs::marker_of;
use crate::harness::{database::Database, scratch};

/// What the journals of the runs that had not ended say of their calls.
#[derive(Debug, Default)]
pub struct Journals {
    /// The runs whose call was answered, and the first life of the server in which that was recorded.
    pub answered: BTreeMap<String, u64>,
    /// The runs whose call was in flight, and after which lives.
    pub in_flight: BTreeMap<String, BTreeSet<u64>>,
    /// The lives after which they could not be read, because the database was gone.
    pub unread: BTreeSet<u64>,
}

impl Journals {
    /// Reads the database of a server in `dir` that was killed in its life of this number.
    pub async fn read(&mut self, database: &Database, dir: &Path, life: u64) {
        let copy = scratch::dir("copy-");
        let dir = match database {
            Database::Sqlite => {
                for name in ["outlast.db", "outlast.db-wal"] {
                    if dir.join(name).exists() {
                        std::fs::copy(dir.join(name), copy.path().join(name)).unwrap();
                    }
                }
                copy.path()
            }
            Database::Postgres(_) => dir,
        };
        let mut connection = database.connect(dir).await;
        let rows = sqlx::query(
            "SELECT responses.request AS request, journal.entries AS entries FROM responses \
             JOIN journal ON journal.response_id = responses.id WHERE responses.ended_at IS NULL",
        )
        .fetch_all(&mut connection)
        .await
        .unwrap();
        let mut entries: BTreeMap<String, String> = BTreeMap::new();
        for row in rows {
            let marker = marker(&row.get::<String, _>("request"));
            entries.entry(marker).or_default().push_str(&String::from_utf8(row.get("entries")).unwrap());
        }
        for (marker, entries) in entries {
            if entries.contains("\"model.forward.end\"") {
                self.answered.entry(marker).or_insert(life);
            } else if entries.contains("\"model.forward\"") {
                self.in_flight.entry(marker).or_default().insert(life);
            }
        }
    }
}

/// The marker of a run, from its request as it is stored.
pub fn marker(request: &str) -> String {
    let request: serde_json::Value = serde_json::from_str(request).unwrap();
    marker_of(request["input"][0]["content"][0]["text"].as_str().unwrap()).to_owned()
}
