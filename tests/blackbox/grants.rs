//! What an operator grants an agent, and the limits that it has of its own.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{
    client::Client,
    database::{Database, both_databases},
    events::{self, text},
    fold::fold,
    plugins,
    server::{Options, Server},
    upstream::{self, Upstream, end},
    wait,
};

both_databases!(a_resumed_run_has_the_configuration_that_it_began_with, an_agent_has_a_limit_of_runs_of_its_own);

/// A server with this agent and this configuration.
fn with(options: Options, agent: &str, config: &str) -> (Server, TempDir) {
    let folder = plugins::folder(agent);
    (Server::start(options.plugins(folder.path()).config(config)), folder)
}

fn sqlite() -> Options {
    Options::new(Database::Sqlite)
}

/// What `keeper` says of these steps.
async fn keeper(client: &Client, steps: &str) -> String {
    text(&client.stream(json!({"model": "keeper", "input": steps})).await.rest().await)
}

/// The message of the failure of `hostile`.
async fn failure(server: &Server, behaviour: &str) -> String {
    let events = server.client().stream(json!({"model": "hostile", "input": behaviour})).await.rest().await;
    let response = fold(&events);
    assert_eq!(response["status"], "failed", "{response}");
    response["error"]["message"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_agent_calls_the_models_that_it_is_granted_and_no_other() {
    let answer = |word: &str| vec![upstream::text(word), end("stop")];
    let upstream = Upstream::start([answer("yes"), answer("well")]).await;
    let providers = upstream.providers() + "\nmodels = [\"up-1\", \"up-2\", \"up-3\"]";
    let folder = plugins::folder("keeper");
    let mut server = Server::start(sqlite().plugins(folder.path()).config(&providers));

    let line = "`models = [\"up/up-1\"]` in the section `[agents.keeper]`";
    let said = keeper(&server.client(), "ask up-1; models").await;
    assert!(said.starts_with("denied model_not_granted: ") && said.contains(line), "{said}");
    assert_eq!(said.lines().nth(1), Some(""), "there is none");
    server.logged(&["model", line]);
    assert!(upstream.requests().is_empty());

    let grant = "[agents.keeper]\nmodels = [\"up/up-1\", \"up/up-3*\"]";
    server.restart_with(sqlite().plugins(folder.path()).config(&providers).config(grant));
    let said = keeper(&server.client(), "ask up-1; ask up-2; models").await;
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!((lines[0], lines[2]), ("yes", "up/up-1 up/up-3"));
    assert!(lines[1].contains("`models = [\"up/up-2\"]`"), "{said}");

    // Those that come with the server need none, and can be narrowed.
    let chat = async |server: &Server| {
        let events = server.client().stream(json!({"model": "chat/up-1", "input": "?"})).await.rest().await;
        fold(&events)
    };
    assert_eq!(chat(&server).await["status"], "completed");
    server.restart_with(sqlite().config(&providers).config("[agents.chat]\nmodels = false"));
    let refused = chat(&server).await;
    assert!(refused["error"]["message"].as_str().unwrap().contains("[agents.chat]"), "{refused}");
    assert_eq!(upstream.requests().len(), 2);
}

#[test]
fn a_pattern_of_models_that_is_none_is_named() {
    let (_, stderr) = Server::refused(sqlite().config("[agents.keeper]\nmodels = [\"gpt-4o\"]"));
    assert!(stderr.contains("agents.keeper.models") && stderr.contains("openai/*"), "{stderr}");
}

#[tokio::test]
async fn a_configuration_is_what_its_agent_takes_or_the_agent_does_not_serve() {
    let (server, _folder) =
        with(sqlite(), "keeper", "[agents.keeper.config]\ngreeting = \"Hi\"\nlimits = { max = 10 }");
    assert_eq!(keeper(&server.client(), "config").await.trim(), r#"{"greeting":"Hi","limits":{"max":10}}"#);

    let wrong = "[agents.keeper.config]\ngreeting = \"Hi\"\nlimits = { max = 11 }";
    let (server, _folder) = with(sqlite(), "keeper", wrong);
    server.logged(&["keeper.wasm", "refused", "`agents.keeper.config.limits.max`", "10"]);
    server.client().post(json!({"model": "keeper", "input": "config"})).await.refused(404, "model_not_found");

    let (server, _folder) = with(sqlite(), "hostile", "[agents.hostile.config]\nx = 1");
    server.logged(&["hostile.wasm", "refused", "`agents.hostile.config`", "has no configuration"]);
    // The server itself is as well as ever.
    server.client().post(json!({"model": "echo", "input": "x"})).await.ok();
}

async fn a_resumed_run_has_the_configuration_that_it_began_with(database: Database) {
    let folder = plugins::folder("keeper");
    let options = |greeting: &str| {
        let config = format!("[agents.keeper.config]\ngreeting = \"{greeting}\"");
        Options::new(database.clone()).plugins(folder.path()).config(&config)
    };
    let mut server = Server::start(options("before"));
    let mut stream = server.client().stream(json!({"model": "keeper", "input": "config; wait 1500; config"})).await;
    let seen = stream.until_delta(1).await;
    let id = events::response_id(&seen);
    server.kill9();
    server.restart_with(options("after"));
    let all = server.client().get_stream(&id, None).await.rest().await;
    assert_eq!(fold(&all)["status"], "completed");
    let said = text(&all);
    assert_eq!(said.lines().next(), Some(r#"{"greeting":"before"}"#));
    assert_eq!(keeper(&server.client(), "config").await.trim(), r#"{"greeting":"after"}"#);
}

#[tokio::test]
async fn an_agent_has_limits_of_its_own() {
    let limits = "memory = \"4MiB\"\ncpu_time = \"300ms\"\nrun_timeout = \"2s\"";
    let (server, _folder) = with(sqlite(), "hostile", &format!("[agents.hostile]\n{limits}"));
    let said = failure(&server, "grow").await;
    assert!(said.contains("limit 4 MiB (agents.hostile.memory)"), "{said}");
    let said = failure(&server, "spin").await;
    assert!(said.contains("used more than 0.3 seconds of CPU time (agents.hostile.cpu_time)"), "{said}");
    let said = failure(&server, "wait 20000").await;
    assert!(said.contains("ran longer than 2 seconds (agents.hostile.run_timeout)"), "{said}");
    let slow = json!({"model": "echo", "input": "a b c", "metadata": {"delay_ms": "1000"}});
    assert_eq!(server.client().post(slow).await.response()["status"], "completed", "others have more time");
}

#[tokio::test]
async fn no_run_computes_for_ever() {
    let (server, _folder) = with(sqlite(), "hostile", "[limits]\ncpu_time = \"200ms\"");
    let said = failure(&server, "spin").await;
    assert!(said.contains("0.2 seconds of CPU time (limits.cpu_time)"), "{said}");
}

async fn an_agent_has_a_limit_of_runs_of_its_own(database: Database) {
    let (server, _folder) = with(Options::new(database), "hostile", "[agents.hostile]\nmax_live_runs = 1");
    let client = server.client();
    let mut first = client.stream(json!({"model": "hostile", "input": "wait 60000"})).await;
    let id = events::response_id(&first.until(|event| event.number == 0).await);
    let refused = client.post(json!({"model": "hostile", "input": "say x"})).await;
    refused.refused(429, "rate_limit_exceeded");
    assert!(refused.retry_after().is_some() && refused.message().contains("agents.hostile.max_live_runs"));
    client.post(json!({"model": "echo", "input": "x"})).await.ok();
    client.cancel(&id).await.ok();
    wait::eventually("there is room", async || {
        let answer = client.post(json!({"model": "hostile", "input": "say x"})).await;
        (answer.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_an_agent_wants_and_does_not_get_is_said_at_the_start() {
    let (server, _folder) =
        with(sqlite(), "keeper", "[agents.keeper]\nstate = \"1MiB\"\n[agents.kepeer]\nstate = true");
    server.logged(&[
        "wants more than it is granted",
        "models = [\"up/up-1\"]",
        "http.hosts = [{ host = \"api.example.com\", methods = [\"GET\"] }]",
        "http.secrets.\"api.example.com\".authorization",
    ]);
    assert!(!server.log().contains("state = "), "it has enough");
    server.logged(&["section for the agent `kepeer`, which is not loaded", "keeper"]);
}

#[test]
fn what_a_component_wants_is_shown_with_the_lines_that_would_grant_it() {
    use crate::harness::cli::outlast;
    let component = plugins::component("keeper").display().to_string();
    let shown = outlast(["plugin", "inspect", &component]).ok();
    let section = "[agents.keeper]\nmodels = [\"up/up-1\"]\nstate = \"64KiB\"\n\
                   http.hosts = [{ host = \"api.example.com\", methods = [\"GET\"] }]\n";
    assert!(shown.contains(section) && shown.contains("For tests."), "{shown}");
    let shown: Value = serde_json::from_str(&outlast(["plugin", "inspect", &component, "--json"]).ok()).unwrap();
    assert_eq!(shown["missing"].as_array().unwrap().len(), 4);
    assert_eq!((&shown["granted"]["memory"], &shown["granted"]["cpu_time"]), (&json!("256.0 MiB"), &json!("1m")));

    // What is printed can be put into a configuration as it is.
    let dir = crate::harness::scratch::dir("granted-");
    let config = dir.path().join("outlast.toml");
    let lines = shown["missing"].as_array().unwrap().iter().map(|line| line.as_str().unwrap());
    std::fs::write(&config, format!("[agents.keeper]\n{}\n", lines.collect::<Vec<_>>().join("\n"))).unwrap();
    let config = config.display().to_string();
    let shown = outlast(["plugin", "inspect", &component, "--json", "--config", &config]).ok();
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["missing"], json!([]), "{shown}");
}
