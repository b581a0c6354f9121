//! What was recorded when the server was killed.
//!
//! While it is dead, its database is read: of a run whose journal has the end of a model's call, the model may not be
//! asked again. An SQLite file is copied before, so that the server itself finds it as it was left. PostgreSQL may still
//! be at the last transaction of the dead: sometimes that is waited for, and sometimes the next start meets it, and what
//! was in flight is not known.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use sqlx::{AnyConnection, Connection as _, Row as _};

use super::{marks::Marks, runs::marker_of};
use crate::harness::{database::Database, journal::journals, scratch, wait};

/// What the journals of the runs that had not ended say of their calls.
#[derive(Debug, Default)]
pub struct Journals {
    /// The runs whose call was answered, and the first life of the server in which that was recorded.
    pub answered: BTreeMap<String, u64>,
    /// The runs that were active without such an answer, and after which lives.
    pub in_flight: BTreeMap<String, BTreeSet<u64>>,
    /// The lives that may have recorded more than was read.
    pub unsure: BTreeSet<u64>,
}

impl Journals {
    /// Reads the database of a server in `dir` that was killed in its life of this number, when it has `settled` or at
    /// once.
    pub async fn read(&mut self, database: &Database, dir: &Path, life: u64, settled: bool, marks: &Marks) {
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
        if matches!(database, Database::Postgres(_)) {
            if settled {
                wait::eventually("the dead are gone", async || (others(&mut connection).await == 0).then_some(()))
                    .await;
            } else if others(&mut connection).await > 0 {
                self.unsure.insert(life);
            }
        }
        let runs = sqlx::query("SELECT id, request FROM responses WHERE ended_at IS NULL");
        let runs = runs.fetch_all(&mut connection).await.unwrap();
        let journals = journals(&mut connection).await;
        connection.close().await.unwrap();
        for run in runs {
            let id = run.get::<String, _>("id");
            if marks.is_poisoned(&id) {
                continue;
            }
            let marker = marker(&run.get::<String, _>("request"));
            let entries = journals.get(&id).map(|entries| String::from_utf8_lossy(entries));
            if entries.is_some_and(|entries| entries.contains("\"model.forward.end\"")) {
                self.answered.entry(marker).or_insert(life);
            } else {
                self.in_flight.entry(marker).or_default().insert(life);
            }
        }
    }

    /// Whether the end of this life may have cut off the call of this run.
    pub fn cut_off(&self, marker: &str, life: u64) -> bool {
        self.unsure.contains(&life) || self.in_flight.get(marker).is_some_and(|lives| lives.contains(&life))
    }

    /// Whether the end of any life may have.
    pub fn cut_off_at_all(&self, marker: &str) -> bool {
        !self.unsure.is_empty() || self.in_flight.contains_key(marker)
    }
}

/// How many others are connected to the database.
async fn others(connection: &mut AnyConnection) -> i64 {
    let query = "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() \
                 AND backend_type = 'client backend' AND pid <> pg_backend_pid()";
    sqlx::query(query).fetch_one(connection).await.unwrap().get(0)
}

/// The marker of a run, from its request as it is stored.
pub fn marker(request: &str) -> String {
    let request: serde_json::Value = serde_json::from_str(request).unwrap();
    marker_of(request["input"][0]["content"][0]["text"].as_str().unwrap()).to_owned()
}
