//! The plugin folder changes while the server runs.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Write as _,
    process::{Command, Output},
};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use sqlx::Row as _;
use tempfile::TempDir;

use crate::harness::{
    database::{Database, both_databases},
    events::{response_id, text},
    plugins, scratch,
    server::{BINARY, Options, Server},
    wait,
};

both_databases!(a_kill_right_after_a_change_loses_no_run, the_database_keeps_the_components_that_are_needed);

const FILE: &str = "hostile.wasm";

/// A server with the first version of `hostile`.
fn start(options: Options) -> (Server, TempDir) {
    let folder = scratch::dir("plugins-");
    plugins::put(folder.path(), FILE, &plugins::version(1));
    (Server::start(options.plugins(folder.path())), folder)
}

/// What the agent `hostile` says that tells its version; or that there is none.
async fn said(server: &Server) -> String {
    let answer = server.client().post(json!({"model": "hostile", "input": "which"})).await;
    answer.body["error"]["message"].as_str().unwrap().to_owned()
}

async fn until_serves(server: &Server, version: u8) {
    let expected = plugins::said_by(version);
    wait::eventually(format!("version {version} serves"), async || {
        said(server).await.contains(&expected).then_some(())
    })
    .await;
}

async fn until_models(server: &Server, expected: &[&str]) {
    wait::eventually(format!("the models are {expected:?}"), async || {
        (server.client().models().await == expected).then_some(())
    })
    .await;
}

fn waits(ms: u64) -> Value {
    json!({"model": "hostile", "input": format!("wait {ms}")})
}

/// The components of the responses with output, in the order in which they began.
async fn components(server: &Server, ids: &[String]) -> Vec<String> {
    let mut database = server.database().await;
    let mut components = Vec::new();
    for id in ids {
        let query = sqlx::query("SELECT component FROM responses WHERE id = $1").bind(id.clone());
        components.push(query.fetch_one(&mut database).await.unwrap().get(0));
    }
    components
}

/// The components that the database keeps.
async fn kept(server: &Server) -> BTreeSet<String> {
    let rows = sqlx::query("SELECT sha256 FROM components").fetch_all(&mut server.database().await).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn until_kept(server: &Server, expected: &BTreeSet<String>) {
    wait::eventually(format!("{expected:?} are kept"), async || (kept(server).await == *expected).then_some(())).await;
}

async fn the_database_keeps_the_components_that_are_needed(database: Database) {
    // The run is asleep, and nothing in memory remembers its component.
    let (server, folder) = start(Options::new(database).config("[limits]\nidle_after = \"100ms\""));
    let client = server.client();
    let component = |number| hex::encode(Sha256::digest(plugins::version(number)));
    let mut needed = kept(&server).await;
    assert!(needed.remove(&component(1)) && needed.len() == 2);
    let mut request = waits(600_000);
    request["background"] = true.into();
    let id = client.post(request).await.response()["id"].as_str().unwrap().to_owned();
    for version in 2..6 {
        plugins::put(folder.path(), FILE, &plugins::version(version));
        until_serves(&server, version).await;
    }
    needed.extend([component(1), component(5)]);
    until_kept(&server, &needed).await;
    // The one that the sleeper began with is there for it; it goes when another one goes after its end.
    client.cancel(&id).await;
    plugins::put(folder.path(), FILE, &plugins::version(6));
    until_serves(&server, 6).await;
    assert!(needed.remove(&component(1)) && needed.remove(&component(5)) && needed.insert(component(6)));
    until_kept(&server, &needed).await;
}

#[tokio::test]
async fn a_new_version_serves_new_runs_and_the_others_keep_theirs() {
    let (server, folder) = start(Options::new(Database::Sqlite));
    let client = server.client();
    let mut old = client.stream(waits(5_000)).await;
    let first = old.until(|event| event.number == 1).await;
    plugins::put(folder.path(), FILE, &plugins::version(2));
    until_serves(&server, 2).await;
    let mut new = client.stream(waits(0)).await;
    let second = new.rest().await;
    let mut whole = first;
    whole.extend(old.rest().await);
    assert_eq!((text(&whole), text(&second)), ("done".to_owned(), "done".to_owned()));
    let components = components(&server, &[response_id(&whole), response_id(&second)]).await;
    assert_ne!(components[0], components[1]);
    server.logged(&["serves", FILE, &components[1]]);
    // The old one ends with its last run.
    server.logged(&["is unloaded", &components[0]]);
    assert!(!server.stderr().contains("refused"), "a rename is never half a file: {}", server.stderr());
}

#[tokio::test]
async fn a_file_that_goes_serves_no_more_and_its_runs_go_on() {
    let (server, folder) = start(Options::new(Database::Sqlite));
    let client = server.client();
    let mut run = client.stream(waits(3_000)).await;
    let mut events = run.until(|event| event.number == 1).await;
    fs::remove_file(folder.path().join(FILE)).unwrap();
    until_models(&server, &["chat", "echo"]).await;
    client.post(waits(0)).await.refused(404, "model_not_found");
    client.get_path("/v1/models/hostile").await.refused(404, "model_not_found");
    events.extend(run.rest().await);
    assert_eq!(text(&events), "done");
    plugins::put(folder.path(), FILE, &plugins::version(3));
    until_models(&server, &["chat", "echo", "hostile"]).await;
    until_serves(&server, 3).await;
}

#[tokio::test]
async fn a_broken_file_keeps_the_version_before() {
    let (server, folder) = start(Options::new(Database::Sqlite));
    for broken in [&b"no component"[..], b"", &plugins::version(2)[..5_000]] {
        let lines = |server: &Server| server.stderr().matches("the previous version continues to serve").count();
        let before = lines(&server);
        plugins::put(folder.path(), FILE, broken);
        wait::eventually("it is refused", async || (lines(&server) > before).then_some(())).await;
        assert!(said(&server).await.contains(&plugins::said_by(1)));
    }
    plugins::put(folder.path(), FILE, &plugins::version(2));
    until_serves(&server, 2).await;
}

#[tokio::test]
async fn a_file_that_is_written_slowly_breaks_nothing() {
    let (server, folder) = start(Options::new(Database::Sqlite));
    let new = plugins::version(2);
    // In place, over what serves: the worst way.
    let mut file = File::create(folder.path().join(FILE)).unwrap();
    for (index, part) in new.chunks(new.len().div_ceil(4)).enumerate() {
        assert!(said(&server).await.contains(&plugins::said_by(1)));
        file.write_all(part).unwrap();
        // Once so slowly that the half is taken for a file.
        if index == 1 {
            server.logged(&["refused", FILE, "the previous version continues to serve"]);
        }
    }
    drop(file);
    until_serves(&server, 2).await;
}

async fn a_kill_right_after_a_change_loses_no_run(database: Database) {
    let (mut server, folder) = start(Options::new(database));
    let client = server.client();
    // Longer than it takes a busy machine to compile.
    let first = client.stream(waits(12_000)).await.until(|event| event.number == 1).await;
    plugins::put(folder.path(), FILE, &plugins::version(2));
    until_serves(&server, 2).await;
    let second = client.stream(waits(12_000)).await.until(|event| event.number == 1).await;
    server.kill9();
    plugins::put(folder.path(), FILE, &plugins::version(3));
    server.restart();
    assert!(said(&server).await.contains(&plugins::said_by(3)));
    let mut ids = Vec::new();
    for events in [&first, &second] {
        let id = response_id(events);
        let ended = server.client().ended(&id).await;
        assert_eq!(ended["output"][0]["content"][0]["text"], "done", "{ended}");
        ids.push(id);
    }
    let components = components(&server, &ids).await;
    assert_ne!(components[0], components[1]);
    for component in &components {
        server.logged(&["is unloaded", component]);
    }
}

#[tokio::test]
async fn a_name_that_becomes_free_is_taken_by_the_file_that_waits() {
    let (server, folder) = start(Options::new(Database::Sqlite));
    plugins::put(folder.path(), "another.wasm", &plugins::version(2));
    server.logged(&["refused", "another.wasm", "an agent named `hostile` already"]);
    assert!(said(&server).await.contains(&plugins::said_by(1)), "who serves keeps the name");
    fs::remove_file(folder.path().join(FILE)).unwrap();
    until_serves(&server, 2).await;
}

/// `outlast plugin reload`.
fn reload(server: &Server, arguments: &[&str]) -> Output {
    Command::new(BINARY).current_dir(server.dir()).args(["plugin", "reload"]).args(arguments).output().unwrap()
}

#[tokio::test]
async fn the_operator_can_ask_for_a_look() {
    let (mut server, folder) = start(Options::new(Database::Sqlite).config("pid_file = \"outlast.pid\""));
    plugins::put(folder.path(), FILE, &plugins::version(2));
    server.hang_up();
    server.logged(&["looked at the plugin folder"]);
    assert!(said(&server).await.contains(&plugins::said_by(2)), "the look was made");

    let lines = |server: &Server| server.stderr().matches("looked at the plugin folder").count();
    for arguments in [vec!["--config", "outlast.toml"], vec!["--pid", &server.id().to_string()]] {
        let before = lines(&server);
        let told = reload(&server, &arguments);
        assert!(told.status.success(), "{told:?}");
        wait::eventually("it looks", async || (lines(&server) > before).then_some(())).await;
    }

    server.kill9();
    let told = reload(&server, &["--config", "outlast.toml"]);
    assert!(!told.status.success());
    assert!(String::from_utf8_lossy(&told.stderr).contains("no server is running"), "{told:?}");
}

#[tokio::test]
async fn a_server_without_plugins_survives_the_question() {
    let server = Server::start(Options::new(Database::Sqlite));
    server.hang_up();
    server.logged(&["there is no plugin folder"]);
    assert_eq!(server.client().models().await, ["chat", "echo"]);
}
