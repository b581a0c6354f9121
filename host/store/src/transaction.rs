//! Transactions that write beside the commits of runs.
//!
//! SQLite lets one write at a time, and whoever finds it busy looks again from time to time. A writer that commits without a
//! pause is never found idle: so who wants to write waits for a turn, first come, first served.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
};

use sqlx::{Any, AnyConnection, Connection as _, Transaction};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::{Backend, Store, StoreError, open::PATIENCE, wal};

/// Takes the lock for writing at once: a transaction that begins as a reader can fail to become a writer.
const AT_ONCE: &str = "BEGIN IMMEDIATE";

/// Whose turn it is.
#[derive(Clone, Debug, Default)]
pub(super) struct WriteLock(Arc<Mutex<()>>);

/// Somebody's turn, until it is dropped.
pub(super) type WriteGuard = OwnedMutexGuard<()>;

impl WriteLock {
    /// Waits for a turn; there is none to wait for on PostgreSQL.
    pub async fn wait(&self, backend: Backend) -> Option<WriteGuard> {
        match backend {
            Backend::Sqlite => Some(self.0.clone().lock_owned().await),
            Backend::Postgres => None,
        }
    }
}

/// Begins a transaction that writes.
pub(super) async fn begin(
    connection: &mut AnyConnection,
    backend: Backend,
) -> Result<Transaction<'_, Any>, sqlx::Error> {
    match backend {
        Backend::Sqlite => connection.begin_with(AT_ONCE).await,
        Backend::Postgres => connection.begin().await,
    }
}

/// A transaction that writes. It is rolled back when it is dropped.
pub(super) struct WriteTransaction {
    transaction: Transaction<'static, Any>,
    _turn: Option<WriteGuard>,
}

impl WriteTransaction {
    pub async fn commit(self) -> Result<(), sqlx::Error> {
        self.transaction.commit().await
    }

    pub async fn rollback(self) -> Result<(), sqlx::Error> {
        self.transaction.rollback().await
    }
}

impl Deref for WriteTransaction {
    type Target = AnyConnection;

    fn deref(&self) -> &AnyConnection {
        &self.transaction
    }
}

impl DerefMut for WriteTransaction {
    fn deref_mut(&mut self) -> &mut AnyConnection {
        &mut self.transaction
    }
}

impl Store {
    /// Begins a transaction that writes, on a connection of the pool.
    pub(super) async fn begin(&self) -> Result<WriteTransaction, StoreError> {
        let turn = tokio::time::timeout(PATIENCE, self.turn.wait(self.backend));
        let turn = turn.await.map_err(|_| StoreError::TimedOut(PATIENCE))?;
        let transaction = match self.backend {
            Backend::Sqlite => {
                self.still_there()?;
                let mut transaction = self.pool.begin_with(AT_ONCE).await?;
                wal::count(&mut transaction).await?;
                transaction
            }
            Backend::Postgres => self.pool.begin().await?,
        };
        Ok(WriteTransaction { transaction, _turn: turn })
    }
}
