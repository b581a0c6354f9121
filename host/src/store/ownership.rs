//! Who may write: one server owns a database.
//!
//! On SQLite the owner holds a lock on a file beside the database, as long as it lives.
//!
//! On PostgreSQL there are three parts to it:
//!
//! - A **lock**, held by the owner's write connection. Every write of a run needs that connection, so two servers never
//!   write at once. When the owner dies, its connection does, and the lock is free.
//! - A **lease**, which the owner renews. An owner that is stopped, hangs or is cut off lets it lapse. A server that
//!   starts then ends the owner's connection, and takes the lock.
//!   The process has the same lease in hand ([`crate::lease`]), a little shorter: what leaves it looks at that.
//! - An **epoch**, which counts the owners. A server that lost its connection takes the lock again only under its own
//!   epoch. One that finds another there was replaced meanwhile, and never writes again.

use std::time::{Duration, Instant};

use sqlx::{Any, AnyConnection, Row as _, pool::PoolConnection};
use tracing::{info, warn};

use super::{Backend, Store, StoreError, commit::query};
use crate::lease::Moment;

/// How long a starting server waits for the one before it to let go of the database.
const PATIENCE: Duration = Duration::from_secs(3);
/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(100);
/// The key of the advisory lock: `outlast` in ASCII.
const LOCK: i64 = 0x006f_7574_6c61_7374;
/// Now, in milliseconds since 1970, by the clock of PostgreSQL.
const NOW: &str = "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)";

/// The ownership of a database.
#[derive(Debug)]
pub(super) struct Ownership {
    store: Store,
    /// None until the database is owned.
    epoch: Option<i64>,
    /// When the lease was renewed last.
    renewed: Instant,
}

impl Ownership {
    /// Nobody's yet.
    pub fn none(store: Store) -> Self {
        Self { store, epoch: None, renewed: Instant::now() }
    }

    /// Takes the database, with a connection to write. Waits for an owner that is about to end, and for the lease of one
    /// that is not heard of.
    ///
    /// # Errors
    ///
    /// [`StoreError::Owned`] when another server owns it and lives.
    pub async fn take(&mut self) -> Result<PoolConnection<Any>, StoreError> {
        let start = Instant::now();
        let (mut first, mut told) = (None, false);
        loop {
            match self.connection().await {
                Err(StoreError::Owned(shown)) => {
                    let Some((lease, now)) = self.lease().await? else { return Err(StoreError::Owned(shown)) };
                    let renewed = *first.get_or_insert(lease) != lease;
                    if lease < now {
                        warn!("the server that owns {shown} has not renewed its lease; taking over");
                        self.end_owner().await?;
                    } else if renewed && start.elapsed() > PATIENCE {
                        return Err(StoreError::Owned(shown));
                    } else if !std::mem::replace(&mut told, start.elapsed() > PATIENCE) && told {
                        info!("waiting to see whether the server that owns {shown} lives");
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                connection => return connection,
            }
        }
    }

    /// A new connection to write: the owner's.
    ///
    /// # Errors
    ///
    /// [`StoreError::Owned`] when another server holds the lock; [`StoreError::Replaced`] when one has held it.
    pub async fn connection(&mut self) -> Result<PoolConnection<Any>, StoreError> {
        let mut connection = self.store.pool.acquire().await?;
        if self.store.backend == Backend::Sqlite {
            return Ok(connection);
        }
        match self.lock(&mut connection).await {
            Ok(()) => Ok(connection),
            Err(error) => {
                // It may hold the lock.
                let _ = connection.close().await;
                Err(error)
            }
        }
    }

    async fn lock(&mut self, connection: &mut AnyConnection) -> Result<(), StoreError> {
        let lock = sqlx::query("SELECT pg_try_advisory_lock($1) AS taken").bind(LOCK);
        let taken: bool = lock.fetch_one(&mut *connection).await?.try_get("taken")?;
        match (taken, self.epoch) {
            (true, None) => self.begin(connection).await,
            (true, Some(_)) => self.renew(connection).await,
            (false, epoch) => {
                // Whoever holds the lock may not be the owner yet.
                if epoch.is_some() && epoch != self.last_epoch(connection).await? {
                    self.store.held.end();
                    return Err(StoreError::Replaced(self.store.shown().to_owned()));
                }
                Err(StoreError::Owned(self.store.shown().to_owned()))
            }
        }
    }

    async fn begin(&mut self, connection: &mut AnyConnection) -> Result<(), StoreError> {
        let sql = format!(
            "INSERT INTO owner (id, epoch, lease_until) VALUES (1, 1, {NOW} + $1) ON CONFLICT (id) \
             DO UPDATE SET epoch = owner.epoch + 1, lease_until = excluded.lease_until RETURNING epoch"
        );
        let sent = Moment::now();
        let row = query(sql).bind(self.lease_milliseconds()).fetch_one(connection).await?;
        self.store.held.renew(sent, self.store.lease);
        self.epoch = Some(row.try_get("epoch")?);
        self.renewed = Instant::now();
        Ok(())
    }

    /// Renews the lease, when a third of it is over.
    ///
    /// # Errors
    ///
    /// [`StoreError::Replaced`] when another server is the owner now.
    pub async fn keep(&mut self, connection: &mut AnyConnection) -> Result<(), StoreError> {
        if self.store.backend == Backend::Sqlite || self.renewed.elapsed() < self.store.lease / 3 {
            return Ok(());
        }
        self.renew(connection).await
    }

    async fn renew(&mut self, connection: &mut AnyConnection) -> Result<(), StoreError> {
        let sql = format!("UPDATE owner SET lease_until = {NOW} + $1 WHERE epoch = $2");
        let query = query(sql).bind(self.lease_milliseconds()).bind(self.epoch);
        let sent = Moment::now();
        if query.execute(connection).await?.rows_affected() == 0 {
            self.store.held.end();
            return Err(StoreError::Replaced(self.store.shown().to_owned()));
        }
        self.store.held.renew(sent, self.store.lease);
        self.renewed = Instant::now();
        Ok(())
    }

    /// The connection of the owner is gone, and its lock with it: nobody knows whose the database is until there is
    /// another one.
    pub fn suspend(&self) {
        if self.store.backend == Backend::Postgres {
            self.store.held.end();
        }
    }

    async fn last_epoch(&self, connection: &mut AnyConnection) -> Result<Option<i64>, StoreError> {
        let row = sqlx::query("SELECT epoch FROM owner").fetch_optional(connection).await?;
        row.map(|row| Ok(row.try_get("epoch")?)).transpose()
    }

    /// Until when the lease is, and the time now; none when there is none.
    async fn lease(&self) -> Result<Option<(i64, i64)>, StoreError> {
        let query = query(format!("SELECT lease_until, {NOW} AS now FROM owner"));
        let row = query.fetch_optional(&self.store.pool).await?;
        row.map(|row| Ok((row.try_get("lease_until")?, row.try_get("now")?))).transpose()
    }

    /// Ends the connection that holds the lock, if its lease is over.
    async fn end_owner(&self) -> Result<(), StoreError> {
        let sql = format!(
            "SELECT pg_terminate_backend(pid) AS ended FROM pg_locks WHERE locktype = 'advisory' AND granted \
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
             AND (CAST(classid AS BIGINT) << 32 | CAST(objid AS BIGINT)) = $1 \
             AND {NOW} > (SELECT lease_until FROM owner)"
        );
        query(sql).bind(LOCK).fetch_all(&self.store.pool).await?;
        Ok(())
    }

    fn lease_milliseconds(&self) -> i64 {
        i64::try_from(self.store.lease.as_millis()).unwrap_or(i64::MAX)
    }
}
