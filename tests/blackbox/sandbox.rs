//! What the process of a server gives up before it serves.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use serde_json::json;

use crate::harness::{
    database::Database,
    mcp::Mcp,
    notice, plugins, scratch,
    server::{Options, Server},
};

/// What the kernel says of a process.
fn status(pid: u32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_default().trim().to_owned()
}

/// What the server says that holds.
fn holds(server: &Server) -> String {
    server.logged(&["the sandbox of this server: "])
}

#[tokio::test]
async fn a_server_gives_up_what_it_does_not_need() {
    let server = Server::start(Database::Sqlite);
    assert_eq!(status(server.id(), "NoNewPrivs"), "1");
    assert!(holds(&server).contains("no_new_privs"));
    if holds(&server).contains("not seccomp") {
        notice::once("this kernel has no seccomp: whether system calls are limited was not tested.");
    } else {
        assert_eq!(status(server.id(), "Seccomp"), "2");
    }
    server.client().post(json!({"model": "echo", "input": "x"})).await.response();

    let server = Server::start(Options::new(Database::Sqlite).config("sandbox = \"off\""));
    assert_eq!((status(server.id(), "NoNewPrivs"), status(server.id(), "Seccomp")), ("0".to_owned(), "0".to_owned()));
    assert!(holds(&server).contains("nothing: sandbox = \"off\""));
}

/// A place that no server writes to by itself. It is not below a folder for temporary files, where a checkout may be.
fn elsewhere() -> tempfile::TempDir {
    let temporary = [std::env::temp_dir(), "/tmp".into(), "/var/tmp".into()];
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let mut places = [PathBuf::from(env!("CARGO_TARGET_TMPDIR"))].into_iter().chain(home);
    let place = places.find(|place| !temporary.iter().any(|temporary| place.starts_with(temporary)));
    let place = place.expect("neither the target folder nor the home is outside of folders for temporary files");
    fs::create_dir_all(&place).unwrap();
    tempfile::Builder::new().prefix("elsewhere-").tempdir_in(place).unwrap()
}

/// Lets a server write compiled code where another folder has taken the place of its cache. How many entries are there.
fn written_elsewhere(config: &str) -> (usize, String) {
    let (place, plugins) = (elsewhere(), scratch::dir("plugins-"));
    let (cache, moved, other) = (place.path().join("cache"), place.path().join("moved"), place.path().join("other"));
    fs::create_dir(&other).unwrap();
    fs::set_permissions(&other, fs::Permissions::from_mode(0o700)).unwrap();
    let options = Options::new(Database::Sqlite).plugins(plugins.path());
    let server = Server::start(options.config(config).env("OUTLAST_CACHE", cache.to_str().unwrap()));
    assert!(fs::read_dir(&cache).unwrap().count() > 0, "nothing was written where it may write");
    fs::rename(&cache, &moved).unwrap();
    std::os::unix::fs::symlink(&other, &cache).unwrap();
    plugins::put(plugins.path(), "hostile.wasm", &plugins::version(1));
    server.logged(&["hostile.wasm", "serves"]);
    (fs::read_dir(&other).unwrap().count(), holds(&server))
}

#[test]
fn a_server_writes_nowhere_but_where_it_has_to() {
    let (written, holds) = written_elsewhere("");
    if holds.contains("not landlock") {
        notice::once("this kernel has no landlock: where the server can write was not tested.");
        return;
    }
    assert_eq!(written, 0);
    let (written, _) = written_elsewhere("sandbox = \"off\"");
    assert!(written > 0);
}

#[tokio::test]
async fn with_children_it_gives_up_what_they_do_not_need_either() {
    let mcp = Mcp::child();
    let server = Server::start(Options::new(Database::Sqlite).config(&mcp.command("hub", "")));
    server.logged(&["server=\"hub\"", "connected"]);
    assert!(holds(&server).contains("not landlock, because other programs are children"), "{}", holds(&server));
    assert_eq!(status(mcp.pid(), "NoNewPrivs"), "1");
}
