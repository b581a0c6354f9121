//! The connections that requests share.
//!
//! Every answer is waited for with a limit of this side: a connection may be dead and not closed, and then nothing comes
//! from the other side, not even its own limit.

use std::{io, time::Duration};

use futures::{StreamExt as _, TryStreamExt as _, future::BoxFuture, stream, stream::BoxStream};
use sqlx::{
    Any, AnyPool, Either, Error, Execute, Executor, SqlStr, Transaction,
    any::{AnyQueryResult, AnyRow, AnyStatement, AnyTypeInfo},
    pool::PoolConnection,
};

/// How long one statement may take: more than PostgreSQL gives it, whose own words say more.
const PATIENCE: Duration = Duration::from_secs(12);

/// Connections. As an executor, it uses one of them for one statement.
#[derive(Clone, Debug)]
pub(super) struct Pool(AnyPool);

impl From<AnyPool> for Pool {
    fn from(pool: AnyPool) -> Self {
        Self(pool)
    }
}

impl Pool {
    /// A connection.
    pub async fn acquire(&self) -> Result<PoolConnection<Any>, Error> {
        self.0.acquire().await
    }

    /// A transaction on a connection of its own.
    pub async fn begin(&self) -> Result<Transaction<'static, Any>, Error> {
        self.0.begin().await
    }

    /// The same, begun with this statement.
    pub async fn begin_with(&self, statement: &'static str) -> Result<Transaction<'static, Any>, Error> {
        self.0.begin_with(statement).await
    }

    /// Forgets the connections that nobody uses at the moment. They are closed.
    pub fn forget_idle(&self) {
        while let Some(idle) = self.0.try_acquire() {
            drop(idle.detach());
        }
    }

    /// Closes all connections, each when its user has done with it.
    pub async fn close(&self) {
        self.0.close().await;
    }
}

impl<'p> Executor<'p> for &'p Pool {
    type Database = Any;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Either<AnyQueryResult, AnyRow>, Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Any>,
    {
        let rows = async move {
            let mut connection = self.0.acquire().await?;
            let all = (&mut *connection).fetch_many(query).try_collect::<Vec<_>>();
            let all = tokio::time::timeout(PATIENCE, all).await;
            all.unwrap_or_else(|_| Err(dead(&mut connection)))
        };
        stream::once(rows).map_ok(|rows| stream::iter(rows.into_iter().map(Ok))).try_flatten().boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<AnyRow>, Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Any>,
    {
        Box::pin(async move {
            let mut connection = self.0.acquire().await?;
            let row = (&mut *connection).fetch_optional(query);
            let row = tokio::time::timeout(PATIENCE, row).await;
            row.unwrap_or_else(|_| Err(dead(&mut connection)))
        })
    }

    fn prepare_with<'e>(self, sql: SqlStr, parameters: &'e [AnyTypeInfo]) -> BoxFuture<'e, Result<AnyStatement, Error>>
    where
        'p: 'e,
    {
        self.0.prepare_with(sql, parameters)
    }
}

/// Gives up a connection that does not answer.
fn dead(connection: &mut PoolConnection<Any>) -> Error {
    connection.close_on_drop();
    Error::Io(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {PATIENCE:?}")))
}
