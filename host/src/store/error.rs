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
