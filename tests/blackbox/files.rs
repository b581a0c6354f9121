//! Files that are the server's own, and where it is told its database.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
};

use serde_json::json;

use crate::harness::{
    database::{Database, both_databases},
    scratch,
    server::{Options, Server},
};

both_databases!(the_database_is_named_by_a_variable_or_in_a_file_and_stays_out_of_the_log);

const FILES: [&str; 5] = ["outlast.db", "outlast.db-wal", "outlast.db-shm", "outlast.db.lock", "outlast.pid"];

fn modes(server: &Server) -> Vec<u32> {
    let mode = |name| fs::metadata(server.dir().join(name)).unwrap().permissions().mode() & 0o777;
    FILES.map(mode).to_vec()
}

#[tokio::test]
async fn what_the_server_keeps_is_for_nobody_else() {
    let mut server = Server::start(Options::new(Database::Sqlite).config("pid_file = \"outlast.pid\""));
    let say = json!({"model": "echo", "input": "x"});
    server.client().post(say.clone()).await.response();
    assert_eq!(modes(&server), [0o600; 5]);
    server.kill9();
    // As an earlier version left them, and as somebody has made one of them.
    for (name, mode) in FILES.iter().zip([0o644, 0o644, 0o666, 0o640, 0o644]) {
        fs::set_permissions(server.dir().join(name), Permissions::from_mode(mode)).unwrap();
    }
    server.restart();
    server.client().post(say).await.response();
    assert_eq!(modes(&server), [0o600; 5]);
    for name in FILES {
        server.logged(&["other users could use", name, "its mode is 0600 now"]);
    }
}

async fn the_database_is_named_by_a_variable_or_in_a_file_and_stays_out_of_the_log(database: Database) {
    let folder = scratch::dir("named-");
    let name = database.argument(folder.path());
    let say = json!({"model": "echo", "input": "x"});
    let in_file = folder.path().join("url");
    fs::write(&in_file, format!("{name}\n")).unwrap();
    let log = "log = \"trace\"\n";
    for config in ["database = \"${DATABASE_URL}\"".to_owned(), format!("database = {{ file = {in_file:?} }}")] {
        let options = Options::configured(database.clone()).config(&format!("{log}{config}"));
        let server = Server::start(options.env("DATABASE_URL", &name));
        server.client().post(say.clone()).await.response();
        if let Database::Postgres(url) = &database {
            assert!(!server.log().contains(url.as_str()), "the URL is in the log");
        }
    }
}

#[test]
fn a_database_that_cannot_be_had_is_told_without_its_password() {
    let password = "s3cret-passw0rd";
    let url = format!("postgres://ann:{password}@127.0.0.1:1/outlast");
    let folder = scratch::dir("named-");
    let in_file = folder.path().join("url");
    fs::write(&in_file, &url).unwrap();
    for (config, expected) in [
        ("database = \"${DATABASE_URL}\"".to_owned(), "nothing listens at 127.0.0.1:1"),
        (format!("database = {{ file = {in_file:?} }}"), "nothing listens at 127.0.0.1:1"),
        (
            "database = \"${DATABASE_URI}\"".to_owned(),
            "database names the environment variable DATABASE_URI, which is not set",
        ),
        (
            "database = { file = \"/nowhere/url\" }".to_owned(),
            "database names the file /nowhere/url, which cannot be read",
        ),
        ("database = 7".to_owned(), "must be a path, a URL, or { file = \"PATH\" }"),
    ] {
        let options = Options::configured(Database::Sqlite).config("log = \"trace\"").config(&config);
        let (status, log) = Server::refused(options.env("DATABASE_URL", &url));
        assert!(!status.success() && log.contains(expected), "{config}: {log}");
        assert!(!log.contains(password), "{config}: {log}");
    }
}
