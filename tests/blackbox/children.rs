//! MCP servers that are children of the server: what they are given of it, and what they may say they offer.

use std::{fs, os::fd::OwnedFd, path::Path};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{
    database::Database,
    events::text,
    mcp::{Mcp, TOKEN},
    plugins, scratch,
    server::{Options, Server},
    wait,
};

/// A server with the agent `hostile`, which is granted all tools, and this configuration.
fn server(options: Options, config: &str) -> (Server, TempDir) {
    let folder = plugins::hostile_folder();
    let options = options.plugins(folder.path()).config("[agents.hostile]\ntools = [\"*\"]").config(config);
    (Server::start(options.env("MCP_TOKEN", TOKEN)), folder)
}

async fn said(server: &Server, behaviour: &str) -> String {
    let request = json!({"model": "hostile", "input": behaviour});
    text(&server.client().stream(request).await.rest().await)
}

async fn outcome(server: &Server, name: &str, arguments: Value) -> Value {
    serde_json::from_str(&said(server, &format!("tool {name} {arguments}")).await).unwrap()
}

async fn names(server: &Server) -> Vec<String> {
    serde_json::from_str(&said(server, "tools").await).unwrap()
}

/// Where the child is, and what it has open.
async fn place(server: &Server) -> Value {
    let answered = outcome(server, "hub__where", json!({})).await;
    serde_json::from_str(answered["answer"].as_str().unwrap_or_else(|| panic!("{answered}"))).unwrap()
}

#[tokio::test]
async fn a_child_is_given_no_descriptors_and_an_empty_folder() {
    let mcp = Mcp::child();
    // What whoever started the server has left open for it.
    let left: OwnedFd = fs::File::open("/etc/hostname").or_else(|_| fs::File::open("/etc/passwd")).unwrap().into();
    let (mut server, _folder) = server(Options::new(Database::Sqlite).inheriting(left), &mcp.command("hub", ""));
    let place = place(&server).await;
    let open: Vec<_> = place["open"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(open, ["0", "1", "2"], "{place}");
    let cwd = Path::new(place["cwd"].as_str().unwrap()).to_owned();
    assert!(cwd != server.dir() && cwd.is_dir() && place["files"] == json!([]), "{place}");
    server.terminate();
    server.wait();
    wait::eventually("its folder is gone", async || (!cwd.exists()).then_some(())).await;
}

#[tokio::test]
async fn a_child_works_in_the_folder_that_it_is_given() {
    let (mcp, own) = (Mcp::child(), scratch::dir("own-"));
    fs::write(own.path().join("a-file"), "").unwrap();
    let at = |cwd: &Path| mcp.command("hub", "").replace("[mcp.hub]\n", &format!("[mcp.hub]\ncwd = {cwd:?}\n"));
    let (server, _folder) = self::server(Options::new(Database::Sqlite), &at(own.path()));
    let place = place(&server).await;
    assert_eq!((&place["cwd"], &place["files"]), (&json!(own.path()), &json!(["a-file"])));
    let (server, _folder) = self::server(Options::new(Database::Sqlite), &at(Path::new("/nowhere")));
    server.logged(&["server=\"hub\"", "/nowhere (mcp.hub.cwd) does not exist"]);
}

/// What the log says that a server offers.
fn told(server: &Server) -> String {
    let line = server.logged(&["server=\"hub\"", "connected", "tools_sha256="]);
    let (_, digest) = line.split_once("tools_sha256=\"").unwrap();
    digest[..64].to_owned()
}

#[tokio::test]
async fn tools_that_are_not_those_that_are_pinned_are_not_offered() {
    let mcp = Mcp::child();
    let pinned = |digest: &str| {
        let pin = format!("[mcp.hub]\ntools_sha256 = \"{digest}\"\n");
        mcp.command("hub", "").replace("[mcp.hub]\n", &pin)
    };
    let (first, _folder) = server(Options::new(Database::Sqlite), &mcp.command("hub", ""));
    let digest = told(&first);
    drop(first);
    let (server, _folder) = self::server(Options::new(Database::Sqlite), &pinned(&digest));
    assert_eq!(told(&server), digest);
    assert_eq!(outcome(&server, "hub__echo", json!({"text": "x"})).await["answer"], "x");
    // It says that it has one more.
    said(&server, "tool hub__more {}").await;
    let line = server.logged(&["server=\"hub\"", "not those that are pinned", "new: `hub__one_more`", "`[mcp.hub]`"]);
    let (_, other) = line.split_once("tools_sha256 = ").unwrap();
    let other: String = other.chars().filter(char::is_ascii_hexdigit).take(64).collect();
    // A child that is begun again is what it was; this one stays another.
    drop(server);
    assert_ne!(other, digest);
    let (server, _folder) = self::server(Options::new(Database::Sqlite), &pinned(&other));
    server.logged(&["server=\"hub\"", "not those that are pinned", "it offers", "`hub__echo`", &digest]);
    assert_eq!(names(&server).await, Vec::<String>::new());
    let refused = outcome(&server, "hub__echo", json!({"text": "x"})).await;
    assert!(refused.to_string().contains("not those that are pinned"), "{refused}");
}
