//! What belongs to the data of one run, and what to the database.

use outlast::{
    protocol::IdempotencyKey,
    store::{Batch, StoreError},
};
use sqlx::Executor as _;

use crate::{
    Opened,
    harness::{
        database::{Database, both_databases},
        wait,
    },
    id, open, row, segment,
};

both_databases!(a_table_that_is_gone_is_an_outage_and_no_fault_of_a_run, a_database_that_takes_writes_is_well);

async fn a_table_that_is_gone_is_an_outage_and_no_fault_of_a_run(database: Database) {
    let Opened { store, folder, .. } = &open(&database).await;
    let mut writer = store.writer().await.unwrap();
    let (id, segment) = (id(), segment(0, 1));
    writer.commit(&Batch { admitted: vec![&row(&id)], ..Batch::default() }).await.unwrap();
    database.connect(folder.path()).await.execute("DROP TABLE commit_log").await.unwrap();
    let batch = Batch { segments: vec![(&id, &segment)], ..Batch::default() };
    let error = writer.commit(&batch).await.unwrap_err().error;
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    let error = store.check().await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
}

async fn a_database_that_takes_writes_is_well(database: Database) {
    let Opened { store, .. } = &open(&database).await;
    let _writer = store.writer().await.unwrap();
    for _ in 0..2 {
        store.check().await.unwrap();
    }
}

#[tokio::test]
async fn data_that_cannot_be_kept_are_the_fault_of_their_run() {
    let Some(database) = Database::postgres().await else { return };
    let Opened { store, .. } = &open(&database).await;
    let mut writer = store.writer().await.unwrap();
    let mut row = row(&id());
    // Larger than an entry of an index can be, and not to be compressed.
    let key: String = (0..300).map(|_| uuid::Uuid::new_v4().simple().to_string()).collect();
    row.key = Some(IdempotencyKey { key, fingerprint: String::new() });
    let error = writer.commit(&Batch { admitted: vec![&row], ..Batch::default() }).await.unwrap_err().error;
    assert!(matches!(error, StoreError::Rejected(_)), "{error}");
}

#[tokio::test]
async fn a_postgres_that_is_read_only_is_not_well() {
    let Some(database) = Database::postgres().await else { return };
    let Opened { store, folder, .. } = &open(&database).await;
    drop(store.writer().await.unwrap());
    let mut other = database.connect(folder.path()).await;
    let name: String = sqlx::Row::get(&other.fetch_one("SELECT current_database()::text").await.unwrap(), 0);
    let set = format!("ALTER DATABASE {name} SET default_transaction_read_only = on");
    other.execute(sqlx::AssertSqlSafe(set)).await.unwrap();
    // It holds for new connections.
    store.close().await;
    let store = outlast::store::Store::open(match &database {
        Database::Postgres(url) => url,
        Database::Sqlite => unreachable!(),
    })
    .await
    .unwrap();
    let error = store.check().await.unwrap_err();
    assert!(error.to_string().contains("read-only"), "{error}");
}

#[tokio::test]
async fn a_file_that_is_locked_is_not_well_until_it_is_free() {
    let Opened { store, folder, .. } = &open(&Database::Sqlite).await;
    let mut other = Database::Sqlite.connect(folder.path()).await;
    other.execute("BEGIN IMMEDIATE").await.unwrap();
    let error = store.check().await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    other.execute("ROLLBACK").await.unwrap();
    wait::eventually("it is well again", async || store.check().await.ok()).await;
}
