//! `outlast plugin list`, `add` and `remove`: the plugin folder, kept in order.

use std::{fs, path::Path};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::harness::{
    cli::{Ended, outlast},
    database::Database,
    events::text,
    plugins, scratch,
    server::{Options, Server},
    wait,
};

fn plugin(folder: &TempDir, arguments: &[&str]) -> Ended {
    let (command, rest) = arguments.split_first().unwrap();
    outlast([&["plugin", command, "--plugins", folder.path().to_str().unwrap()], rest].concat())
}

/// A file with `hostile` in this version, outside of the folder.
fn file(dir: &TempDir, version: u8) -> String {
    let path = dir.path().join(format!("downloaded-{version}.wasm"));
    fs::write(&path, plugins::version(version)).unwrap();
    path.display().to_string()
}

fn sha256(version: u8) -> String {
    hex::encode(Sha256::digest(plugins::version(version)))
}

fn files(folder: &Path) -> Vec<String> {
    let mut files: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    files
}

#[tokio::test]
async fn a_server_follows_what_is_added_replaced_and_removed() {
    let (folder, dir) = (scratch::dir("plugins-"), scratch::dir("files-"));
    let server = Server::start(Options::new(Database::Sqlite).plugins(folder.path()));
    let client = server.client();
    let shown = plugin(&folder, &["add", &file(&dir, 1)]).ok();
    let pin = format!("[agents.hostile]\nsha256 = \"{}\"", sha256(1));
    assert!(shown.contains("added    hostile 0.1.0") && shown.contains(&pin), "{shown}");
    assert!(!shown.contains("replaced"), "{shown}");
    server.logged(&["serves", "hostile.wasm", &sha256(1)]);
    let mut old = client.stream(json!({"model": "hostile", "input": "wait 5000"})).await;
    let mut whole = old.until(|event| event.number == 1).await;

    let shown = plugin(&folder, &["add", &file(&dir, 2)]).ok();
    for digest in [sha256(1), sha256(2)] {
        assert!(shown.contains(&digest), "{shown}");
    }
    assert!(shown.contains("replaced hostile 0.1.0"), "{shown}");
    server.logged(&["serves", "hostile.wasm", &sha256(2)]);

    let shown = plugin(&folder, &["remove", "hostile"]).ok();
    assert!(shown.contains("removed hostile 0.1.0") && shown.contains("Active runs keep it"), "{shown}");
    wait::eventually("it serves no more", async || (client.models().await == ["chat", "echo"]).then_some(())).await;
    whole.extend(old.rest().await);
    assert_eq!(text(&whole), "done");
    assert_eq!(files(folder.path()), [""; 0]);
    assert!(!server.stderr().contains("refused"), "it never saw half a file: {}", server.stderr());
}

#[test]
fn nothing_else_is_overwritten() {
    let (folder, dir) = (scratch::dir("plugins-"), scratch::dir("files-"));
    // Another agent has the file's name.
    let echo = fs::read(plugins::component("assistant")).unwrap();
    fs::write(folder.path().join("hostile.wasm"), &echo).unwrap();
    let error = plugin(&folder, &["add", &file(&dir, 1)]).failed();
    assert!(error.contains("is the agent `assistant`") && error.contains("plugin remove hostile.wasm"), "{error}");
    assert_eq!(fs::read(folder.path().join("hostile.wasm")).unwrap(), echo);
    // The agent has another file's name: that is the one that is replaced.
    fs::rename(folder.path().join("hostile.wasm"), folder.path().join("assistant.wasm")).unwrap();
    fs::write(folder.path().join("mine.wasm"), plugins::version(1)).unwrap();
    plugin(&folder, &["add", &file(&dir, 2)]).ok();
    assert_eq!(files(folder.path()), ["assistant.wasm", "mine.wasm"]);
    assert_eq!(fs::read(folder.path().join("mine.wasm")).unwrap(), plugins::version(2));

    let bundled = plugins::component("echo").display().to_string();
    let error = plugin(&folder, &["add", &bundled]).failed();
    assert!(error.contains("the server itself has an agent named `echo`"), "{error}");
    let broken = dir.path().join("broken.wasm");
    fs::write(&broken, "no component").unwrap();
    let error = plugin(&folder, &["add", broken.to_str().unwrap()]).failed();
    assert!(error.contains("broken.wasm: it is not WebAssembly"), "{error}");
    let error = plugin(&folder, &["add", "/nowhere.wasm"]).failed();
    assert!(error.contains("/nowhere.wasm: it cannot be read"), "{error}");
    let error = outlast(["plugin", "add", &file(&dir, 1)]).failed();
    assert!(error.contains("there is no plugin folder") && error.contains("--plugins DIR"), "{error}");
}

#[test]
fn a_list_says_what_is_served_and_what_is_not() {
    let (folder, dir) = (scratch::dir("plugins-"), scratch::dir("files-"));
    let put = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
    put("a.wasm", &plugins::version(1));
    put("b.wasm", &plugins::version(2));
    put("broken.wasm", b"torn");
    put("notes.txt", b"not listed");
    let single = dir.path().join("assistant.wasm");
    fs::copy(plugins::component("assistant"), &single).unwrap();
    let config = dir.path().join("outlast.toml");
    let nowhere = format!("oci://127.0.0.1:1/nowhere@sha256:{}", "0".repeat(64));
    let text = format!(
        "plugins = [\"{}\", \"{}\", \"{nowhere}\"]\n[agents.hostile]\nsha256 = \"{}\"\n[agents.gone]\nsha256 = \"{}\"",
        folder.path().display(),
        single.display(),
        sha256(1),
        sha256(7)
    );
    fs::write(&config, text).unwrap();
    let config = config.to_str().unwrap();
    let shown = outlast(["plugin", "list", "--config", config]).ok();
    assert!(shown.starts_with("NAME") && shown.contains(&sha256(1)[..12]), "{shown}");
    let listed: Value = serde_json::from_str(&outlast(["plugin", "list", "--json", "--config", config]).ok()).unwrap();
    let by = |key: &str, end: &str| {
        let found = listed.as_array().unwrap().iter().find(|plugin| plugin[key].as_str().unwrap_or("").ends_with(end));
        found.unwrap_or_else(|| panic!("no {key} {end}: {listed:#}")).clone()
    };
    let first = by("from", "a.wasm");
    let expected = json!({
        "name": "hostile", "kind": "agent", "version": "0.1.0", "sha256": sha256(1), "bytes": plugins::version(1).len(), "pinned": true,
        "signed": false, "from": first["from"], "file": first["from"], "refused": null
    });
    assert_eq!(first, expected);
    assert!(by("from", "b.wasm")["refused"].as_str().unwrap().contains(&sha256(1)), "{listed:#}");
    let broken = by("from", "broken.wasm");
    assert_eq!((&broken["refused"], &broken["bytes"]), (&json!("it is not WebAssembly"), &json!(4)));
    assert_eq!(by("name", "assistant")["refused"], Value::Null);
    assert!(by("name", "gone")["refused"].as_str().unwrap().contains("agents.gone.sha256"), "{listed:#}");
    assert!(by("from", "00")["refused"].as_str().unwrap().contains("not fetched yet"), "{listed:#}");
    assert_eq!(listed.as_array().unwrap().len(), 6, "{listed:#}");

    // Without the pin, nobody knows whose name it is.
    let listed: Value = serde_json::from_str(&plugin(&folder, &["list", "--json"]).ok()).unwrap();
    for plugin in [&listed[0], &listed[1]] {
        assert!(plugin["refused"].as_str().unwrap().contains("`sha256 = \"…\"` in `[agents.hostile]`"), "{listed:#}");
    }
    let error = plugin(&folder, &["remove", "hostile"]).failed();
    assert!(error.contains("several") && error.contains("a.wasm") && error.contains("b.wasm"), "{error}");
    plugin(&folder, &["remove", "b.wasm"]).ok();
    plugin(&folder, &["remove", "broken.wasm"]).ok();
    assert_eq!(files(folder.path()), ["a.wasm", "notes.txt"]);
    let error = plugin(&folder, &["remove", "nobody"]).failed();
    assert!(error.contains("no plugin `nobody`") && error.contains("hostile"), "{error}");
    let error = outlast(["plugin", "remove", "assistant", "--config", config]).failed();
    assert!(error.contains("from `plugins`"), "{error}");
}

#[test]
fn a_signature_goes_where_its_file_goes() {
    let (folder, dir) = (scratch::dir("plugins-"), scratch::dir("files-"));
    let key = dir.path().join("key.pem").display().to_string();
    let made = outlast(["plugin", "keygen", &key]).ok();
    let (_, trusted) = made.split_once("\n\n").unwrap();
    let config = dir.path().join("outlast.toml").display().to_string();
    fs::write(&config, format!("{trusted}\nplugins = \"{}\"", folder.path().display())).unwrap();
    let file = file(&dir, 1);
    let add = || outlast(["plugin", "add", &file, "--config", &config]);
    let error = add().failed();
    assert!(error.contains("require_signature") && error.contains("outlast plugin sign"), "{error}");
    assert_eq!(files(folder.path()), [""; 0]);
    outlast(["plugin", "sign", &file, "--key", &key]).ok();
    add().ok();
    assert_eq!(files(folder.path()), ["hostile.wasm", "hostile.wasm.sig"]);
    let listed: Value = serde_json::from_str(&outlast(["plugin", "list", "--json", "--config", &config]).ok()).unwrap();
    assert_eq!((&listed[0]["signed"], &listed[0]["refused"]), (&json!(true), &Value::Null));
    outlast(["plugin", "remove", "hostile", "--config", &config]).ok();
    assert_eq!(files(folder.path()), [""; 0]);
}

#[tokio::test]
async fn a_single_file_serves_and_is_followed() {
    let dir = scratch::dir("files-");
    let file = file(&dir, 1);
    fs::write(dir.path().join("another.wasm"), "not meant").unwrap();
    let server = Server::start(Options::new(Database::Sqlite).config(&format!("plugins = [\"{file}\"]")));
    assert_eq!(server.client().models().await, ["chat", "echo", "hostile"]);
    plugins::put(dir.path(), "downloaded-1.wasm", &plugins::version(2));
    server.logged(&["serves", &sha256(2)]);
    assert!(!server.stderr().contains("another.wasm"), "{}", server.stderr());
    fs::remove_file(&file).unwrap();
    server.logged(&["the file is gone", "hostile"]);
    let (status, stderr) = Server::refused(server.options().clone());
    assert!(!status.success() && stderr.contains("there is no file") && stderr.contains(&file), "{stderr}");
}
