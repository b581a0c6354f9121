//! From every released schema to this one, with the rows that a server of that version left.

use std::path::Path;

use outlast::{
    protocol::{ConversationId, ResponseId, Segment, TerminalStatus},
    store::{Batch, JournalSegment, Store, StoreError, Swept, WriteConnection},
};
use sqlx::{AnyPool, migrate::Migrator};

use crate::{
    Opened, ended,
    harness::{
        database::{Database, both_databases},
        scratch,
    },
    open, row,
};

both_databases!(
    every_released_schema_is_brought_up_to_date,
    an_active_run_of_the_version_before_goes_on,
    a_newer_schema_is_said_to_be_newer,
);

async fn a_newer_schema_is_said_to_be_newer(database: Database) {
    let Opened { store, database: name, folder } = open(&database).await;
    drop(store.writer().await.unwrap());
    store.close().await;
    drop(store);
    let insert = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                  SELECT 9000, 'later', success, checksum, 0 FROM _sqlx_migrations WHERE version = 1";
    sqlx::raw_sql(insert).execute(&mut database.connect(folder.path()).await).await.unwrap();
    let refused = match Store::open(&name).await {
        Ok(store) => store.writer().await.map(drop),
        Err(error) => Err(error),
    };
    let error = refused.unwrap_err();
    assert!(matches!(&error, StoreError::Newer { found: 9000, .. }), "{error}");
    assert!(error.to_string().contains("written by a newer version of Outlast"), "{error}");
}

/// The schemas that were released, each with what its servers wrote.
const RELEASED: [(i64, &str); 1] = [(1, include_str!("schemas/0001.sql"))];

async fn every_released_schema_is_brought_up_to_date(database: Database) {
    for (version, rows) in RELEASED {
        // PostgreSQL has one database a test; the next version would need one of its own.
        assert_eq!(RELEASED.len(), 1, "make a database for each version");
        let folder = scratch::dir("migrations");
        let database = database.argument(folder.path());
        make(&database, version, rows).await;
        let store = Store::open(&database).await.unwrap();
        check(&store, store.writer().await.unwrap()).await;
    }
}

/// Before the commit log, each commit of a run was a row of its own.
async fn an_active_run_of_the_version_before_goes_on(database: Database) {
    let folder = scratch::dir("migrations");
    let name = database.argument(folder.path());
    make(&name, 10, include_str!("schemas/0010.sql")).await;
    let store = Store::open(&name).await.unwrap();
    let mut writer = store.writer().await.unwrap();
    let run = writer.take_over().await.unwrap().runs.remove(0);
    assert_eq!((run.epoch, run.events, run.entries, run.attempts), (2, 3, 3, 1));
    let frames = async |from| {
        let events = store.events(&run.id, from).await.unwrap();
        events.iter().flat_map(|segment| segment.frames.to_vec()).collect::<Vec<_>>()
    };
    let next = Segment { first: 3, last: 3, frames: "event: d\n\n".into() };
    let entries = JournalSegment { first: 3, last: 3, lines: b"four\n".to_vec() };
    let batch = Batch { segments: vec![(&run.id, &next)], entries: vec![(&run.id, &entries)], ..Batch::default() };
    assert!(writer.commit(&batch).await.unwrap().contradicted.is_empty());
    let journal: Vec<_> = store.journal(&run.id).await.unwrap().into_iter().flat_map(|part| part.lines).collect();
    assert_eq!(journal, b"one\ntwo\nthree\nfour\n");
    assert_eq!(frames(0).await, b"event: a\n\nevent: b\n\nevent: c\n\nevent: d\n\n");
    assert_eq!(frames(1).await, b"event: b\n\nevent: c\n\nevent: d\n\n");
    let end = ended(&run.id, TerminalStatus::Completed, 2);
    assert!(writer.commit(&Batch { ended: vec![&end], ..Batch::default() }).await.unwrap().superseded.is_empty());
    assert_eq!(frames(2).await, b"event: c\n\nevent: d\n\n");
    assert!(store.journal(&run.id).await.unwrap().is_empty());
}

/// Makes a database as a server of this schema version left it.
async fn make(database: &str, version: i64, rows: &str) {
    sqlx::any::install_default_drivers();
    let url = match database.starts_with("postgres") {
        true => database.to_owned(),
        false => format!("sqlite://{database}?mode=rwc"),
    };
    let pool = AnyPool::connect(&url).await.unwrap();
    let all = Migrator::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../store/migrations")).await.unwrap();
    let then = all.iter().filter(|migration| migration.version <= version).cloned().collect();
    Migrator::with_migrations(then).run(&pool).await.unwrap();
    let rows = match database.starts_with("postgres") {
        true => rows.to_owned(),
        false => rows.replace("AS BYTEA", "AS BLOB"),
    };
    sqlx::raw_sql(sqlx::AssertSqlSafe(rows)).execute(&pool).await.unwrap();
    pool.close().await;
}

/// What was there is there, and everything goes on.
async fn check(store: &Store, mut writer: WriteConnection) {
    let id = |number: u128| ResponseId::new(uuid::Uuid::from_u128(number));
    let turns = store.turns("ann", &id(2), 10).await.unwrap();
    assert_eq!(turns.len(), 2);
    assert!(turns[0].request.contains("\"hi\""));
    assert_eq!(store.response_of_key("ann", "k").await.unwrap(), Some((id(1), "f".to_owned())));
    assert_eq!(&store.events(&id(1), 0).await.unwrap()[0].frames[..], b"event: a\n\nevent: b\n\n");
    let active = writer.take_over().await.unwrap().runs;
    assert_eq!(active.iter().map(|run| (run.id.clone(), run.epoch)).collect::<Vec<_>>(), [(id(3), 2)]);

    let end = ended(&id(3), TerminalStatus::Failed, 2);
    writer.commit(&Batch { ended: vec![&end], ..Batch::default() }).await.unwrap();
    let mut turn = row(&id(4));
    turn.conversation = Some((ConversationId::parse("c").unwrap(), 0));
    let committed = writer.commit(&Batch { admitted: vec![&turn], ..Batch::default() }).await.unwrap();
    assert!(committed.conversation_conflicts.is_empty());
    assert_eq!(store.remove_ended(3_000, &Swept::default()).await.unwrap().removed, 2);
    assert_eq!(store.response_of_key("ann", "k").await.unwrap(), None);
    assert!(store.events(&id(1), 0).await.unwrap().is_empty());
}
