//! Who may write: one server owns a database.
//!
//! On SQLite the owner holds a lock on the file, as long as it lives: see `file`.
//!
//! On PostgreSQL there are four parts to it:
//!
//! - A **lock**, held by the owner's write connection. Every write of a run needs that connection, so two servers never
//!   write at once. When the owner dies, its connection does, and the lock is free.
//! - A **lease**, which the owner renews. An owner that is stopped, hangs or is cut off lets it lapse. A server that
//!   starts then ends the owner's connection, and takes the lock. A commit may take half of the lease at most, and the
//!   lease is renewed when a sixth of it is over, or a third in silence: it does not lapse inside a commit.
//!   The process has the same lease in hand ([`outlast_runtime::lease`]), a little shorter: what leaves it looks at that.
//! - An **epoch**, which counts the owners. A server that lost its connection takes the lock again only under its own
//!   epoch. One that finds another there was replaced meanwhile, and never writes again.
//! - A **fence**: each transaction of the owner holds the row with its epoch until it is over. Whoever replaces the owner
//!   takes that row first, and so knows that no transaction of the owner is under way when it ends the connection.
//!
//! The fence is there because of synchronous standbys. A commit that waits for one has happened already, and is not kept
//! yet: PostgreSQL shows it to everybody once the wait is cut off, and loses it when the standby takes over. Whoever
//! ends a connection cuts off the wait. So a connection that waits for a standby is never ended, neither another
//! server's nor this one's own: the database takes no writes until the standby is back (or is taken out of
//! `synchronous_standby_names`), and a server that starts waits, and says so.
//!
//! A connection may be dead and not closed: a firewall forgot it, a cable was cut. PostgreSQL then keeps its session, and
//! the lock, for hours. The server finds the connection dead when a commit or a renewal is not answered in time; it makes
//! a new one, ends its former session, which bears the name of this process, and takes the lock again. PostgreSQL for
//! its part ends a session that lies in an open transaction for longer than the lease, and one whose client does not
//! acknowledge keepalives.
//!
//! The schema is brought up to date by the owner, before it counts itself as one. However long that takes, others wait: it
//! holds a second lock meanwhile, and is ended only when it has done nothing for longer than the lease.

use std::time::{Duration, Instant};

use outlast_runtime::{clock::in_milliseconds, lease::Moment};
use sqlx::{AnyConnection, Connection as _, Executor as _, Row as _, SqlSafeStr as _, any::AnyRow};
use tracing::{info, warn};
use uuid::Uuid;

use super::{Backend, Outage, Store, StoreError, sql::query, wal};

/// How long a starting server waits for the one before it to let go of the database.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a server waits for its own former session to end.
const FORMER: Duration = Duration::from_secs(1);
/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a server that takes over waits for a transaction of the owner to end, at each look.
const FENCE: &str = "SET LOCAL lock_timeout = '1s'";
/// The key of the advisory lock: `outlast` in ASCII.
const LOCK: i64 = 0x006f_7574_6c61_7374;
/// The key of the lock that is held while the schema is changed.
const MIGRATING: i64 = LOCK + 1;
/// Now, in milliseconds since 1970, by the clock of PostgreSQL.
const NOW: &str = "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)";
/// The longest a commit to SQLite may take before the connection is given up.
const SQLITE_COMMIT: Duration = Duration::from_secs(15);

/// The ownership of a database.
#[derive(Debug)]
pub(super) struct Ownership {
    store: Store,
    /// What the sessions of this process are called.
    name: String,
    /// None until the database is owned.
    epoch: Option<i64>,
    /// When the renewal was sent that the lease counts from.
    renewed: Instant,
    wal: wal::Bound,
}

/// The session that holds the lock.
#[derive(Debug)]
struct Holder {
    /// Whether it waits for a synchronous standby.
    replicating: bool,
    /// Whether it changes the schema.
    migrating: bool,
    /// For how long it has done nothing, in milliseconds.
    idle: i64,
}

impl Ownership {
    /// Nobody's yet.
    pub fn none(store: Store) -> Self {
        let name = format!("outlast writer {}", Uuid::now_v7().simple());
        Self { store, name, epoch: None, renewed: Instant::now(), wal: wal::Bound::default() }
    }

    /// The longest that a commit, and whatever else is asked of the connection, may take: half of the lease.
    pub fn commit_limit(&self) -> Duration {
        match self.store.backend {
            Backend::Sqlite => SQLITE_COMMIT,
            Backend::Postgres => self.store.lease / 2,
        }
    }

    /// Takes the database, with a connection to write. Waits for an owner that is about to end, for the lease of one
    /// that is not heard of, and for one that changes the schema.
    ///
    /// # Errors
    ///
    /// [`StoreError::Owned`] when another server owns it and lives.
    pub async fn take(&mut self) -> Result<AnyConnection, StoreError> {
        let mut connection = self.connect().await?;
        if self.store.backend == Backend::Sqlite {
            return Ok(connection);
        }
        let start = Instant::now();
        let (mut first, mut told) = (None, "");
        while !lock(&mut connection, LOCK).await? {
            let mut tell = |what: &'static str| {
                if std::mem::replace(&mut told, what) != what {
                    info!("{what}: {}", self.store.shown());
                }
            };
            let owned = || StoreError::Owned(self.store.shown().to_owned());
            match (self.holder(&mut connection).await?, self.lease(&mut connection).await?) {
                (None, _) => {}
                (Some(Holder { migrating: true, idle, .. }), _) if idle < self.lease_milliseconds() => {
                    tell("waiting for another server, which brings the schema up to date");
                }
                (Some(Holder { migrating: true, .. }), _) => {
                    warn!("a server that changed the schema of {} makes no progress; taking over", self.store.shown());
                    self.end_holder(&mut connection).await?;
                }
                // It has the lock, and is not the owner yet.
                (Some(_), None) if start.elapsed() > PATIENCE => return Err(owned()),
                (Some(_), None) => {}
                (Some(holder), Some((lease, now))) if lease < now => {
                    if holder.replicating || !self.replace(&mut connection).await? {
                        tell("the owner is silent; waiting until its last transaction is over or on the standby");
                    }
                }
                (Some(_), Some((lease, _))) => {
                    let renewed = *first.get_or_insert(lease) != lease;
                    if renewed && start.elapsed() > PATIENCE {
                        return Err(owned());
                    } else if start.elapsed() > PATIENCE {
                        tell("waiting to see whether the server lives that owns the database");
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
        self.migrate(&mut connection).await?;
        self.begin(&mut connection).await?;
        Ok(connection)
    }

    /// A new connection to write, for an owner whose former one failed.
    ///
    /// # Errors
    ///
    /// [`StoreError::Replaced`] when another server has been the owner since; [`StoreError::Owned`] when one is about to
    /// be; [`Outage::FormerConnection`] when the former connection cannot be ended.
    pub async fn connection(&mut self) -> Result<AnyConnection, StoreError> {
        let mut connection = self.connect().await?;
        if self.store.backend == Backend::Sqlite {
            return Ok(connection);
        }
        let start = Instant::now();
        let mut told = false;
        while !lock(&mut connection, LOCK).await? {
            if self.epoch != last_epoch(&mut connection).await? {
                return Err(self.replaced());
            }
            let former = self.former(&mut connection).await?;
            match former {
                _ if start.elapsed() > FORMER && former.is_none() => {
                    return Err(StoreError::Owned(self.store.shown().to_owned()));
                }
                _ if start.elapsed() > FORMER => {
                    return Err(Outage::FormerConnection("this server's former connection does not end").into());
                }
                Some(true) => {
                    return Err(Outage::FormerConnection(
                        "the last transaction waits for a synchronous standby, and must not be cut off",
                    )
                    .into());
                }
                // A session that was closed ends by itself.
                Some(false) if start.elapsed() < PAUSE => {}
                Some(false) => {
                    if !std::mem::replace(&mut told, true) {
                        warn!(
                            "the connection that writes to {} does not answer, and PostgreSQL still holds the lock for \
                             it; ending it",
                            self.store.shown()
                        );
                    }
                    self.end_former(&mut connection).await?;
                }
                None => {}
            }
            tokio::time::sleep(PAUSE / 2).await;
        }
        self.limit(&mut connection).await?;
        self.renew(&mut connection).await?;
        info!("a new connection writes to {}", self.store.shown());
        Ok(connection)
    }

    /// Ends what lies in the pool: where the connection that writes was dead, these are likely to be.
    pub fn forget_idle(&self) {
        self.store.pool.forget_idle();
    }

    /// Renews the lease, when a sixth of it is over.
    ///
    /// # Errors
    ///
    /// [`StoreError::Replaced`] when another server is the owner now; on SQLite, [`Outage::FileGone`] and
    /// [`Outage::FileReplaced`].
    pub async fn keep(&mut self, connection: &mut AnyConnection) -> Result<(), StoreError> {
        if self.store.backend == Backend::Sqlite {
            return self.store.still_there();
        }
        if self.renewed.elapsed() < self.store.lease / 6 {
            return Ok(());
        }
        self.renew(connection).await
    }

    /// The first thing in each transaction. On PostgreSQL holds the owner's row until the transaction is over.
    ///
    /// # Errors
    ///
    /// [`StoreError::Replaced`] when another server is the owner now.
    pub async fn fence(&self, transaction: &mut AnyConnection) -> Result<(), StoreError> {
        if self.store.backend == Backend::Sqlite {
            return Ok(wal::count(transaction).await?);
        }
        let row = sqlx::query("SELECT epoch FROM owner WHERE epoch = $1 FOR SHARE").bind(self.epoch);
        match row.fetch_optional(transaction).await? {
            Some(_) => Ok(()),
            None => Err(self.replaced()),
        }
    }

    /// To be called between transactions. Keeps the log of an SQLite database bounded.
    pub async fn tidy(&mut self, connection: &mut AnyConnection) {
        if let Some(file) = &self.store.file {
            self.wal.keep(file, connection).await;
        }
    }

    async fn connect(&self) -> Result<AnyConnection, StoreError> {
        let mut connection = self.store.connect().await?;
        if self.store.backend == Backend::Postgres {
            // PostgreSQL ends what this server gave up, when it hears no more of it.
            let sql = format!(
                "SET application_name = '{}'; SET idle_in_transaction_session_timeout = {}",
                self.name,
                self.lease_milliseconds(),
            );
            connection.execute(sqlx::AssertSqlSafe(sql).into_sql_str()).await?;
        }
        Ok(connection)
    }

    /// Lets each statement take as long as a commit may, and no longer. Those of a start take as long as they need: they
    /// hold up nobody's commits.
    pub async fn limit(&self, connection: &mut AnyConnection) -> Result<(), StoreError> {
        if self.store.backend == Backend::Postgres {
            set_statement_timeout(connection, self.commit_limit()).await?;
        }
        Ok(())
    }

    async fn migrate(&self, connection: &mut AnyConnection) -> Result<(), StoreError> {
        // Nobody else has it: the first lock is this server's.
        lock(connection, MIGRATING).await?;
        set_statement_timeout(connection, Duration::ZERO).await?;
        self.store.migrate(connection).await?;
        sqlx::query("SELECT pg_advisory_unlock($1)").bind(MIGRATING).fetch_one(connection).await?;
        Ok(())
    }

    async fn begin(&mut self, connection: &mut AnyConnection) -> Result<(), StoreError> {
        let sql = format!(
            "INSERT INTO owner (id, epoch, lease_until) VALUES (1, 1, {NOW} + $1) ON CONFLICT (id) \
             DO UPDATE SET epoch = owner.epoch + 1, lease_until = excluded.lease_until RETURNING epoch"
        );
        let (sent, moment) = (Instant::now(), Moment::now());
        let row = query(sql).bind(self.lease_milliseconds()).fetch_one(connection).await?;
        self.store.held.renew(moment, self.store.lease);
        self.epoch = Some(row.try_get("epoch")?);
        self.renewed = sent;
        Ok(())
    }

    async fn renew(&mut self, connection: &mut AnyConnection) -> Result<(), StoreError> {
        let sql = format!("UPDATE owner SET lease_until = {NOW} + $1 WHERE epoch = $2");
        let query = query(sql).bind(self.lease_milliseconds()).bind(self.epoch);
        let (sent, moment) = (Instant::now(), Moment::now());
        if query.execute(connection).await?.rows_affected() == 0 {
            return Err(self.replaced());
        }
        self.store.held.renew(moment, self.store.lease);
        self.renewed = sent;
        Ok(())
    }

    /// The connection of the owner is gone, and its lock with it: nobody knows whose the database is until there is
    /// another one.
    pub fn suspend(&self) {
        if self.store.backend == Backend::Postgres {
            self.store.held.end();
        }
    }

    /// Another server is the owner: this one must not act any more.
    fn replaced(&self) -> StoreError {
        self.store.held.end();
        StoreError::Replaced(self.store.shown().to_owned())
    }

    /// Until when the lease is, and the time now; none when there is none.
    async fn lease(&self, connection: &mut AnyConnection) -> Result<Option<(i64, i64)>, StoreError> {
        // There is no such table before the schema is made.
        let there = sqlx::query("SELECT to_regclass('owner') IS NOT NULL AS there").fetch_one(&mut *connection).await?;
        if !there.try_get("there")? {
            return Ok(None);
        }
        let query = query(format!("SELECT lease_until, {NOW} AS now FROM owner"));
        let row = query.fetch_optional(connection).await?;
        row.map(|row| Ok((row.try_get("lease_until")?, row.try_get("now")?))).transpose()
    }

    /// The session that holds the lock; none when it is free.
    async fn holder(&self, connection: &mut AnyConnection) -> Result<Option<Holder>, StoreError> {
        let sql = format!(
            "SELECT COALESCE(wait_event = 'SyncRep', FALSE) AS replicating, \
             pid IN ({}) AS migrating, CAST(CASE WHEN state = 'active' THEN 0 ELSE \
             EXTRACT(EPOCH FROM clock_timestamp() - COALESCE(state_change, clock_timestamp())) * 1000 END AS BIGINT) \
             AS idle FROM pg_stat_activity WHERE pid IN ({})",
            holds(MIGRATING),
            holds(LOCK)
        );
        let row = query(sql).fetch_optional(connection).await?;
        let read = |row: AnyRow| {
            let (replicating, migrating) = (row.try_get("replicating")?, row.try_get("migrating")?);
            Ok(Holder { replicating, migrating, idle: row.try_get("idle")? })
        };
        row.map(read).transpose()
    }

    /// Ends the owner's connection, if its lease is over, behind the fence. False when a transaction of the owner is
    /// still under way.
    async fn replace(&self, connection: &mut AnyConnection) -> Result<bool, StoreError> {
        // It writes nothing, and so ends without a commit, which would wait for a standby.
        let mut transaction = connection.begin().await?;
        transaction.execute(FENCE).await?;
        let row = query(format!("SELECT lease_until < {NOW} AS over FROM owner FOR UPDATE"));
        let over: bool = match row.fetch_optional(&mut *transaction).await {
            Ok(Some(row)) => row.try_get("over")?,
            Ok(None) => false,
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("55P03") => {
                transaction.rollback().await?;
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        };
        if over {
            warn!("the server that owns {} has not renewed its lease; taking over", self.store.shown());
            self.end_holder(&mut transaction).await?;
        }
        transaction.rollback().await?;
        Ok(true)
    }

    /// Ends the session that holds the lock, unless it waits for a standby: a server of an earlier version has no fence.
    async fn end_holder(&self, connection: &mut AnyConnection) -> Result<(), StoreError> {
        let sql = format!(
            "SELECT pg_terminate_backend(pid) AS ended FROM pg_stat_activity \
             WHERE wait_event IS DISTINCT FROM 'SyncRep' AND pid IN ({})",
            holds(LOCK)
        );
        query(sql).fetch_all(connection).await?;
        Ok(())
    }

    /// Whether a former session of this process holds the lock, and if so, whether it waits for a standby.
    async fn former(&self, connection: &mut AnyConnection) -> Result<Option<bool>, StoreError> {
        let sql = format!(
            "SELECT COALESCE(wait_event = 'SyncRep', FALSE) AS replicating FROM pg_stat_activity \
             WHERE application_name = $1 AND pid IN ({})",
            holds(LOCK)
        );
        let row = query(sql).bind(self.name.clone()).fetch_optional(connection).await?;
        row.map(|row| Ok(row.try_get("replicating")?)).transpose()
    }

    async fn end_former(&self, connection: &mut AnyConnection) -> Result<(), StoreError> {
        let sql = format!(
            "SELECT pg_terminate_backend(pid) AS ended FROM pg_stat_activity WHERE application_name = $1 \
             AND wait_event IS DISTINCT FROM 'SyncRep' AND pid IN ({})",
            holds(LOCK)
        );
        query(sql).bind(self.name.clone()).fetch_all(connection).await?;
        Ok(())
    }

    fn lease_milliseconds(&self) -> i64 {
        in_milliseconds(self.store.lease)
    }
}

/// Takes an advisory lock, if it is free.
async fn lock(connection: &mut AnyConnection, key: i64) -> Result<bool, StoreError> {
    let lock = sqlx::query("SELECT pg_try_advisory_lock($1) AS taken").bind(key);
    Ok(lock.fetch_one(connection).await?.try_get("taken")?)
}

/// How long a statement may take; zero: as long as it needs.
async fn set_statement_timeout(connection: &mut AnyConnection, limit: Duration) -> Result<(), sqlx::Error> {
    let sql = format!("SET statement_timeout = {}", limit.as_millis());
    connection.execute(sqlx::AssertSqlSafe(sql).into_sql_str()).await?;
    Ok(())
}

async fn last_epoch(connection: &mut AnyConnection) -> Result<Option<i64>, StoreError> {
    let row = sqlx::query("SELECT epoch FROM owner").fetch_optional(connection).await?;
    row.map(|row| Ok(row.try_get("epoch")?)).transpose()
}

/// Selects the process that holds an advisory lock on this database.
fn holds(key: i64) -> String {
    format!(
        "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted \
         AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
         AND (CAST(classid AS BIGINT) << 32 | CAST(objid AS BIGINT)) = {key}"
    )
}
