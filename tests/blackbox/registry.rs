//! Plugins from OCI registries: pinned by their digest, fetched once.

use std::{fs, path::Path, process::Command};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;
use tempfile::TempDir;

use crate::harness::{
    cli,
    database::Database,
    plugins,
    registry::{Push, Registry, USER},
    scratch,
    server::{BINARY, Options, Server},
};

/// A server with this in its configuration and a cache of its own.
fn options(config: &str, cache: &TempDir) -> Options {
    let cache = cache.path().join("cache");
    Options::new(Database::Sqlite).config(config).env("OUTLAST_CACHE", cache.to_str().unwrap())
}

fn with(reference: &str, cache: &TempDir) -> Options {
    options(&format!("plugins = [\"{reference}\"]"), cache)
}

async fn serves(server: &Server, version: u8) {
    assert_eq!(server.client().models().await, ["chat", "echo", "hostile"]);
    let answer = server.client().post(json!({"model": "hostile", "input": "which"})).await;
    let message = answer.body["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains(&plugins::said_by(version)), "{message}");
}

#[tokio::test]
async fn a_plugin_is_fetched_once_and_a_restart_needs_no_registry() {
    let Some(mut registry) = Registry::start() else { return };
    let cache = scratch::dir("cache-");
    let reference = registry.push("team/hostile:1", Push::component(plugins::version(1))).await;
    let mut server = Server::start(with(&reference, &cache));
    server.logged(&["fetched", &reference, "bytes="]);
    serves(&server, 1).await;

    // A tag that goes elsewhere changes nothing.
    registry.push("team/hostile:1", Push::component(plugins::version(2))).await;
    server.restart();
    serves(&server, 1).await;

    registry.stop();
    server.restart();
    serves(&server, 1).await;
    assert!(!server.stderr().contains("fetching"), "{}", server.stderr());

    // What was changed on the disk is not believed.
    let folder = cache.path().join("cache/oci");
    let files = || fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let component = files().find(|path| path.extension().is_some_and(|extension| extension == "wasm")).unwrap();
    fs::write(&component, plugins::version(3)).unwrap();
    server.restart();
    server.logged(&["not served", &reference, "cannot be reached"]);
}

#[tokio::test]
async fn a_registry_that_is_down_holds_up_nothing_else() {
    let Some(mut registry) = Registry::start() else { return };
    let (cache, folder) = (scratch::dir("cache-"), plugins::hostile_folder());
    let reference = registry.push("hostile:1", Push::component(plugins::version(1))).await;
    registry.stop();
    let config = format!("plugins = [\"{reference}\", \"{}\"]", folder.path().display());
    let server = Server::start(options(&config, &cache));
    server.logged(&["not served", &reference, "cannot be reached", "retrying"]);
    let response = server.client().post(json!({"model": "hostile", "input": "say fine"})).await.response();
    assert_eq!(response["output"][0]["content"][0]["text"], "fine");
}

#[tokio::test]
async fn a_registry_that_says_nothing_is_not_waited_for() {
    // Connections are taken by the system, and nobody answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let reference = format!("oci://{}/hostile:1@sha256:{}", silent.local_addr().unwrap(), "0".repeat(64));
    let cache = scratch::dir("cache-");
    let config = format!("plugins = [\"{reference}\"]\n[limits]\nplugin_fetch_timeout = \"1s\"");
    let server = Server::start(options(&config, &cache));
    server.logged(&["not served", &reference, "limits.plugin_fetch_timeout"]);
    assert_eq!(server.client().models().await, ["chat", "echo"]);
}

#[tokio::test]
async fn what_is_not_the_pinned_component_is_not_served() {
    let Some(registry) = Registry::start() else { return };
    let wasm = plugins::version(1);
    let reference = registry.push("hostile:1", Push::component(wasm.clone())).await;
    let (tagged, digest) = reference.split_once("@sha256:").unwrap();
    let wrong = format!("{tagged}@sha256:{}", "0".repeat(64));
    let two = Push { layers: vec![wasm.clone(), b"more".to_vec()], ..Push::component(Vec::new()) };
    let two = registry.push("two:1", two).await;
    let image = Push { media_type: "application/vnd.oci.image.layer.v1.tar+gzip", ..Push::component(wasm.clone()) };
    let image = registry.push("image:1", image).await;
    let large = registry.push("large:1", Push::component(vec![0; 4 << 20])).await;
    let text = registry.push("text:1", Push::component(b"a text".to_vec())).await;
    let cache = scratch::dir("cache-");
    let all = [&wrong, &two, &image, &large, &text].map(|reference| format!("\"{reference}\"")).join(", ");
    let server = Server::start(options(&format!("plugins = [{all}]\n[limits]\nplugin_bytes = \"2MiB\""), &cache));
    assert_eq!(server.client().models().await, ["chat", "echo"]);
    server.logged(&["not served", &wrong, "does not have it"]);
    server.logged(&["not served", &two, "2 layers"]);
    server.logged(&["not served", &image, "tar+gzip", "wkg oci push"]);
    server.logged(&["not served", &large, "4194304 bytes", "limits.plugin_bytes"]);
    server.logged(&["refused", "text@sha256-", "it is not WebAssembly"]);
    assert_eq!(digest.len(), 64);

    for (reference, words) in [(tagged, "has no digest"), ("oci://hostile", "names no registry")] {
        let (status, stderr) = Server::refused(with(reference, &cache));
        assert!(!status.success() && stderr.contains("plugins") && stderr.contains(words), "{stderr}");
    }
}

#[tokio::test]
async fn a_signature_travels_with_the_manifest() {
    let Some(registry) = Registry::start() else { return };
    let dir = scratch::dir("keys-");
    let (key, file) = (dir.path().join("key.pem"), dir.path().join("hostile.wasm"));
    fs::write(&file, plugins::version(1)).unwrap();
    let plugin = |arguments: &[&Path]| Command::new(BINARY).arg("plugin").args(arguments).output().unwrap();
    let made = String::from_utf8(plugin(&[Path::new("keygen"), &key]).stdout).unwrap();
    let (_, trusted) = made.split_once("\n\n").unwrap();
    assert!(plugin(&[Path::new("sign"), &file, Path::new("--key"), &key]).status.success());
    let signature = fs::read_to_string(dir.path().join("hostile.wasm.sig")).unwrap();

    let component = Push::component(plugins::version(1));
    let unsigned = registry.push("hostile:unsigned", component.clone()).await;
    let annotations = [("outlast.signature".to_owned(), signature.trim().to_owned())].into();
    let signed = registry.push("hostile:signed", Push { annotations, ..component }).await;
    let cache = scratch::dir("cache-");
    let server = Server::start(options(&format!("{trusted}\nplugins = [\"{unsigned}\"]"), &cache));
    server.logged(&["refused", "no signature"]);
    let server = Server::start(options(&format!("{trusted}\nplugins = [\"{signed}\"]"), &cache));
    serves(&server, 1).await;
}

#[tokio::test]
async fn a_registry_that_asks_is_told_what_docker_login_has_stored() {
    let Some(registry) = Registry::asking() else { return };
    let reference = registry.push("hostile:1", Push::component(plugins::version(1))).await;
    let (cache, docker) = (scratch::dir("cache-"), scratch::dir("docker-"));
    let login = |password: &str| {
        let auth = STANDARD.encode(format!("{}:{password}", USER.0));
        let config = json!({"auths": {registry.address(): {"auth": auth}}});
        fs::write(docker.path().join("config.json"), config.to_string()).unwrap();
    };
    let folder = docker.path().to_str().unwrap();
    let server = Server::start(with(&reference, &cache).env("DOCKER_CONFIG", folder));
    server.logged(&["not served", "docker login"]);
    login("not-the-password");
    let server = Server::start(with(&reference, &cache).env("DOCKER_CONFIG", folder));
    let line = server.logged(&["not served", "docker login"]);
    assert!(!line.contains("not-the-password"), "{line}");
    login(USER.1);
    let server = Server::start(with(&reference, &cache).env("DOCKER_CONFIG", folder));
    serves(&server, 1).await;
    assert!(!server.stderr().contains(USER.1), "{}", server.stderr());
}

#[tokio::test]
async fn a_reference_is_added_to_the_folder() {
    let Some(registry) = Registry::start() else { return };
    let reference = registry.push("team/hostile:1", Push::component(plugins::version(1))).await;
    let (tagged, _) = reference.split_once('@').unwrap();
    let folder = scratch::dir("plugins-");
    let add = |arguments: &[&str]| {
        let folder = folder.path().to_str().unwrap();
        cli::outlast([&["plugin", "add", "--plugins", folder], arguments].concat())
    };
    let shown = add(&[tagged, "--dry-run"]).ok();
    assert!(shown.contains(&format!("plugins = [\"{reference}\"]")), "{shown}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    let shown = cli::outlast(["plugin", "inspect", &reference]).ok();
    assert!(shown.contains("hostile 0.1.0"), "{shown}");
    let shown = add(&[tagged]).ok();
    assert!(shown.contains("added    hostile 0.1.0") && shown.contains(&reference), "{shown}");
    assert_eq!(fs::read(folder.path().join("hostile.wasm")).unwrap(), plugins::version(1));

    let wrong = format!("{tagged}@sha256:{}", "0".repeat(64));
    let error = add(&[&wrong]).failed();
    assert!(error.contains(&wrong) && error.contains("does not have it"), "{error}");
    let error = add(&["oci://127.0.0.1:1/hostile:1"]).failed();
    assert!(error.contains("cannot be reached"), "{error}");
}
