//! An SQLite file becomes smaller when much of it is free.

use sqlx::{AnyConnection, Executor as _, Row as _};

use crate::{harness::database::Database, open};

async fn pages(connection: &mut AnyConnection, pragma: &str) -> i64 {
    let sql = format!("SELECT {pragma} AS value FROM pragma_{pragma}");
    connection.fetch_one(sqlx::AssertSqlSafe(sql)).await.unwrap().get("value")
}

async fn fill(connection: &mut AnyConnection, mebibytes: u32) {
    let fill = format!(
        "CREATE TABLE filler (bytes BLOB); INSERT INTO filler WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 \
         FROM n WHERE i < {mebibytes}) SELECT zeroblob(1048576) FROM n; DROP TABLE filler"
    );
    connection.execute(sqlx::AssertSqlSafe(fill)).await.unwrap();
}

#[tokio::test]
async fn free_pages_go_back_to_the_file_system_beyond_a_bound() {
    let opened = open(&Database::Sqlite).await;
    let mut connection = Database::Sqlite.connect(opened.folder.path()).await;
    // Within the bound, they are used again.
    fill(&mut connection, 60).await;
    let before = pages(&mut connection, "page_count").await;
    assert!(!opened.store.shrink().await.unwrap());
    assert_eq!(pages(&mut connection, "page_count").await, before);

    fill(&mut connection, 100).await;
    let mut steps = 0;
    while opened.store.shrink().await.unwrap() {
        steps += 1;
    }
    assert!(steps > 1, "in steps, between which runs are written");
    let free = pages(&mut connection, "freelist_count").await * pages(&mut connection, "page_size").await;
    assert!((0..=64 << 20).contains(&free), "{free}");
}
