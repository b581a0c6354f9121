//! Which database a test runs on.
//!
//! A test is a function of a [`Database`]; [`both_databases!`] makes two tests of it, `name::sqlite` and
//! `name::postgres`.

use std::path::Path;

use sqlx::{AnyConnection, Connection as _, Row as _};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::{postgres::Postgres, wait};

/// A database of a test's own.
#[derive(Clone, Debug)]
pub enum Database {
    /// A file in the server's folder.
    Sqlite,
    /// A PostgreSQL URL.
    Postgres(String),
}

impl Database {
    /// A fresh database of the shared PostgreSQL; none where there is no PostgreSQL.
    pub async fn postgres() -> Option<Self> {
        Some(Self::Postgres(Postgres::shared()?.database().await))
    }

    /// What `--database` gets, for a server in `dir`.
    pub fn argument(&self, dir: &Path) -> String {
        match self {
            Self::Sqlite => dir.join("outlast.db").display().to_string(),
            Self::Postgres(url) => url.clone(),
        }
    }

    /// The ids of all responses that are stored, oldest first.
    pub async fn response_ids(&self, dir: &Path) -> Vec<String> {
        let mut connection = self.connect(dir).await;
        let query = sqlx::query("SELECT id FROM responses ORDER BY created_at, id");
        let rows = query.fetch_all(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Waits until the owner of a PostgreSQL database has not renewed its lease in time.
    pub async fn lease_is_over(&self) {
        let mut connection = self.connect(Path::new("")).await;
        wait::eventually("the lease is over", async || {
            let sql = "SELECT EXTRACT(EPOCH FROM clock_timestamp()) * 1000 > lease_until FROM owner";
            let row = sqlx::query(sql).fetch_one(&mut connection).await.unwrap();
            row.get::<bool, _>(0).then_some(())
        })
        .await;
        connection.close().await.unwrap();
    }

    /// A connection of the test's own.
    pub async fn connect(&self, dir: &Path) -> AnyConnection {
        sqlx::any::install_default_drivers();
        let url = match self {
            Self::Sqlite => format!("sqlite://{}", self.argument(dir)),
            Self::Postgres(url) => url.clone(),
        };
        AnyConnection::connect(&url).await.unwrap()
    }
}

static TURN: RwLock<()> = RwLock::const_new(());

/// Held by a test that bears company.
pub async fn beside_others() -> RwLockReadGuard<'static, ()> {
    TURN.read().await
}

/// Held by a test that measures time: no other test runs meanwhile.
pub async fn alone() -> RwLockWriteGuard<'static, ()> {
    TURN.write().await
}

/// Makes two tests of each function `async fn name(database: Database)`. With `alone:` before the names, no other
/// test runs beside them.
macro_rules! both_databases {
    (alone: $($name:ident),+ $(,)?) => { $(both_databases!(@expand alone $name);)+ };
    ($($name:ident),+ $(,)?) => { $(both_databases!(@expand beside_others $name);)+ };
    (@expand $turn:ident $name:ident) => {
        mod $name {
            use $crate::harness::database::{self, Database};

            #[tokio::test]
            async fn sqlite() {
                let _turn = database::$turn().await;
                super::$name(Database::Sqlite).await;
            }

            #[tokio::test]
            async fn postgres() {
                let _turn = database::$turn().await;
                if let Some(database) = Database::postgres().await {
                    super::$name(database).await;
                }
            }
        }
    };
}
pub(crate) use both_databases;
