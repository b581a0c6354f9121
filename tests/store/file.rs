//! The file of an SQLite database: its names, its lock, its log, and its disappearance.

use std::path::Path;

use outlast::{
    protocol::ResponseId,
    store::{Batch, Outage, Store, StoreError, WriteConnection},
};
use sqlx::{Connection as _, Executor as _, SqliteConnection};

use crate::{harness::scratch, id, row, segment};

async fn opened(path: &Path) -> Result<Store, StoreError> {
    Store::open(path.to_str().unwrap()).await
}

/// Keeps a response with some events. While the writer is there, so is the log: SQLite removes it with the last
/// connection.
async fn write(writer: &mut WriteConnection) -> ResponseId {
    let (id, segment) = (id(), segment(0, 50));
    let row = row(&id);
    let batch = Batch { admitted: vec![&row], segments: vec![(&id, &segment)], ..Batch::default() };
    writer.commit(&batch).await.unwrap();
    id
}

#[tokio::test]
async fn a_path_of_whatever_characters_is_a_database() {
    let folder = scratch::dir("store");
    std::fs::create_dir(folder.path().join("dir sp")).unwrap();
    for name in ["sp ace.db", "a:b.db", "[x].db", "100%.db", "50%25.db", "what?.db", "a#b.db", "ü&+.db", "dir sp/x.db"]
    {
        let path = folder.path().join(name);
        let store = opened(&path).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut writer = store.writer().await.unwrap();
        let id = write(&mut writer).await;
        store.close().await;
        drop((writer, store));
        assert!(path.is_file(), "{name}");
        assert!(opened(&path).await.unwrap().response("ann", &id).await.unwrap().is_some(), "{name}");
    }
}

#[tokio::test]
async fn a_path_that_is_no_database_is_refused_with_the_reason() {
    let folder = scratch::dir("store");
    std::fs::write(folder.path().join("text.db"), "hello, this is not a database").unwrap();
    std::fs::write(folder.path().join("short.db"), "hello").unwrap();
    for (name, reason) in [
        ("", "is a folder"),
        ("text.db", "is not an SQLite database"),
        ("short.db", "is not an SQLite database"),
        ("nowhere/x.db", "there is no folder"),
        ("text.db/x.db", "is not a folder"),
    ] {
        let error = opened(&folder.path().join(name)).await.unwrap_err().to_string();
        assert!(error.contains(reason), "{name}: {error}");
    }
    for (name, reason) in [
        ("", "name is empty"),
        (":memory:", "in memory would be lost"),
        ("mysql://localhost/x", "postgres://"),
        ("postgres://u:p@ss#w@127.0.0.1:1/x", "%23"),
        ("postgres://u:p/w@127.0.0.1:1/x", "%2F"),
        ("postgres://u:p@127.0.0.1:1/x", "nothing listens at 127.0.0.1:1"),
        ("postgres:///x?host=/nowhere&password=secret", "/nowhere"),
    ] {
        let error = Store::open(name).await.unwrap_err().to_string();
        assert!(error.contains(reason) && !error.contains("ss#w") && !error.contains("secret"), "{name}: {error}");
    }
}

#[tokio::test]
async fn a_file_is_one_database_by_all_its_names() {
    let folder = scratch::dir("store");
    let path = folder.path().join("o.db");
    let store = opened(&path).await.unwrap();
    let (link, hard) = (folder.path().join("link.db"), folder.path().join("hard.db"));
    std::os::unix::fs::symlink(&path, &link).unwrap();
    std::fs::hard_link(&path, &hard).unwrap();
    for name in [&path, &link, &hard] {
        let error = opened(name).await.unwrap_err();
        assert!(matches!(error, StoreError::Owned(_)), "{error}");
    }
    store.close().await;
    drop(store);
    opened(&link).await.unwrap();
}

#[tokio::test]
async fn a_file_that_was_removed_or_replaced_takes_no_writes() {
    let folder = scratch::dir("store");
    let (path, away) = (folder.path().join("o.db"), folder.path().join("away.db"));
    let store = opened(&path).await.unwrap();
    let mut writer = store.writer().await.unwrap();
    let (one, other) = (id(), id());
    writer.commit(&Batch { admitted: vec![&row(&one)], ..Batch::default() }).await.unwrap();

    let row = row(&other);
    let batch = Batch { admitted: vec![&row], ..Batch::default() };
    std::fs::rename(&path, &away).unwrap();
    let gone = |error: StoreError| matches!(error, StoreError::Unavailable(Outage::FileGone(_)));
    assert!(gone(writer.commit(&batch).await.unwrap_err().error));
    assert!(gone(writer.keep().await.unwrap_err()));
    assert!(gone(store.check().await.unwrap_err()));
    assert!(!path.exists(), "another one was made");

    std::fs::write(&path, "").unwrap();
    let replaced = |error: StoreError| matches!(error, StoreError::Unavailable(Outage::FileReplaced(_)));
    assert!(replaced(writer.commit(&batch).await.unwrap_err().error));
    assert!(replaced(store.check().await.unwrap_err()));

    std::fs::rename(&away, &path).unwrap();
    writer.commit(&batch).await.unwrap();
    store.check().await.unwrap();
    assert!(store.response("ann", &other).await.unwrap().is_some());
}

/// What lies on the disk if the server is killed now.
fn killed(path: &Path, to: &Path) {
    for suffix in ["", "-wal"] {
        let name = |path: &Path| format!("{}{suffix}", path.display());
        std::fs::copy(name(path), name(to)).unwrap();
    }
}

/// What SQLite does by itself when the log has grown.
async fn checkpoint(path: &Path) {
    let mut other = SqliteConnection::connect(&format!("sqlite://{}", path.display())).await.unwrap();
    other.execute("PRAGMA wal_checkpoint(TRUNCATE)").await.unwrap();
    other.close().await.unwrap();
}

#[tokio::test]
async fn a_log_that_does_not_go_on_from_its_file_is_refused() {
    let folder = scratch::dir("store");
    let [path, backup, late, image] = ["o.db", "backup.db", "late.db", "image.db"].map(|name| folder.path().join(name));
    let store = opened(&path).await.unwrap();
    let mut writer = store.writer().await.unwrap();
    let first = write(&mut writer).await;
    checkpoint(&path).await;
    std::fs::copy(&path, &backup).unwrap();
    let second = write(&mut writer).await;
    checkpoint(&path).await;
    let third = write(&mut writer).await;
    killed(&path, &image);
    checkpoint(&path).await;
    write(&mut writer).await;
    checkpoint(&path).await;
    std::fs::copy(&path, &late).unwrap();

    // After a kill the log goes on.
    let log = format!("{}-wal", image.display());
    let kept = std::fs::read(&log).unwrap();
    let store = opened(&image).await.unwrap();
    for id in [&first, &second, &third] {
        assert!(store.response("ann", id).await.unwrap().is_some());
    }
    store.close().await;
    drop(store);

    // An older file, and a newer one.
    for other in [&backup, &late] {
        std::fs::copy(other, &image).unwrap();
        std::fs::write(&log, &kept).unwrap();
        let error = opened(&image).await.unwrap_err();
        assert!(matches!(error, StoreError::ForeignLog { .. }), "{error}");
        assert!(error.to_string().contains("image.db-wal"), "{error}");
        // As the error says.
        std::fs::remove_file(&log).unwrap();
        let store = opened(&image).await.unwrap();
        assert!(store.response("ann", &first).await.unwrap().is_some());
        store.close().await;
    }
}

#[tokio::test]
async fn a_backup_that_is_no_older_than_the_log_is_brought_up_to_date_by_it() {
    let folder = scratch::dir("store");
    let [path, backup, image] = ["o.db", "backup.db", "image.db"].map(|name| folder.path().join(name));
    let store = opened(&path).await.unwrap();
    let mut writer = store.writer().await.unwrap();
    let first = write(&mut writer).await;
    checkpoint(&path).await;
    let second = write(&mut writer).await;
    let mut other = SqliteConnection::connect(&format!("sqlite://{}", path.display())).await.unwrap();
    let into = format!("VACUUM INTO '{}'", backup.display());
    other.execute(sqlx::AssertSqlSafe(into)).await.unwrap();
    other.close().await.unwrap();
    let third = write(&mut writer).await;
    killed(&path, &image);
    let store = opened(&image).await.unwrap();
    for id in [&first, &second, &third] {
        assert!(store.response("ann", id).await.unwrap().is_some());
    }
    assert!(opened(&backup).await.unwrap().response("ann", &second).await.unwrap().is_some());
}

#[tokio::test]
async fn a_large_log_begins_anew_and_counts_as_a_part_of_the_size() {
    const LIMIT: u64 = 64 << 20;
    let folder = scratch::dir("store");
    let path = folder.path().join("o.db");
    let store = opened(&path).await.unwrap();
    let log = || std::fs::metadata(folder.path().join("o.db-wal")).map_or(0, |log| log.len());
    let file = || std::fs::metadata(&path).unwrap().len();
    let mut writer = store.writer().await.unwrap();
    write(&mut writer).await;
    assert!(log() > 0);
    let size = store.size().await.unwrap().bytes.cast_unsigned();
    // What is in the log may take pages away from the file.
    assert!(size >= log() + (file() / 2).max(4096), "{size} {} {}", log(), file());

    let (id, mut large) = (id(), segment(0, 0));
    large.frames = vec![b'x'; (LIMIT + LIMIT / 8) as usize].into();
    let row = row(&id);
    let batch = Batch { admitted: vec![&row], segments: vec![(&id, &large)], ..Batch::default() };
    writer.commit(&batch).await.unwrap();
    assert!(log() <= LIMIT, "{}", log());
    assert!(file() > LIMIT, "{}", file());
}
