//! A copy of the database while it is in use, and the way back.

use std::{fs, os::unix::fs::PermissionsExt as _};

use futures::future::join_all;
use serde_json::{Value, json};

use crate::harness::{
    cli::{command, outlast},
    database::Database,
    events,
    server::{Options, Server},
    wait,
};

#[tokio::test]
async fn a_backup_that_is_made_under_load_is_restored_and_its_runs_continue() {
    let mut server = Server::start(Options::new(Database::Sqlite));
    let client = server.client();
    let before = client.post(json!({"model": "echo", "input": "kept"})).await.response();
    // They end when the backup is long made.
    let slow = || json!({"model": "echo", "input": "a b c d e f", "metadata": {"delay_ms": "400"}});
    let begun = join_all((0..4).map(async |_| client.stream(slow()).await.until_delta(1).await));
    let active: Vec<_> = begun.await.iter().map(|events| events::response_id(events)).collect();
    let load = tokio::spawn({
        let client = client.clone();
        async move {
            loop {
                client.post(json!({"model": "echo", "input": "word ".repeat(500)})).await.response();
            }
        }
    });
    let backup = server.dir().join("backup.db");
    let database = server.dir().join("outlast.db");
    let of = ["--database".as_ref(), database.as_os_str()];
    let made = command(["backup".as_ref(), backup.as_os_str(), "--json".as_ref()].into_iter().chain(of));
    let made = tokio::task::spawn_blocking(move || { made }.output().unwrap()).await.unwrap();
    assert!(made.status.success(), "{made:?}");
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    assert!(made["responses"].as_i64().unwrap() >= 5, "{made}");
    assert_eq!(fs::metadata(&backup).unwrap().permissions().mode() & 0o777, 0o600);
    let after = client.post(json!({"model": "echo", "input": "not in it"})).await.response();

    // While the server uses the database, nothing is put in its place.
    let restore = || outlast(["restore".as_ref(), backup.as_os_str()].into_iter().chain(of));
    assert!(restore().failed().contains("another outlast server is using"), "it is in use");
    load.abort();
    server.kill9();
    assert!(fs::metadata(server.dir().join("outlast.db-wal")).unwrap().len() > 0, "the log of the newer database");
    let restored = restore().ok();
    assert!(restored.contains("outlast.db.before-restore-1"), "{restored}");
    assert!(server.dir().join("outlast.db.before-restore-1-wal").is_file(), "the log goes with its database");

    server.restart();
    let client = server.client();
    assert_eq!(client.response(before["id"].as_str().unwrap()).await, before);
    client.get(after["id"].as_str().unwrap()).await.refused(404, "response_not_found");
    for id in &active {
        let ended = wait::eventually("the run continues to its end", async || {
            let response = client.response(id).await;
            (response["status"] == "completed").then_some(response)
        });
        assert_eq!(ended.await["output"][0]["content"][0]["text"], "a b c d e f");
    }
    // The newest state is not lost either.
    server.kill9();
    for suffix in ["-wal", "-shm"] {
        let _ = fs::remove_file(server.dir().join(format!("outlast.db{suffix}")));
    }
    for suffix in ["", "-wal"] {
        let kept = server.dir().join(format!("outlast.db.before-restore-1{suffix}"));
        fs::rename(kept, server.dir().join(format!("outlast.db{suffix}"))).unwrap();
    }
    server.restart();
    assert_eq!(server.client().response(after["id"].as_str().unwrap()).await, after);
}

#[tokio::test]
async fn what_is_not_a_backup_changes_nothing() {
    let server = Server::start(Options::new(Database::Sqlite));
    server.client().post(json!({"model": "echo", "input": "x"})).await.response();
    let folder = server.dir();
    let (database, backup) = (folder.join("outlast.db"), folder.join("b.db"));
    let run = |words: &[&str]| {
        let paths = ["--database", database.to_str().unwrap()];
        outlast(words.iter().copied().chain(paths))
    };
    let backup = backup.to_str().unwrap();
    run(&["backup", backup]).ok();
    assert!(run(&["backup", backup]).failed().contains("exists already"));
    let missing = outlast(["backup", "c.db", "--database", "/nowhere/o.db"]).failed();
    assert!(missing.contains("there is no such file"), "{missing}");
    for of in ["postgres://u:secret@127.0.0.1:1/d", "postgresql://u:secret@127.0.0.1:1/d"] {
        let postgres = outlast(["backup", "c.db", "--database", of]).failed();
        assert!(postgres.contains("pg_dump") && !postgres.contains("secret"), "{postgres}");
    }

    let restore = |from: &std::path::Path| {
        outlast(["restore", from.to_str().unwrap(), "--database", folder.join("new.db").to_str().unwrap()])
    };
    let text = folder.join("text");
    fs::write(&text, "not a database").unwrap();
    assert!(restore(&text).failed().contains("not an SQLite database"));
    let mut damaged = fs::read(backup).unwrap();
    let half = damaged.len() / 2;
    damaged.truncate(half - half % 4096);
    fs::write(&text, damaged).unwrap();
    assert!(restore(&text).failed().contains("is not a backup that can be restored"));
    assert!(restore(&folder.join("nothing")).failed().contains("nothing"));
    // Nothing is there but the empty place that was locked.
    assert_eq!(fs::metadata(folder.join("new.db")).map_or(0, |file| file.len()), 0);
    assert!(!folder.join("new.db.partial").exists());
    assert!(restore(backup.as_ref()).ok().contains("1 responses"));
}
