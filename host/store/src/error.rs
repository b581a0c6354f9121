//! What can go wrong with the database, by what can be done about it.

use outlast_protocol::{ApiError, ErrorKind};
use sqlx::postgres::PgDatabaseError;
use tracing::{error, warn};

/// A failed call of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be reached, is locked, full or read-only. The same call may work later.
    #[error("the database is not available: {0}")]
    Unavailable(#[source] Outage),
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
    /// A newer version of the server has changed the schema.
    #[error(
        "{database} was written by a newer version of Outlast: its schema has version {found}, and this one knows \
         {known}. Start the newer version, or restore a backup from before it"
    )]
    Newer {
        /// The database, without its password.
        database: String,
        /// The first version of its schema that this server does not know.
        found: i64,
        /// The last one that it knows.
        known: i64,
    },
    /// The write-ahead log beside an SQLite file is another file's.
    #[error(
        "{database} and its write-ahead log {log} do not belong together: was a backup copied over the database and the \
         log forgotten? To use the file as it is, move {log} and its -shm away (keep them), and start again; else put \
         back the file that the log belongs to"
    )]
    ForeignLog {
        /// The path of the database.
        database: String,
        /// The path of the log.
        log: String,
    },
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
    /// Whether the same call may work later.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::TimedOut(_))
    }

    /// Whether the data are to blame: the same call fails again, and others work.
    pub fn blames_the_data(&self) -> bool {
        matches!(self, Self::Rejected(_) | Self::Damaged(_))
    }

    /// Whether the database, asked to commit, has answered that it has not. Where it has not answered, it may have done so.
    pub(super) fn denies_a_commit(&self) -> bool {
        let (Self::Rejected(error) | Self::Unavailable(Outage::Database(error))) = self else { return false };
        let sqlx::Error::Database(error) = error else { return false };
        // 5 busy, 8 read-only, 13 full, 778 not written. After an error of `fsync` the next start may find the transaction
        // in the log.
        let denial = |code: u32| matches!(code & 0xff, 5 | 8 | 13) || code == 778;
        let code = error.code().unwrap_or_default();
        error.try_downcast_ref::<PgDatabaseError>().is_some() || code.parse().is_ok_and(denial)
    }

    /// Whether the database is to blame, so that nothing could be written now. What is neither this nor
    /// [`blames_the_data`](Self::blames_the_data) may be one or the other.
    pub fn is_an_outage(&self) -> bool {
        let Self::Unavailable(outage) = self else { return false };
        let Outage::Database(error) = outage else { return true };
        let sqlx::Error::Database(error) = error else {
            use sqlx::Error::{Configuration, Io, PoolClosed, PoolTimedOut, Tls, WorkerCrashed};
            return matches!(error, Io(_) | Tls(_) | PoolTimedOut | PoolClosed | WorkerCrashed | Configuration(_));
        };
        let code = error.code().unwrap_or_default();
        if error.try_downcast_ref::<PgDatabaseError>().is_some() {
            // The first two characters are the class. 08 connection, 25 state of the transaction, also read-only, 28 and 3D
            // who may connect, 40 rolled back, 42 a table or a right that is gone, 53 resources, also disk full, 55 state,
            // 57 intervention of the operator, 58 system, XX internal.
            let classes = ["08", "25", "28", "3D", "40", "42", "53", "55", "57", "58", "XX"];
            return code.get(..2).is_some_and(|class| classes.contains(&class));
        }
        // The low byte is the primary code. 1 also a table that is gone, 3 permission, 5 busy, 6 locked, 7 no memory,
        // 8 read-only, 10 input or output, 11 corrupt, 13 full, 14 cannot open, 15 protocol of locks, 23 not authorized,
        // 26 not a database.
        code.parse::<u32>().is_ok_and(|code| matches!(code & 0xff, 1 | 3 | 5..=8 | 10 | 11 | 13..=15 | 23 | 26))
    }
}

/// What a client is told. The log is told the rest.
impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            error if error.is_temporary() => {
                warn!(%error, "a request failed because of the database");
                let message = "The database is not available right now. Retry the request.";
                Self::new(ErrorKind::Unavailable, "storage_unavailable", message).with_retry_after(1)
            }
            error => {
                error!(%error, "a request failed");
                Self::internal()
            }
        }
    }
}

/// Why the database is not available.
#[derive(Debug, thiserror::Error)]
pub enum Outage {
    /// It said so, or the connection to it failed.
    #[error(transparent)]
    Database(sqlx::Error),
    /// The file of an SQLite database is not at its path any more. What would be written is lost when the server ends.
    #[error("its file {0} was removed while the server runs; put the same file back, or restart the server")]
    FileGone(String),
    /// Another file is at the path of an SQLite database.
    #[error("its file {0} was replaced while the server runs; restart the server, so that it opens the new one")]
    FileReplaced(String),
    /// A PostgreSQL that takes no writes: a standby, or `default_transaction_read_only`.
    #[error("PostgreSQL is read-only: {0}")]
    ReadOnly(&'static str),
    /// This server's own former connection still holds the database.
    #[error("{0}")]
    FormerConnection(&'static str),
}

impl From<Outage> for StoreError {
    fn from(outage: Outage) -> Self {
        Self::Unavailable(outage)
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(database) if rejects(database.as_ref()) => Self::Rejected(error),
            // A value that is larger than the protocol can say.
            sqlx::Error::Encode(_) | sqlx::Error::InvalidArgument(_) => Self::Rejected(error),
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::ColumnNotFound(_) => {
                Self::Damaged(error.to_string())
            }
            _ => Self::Unavailable(Outage::Database(error)),
        }
    }
}

/// Whether the database understood and does not take these data, so that asking again with them is of no use.
///
/// What is wrong with the database itself is no answer to one run's data, and counts as an outage: a table that is gone,
/// a right that was taken away, a disk that is full or broken. Then no run can be written, and none must suffer for it.
fn rejects(error: &dyn sqlx::error::DatabaseError) -> bool {
    if !matches!(error.kind(), sqlx::error::ErrorKind::Other) {
        return true;
    }
    let code = error.code().unwrap_or_default();
    // The codes of both can be numbers of five digits.
    if error.try_downcast_ref::<PgDatabaseError>().is_some() {
        // The first two characters are the class. 22 data, 23 integrity, 54 larger than it can be.
        return matches!(code.get(..2), Some("22" | "23" | "54"));
    }
    // The low byte is the primary code. 18 too big, 19 constraint, 20 mismatch, 25 range. Code 1 is what SQLite says of a
    // table that is gone.
    code.parse::<u32>().is_ok_and(|code| matches!(code & 0xff, 18 | 19 | 20 | 25))
}
