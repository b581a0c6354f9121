//! What runs have said last is in the commit log, and is moved to their tables when a start finds it there.

use outlast::{
    protocol::{ResponseId, TerminalStatus},
    store::{Batch, Phase, Store, WriteConnection},
};
use sqlx::{AnyConnection, Executor as _, Row as _};

use crate::{
    Opened, ended, entries,
    harness::database::{Database, both_databases},
    id, open, row, segment,
};

both_databases!(
    what_runs_had_said_is_in_their_tables_after_a_start,
    an_ended_run_is_in_its_tables_and_nowhere_else,
    a_run_that_grows_is_moved_to_its_tables,
    what_the_database_does_not_take_of_one_run_costs_no_other,
    a_row_that_is_damaged_costs_what_comes_after_it,
);

/// How many rows a table has.
async fn rows(connection: &mut AnyConnection, table: &str) -> i64 {
    let sql = sqlx::AssertSqlSafe(format!("SELECT COUNT(*) FROM {table}"));
    sqlx::query(sql).fetch_one(connection).await.unwrap().get(0)
}

/// A run that has said two events and an entry, in two transactions.
async fn said(writer: &mut WriteConnection) -> ResponseId {
    let (id, events, entries) = (id(), [segment(0, 0), segment(1, 1)], entries(0, 0));
    let row = row(&id);
    let batch = Batch {
        admitted: vec![&row],
        segments: vec![(&id, &events[0])],
        entries: vec![(&id, &entries)],
        ..Batch::default()
    };
    writer.commit(&batch).await.unwrap();
    writer.commit(&Batch { segments: vec![(&id, &events[1])], ..Batch::default() }).await.unwrap();
    id
}

/// The next start: what was in memory is gone.
async fn again(opened: Opened) -> (Store, WriteConnection, tempfile::TempDir) {
    let Opened { store, folder, database } = opened;
    store.close().await;
    drop(store);
    let store = Store::open(&database).await.unwrap();
    let writer = store.writer().await.unwrap();
    (store, writer, folder)
}

async fn what_runs_had_said_is_in_their_tables_after_a_start(database: Database) {
    let opened = open(&database).await;
    let mut writer = opened.store.writer().await.unwrap();
    let ids = [said(&mut writer).await, said(&mut writer).await];
    writer.close().await;
    let mut connection = database.connect(opened.folder.path()).await;
    assert_eq!((rows(&mut connection, "events").await, rows(&mut connection, "commit_log").await), (0, 4));
    let (store, mut writer, _folder) = again(opened).await;
    let taken = writer.take_over().await.unwrap();
    assert!(taken.unreadable.is_empty());
    assert!(taken.runs.iter().all(|run| (run.events, run.entries) == (2, 1)), "{taken:?}");
    assert_eq!(rows(&mut connection, "commit_log").await, 0);
    for id in &ids {
        assert_eq!(store.events(id, 0).await.unwrap(), [segment(0, 1)]);
        assert_eq!(store.journal(id).await.unwrap(), [entries(0, 0)]);
    }
    // And goes on from there.
    let next = segment(2, 2);
    writer.commit(&Batch { segments: vec![(&ids[0], &next)], ..Batch::default() }).await.unwrap();
    assert_eq!(store.events(&ids[0], 0).await.unwrap(), [segment(0, 1), next.clone()]);
    assert_eq!(store.events(&ids[0], 2).await.unwrap(), [next]);
}

async fn an_ended_run_is_in_its_tables_and_nowhere_else(database: Database) {
    let opened = open(&database).await;
    let mut writer = opened.store.writer().await.unwrap();
    let (one, other) = (said(&mut writer).await, said(&mut writer).await);
    let (end, last) = (ended(&one, TerminalStatus::Completed, 1), segment(2, 2));
    writer.commit(&Batch { segments: vec![(&one, &last)], ended: vec![&end], ..Batch::default() }).await.unwrap();
    assert_eq!(opened.store.events(&one, 0).await.unwrap(), [segment(0, 2)]);
    let mut connection = database.connect(opened.folder.path()).await;
    assert_eq!((rows(&mut connection, "events").await, rows(&mut connection, "journal").await), (1, 0));
    writer.close().await;
    let (store, mut writer, _folder) = again(opened).await;
    let taken = writer.take_over().await.unwrap();
    assert_eq!(taken.runs.iter().map(|run| &run.id).collect::<Vec<_>>(), [&other]);
    assert_eq!(store.events(&one, 0).await.unwrap(), [segment(0, 2)]);
    assert_eq!((rows(&mut connection, "events").await, rows(&mut connection, "journal").await), (2, 1));
}

async fn a_run_that_grows_is_moved_to_its_tables(database: Database) {
    let opened = open(&database).await;
    let mut writer = opened.store.writer().await.unwrap();
    let (id, number) = (id(), 10_000);
    let row = row(&id);
    let (first, second) = (segment(0, number - 1), segment(number, 2 * number - 1));
    writer.commit(&Batch { admitted: vec![&row], segments: vec![(&id, &first)], ..Batch::default() }).await.unwrap();
    writer.commit(&Batch { segments: vec![(&id, &second)], ..Batch::default() }).await.unwrap();
    let mut connection = database.connect(opened.folder.path()).await;
    assert_eq!((rows(&mut connection, "events").await, rows(&mut connection, "commit_log").await), (2, 0));
    assert_eq!(opened.store.events(&id, number).await.unwrap(), [second]);
}

/// Lets the database refuse rows of events of this run.
async fn refuse(connection: &mut AnyConnection, database: &Database, id: &ResponseId) {
    let statements = match database {
        Database::Sqlite => vec![format!(
            "CREATE TRIGGER refusal BEFORE INSERT ON events WHEN NEW.response_id = '{id}' \
             BEGIN SELECT RAISE(ABORT, 'refused'); END"
        )],
        Database::Postgres(_) => vec![
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN RAISE EXCEPTION 'refused'; END $$"
                .to_owned(),
            format!(
                "CREATE TRIGGER refusal BEFORE INSERT ON events FOR EACH ROW WHEN (NEW.response_id = '{id}') \
                 EXECUTE FUNCTION refuse()"
            ),
        ],
    };
    for statement in statements {
        connection.execute(sqlx::AssertSqlSafe(statement)).await.unwrap();
    }
}

async fn what_the_database_does_not_take_of_one_run_costs_no_other(database: Database) {
    let opened = open(&database).await;
    let mut writer = opened.store.writer().await.unwrap();
    let (refused, other) = (said(&mut writer).await, said(&mut writer).await);
    let mut connection = database.connect(opened.folder.path()).await;
    refuse(&mut connection, &database, &refused).await;
    // While it runs: it cannot be moved, and so cannot wait, but can be given up.
    let phases = vec![(&refused, 1, Phase::Waiting)];
    writer.commit(&Batch { phases, ..Batch::default() }).await.unwrap_err();
    assert_eq!(opened.store.events(&refused, 0).await.unwrap(), [segment(0, 1)]);
    writer.close().await;
    let (store, mut writer, _folder) = again(opened).await;
    let taken = writer.take_over().await.unwrap();
    assert_eq!((taken.unreadable, taken.runs.len()), (vec![refused.clone()], 1));
    assert_eq!(store.events(&other, 0).await.unwrap(), [segment(0, 1)]);
    let mut end = ended(&refused, TerminalStatus::Failed, 2);
    end.given_up = true;
    let last = segment(2, 2);
    let batch = Batch { segments: vec![(&refused, &last)], ended: vec![&end], ..Batch::default() };
    assert!(writer.commit(&batch).await.unwrap().superseded.is_empty());
}

async fn a_row_that_is_damaged_costs_what_comes_after_it(database: Database) {
    let opened = open(&database).await;
    let mut writer = opened.store.writer().await.unwrap();
    let ids = [said(&mut writer).await, said(&mut writer).await];
    writer.close().await;
    let mut connection = database.connect(opened.folder.path()).await;
    connection.execute("DELETE FROM commit_log WHERE id = 1").await.unwrap();
    let cut = match database {
        Database::Sqlite => "UPDATE commit_log SET records = substr(records, 1, length(records) - 1) WHERE id = 4",
        Database::Postgres(_) => {
            "UPDATE commit_log SET records = substring(records FROM 1 FOR length(records) - 1) WHERE id = 4"
        }
    };
    connection.execute(cut).await.unwrap();
    let (store, mut writer, _folder) = again(opened).await;
    let taken = writer.take_over().await.unwrap();
    // Of the first the beginning is missing, of the second the end, of which nobody can tell that it was there.
    assert_eq!(taken.unreadable, [ids[0].clone()]);
    assert_eq!(taken.runs.iter().map(|run| (&run.id, run.events)).collect::<Vec<_>>(), [(&ids[1], 1)]);
    assert!(store.events(&ids[0], 0).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_wants_to_write_beside_a_busy_writer_gets_a_turn() {
    let Opened { store, folder: _folder, .. } = open(&Database::Sqlite).await;
    let mut writer = store.writer().await.unwrap();
    let row = row(&id());
    writer.commit(&Batch { admitted: vec![&row], ..Batch::default() }).await.unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let busy = tokio::spawn(async move {
        let mut number = 0;
        while !stop.is_closed() {
            let segment = segment(number, number);
            writer.commit(&Batch { segments: vec![(&row.id, &segment)], ..Batch::default() }).await.unwrap();
            number += 1;
        }
        number
    });
    for _ in 0..200 {
        assert!(!store.delete_response("ann", &id(), 1).await.unwrap());
    }
    drop(stopped);
    assert!(busy.await.unwrap() > 0, "there was no pause");
}
