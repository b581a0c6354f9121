//! Who owns a PostgreSQL database, where it is not a matter of a moment.

use std::time::Duration;

use sqlx::{Connection as _, Executor as _};

use crate::{Opened, harness::database::Database, open};

const LEASE: Duration = Duration::from_millis(500);

#[tokio::test]
async fn a_server_waits_while_another_one_changes_the_schema() {
    let Some(database) = Database::postgres().await else { return };
    let Opened { store, folder, .. } = open(&database).await;
    let store = store.leased_for(LEASE);
    drop(store.writer().await.unwrap());
    // Another server, of which nothing is heard for many leases: it is at work on a large table.
    let mut other = database.connect(folder.path()).await;
    crate::harness::wait::eventually("the lock is free", async || {
        let row = sqlx::query("SELECT pg_try_advisory_lock($1)").bind(0x006f_7574_6c61_7374_i64);
        sqlx::Row::get::<bool, _>(&row.fetch_one(&mut other).await.unwrap(), 0).then_some(())
    })
    .await;
    sqlx::query("SELECT pg_advisory_lock($1)").bind(0x006f_7574_6c61_7375_i64).execute(&mut other).await.unwrap();
    let work = async {
        other.execute("SELECT pg_sleep(3)").await.expect("it was ended in the middle");
        other.close().await.unwrap();
    };
    let (writer, ()) = tokio::join!(store.writer(), work);
    writer.unwrap();
}

#[tokio::test]
async fn the_schema_of_postgres_is_changed_by_its_owner_alone() {
    let Some(database) = Database::postgres().await else { return };
    let Opened { store, folder, .. } = open(&database).await;
    let mut other = database.connect(folder.path()).await;
    let tables = "SELECT COUNT(*) FROM information_schema.tables WHERE table_name = 'responses'";
    let mut count = async || sqlx::Row::get::<i64, _>(&other.fetch_one(tables).await.unwrap(), 0);
    assert_eq!(count().await, 0);
    store.writer().await.unwrap();
    assert_eq!(count().await, 1);
}
