//! MCP servers, whose tools agents call: children of the server, and others over streamable HTTP.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{
    database::{Database, both_databases},
    events::{self, text},
    fold::fold,
    mcp::{Mcp, TOKEN},
    metrics::{eventually, metrics},
    plugins,
    server::{Options, Server},
    wait,
};

both_databases!(a_call_is_made_once_through_a_kill, a_call_that_may_be_repeated_is_made_again);

/// A server with the agent `hostile`, which is granted all tools, and this configuration.
fn server(options: Options, config: &str) -> (Server, TempDir) {
    let folder = plugins::hostile_folder();
    let options = options.plugins(folder.path()).config("[agents.hostile]\ntools = [\"*\"]").config(config);
    (Server::start(options), folder)
}

/// One with this MCP server as its child.
fn child(mcp: &Mcp) -> (Server, TempDir) {
    server(Options::new(Database::Sqlite), &mcp.command("hub", ""))
}

fn request(behaviour: &str) -> Value {
    json!({"model": "hostile", "input": behaviour})
}

async fn said(server: &Server, behaviour: &str) -> String {
    let events = server.client().stream(request(behaviour)).await.rest().await;
    assert_eq!(fold(&events)["status"], "completed", "{:?}", fold(&events));
    text(&events)
}

/// What comes of a call.
async fn outcome(server: &Server, name: &str, arguments: Value) -> Value {
    serde_json::from_str(&said(server, &format!("tool {name} {arguments}")).await).unwrap()
}

async fn names(server: &Server) -> Vec<String> {
    serde_json::from_str(&said(server, "tools").await).unwrap()
}

/// Waits until the MCP server has had a call of this tool.
async fn called(mcp: &Mcp, tool: &str, times: usize) {
    let beginning = format!("{tool} ");
    wait::eventually(format!("{times} calls of {tool}"), async || {
        (mcp.calls().iter().filter(|call| call.starts_with(&beginning)).count() == times).then_some(())
    })
    .await;
}

async fn a_call_is_made_once_through_a_kill(database: Database) {
    let mcp = Mcp::child();
    let (mut server, _folder) = server(Options::new(database), &mcp.command("hub", ""));
    let mut stream = server.client().stream(request("tool hub__wait {}")).await;
    let id = events::response_id(&stream.until(|event| event.number == 1).await);
    called(&mcp, "wait", 1).await;
    let pid = mcp.pid();
    server.kill9();
    Mcp::gone(pid);
    mcp.release();
    server.restart();
    let events = server.client().get_stream(&id, None).await.rest().await;
    assert!(text(&events).contains(r#""kind":"interrupted""#), "{}", text(&events));
    assert_eq!(fold(&events)["status"], "completed");
    assert_eq!(mcp.calls().len(), 1, "{:?}", mcp.calls());
}

async fn a_call_that_may_be_repeated_is_made_again(database: Database) {
    let mcp = Mcp::child();
    let (mut server, _folder) = server(Options::new(database), &mcp.command("hub", ""));
    // The other one was answered.
    let race = json!([["hub__echo", {"text": "a"}], ["hub__wait_again", {}]]);
    let mut stream = server.client().stream(request(&format!("tool-race {race}"))).await;
    let id = events::response_id(&stream.until_delta(1).await);
    called(&mcp, "wait_again", 1).await;
    server.kill9();
    mcp.release();
    server.restart();
    let events = server.client().get_stream(&id, None).await.rest().await;
    assert_eq!(text(&events), "0 {\"answer\":\"a\"}\n1 {\"answer\":\"released\"}\n");
    let mut calls = mcp.calls();
    assert!(calls.iter().all(|call| call.split_once(' ').unwrap().1.len() == 32 && !call.contains(&id)), "{calls:?}");
    calls.sort();
    let (echo, waits) = calls.split_first().unwrap();
    assert!(echo.starts_with("echo ") && waits.len() == 2 && waits[0] == waits[1], "{calls:?}");
}

#[tokio::test]
async fn the_tools_of_a_child_are_tools() {
    let mcp = Mcp::child();
    let (server, _folder) = child(&mcp);
    let names = names(&server).await;
    assert_eq!(names.len(), 12);
    assert!(names.contains(&"hub__echo".to_owned()) && names.contains(&"hub__odd_name".to_owned()), "{names:?}");
    assert_eq!(outcome(&server, "hub__echo", json!({"text": "hello"})).await, json!({"answer": "hello"}));
    assert_eq!(outcome(&server, "hub__odd_name", json!({"text": "odd"})).await["answer"], "odd");
    let picture = outcome(&server, "hub__picture", json!({})).await;
    assert_eq!(picture["answer"], "look:\n[an image of type image/png, which is not shown]");
    let failed = outcome(&server, "hub__fail", json!({})).await;
    assert_eq!((&failed["code"], &failed["message"]), (&json!("tool_error"), &json!("it was told to fail")));
    let refused = outcome(&server, "hub__refuse", json!({})).await;
    assert_eq!((&refused["kind"], &refused["message"]), (&json!("invalid"), &json!("these arguments are none")));
    assert_eq!(outcome(&server, "hub__nothing", json!({})).await["code"], "unknown_tool");
    assert!(server.stdout().contains("hub (MCP)"), "{}", server.stdout());
    let metrics = metrics(&server.client()).await;
    let ended =
        |outcome: &str| metrics.value(&format!("outlast_tool_calls_ended_total{{tool=\"hub\",outcome=\"{outcome}\"}}"));
    assert_eq!((ended("answered"), ended("failed")), (3.0, 2.0));
    assert_eq!(metrics.value("outlast_mcp_server_up{server=\"hub\"}"), 1.0);
}

#[tokio::test]
async fn only_what_is_granted_is_called() {
    let mcp = Mcp::child();
    let folder = plugins::hostile_folder();
    let config = format!("[agents.hostile]\ntools = [\"hub__echo\"]\n{}", mcp.command("hub", ""));
    let server = Server::start(Options::new(Database::Sqlite).plugins(folder.path()).config(&config));
    assert_eq!(names(&server).await, ["hub__echo"]);
    let denied = outcome(&server, "hub__die", json!({})).await;
    assert_eq!(denied["code"], "tool_not_granted");
    assert_eq!(mcp.calls(), Vec::<String>::new());
}

#[tokio::test]
async fn a_child_that_dies_is_started_again() {
    let mcp = Mcp::child();
    let (server, _folder) = child(&mcp);
    assert_eq!(outcome(&server, "hub__echo", json!({"text": "a"})).await["answer"], "a");
    let first = mcp.pid();
    let died = outcome(&server, "hub__die", json!({})).await;
    assert_eq!((&died["kind"], &died["code"]), (&json!("unavailable"), &json!("server_unavailable")));
    // The next call does not wait for the end of the pause.
    assert_eq!(outcome(&server, "hub__echo", json!({"text": "b"})).await["answer"], "b");
    assert_ne!(mcp.pid(), first);
    server.logged(&["WARN", "hub", "retrying in 1s"]);
}

#[tokio::test]
async fn a_child_ends_with_the_server() {
    let mcp = Mcp::child();
    let (mut server, _folder) = child(&mcp);
    names(&server).await;
    let pid = mcp.pid();
    server.terminate();
    assert!(server.ended().await.success());
    assert!(Mcp::is_gone(pid), "the server waits for its child");
}

#[tokio::test]
async fn a_server_that_is_not_there_keeps_nobody_from_starting() {
    let mut mcp = Mcp::http();
    let config = format!("{}\n[mcp.gone]\ncommand = [\"/nowhere/at-all\"]", mcp.url("net"));
    mcp.kill();
    let (server, _folder) = server(Options::new(Database::Sqlite).env("MCP_TOKEN", TOKEN), &config);
    server.logged(&["WARN", "net", "not connected"]);
    server.logged(&["WARN", "gone", "`/nowhere/at-all` cannot be started"]);
    let failed = outcome(&server, "net__echo", json!({"text": "a"})).await;
    assert_eq!((&failed["kind"], &failed["code"]), (&json!("unavailable"), &json!("server_unavailable")));
    assert_eq!(names(&server).await, Vec::<String>::new());
    let up = "outlast_mcp_server_up{server=\"net\"}";
    assert_eq!(metrics(&server.client()).await.value(up), 0.0);
    mcp.start();
    assert_eq!(outcome(&server, "net__echo", json!({"text": "a"})).await["answer"], "a");
    assert_eq!(metrics(&server.client()).await.value(up), 1.0);
}

#[tokio::test]
async fn a_server_over_http_is_called_and_comes_back() {
    let mut mcp = Mcp::http();
    let (server, _folder) = server(Options::new(Database::Sqlite).env("MCP_TOKEN", TOKEN), &mcp.url("net"));
    assert!(names(&server).await.contains(&"net__echo".to_owned()));
    assert_eq!(outcome(&server, "net__echo", json!({"text": "a"})).await["answer"], "a");
    // It does not know its sessions any more.
    mcp.kill();
    mcp.start();
    wait::eventually("it answers again", async || {
        (outcome(&server, "net__echo", json!({"text": "b"})).await["answer"] == "b").then_some(())
    })
    .await;
    // Nobody is there: the call fails, and the tools are still known.
    mcp.kill();
    let failed = outcome(&server, "net__echo", json!({"text": "c"})).await;
    assert_eq!(failed["kind"], "unavailable", "{failed}");
    assert!(names(&server).await.contains(&"net__echo".to_owned()));
    eventually(&server.client(), "outlast_mcp_server_up{server=\"net\"}", |up| up == 0.0).await;
}

#[tokio::test]
async fn what_a_server_offers_may_change() {
    let mcp = Mcp::child();
    let (server, _folder) = child(&mcp);
    assert!(!names(&server).await.contains(&"hub__one_more".to_owned()));
    outcome(&server, "hub__more", json!({})).await;
    wait::eventually("there is one more", async || {
        names(&server).await.contains(&"hub__one_more".to_owned()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_call_has_its_limits() {
    let mcp = Mcp::child();
    let config = format!("[limits]\ntool_result_bytes = 1000\n{}", mcp.command("hub", ""));
    let config = config.replace("[mcp.hub]\n", "[mcp.hub]\ntimeout = \"2s\"\n");
    let (server, _folder) = server(Options::new(Database::Sqlite), &config);
    let big = outcome(&server, "hub__big", json!({"bytes": 1001})).await;
    assert!(big["message"].as_str().unwrap().contains("limits.tool_result_bytes"), "{big}");
    let late = outcome(&server, "hub__wait", json!({})).await;
    assert_eq!(late["kind"], "timeout");
    assert!(late["message"].as_str().unwrap().contains("(`timeout` in `[mcp.hub]`)"), "{late}");
    // The server is told that nobody waits any more.
    wait::eventually("it is cancelled", async || mcp.calls().contains(&"cancelled".to_owned()).then_some(())).await;
}

#[tokio::test]
async fn a_cancelled_run_cancels_its_calls() {
    let mcp = Mcp::child();
    let (server, _folder) = child(&mcp);
    let mut stream = server.client().stream(request("tool hub__wait {}")).await;
    let id = events::response_id(&stream.until(|event| event.number == 1).await);
    called(&mcp, "wait", 1).await;
    assert_eq!(server.client().cancel(&id).await.response()["status"], "cancelled");
    wait::eventually("it is cancelled", async || mcp.calls().contains(&"cancelled".to_owned()).then_some(())).await;
}

#[tokio::test]
async fn secrets_are_the_operators() {
    let (mcp, net) = (Mcp::child(), Mcp::http());
    let config = format!(
        "log = \"trace\"\n{}\n{}",
        mcp.command("hub", "SECRET = \"${MCP_TOKEN}\"\nPLAIN = \"plain words\""),
        net.url("net")
    );
    // What stands at the top of a file stands before its sections.
    let folder = plugins::hostile_folder();
    let config = format!("{config}\n[agents.hostile]\ntools = [\"*\"]");
    let options =
        Options::new(Database::Sqlite).plugins(folder.path()).env("MCP_TOKEN", TOKEN).env("OTHER", "not for it");
    let server = Server::start(options.config(&config));
    let told = outcome(&server, "hub__secret", json!({})).await;
    let told: Value = serde_json::from_str(told["answer"].as_str().unwrap()).unwrap();
    // Only what is listed reaches the child.
    assert_eq!((&told["SECRET"], &told["PLAIN"]), (&json!("[secret]"), &json!("plain words")));
    assert!(told.get("OTHER").is_none() && told.get("HOME").is_none() && told.get("PATH").is_some(), "{told}");
    server.logged(&["INFO", "hub", "my environment:", "[secret]"]);
    assert_eq!(outcome(&server, "net__echo", json!({"text": TOKEN})).await["answer"], "[secret]");
    let log = server.log();
    // It was asked to say it, which is in the arguments of the call.
    let leaked = log.lines().find(|line| line.contains(TOKEN) && !line.contains("echo"));
    assert_eq!(leaked, None);
}

#[tokio::test]
async fn a_configuration_that_is_wrong_is_refused_at_the_start() {
    for (config, expected) in [
        ("[mcp.hub]", "mcp.hub.url or mcp.hub.command must be set"),
        ("[mcp.a__b]\nurl = \"http://a.test\"", "mcp.a__b: a name must be"),
        ("[mcp.hub]\nurl = \"http://a.test\"\nheaders = { x = \"${NOT_SET_ANYWHERE}\" }", "NOT_SET_ANYWHERE"),
        ("[mcp.hub]\ncommand = \"npx\"", "mcp.hub.command"),
    ] {
        let (status, error) = Server::refused(Options::new(Database::Sqlite).config(config));
        assert!(!status.success());
        assert!(error.contains(expected), "{config}: {error}");
    }
}

#[tokio::test]
async fn a_component_does_not_take_the_name_of_a_server() {
    let folder = plugins::hostile_folder();
    plugins::add(folder.path(), "units");
    let config = "[mcp.units]\nurl = \"http://127.0.0.1:1/\"";
    let server = Server::start(Options::new(Database::Sqlite).plugins(folder.path()).config(config));
    server.logged(&["units.wasm", "refused", "there is an MCP server with its name"]);
}
