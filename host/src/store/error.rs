//! What can go wrong with the database, by what can be done about it.

/// A failed call of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be reached, is locked, full or read-only. The same call may work later.
    #[error("the database is not available: {0}")]
    Unavailable(#[source] sqlx::Error),
    /// It did not answer in time. The same call may work later.
    #[error("the database did not answer within {0:?}")]
    TimedOut(std::time::Duration),
    /// The database does not take these data. The same call fails again.
    #[error("the database refused the data: {0}")]
    Rejected(#[source] sqlx::Error),
    /// Another server process owns the database.
    #[error("another outlast server is using {0}; stop it first, or give this one another --database")]
    Owned(String),
    /// Another server process owns the database now: this one was not heard of for longer than its lease.
    #[error("another outlast server has taken over {0}, because this one was silent for longer than its lease")]
    Replaced(String),
    /// The schema cannot be brought up to date.
    #[error("the database schema cannot be brought up to date: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// The database URL is not one, or the file cannot be made.
    #[error("cannot open the database {url}: {reason}")]
    Open {
        /// The database, without its password.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// A row does not hold what it should.
    #[error("a row of the database is damaged: {0}")]
    Damaged(String),
}

impl StoreError {
    /// Whether the data are to blame, and the same call fails again, while others work.
    pub fn blames_the_data(&self) -> bool {
        matches!(self, Self::Rejected(_) | Self::Damaged(_))
    }

    /// Whether the database is to blame, and no data could be written now. What is neither this nor
    /// [`blames_the_data`](Self::blames_the_data) may be one or the other.
    pub fn is_an_outage(&self) -> bool {
        let Self::Unavailable(error) = self else { return false };
        let sqlx::Error::Database(error) = error else {
            use sqlx::Error::{Configuration, Io, PoolClosed, PoolTimedOut, Tls, WorkerCrashed};
            return matches!(error, Io(_) | Tls(_) | PoolTimedOut | PoolClosed | WorkerCrashed | Configuration(_));
        };
        let code = error.code().unwrap_or_default();
        match code.parse::<u32>() {
            // SQLite: 3 permission, 5 busy, 6 locked, 7 no memory, 8 read-only, 10 input or output, 11 corrupt, 13 full,
            // 14 cannot open, 15 protocol of locks, 23 not authorized, 26 not a database.
            Ok(code) if code <= 0xffff => matches!(code & 0xff, 3 | 5..=8 | 10 | 11 | 13..=15 | 23 | 26),
            // PostgreSQL: 08 connection, 25 state of the transaction, also read-only, 28 and 3D who may connect, 40 rolled
            // back, 53 resources, also disk full, 55 state, 57 intervention of the operator, 58 system, XX internal.
            _ => matches!(code.get(..2), Some("08" | "25" | "28" | "3D" | "40" | "53" | "55" | "57" | "58" | "XX")),
        }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(database) if rejects(database.as_ref()) => Self::Rejected(error),
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::ColumnNotFound(_) => {
                Self::Damaged(error.to_string())
            }
            _ => Self::Unavailable(error),
        }
    }
}

/// Whether the database understood and said no, so that asking again is of no use.
fn rejects(error: &dyn sqlx::error::DatabaseError) -> bool {
    if !matches!(error.kind(), sqlx::error::ErrorKind::Other) {
        return true;
    }
    let code = error.code().unwrap_or_default();
    match code.parse::<u32>() {
        // SQLite: the low byte is the primary code. 1 error, 18 too big, 19 constraint, 20 mismatch, 25 range.
        Ok(code) if code <= 0xffff => matches!(code & 0xff, 1 | 18 | 19 | 20 | 25),
        // PostgreSQL: the first two characters are the class. 22 data, 23 integrity, 42 syntax or access.
        _ => matches!(code.get(..2), Some("22" | "23" | "42")),
    }
}
