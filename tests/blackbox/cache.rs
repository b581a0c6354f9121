//! Compiled code is kept, and never believed blindly.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use serde_json::json;
use tempfile::TempDir;

use crate::harness::{
    database::Database,
    plugins, scratch,
    server::{Options, Server},
};

/// A server whose cache is this folder.
fn options(plugins: &TempDir, cache: &Path) -> Options {
    let cache = cache.to_str().unwrap();
    Options::new(Database::Sqlite).plugins(plugins.path()).env("OUTLAST_CACHE", cache)
}

fn entries(cache: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<_> = fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    entries
}

async fn serves(server: &Server) {
    assert_eq!(server.client().models().await, ["chat", "echo", "hostile"]);
    let response = server.client().post(json!({"model": "hostile", "input": "say fine"})).await.response();
    assert_eq!(response["output"][0]["content"][0]["text"], "fine");
}

#[tokio::test]
async fn the_second_start_compiles_nothing() {
    let (plugins, dir) = (plugins::hostile_folder(), scratch::dir("cache-"));
    let cache = dir.path().join("new");
    let first = Server::start(options(&plugins, &cache));
    for name in ["echo", "chat", "hostile.wasm"] {
        first.logged(&["compiling", name, "bytes="]);
        first.logged(&["compiled", name, "ms="]);
    }
    serves(&first).await;
    let kept = entries(&cache);
    assert_eq!(kept.len(), 3, "{kept:?}");
    assert!(kept.iter().all(|path| path.extension().is_some_and(|extension| extension == "cwasm")), "{kept:?}");

    let second = Server::start(options(&plugins, &cache));
    serves(&second).await;
    assert!(!second.stderr().contains("compil"), "{}", second.stderr());
    assert_eq!(entries(&cache), kept);
}

#[tokio::test]
async fn damaged_code_is_made_again_and_replaced() {
    let (plugins, dir) = (plugins::hostile_folder(), scratch::dir("cache-"));
    let cache = dir.path().join("new");
    drop(Server::start(options(&plugins, &cache)));
    let whole: Vec<_> = entries(&cache).into_iter().map(|path| (fs::read(&path).unwrap(), path)).collect();
    for (index, (bytes, path)) in whole.iter().enumerate() {
        let mut bytes = bytes.clone();
        match index {
            0 => bytes.truncate(bytes.len() / 2),
            1 => bytes.clear(),
            _ => {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 0x40;
            }
        }
        fs::write(path, bytes).unwrap();
    }
    let server = Server::start(options(&plugins, &cache));
    server.logged(&["compiled code cannot be used", "damaged"]);
    serves(&server).await;
    let third = Server::start(options(&plugins, &cache));
    assert!(!third.stderr().contains("compil"), "it was replaced: {}", third.stderr());
    serves(&third).await;
}

#[test]
fn a_folder_that_others_may_write_to_is_refused() {
    let (plugins, dir) = (plugins::hostile_folder(), scratch::dir("cache-"));
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let (status, stderr) = Server::refused(options(&plugins, dir.path()));
    assert!(!status.success());
    assert!(stderr.contains("mode 777") && stderr.contains("chmod 700"), "{stderr}");
}

#[tokio::test]
async fn without_a_cache_nothing_is_kept() {
    let (plugins, dir) = (plugins::hostile_folder(), scratch::dir("cache-"));
    let home = dir.path().to_str().unwrap();
    let options = Options::new(Database::Sqlite).plugins(plugins.path()).config("cache = false");
    let server = Server::start(options.env("XDG_CACHE_HOME", home));
    serves(&server).await;
    assert!(entries(dir.path()).is_empty());
}

#[tokio::test]
async fn a_place_that_cannot_be_written_to_holds_up_nothing() {
    let plugins = plugins::hostile_folder();
    // No folder can be made below a file, whoever asks.
    let dir = scratch::dir("cache-");
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let options = Options::new(Database::Sqlite).plugins(plugins.path());
    let server = Server::start(options.env("XDG_CACHE_HOME", file.to_str().unwrap()));
    server.logged(&["compiled code is not stored", "cache = false"]);
    serves(&server).await;
}
