//! Tools that agents call: what the operator grants and nothing else, apart from the agent, and once, also when the
//! server is killed.

use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{
    database::{Database, both_databases},
    events::{self, Event, text},
    fold::fold,
    metrics::{eventually, metrics},
    plugins, process,
    server::{Options, Server},
    wait,
    web::Web,
};

both_databases!(
    an_answer_is_not_asked_for_twice,
    a_call_that_may_be_repeated_is_made_again_with_its_keys,
    a_call_of_unknown_effect_is_interrupted,
    no_effect_comes_before_the_journal,
    a_cancel_ends_a_call,
    a_drain_leaves_a_call_to_the_next_start,
    what_came_first_comes_first_again,
);

/// A server with the agent `hostile` and the tools `toolbox` and `units`, of which it is granted what `tools` says.
fn server(options: Options, tools: &str) -> (Server, TempDir) {
    let folder = plugins::hostile_folder();
    for package in ["toolbox", "units"] {
        plugins::add(folder.path(), package);
    }
    let options = options.plugins(folder.path()).config(&format!("[agents.hostile]\ntools = {tools}"));
    (Server::start(options), folder)
}

/// One that grants everything, whose `toolbox` may reach a web server.
fn reaching(database: Database, web: &Web) -> (Server, TempDir) {
    let grant = format!("[tools.toolbox.http]\nhosts = [\"{}\"]\nprivate = true", web.address());
    server(Options::new(database).config(&grant), "[\"*\"]")
}

fn any(config: &str) -> (Server, TempDir) {
    server(Options::new(Database::Sqlite).config(config), "[\"*\"]")
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

/// What a tool answers.
async fn answer(server: &Server, name: &str, arguments: Value) -> String {
    let outcome = outcome(server, name, arguments).await;
    outcome["answer"].as_str().unwrap_or_else(|| panic!("{outcome}")).to_owned()
}

/// The failure that comes of a call: its kind, code and message.
async fn failure(server: &Server, name: &str, arguments: Value) -> (String, String, String) {
    let outcome = outcome(server, name, arguments).await;
    let word = |key: &str| outcome[key].as_str().unwrap_or_else(|| panic!("{outcome}")).to_owned();
    (word("kind"), word("code"), word("message"))
}

async fn seen(web: &Web, path: &str, times: usize) {
    wait::eventually(format!("{times} requests for {path}"), async || (web.count(path) == times).then_some(())).await;
}

/// Begins a run, and kills and restarts the server once the web server has seen a request for `path`. Gives the events to
/// the end of the run.
async fn killed_at(server: &mut Server, web: &Web, path: &str, behaviour: &str) -> Vec<Event> {
    let mut stream = server.client().stream(request(behaviour)).await;
    let id = events::response_id(&stream.until(|event| event.number == 1).await);
    seen(web, path, 1).await;
    server.kill9();
    web.release();
    server.restart();
    server.client().get_stream(&id, None).await.rest().await
}

fn ended(outcome: &str) -> String {
    format!("outlast_tool_calls_ended_total{{tool=\"toolbox\",outcome=\"{outcome}\"}}")
}

async fn an_answer_is_not_asked_for_twice(database: Database) {
    let web = Web::start().await;
    let (mut server, _folder) = reaching(database, &web);
    let hold = format!("tool-hold 1500 toolbox__post {}", json!({"url": web.url("/orders")}));
    let mut stream = server.client().stream(request(&hold)).await;
    let before = stream.until(|event| event.kind == "response.output_item.done").await;
    let id = events::response_id(&before);
    for _ in 0..2 {
        server.restart();
    }
    let all = server.client().get_stream(&id, None).await.rest().await;
    assert_eq!(all[..before.len()], before);
    assert_eq!(text(&all), r#"{"answer":"hello"}done"#);
    let requests = web.requests();
    assert_eq!(requests.len(), 1);
    let key = &requests[0].headers["idempotency-key"];
    assert!(key.len() == 32 && !key.contains(&id), "{requests:?}");
}

async fn a_call_that_may_be_repeated_is_made_again_with_its_keys(database: Database) {
    let web = Web::start().await;
    let (mut server, _folder) = reaching(database, &web);
    let call = format!("tool toolbox__repost {}", json!({"url": web.url("/stall")}));
    let events = killed_at(&mut server, &web, "/stall", &call).await;
    assert_eq!(text(&events), r#"{"answer":"released"}"#);
    let requests = web.requests();
    let [one, two] = &requests[..] else { panic!("{requests:?}") };
    assert_eq!(one, two);
    let key = &one.headers["idempotency-key"];
    assert!(key.len() == 32 && !key.contains(&events::response_id(&events)), "{key}");
}

async fn a_call_of_unknown_effect_is_interrupted(database: Database) {
    let web = Web::start().await;
    let (mut server, _folder) = reaching(database, &web);
    let call = format!("tool toolbox__post {}", json!({"url": web.url("/stall")}));
    let events = killed_at(&mut server, &web, "/stall", &call).await;
    let failure: Value = serde_json::from_str(&text(&events)).unwrap();
    assert_eq!((&failure["kind"], &failure["code"]), (&json!("interrupted"), &json!("interrupted")));
    assert_eq!(fold(&events)["status"], "completed", "the component decides");
    assert_eq!(web.requests().len(), 1);
    assert_eq!(metrics(&server.client()).await.value(&ended("interrupted")), 1.0);
}

async fn no_effect_comes_before_the_journal(database: Database) {
    let web = Web::start().await;
    let (server, _folder) = reaching(database, &web);
    let call = format!("tool toolbox__post {}", json!({"url": web.url("/stall")}));
    let mut stream = server.client().stream(request(&call)).await;
    let id = events::response_id(&stream.until(|event| event.number == 1).await);
    seen(&web, "/stall", 1).await;
    assert_eq!(server.entries(&id).await, ["tools.call"]);
    web.release();
    stream.rest().await;
}

async fn a_cancel_ends_a_call(database: Database) {
    let web = Web::start().await;
    let (server, _folder) = reaching(database, &web);
    for (tool, arguments) in [("get", json!({"url": web.url("/stall")})), ("spin", json!({})), ("sleep", json!({}))] {
        let mut stream = server.client().stream(request(&format!("tool toolbox__{tool} {arguments}"))).await;
        let id = events::response_id(&stream.until(|event| event.number == 1).await);
        let live = "outlast_tool_calls_live{tool=\"toolbox\"}";
        eventually(&server.client(), live, |calls| calls == 1.0).await;
        assert_eq!(server.client().cancel(&id).await.response()["status"], "cancelled");
        eventually(&server.client(), live, |calls| calls == 0.0).await;
    }
    assert_eq!(metrics(&server.client()).await.value(&ended("cancelled")), 3.0);
}

async fn a_drain_leaves_a_call_to_the_next_start(database: Database) {
    let web = Web::start().await;
    let (mut server, _folder) = {
        let grant = format!("[tools.toolbox.http]\nhosts = [\"{}\"]\nprivate = true", web.address());
        server(Options::new(database).config("drain_timeout = \"50ms\"").config(&grant), "[\"*\"]")
    };
    let call = format!("tool toolbox__get {}", json!({"url": web.url("/stall")}));
    let mut stream = server.client().stream(request(&call)).await;
    let id = events::response_id(&stream.until(|event| event.number == 1).await);
    seen(&web, "/stall", 1).await;
    server.terminate();
    assert!(server.ended().await.success());
    web.release();
    server.restart();
    let all = server.client().get_stream(&id, None).await.rest().await;
    assert_eq!(text(&all), r#"{"answer":"released"}"#);
    assert_eq!(web.count("/stall"), 2);
}

async fn what_came_first_comes_first_again(database: Database) {
    let web = Web::start().await;
    let (mut server, _folder) = reaching(database, &web);
    let to = |path: &str| json!(["toolbox__get", {"url": web.url(path)}]);
    let race =
        format!("tool-race {}", json!([to("/stall"), ["units__convert", {"value": 1, "from": "in", "to": "cm"}]]));
    let mut stream = server.client().stream(request(&race)).await;
    let mut before = stream.until_delta(1).await;
    let id = events::response_id(&before);
    seen(&web, "/stall", 1).await;
    server.kill9();
    before.extend(stream.rest_or_cut().await);
    web.release();
    // Now nothing is slow any more.
    server.restart();
    let events = server.client().get_stream(&id, None).await.rest().await;
    assert_eq!(events[..before.len()], before);
    let places: Vec<_> = text(&events).lines().map(|line| line[..1].to_owned()).collect();
    assert_eq!(places, ["1", "0"]);
}

#[tokio::test]
async fn units_are_converted() {
    let (server, _folder) = any("[tools.units.config.units]\nsmoot = \"1.7018 m\"");
    let convert = |from: &str, to: &str| json!({"value": 2, "from": from, "to": to});
    let converted: Value = serde_json::from_str(&answer(&server, "units__convert", convert("mi", "km")).await).unwrap();
    assert_eq!(converted, json!({"value": 3.218688, "unit": "km"}));
    let converted: Value =
        serde_json::from_str(&answer(&server, "units__convert", convert("smoot", "m")).await).unwrap();
    assert_eq!(converted["value"], 3.4036);
    let (kind, code, message) = failure(&server, "units__convert", convert("mi", "kg")).await;
    assert_eq!((&*kind, &*code), ("invalid", "different_quantities"));
    assert_eq!(message, "mi is a unit of length, and kg one of mass");
    server.logged(&["INFO", "units.wasm", "serves", "units__convert"]);
}

#[tokio::test]
async fn only_what_is_granted_is_there() {
    let (mut server, folder) = server(Options::new(Database::Sqlite), "[\"units__*\", \"toolbox__say\"]");
    assert_eq!(said(&server, "tools").await, r#"["toolbox__say","units__convert","units__like"]"#);
    let (kind, code, message) = failure(&server, "toolbox__seen", json!({})).await;
    assert_eq!((&*kind, &*code), ("denied", "tool_not_granted"));
    let line = "`tools = [\"toolbox__seen\"]` in the section `[agents.hostile]`";
    assert!(message.contains(line), "{message}");
    server.logged(&["WARN", "hostile", line]);
    // Whether it is there is nobody's business.
    let (_, code, _) = failure(&server, "nowhere__seen", json!({})).await;
    assert_eq!(code, "tool_not_granted");
    assert_eq!(failure(&server, "units__nothing", json!({})).await.1, "unknown_tool");
    let denied = "outlast_agent_tool_calls_denied_total{agent=\"hostile\"}";
    assert_eq!(metrics(&server.client()).await.value(denied), 2.0);

    server.restart_with(Options::new(Database::Sqlite).plugins(folder.path()));
    assert_eq!(said(&server, "tools").await, "[]");
    assert_eq!(failure(&server, "units__convert", json!({})).await.1, "tool_not_granted");
}

#[tokio::test]
async fn several_calls_run_at_once() {
    let web = Web::start().await;
    let (server, _folder) = reaching(Database::Sqlite, &web);
    let to = |path: &str| json!(["toolbox__get", {"url": web.url(path)}]);
    let calls = json!([to("/stall"), to("/stall2"), ["toolbox__say", {"text": "quick"}]]);
    let mut stream = server.client().stream(request(&format!("tool-race {calls}"))).await;
    let mut events = stream.until_delta(1).await;
    for path in ["/stall", "/stall2"] {
        seen(&web, path, 1).await;
    }
    web.release();
    events.extend(stream.rest().await);
    let said = text(&events);
    assert!(said.starts_with("2 {\"answer\":\"quick\"}\n"), "{said}");
    assert_eq!(said.matches("released").count(), 2, "{said}");
    // Inside a tool too.
    let urls = json!({"urls": [web.url("/say/a"), web.url("/say/b")]});
    assert_eq!(answer(&server, "toolbox__race", urls).await, r#"["a","b"]"#);
}

#[tokio::test]
async fn a_tool_that_crashes_fails_its_call() {
    let (server, _folder) = any("");
    let (kind, code, message) = failure(&server, "toolbox__panic", json!({})).await;
    assert_eq!((&*kind, &*code), ("unavailable", "tool_crashed"));
    assert_eq!(message, "The tool `toolbox__panic` crashed.");
    // Message and place are for the operator, and so is what it wrote.
    let line = server.logged(&["WARN", "toolbox__panic", "tool logic blew up: n=2"]);
    assert!(line.contains(".rs:"), "{line}");
    server.logged(&["toolbox stderr", "something is about to happen"]);
    let (_, code, message) = failure(&server, "toolbox__exit", json!({})).await;
    assert_eq!((&*code, &*message), ("tool_crashed", "The tool `toolbox__exit` exited before it finished."));
    assert_eq!(answer(&server, "toolbox__say", json!({"text": "fine"})).await, "fine");
    let metrics = metrics(&server.client()).await;
    assert_eq!((metrics.value(&ended("crashed")), metrics.value(&ended("answered"))), (2.0, 1.0));
}

#[tokio::test]
async fn a_tool_has_limits_of_its_own() {
    let config = "[limits]\ntool_result_bytes = 1000\ntool_argument_bytes = 2000\ntool_calls = 3\n\
                  [tools.toolbox]\nmemory = \"16MiB\"\ntimeout = \"300ms\"";
    let (server, _folder) = any(config);
    let before = process::rss(server.id());
    let (kind, code, message) = failure(&server, "toolbox__grow", json!({"mib": 32})).await;
    assert_eq!((&*kind, &*code), ("unavailable", "tool_crashed"));
    assert!(message.contains("limit 16 MiB"), "{message}");
    assert!(process::rss(server.id()) < before + (64 << 10));
    for tool in ["toolbox__spin", "toolbox__sleep"] {
        let (kind, code, message) = failure(&server, tool, json!({})).await;
        assert_eq!((&*kind, &*code), ("timeout", "timeout"));
        assert!(message.contains("longer than 0.3 seconds (`timeout` in `[tools.toolbox]`)"), "{message}");
        server.logged(&["WARN", tool, "longer than"]);
    }
    let (kind, _, message) = failure(&server, "toolbox__big", json!({"bytes": 1001})).await;
    assert!(kind == "limit" && message.contains("limits.tool_result_bytes"), "{message}");
    assert_eq!(answer(&server, "toolbox__big", json!({"bytes": 1000})).await.len(), 1_000);
    let large: Value = serde_json::from_str(&said(&server, "tool-large 2000 toolbox__say").await).unwrap();
    assert!(large["message"].as_str().unwrap().contains("limits.tool_argument_bytes"), "{large}");
    let flooded = said(&server, "tool-flood 10 toolbox__sleep {}").await;
    assert!(flooded.starts_with("3 ") && flooded.contains("limits.tool_calls"), "{flooded}");
    eventually(&server.client(), "outlast_tool_calls_live{tool=\"toolbox\"}", |calls| calls == 0.0).await;
}

#[tokio::test]
async fn what_is_no_call_is_refused() {
    let (server, _folder) = any("");
    for arguments in ["[]", "{", "7", "{\"text\": }"] {
        let outcome: Value =
            serde_json::from_str(&said(&server, &format!("tool toolbox__say {arguments}")).await).unwrap();
        assert_eq!(outcome["code"], "invalid_arguments", "{arguments}: {outcome}");
    }
    let (kind, code, _) = failure(&server, "toolbox__say", json!({"words": "x"})).await;
    assert_eq!((&*kind, &*code), ("invalid", "invalid_arguments"));
    for kind in ["cancelled", "interrupted"] {
        assert_eq!(failure(&server, "toolbox__fail", json!({"kind": kind})).await.0, "other", "these are the host's");
    }
    assert_eq!(failure(&server, "toolbox__fail", json!({"kind": "rate-limited"})).await.0, "rate-limited");
    let misused = said(&server, "tool-misuse toolbox__say {\"text\": \"x\"}").await;
    assert!(misused.contains("already_taken") && misused.ends_with("\n[0, 1]"), "{misused}");
}

#[tokio::test]
async fn a_tool_knows_nothing_but_its_configuration() {
    let (server, _folder) = any("[tools.toolbox.config]\nhouse = \"rules\"");
    for _ in 0..2 {
        let seen: Value = serde_json::from_str(&answer(&server, "toolbox__seen", json!({})).await).unwrap();
        assert_eq!(seen, json!({"config": {"house": "rules"}, "calls": 1, "variables": 0}));
    }
}

#[tokio::test]
async fn what_a_tool_writes_is_in_the_log_of_the_run() {
    let (server, _folder) = any("");
    answer(&server, "toolbox__log", json!({})).await;
    let lines = ["log", "stdout", "stderr"].map(|source| {
        let (source, words) = match source {
            "log" => ("source=\"toolbox\"".to_owned(), "a line of the log".to_owned()),
            other => {
                let long = if other == "stdout" { "output" } else { "error" };
                (format!("source=\"toolbox {other}\""), format!("a line of standard {long}"))
            }
        };
        server.logged(&[&source, &words])
    });
    assert!(lines.iter().all(|line| line.contains("hostile") && line.contains("resp_")), "{lines:?}");
}

#[tokio::test]
async fn a_tool_reaches_what_it_is_granted_itself() {
    let web = Web::start().await;
    let token = "t0p-s3cret-t0ken";
    let grant = format!(
        "[tools.toolbox.http]\nhosts = [\"{0}\"]\nprivate = true\nmethods = [\"GET\"]\n\
         [tools.toolbox.http.secrets.\"http://{0}\"]\nauthorization = \"Bearer ${{TOKEN}}\"",
        web.address()
    );
    let (server, _folder) = server(Options::new(Database::Sqlite).env("TOKEN", token).config(&grant), "[\"*\"]");
    let told = answer(&server, "toolbox__get", json!({"url": web.url("/echo")})).await;
    assert!(told.contains("Bearer [secret]"), "{told}");
    assert_eq!(web.requests().pop().unwrap().headers["authorization"], format!("Bearer {token}"));
    let (kind, code, message) = failure(&server, "toolbox__post", json!({"url": web.url("/")})).await;
    assert_eq!((&*kind, &*code), ("denied", "method_not_granted"));
    assert!(message.contains("the tool component `toolbox`"), "{message}");
    assert!(message.contains("`methods = [\"POST\"]` in the section `[tools.toolbox.http]`"), "{message}");
    // What the tool may is not the agent's.
    let own: Value =
        serde_json::from_str(&said(&server, &format!("http {}", json!({"url": web.url("/")}))).await).unwrap();
    assert_eq!(own["code"], "host_not_granted");
    assert!(!server.log().contains(token));
}

#[tokio::test]
async fn a_tool_is_followed_like_every_plugin() {
    let (server, folder) = any("");
    assert!(said(&server, "tools").await.contains("units__convert"));
    std::fs::remove_file(folder.path().join("units.wasm")).unwrap();
    server.logged(&["units.wasm", "no new calls"]);
    assert!(!said(&server, "tools").await.contains("units__convert"));
    assert_eq!(failure(&server, "units__convert", json!({})).await.1, "unknown_tool");
    plugins::add(folder.path(), "units");
    server.hang_up();
    wait::eventually("it serves again", async || said(&server, "tools").await.contains("units__convert").then_some(()))
        .await;
}

#[tokio::test]
async fn a_tool_that_does_not_fit_is_refused() {
    let folder = plugins::hostile_folder();
    plugins::add(folder.path(), "units");
    std::fs::copy(folder.path().join("units.wasm"), folder.path().join("second.wasm")).unwrap();
    let agents = r#"(component
        (import "outlast:agent/respond@0.1.0" (instance (export "new-thing" (func))))
        (core module $m (func (export "f")))
        (core instance $i (instantiate $m))
        (func $f (canon lift (core func $i "f")))
        (export "describe" (func $f)) (export "call" (func $f)))"#;
    std::fs::write(folder.path().join("agents.wasm"), wat::parse_str(agents).unwrap()).unwrap();
    let config = format!("[tools.toolbox]\nsha256 = \"{}\"", "ab".repeat(32));
    plugins::add(folder.path(), "toolbox");
    let server = Server::start(Options::new(Database::Sqlite).plugins(folder.path()).config(&config));
    server.logged(&["units.wasm", "refused", "a tool component named `units` already exists"]);
    server.logged(&["agents.wasm", "refused", "outlast:agent/respond@0.1.0", "which tool components do not have"]);
    server.logged(&["toolbox.wasm", "refused", "`tools.toolbox.sha256`"]);
    assert_eq!(server.client().models().await, ["chat", "echo", "hostile"]);
}

#[tokio::test]
async fn a_configuration_that_is_wrong_is_refused_at_the_start() {
    for (config, expected) in [
        ("[agents.hostile]\ntools = [\"units.convert\"]", "`units.convert` is not a pattern of tools"),
        ("[tools.units]\ntimeout = \"soon\"", "tools.units.timeout"),
        ("[tools.units.http]\nmethods = [\"get\"]", "tools.units.http.methods: `get` is not a method"),
        ("[limits]\ntool_calls = 0", "limits.tool_calls: 0 must be 1 to 1000000"),
    ] {
        let (status, error) = Server::refused(Options::new(Database::Sqlite).config(config));
        assert!(!status.success());
        assert!(error.contains(expected), "{config}: {error}");
    }
}

#[tokio::test]
async fn a_run_that_is_not_kept_calls_tools_too() {
    let (server, _folder) = any("");
    let mut run = request("tool toolbox__say {\"text\": \"hello\"}");
    run["store"] = json!(false);
    let events = server.client().stream(run).await.rest().await;
    assert_eq!(text(&events), r#"{"answer":"hello"}"#);
}

#[tokio::test]
async fn a_busy_tool_does_not_keep_others_waiting() {
    let (server, _folder) = any("");
    let client = server.client();
    let mut spinning = client.stream(request("tool toolbox__spin {}")).await;
    spinning.until(|event| event.number == 1).await;
    let quick =
        wait::within(Duration::from_secs(30), "another call", answer(&server, "toolbox__say", json!({"text": "x"})));
    assert_eq!(quick.await, "x");
}
