//! Which plugins an operator trusts: pinned ones, signed ones.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::json;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::harness::{
    database::Database,
    plugins, scratch,
    server::{BINARY, Options, Server},
    wait,
};

const FILE: &str = "hostile.wasm";

fn folder() -> TempDir {
    let folder = scratch::dir("plugins-");
    plugins::put(folder.path(), FILE, &plugins::version(1));
    folder
}

fn options(folder: &TempDir, config: &str) -> Options {
    Options::new(Database::Sqlite).plugins(folder.path()).config(config)
}

async fn until_serves(server: &Server, version: u8) {
    let expected = plugins::said_by(version);
    wait::eventually(format!("version {version} serves"), async || {
        let answer = server.client().post(json!({"model": "hostile", "input": "which"})).await;
        let message = answer.body["error"]["message"].as_str().unwrap_or_default().to_owned();
        message.contains(&expected).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_pinned_agent_is_served_from_that_file_and_no_other() {
    let folder = folder();
    let digest = |version| hex::encode(Sha256::digest(plugins::version(version)));
    let server = Server::start(options(&folder, &format!("[agents.hostile]\nsha256 = \"{}\"", digest(1))));
    until_serves(&server, 1).await;
    plugins::put(folder.path(), FILE, &plugins::version(2));
    server.logged(&["refused", "agents.hostile.sha256", &digest(1), &digest(2), "the previous version"]);
    until_serves(&server, 1).await;

    // Whatever file it comes from.
    let server = Server::start(options(&folder, &format!("[agents.hostile]\nsha256 = \"{}\"", digest(1))));
    server.logged(&["refused", FILE, &digest(1), &digest(2)]);
    assert_eq!(server.client().models().await, ["chat", "echo"]);
}

#[test]
fn a_bundled_agent_can_be_pinned() {
    let pin = format!("[agents.echo]\nsha256 = \"{}\"", "0".repeat(64));
    let (status, stderr) = Server::refused(Options::new(Database::Sqlite).config(&pin));
    assert!(!status.success());
    assert!(stderr.contains("bundled agent echo") && stderr.contains("agents.echo.sha256"), "{stderr}");
}

#[tokio::test]
async fn of_two_components_of_one_name_none_has_the_grants_of_the_other() {
    let folder = folder();
    let grant = "[agents.hostile]\nstate = true";
    let mut server = Server::start(options(&folder, grant));
    until_serves(&server, 1).await;
    server.logged(&["WARN", "`[agents.hostile]` grants something", "sha256"]);
    // It sorts before the one that serves, and comes in the same moment as its next version.
    plugins::put(folder.path(), "a.wasm", &plugins::version(2));
    server.logged(&["refused", "a.wasm", "an agent named `hostile` already"]);
    plugins::put(folder.path(), "a.wasm", &plugins::version(3));
    plugins::put(folder.path(), FILE, &plugins::version(4));
    until_serves(&server, 4).await;

    // After a start nobody knows which one was there before.
    server.restart();
    let digest = |version| hex::encode(Sha256::digest(plugins::version(version)));
    server.logged(&["ERROR", "a.wasm", &digest(3), &digest(4), "none of them serves", "[agents.hostile]"]);
    server.logged(&["ERROR", FILE, &digest(3), &digest(4), "none of them serves"]);
    assert_eq!(server.client().models().await, ["chat", "echo"]);
    fs::remove_file(folder.path().join("a.wasm")).unwrap();
    until_serves(&server, 4).await;

    // Nor does the pin of one leave anything to the other.
    plugins::put(folder.path(), "a.wasm", &plugins::version(3));
    let server = Server::start(options(&folder, &format!("{grant}\nsha256 = \"{}\"", digest(4))));
    until_serves(&server, 4).await;
    assert!(!server.log().contains("grants something"), "it is pinned");
}

fn plugin(arguments: &[&Path]) -> Output {
    Command::new(BINARY).arg("plugin").args(arguments).output().unwrap()
}

/// A new key, and the lines that it takes in the configuration.
fn keygen(dir: &TempDir, name: &str) -> (PathBuf, String) {
    let key = dir.path().join(name);
    let made = plugin(&[Path::new("keygen"), &key]);
    assert!(made.status.success(), "{made:?}");
    let stdout = String::from_utf8(made.stdout).unwrap();
    let (_, lines) = stdout.split_once("\n\n").unwrap();
    (key, lines.to_owned())
}

fn sign(file: &Path, key: &Path) {
    let signed = plugin(&[Path::new("sign"), file, Path::new("--key"), key]);
    assert!(signed.status.success(), "{signed:?}");
}

#[tokio::test]
async fn where_signatures_are_required_only_signed_files_serve() {
    let (folder, keys) = (folder(), scratch::dir("keys-"));
    let file = folder.path().join(FILE);
    let ((key, config), (other, _)) = (keygen(&keys, "key.pem"), keygen(&keys, "other.pem"));
    let server = Server::start(options(&folder, &config));
    server.logged(&["refused", FILE, "no signature", "hostile.wasm.sig"]);
    assert_eq!(server.client().models().await, ["chat", "echo"], "those that come with the server need none");
    sign(&file, &other);
    server.logged(&["refused", FILE, "trusted_keys"]);
    sign(&file, &key);
    until_serves(&server, 1).await;

    // A file that was changed after it was signed; then its signature comes, too.
    plugins::put(folder.path(), FILE, &plugins::version(2));
    server.logged(&["refused", FILE, "changed after it was signed", "the previous version continues to serve"]);
    until_serves(&server, 1).await;
    sign(&file, &key);
    until_serves(&server, 2).await;
}

/// `hostile` as it would be in this version, five letters.
fn of_version(number: u8, version: &str) -> Vec<u8> {
    let mut wasm = plugins::version(number);
    let own: Vec<_> =
        (1..wasm.len() - 5).filter(|at| wasm[*at..].starts_with(b"0.1.0") && wasm[at - 1] != b'@').collect();
    assert!(version.len() == 5 && own.len() == 1, "{own:?}");
    wasm[own[0]..own[0] + 5].copy_from_slice(version.as_bytes());
    wasm
}

#[tokio::test]
async fn an_older_version_that_is_signed_does_not_come_back_unless_it_is_told_to() {
    let (folder, keys) = (scratch::dir("plugins-"), scratch::dir("keys-"));
    let (key, config) = keygen(&keys, "key.pem");
    let put = |number: u8, version: &str| {
        // The signature comes first, for a file that is not there yet.
        let signed = keys.path().join(FILE);
        fs::write(&signed, of_version(number, version)).unwrap();
        sign(&signed, &key);
        fs::copy(keys.path().join(format!("{FILE}.sig")), folder.path().join(format!("{FILE}.sig"))).unwrap();
        plugins::put(folder.path(), FILE, &fs::read(&signed).unwrap());
    };
    put(1, "0.2.0");
    let mut server = Server::start(options(&folder, &config));
    until_serves(&server, 1).await;
    put(2, "0.1.9");
    let line = server.logged(&["refused", FILE, "version 0.1.9", "0.2.0 has served already", "allow_rollback = true"]);
    assert!(
        line.contains("agents.hostile.sha256") && line.contains("the previous version continues to serve"),
        "{line}"
    );
    until_serves(&server, 1).await;
    // Nor by a restart.
    server.restart();
    server.logged(&["refused", FILE, "version 0.1.9", "0.2.0 has served already"]);
    assert_eq!(server.client().models().await, ["chat", "echo"]);
    // A later one, and then the old one by its pin, after which it is the one that served last.
    put(3, "0.3.0");
    until_serves(&server, 3).await;
    put(2, "0.1.9");
    let pin = hex::encode(Sha256::digest(of_version(2, "0.1.9")));
    server.restart_with(options(&folder, &format!("{config}\n[agents.hostile]\nsha256 = \"{pin}\"")));
    until_serves(&server, 2).await;
    server.restart_with(options(&folder, &config));
    until_serves(&server, 2).await;
    put(4, "0.1.8");
    server.logged(&["refused", FILE, "version 0.1.8", "0.1.9 has served already"]);
    server.restart_with(options(&folder, &format!("allow_rollback = true\n{config}")));
    until_serves(&server, 4).await;
}

#[test]
fn a_key_is_secret_and_never_overwritten() {
    use std::os::unix::fs::PermissionsExt as _;
    let keys = scratch::dir("keys-");
    let (key, config) = keygen(&keys, "key.pem");
    assert!(config.contains("trusted_keys = [\"ed25519:"), "{config}");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    let before = fs::read(&key).unwrap();
    let again = plugin(&[Path::new("keygen"), &key]);
    assert!(!again.status.success());
    assert_eq!(fs::read(&key).unwrap(), before);
    let unfit = keys.path().join("unfit");
    fs::write(&unfit, "no key").unwrap();
    let signed = plugin(&[Path::new("sign"), &key, Path::new("--key"), &unfit]);
    assert!(String::from_utf8_lossy(&signed.stderr).contains("not an Ed25519 key"), "{signed:?}");
}
