//! `/admin/runs` and `outlast runs`: what an operator sees of runs.

use std::process::{Command, Output};

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::Row as _;

use crate::harness::{
    client::Client,
    database::{Database, both_databases},
    events, keys,
    metrics::eventually,
    plugins,
    server::{Options, Server},
    upstream::{self, Upstream},
    wait,
    web::Web,
};

both_databases!(
    what_an_agent_logs_is_kept_with_its_run,
    a_run_that_is_executed_again_logs_nothing_twice,
    what_the_host_holds_for_a_run_shows_in_its_peak,
    runs_are_listed_in_pages_and_by_what_they_are,
    a_run_of_another_principal_is_stopped,
    logs_go_with_their_response,
    what_a_run_uses_is_counted,
);

/// A server with the components `hostile` and `keeper`.
fn server(options: Options) -> Server {
    let folder = plugins::hostile_folder();
    std::fs::copy(plugins::component("keeper"), folder.path().join("keeper.wasm")).unwrap();
    // It stays for the next start.
    Server::start(options.plugins(&folder.keep()))
}

/// Executes a run and gives its id.
async fn run(client: &Client, agent: &str, input: &str) -> String {
    let response = client.run(json!({"model": agent, "input": input})).await;
    response["id"].as_str().unwrap().to_owned()
}

async fn shown(client: &Client, id: &str) -> Value {
    client.get_path(&format!("/admin/runs/{id}")).await.ok()
}

/// Level, source and text of each line.
async fn log(client: &Client, id: &str) -> Vec<(String, String, String)> {
    let page = client.get_path(&format!("/admin/runs/{id}/logs?limit=10000")).await.ok();
    let lines = page["data"].as_array().unwrap();
    let text = |line: &Value, name: &str| line[name].as_str().unwrap().to_owned();
    for (number, line) in lines.iter().enumerate() {
        assert_eq!(line["number"], number);
        assert!(line["time_ms"].as_u64().unwrap() > 1_700_000_000_000);
    }
    lines.iter().map(|line| (text(line, "level"), text(line, "source"), text(line, "text"))).collect()
}

async fn texts(client: &Client, id: &str) -> Vec<String> {
    log(client, id).await.into_iter().map(|(_, _, text)| text).collect()
}

async fn ids(client: &Client, query: &str) -> Vec<String> {
    let list = client.get_path(&format!("/admin/runs{query}")).await.ok();
    list["data"].as_array().unwrap().iter().map(|run| run["id"].as_str().unwrap().to_owned()).collect()
}

async fn what_an_agent_logs_is_kept_with_its_run(database: Database) {
    let limits = "[limits]\nlog_lines = 30\nlog_bytes = \"2KiB\"";
    let server = server(Options::new(database).config(limits));
    let client = server.client();
    let id = run(&client, "keeper", "log one; say x; log two\u{1b}[2J").await;
    let line = |level: &str, source: &str, text: &str| (level.to_owned(), source.to_owned(), text.to_owned());
    assert_eq!(log(&client, &id).await, [line("info", "log", "one"), line("info", "log", "two[2J")]);
    assert_eq!(shown(&client, &id).await["log_lines"], 2);
    let page = client.get_path(&format!("/admin/runs/{id}/logs?limit=1")).await.ok();
    assert_eq!(
        (&page["next"], &page["has_more"], page["data"].as_array().unwrap().len()),
        (&json!(1), &json!(true), 1)
    );
    let page = client.get_path(&format!("/admin/runs/{id}/logs?from=1")).await.ok();
    assert_eq!((&page["data"][0]["text"], &page["has_more"]), (&json!("two[2J"), &json!(false)));
    let id = run(&client, "hostile", "stdout 1").await;
    let printed = [line("info", "stdout", "stdout line 0"), line("info", "stderr", "stderr line 0")];
    assert_eq!(log(&client, &id).await, printed);

    // What is too much is cut off, and says so.
    let lines = texts(&client, &run(&client, "hostile", "log 100 1").await).await;
    assert!(lines.len() == 31 && lines[30].contains("limits.log_lines"), "{lines:?}");
    let lines = texts(&client, &run(&client, "hostile", "log 20 500").await).await;
    assert!((4..=6).contains(&lines.len()) && lines.last().unwrap().contains("limits.log_bytes"), "{lines:?}");

    // A panic is the operator's to read; the client is told that there was one.
    let id = run(&client, "hostile", "panic").await;
    let lines = log(&client, &id).await;
    let failed = lines.iter().find(|(level, source, _)| (&**level, &**source) == ("error", "host")).unwrap();
    assert!(failed.2.contains("agent logic blew up: n=1"), "{lines:?}");
    assert_eq!(shown(&client, &id).await["error"]["message"], "The agent crashed.");
    for view in ["", "?stream=true"] {
        let answer = client.request(Method::GET, &format!("/v1/responses/{id}{view}")).send().await.unwrap();
        assert!(!answer.text().await.unwrap().contains("n=1"));
    }
}

async fn a_run_that_is_executed_again_logs_nothing_twice(database: Database) {
    let mut server = server(Options::new(database));
    let request = json!({"model": "keeper", "input": "log one; log two; say ready; log three; wait 1500; log four"});
    let mut stream = server.client().stream(request).await;
    let seen = stream.until(|event| event.delta() == Some("ready\n")).await;
    let id = events::response_id(&seen);
    let client = server.client();
    wait::eventually("three lines", async || (texts(&client, &id).await.len() == 3).then_some(())).await;
    server.logged(&["plugin: three "]);
    let mut database = server.database().await;
    server.kill9();
    let row = sqlx::query("SELECT cpu FROM run_usage").fetch_one(&mut database).await.unwrap();
    // Without the last tenth of a second, which may be all of it.
    let before: i64 = row.get(0);
    server.restart();
    let client = server.client();
    client.ended(&id).await;
    assert_eq!(texts(&client, &id).await, ["one", "two", "three", "four"]);
    let log = server.log();
    for word in ["one", "two", "three", "four"] {
        assert_eq!(log.lines().filter(|line| line.contains(&format!("plugin: {word} "))).count(), 1, "{word}");
    }
    let run = shown(&client, &id).await;
    assert!(run["cpu_seconds"].as_f64().unwrap() * 1e6 > before as f64, "{run} after {before} µs");
    assert_eq!((&run["attempts"], &run["log_lines"]), (&json!(1), &json!(4)));
}

async fn runs_are_listed_in_pages_and_by_what_they_are(database: Database) {
    let config = [
        keys::entry("ann"),
        keys::entry("bob"),
        format!("{}\nadmin = true", keys::entry("ops")),
        "[agents.keeper]\nstate = true".to_owned(),
    ];
    let server = server(Options::new(database).config(&config.join("\n")));
    let (ann, bob, ops) = (keys::client(&server, "ann"), keys::client(&server, "bob"), keys::client(&server, "ops"));
    let mut all = Vec::new();
    for (client, agent, input) in
        [(&ann, "echo", "a"), (&bob, "keeper", "say b"), (&ann, "hostile", "fail"), (&bob, "hostile", "say d")]
    {
        all.insert(0, run(client, agent, input).await);
    }
    ann.post(json!({"model": "echo", "input": "not kept", "store": false})).await.response();
    assert_eq!(ids(&ops, "").await, all);
    assert_eq!(ids(&ops, "?agent=hostile").await, all[..2]);
    assert_eq!(ids(&ops, "?principal=ann").await, [all[1].clone(), all[3].clone()]);
    assert_eq!(ids(&ops, "?status=failed").await, all[1..2]);
    assert_eq!(ids(&ops, "?principal=bob&agent=hostile&status=completed").await, all[..1]);
    assert!(ids(&ops, "?agent=none").await.is_empty());
    ops.get_path("/admin/runs?stauts=failed").await.refused(400, "unsupported_parameter");
    let page = ops.get_path("/admin/runs?limit=3").await.ok();
    assert_eq!((&page["has_more"], &page["last_id"]), (&json!(true), &json!(all[2])));
    assert_eq!(ids(&ops, &format!("?limit=3&after={}", all[2])).await, all[3..]);
    let run = shown(&ops, &all[3]).await;
    let expected = (&json!("ann"), &json!("echo"), &json!("completed"), &Value::Null);
    assert_eq!((&run["principal"], &run["agent"], &run["status"], &run["error"]), expected);
    assert!(run["ended_at_ms"].as_i64() >= run["created_at_ms"].as_i64());

    for (query, param) in [
        ("?limit=0", "limit"),
        ("?limit=101", "limit"),
        ("?status=done", "status"),
        ("?after=x", "after"),
        ("?agent=%00", "agent"),
    ] {
        let answer = ops.get_path(&format!("/admin/runs{query}")).await;
        assert_eq!(answer.refused(400, "invalid_value"), Some(param), "{query}");
    }
    let nobody = "resp_00000000000000000000000000000000";
    for id in [nobody, "x"] {
        for path in ["", "/logs"] {
            ops.get_path(&format!("/admin/runs/{id}{path}")).await.refused(404, "response_not_found");
        }
        let cancel = ops.request(Method::POST, &format!("/admin/runs/{id}/cancel"));
        ops.send(cancel).await.refused(404, "response_not_found");
    }
    // Nobody else gets in.
    for (method, path) in [
        (Method::GET, "/admin/runs".to_owned()),
        (Method::GET, format!("/admin/runs/{}", all[3])),
        (Method::GET, format!("/admin/runs/{}/logs", all[3])),
        (Method::POST, format!("/admin/runs/{}/cancel", all[3])),
    ] {
        let answer = ann.send(ann.request(method.clone(), &path)).await;
        answer.refused(403, "admin_not_allowed");
        assert!(answer.message().contains("`admin = true`"));
        for stranger in [server.client(), keys::client(&server, "eve")] {
            stranger.send(stranger.request(method.clone(), &path)).await.refused(401, "invalid_api_key");
        }
    }
    // Nor does the right open what is a client's.
    ops.get(&all[3]).await.refused(404, "response_not_found");
}

async fn a_run_of_another_principal_is_stopped(database: Database) {
    let ops = format!("{}\nadmin = true", keys::entry("ops"));
    let server = server(Options::new(database).config(&keys::entry("ann")).config(&ops));
    let (ann, ops) = (keys::client(&server, "ann"), keys::client(&server, "ops"));
    let mut stream = ann.stream(json!({"model": "hostile", "input": "spin"})).await;
    let id = events::response_id(&[stream.next().await.unwrap()]);
    let used = wait::eventually("it takes time", async || {
        let used = shown(&ops, &id).await["cpu_seconds"].as_f64().unwrap();
        (used > 0.05).then_some(used)
    })
    .await;
    let cancel = || ops.request(Method::POST, &format!("/admin/runs/{id}/cancel"));
    let run = ops.send(cancel()).await.ok();
    assert_eq!(run["status"], "cancelled");
    assert!(run["cpu_seconds"].as_f64().unwrap() >= used);
    assert_eq!(stream.rest().await.pop().unwrap().data["response"]["status"], "cancelled");
    // What has ended so is cancelled, what has ended otherwise cannot be.
    ops.send(cancel()).await.ok();
    let done = self::run(&ann, "hostile", "say x").await;
    let cancel = ops.request(Method::POST, &format!("/admin/runs/{done}/cancel"));
    ops.send(cancel).await.refused(400, "response_not_cancellable");
}

async fn logs_go_with_their_response(database: Database) {
    let mut server = server(Options::new(database.clone()));
    let client = server.client();
    let id = run(&client, "keeper", "log one").await;
    client.send(client.request(Method::DELETE, &format!("/v1/responses/{id}"))).await.ok();
    client.get_path(&format!("/admin/runs/{id}/logs")).await.refused(404, "response_not_found");
    run(&client, "keeper", "log two").await;
    let kept = async |server: &Server| {
        let count = "SELECT (SELECT COUNT(*) FROM run_logs) + (SELECT COUNT(*) FROM run_usage)";
        sqlx::query(count).fetch_one(&mut server.database().await).await.unwrap().get::<i64, _>(0)
    };
    assert_eq!(kept(&server).await, 2);
    let options = server.options().clone().config("retention = \"1s\"");
    server.restart_with(options);
    wait::eventually("nothing is left", async || (kept(&server).await == 0).then_some(())).await;
}

async fn what_a_run_uses_is_counted(database: Database) {
    let upstream = Upstream::start([
        vec![upstream::text("Hi"), upstream::end("stop"), upstream::usage(7, 3)],
        vec![upstream::text("Hi"), upstream::end("stop"), upstream::usage(70, 30)],
    ])
    .await;
    let server = server(upstream.options(Options::new(database)));
    let client = server.client();
    let id = run(&client, "chat/up-1", "hi").await;
    let used = shown(&client, &id).await;
    assert_eq!((&used["input_tokens"], &used["output_tokens"]), (&json!(7), &json!(3)));
    let id = run(&client, "hostile", "generate up-1").await;
    let used = shown(&client, &id).await;
    assert_eq!((&used["input_tokens"], &used["output_tokens"]), (&json!(70), &json!(30)));
    let id = run(&client, "hostile", "grow 16").await;
    let used = shown(&client, &id).await;
    let peak = used["memory_peak_bytes"].as_u64().unwrap();
    assert!((16 << 20..64 << 20).contains(&peak), "{peak}");
    assert!(used["cpu_seconds"].as_f64().unwrap() > 0.0);
    let series = |name: &str| format!("outlast_agent_{name}{{agent=\"hostile\"}}");
    let now = eventually(&client, &series("memory_peak_bytes_count"), |count| count == 2.0).await;
    assert!(now.value(&series("memory_peak_bytes_sum")) >= peak as f64);
    assert!(now.value(&series("cpu_seconds_total")) > 0.0);
    assert_eq!(now.value(&series("input_tokens_total")), 70.0);
    assert_eq!(now.value(&series("output_tokens_total")), 30.0);
}

/// Runs `outlast runs` with these arguments.
async fn outlast(server: &Server, key: Option<&str>, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outlast"));
    command.arg("runs").args(arguments).args(["--url", server.url()]).env_remove("OUTLAST_KEY");
    if let Some(key) = key {
        command.env("OUTLAST_KEY", key);
    }
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn printed(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn the_command_line_shows_and_stops_runs() {
    let ops = format!("{}\nadmin = true", keys::entry("ops"));
    let server = server(Options::new(Database::Sqlite).config(&keys::entry("ann")).config(&ops));
    let (ann, key) = (keys::client(&server, "ann"), Some("key-ops"));
    assert_eq!(printed(outlast(&server, key, &["list"]).await), "no runs\n");
    let first = run(&ann, "keeper", "log one; say x").await;
    let second = run(&ann, "hostile", "fail").await;
    let list = printed(outlast(&server, key, &["list"]).await);
    let lines: Vec<_> = list.lines().collect();
    assert!(lines.len() == 3 && lines[0].starts_with("ID") && lines[1].starts_with(&second), "{list}");
    assert!(["keeper", "ann", "completed"].iter().all(|word| lines[2].contains(word)), "{list}");
    let list = printed(outlast(&server, key, &["list", "--limit", "1"]).await);
    assert!(list.ends_with(&format!("more: outlast runs list --after {second}\n")), "{list}");
    let list = printed(outlast(&server, key, &["list", "--status", "completed", "--json"]).await);
    assert_eq!(serde_json::from_str::<Value>(&list).unwrap()["id"], first);
    let card = printed(outlast(&server, key, &["show", &second]).await);
    assert!(card.contains("the agent was told to fail") && card.contains("failed"), "{card}");
    let log = printed(outlast(&server, key, &["logs", &first]).await);
    assert!(log.lines().count() == 1 && log.ends_with("info  log    one\n"), "{log}");

    let mut stream = ann.stream(json!({"model": "keeper", "input": "log begun; say x; wait 600000"})).await;
    let id = events::response_id(&stream.until_delta(1).await);
    let (follow, cancel) = (["logs", "-f", "--json", &id], ["cancel", &id]);
    let (followed, cancelled) = tokio::join!(outlast(&server, key, &follow), outlast(&server, key, &cancel));
    assert!(printed(cancelled).contains("cancelled"));
    assert_eq!(serde_json::from_str::<Value>(&printed(followed)).unwrap()["text"], "begun");

    for (key, arguments, message) in [
        (None, ["show", &first], "OUTLAST_KEY"),
        (Some("key-ann"), ["show", &first], "`admin = true`"),
        (Some("key-ops"), ["show", "../x"], "is not the id of a run"),
        (Some("key-ops"), ["show", "resp_1"], "resp_1"),
    ] {
        let output = outlast(&server, key, &arguments).await;
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && error.contains(message), "{error}");
    }
}

async fn what_the_host_holds_for_a_run_shows_in_its_peak(database: Database) {
    const BYTES: u64 = 3_000_000;
    let web = Web::start().await;
    let grant = format!("[agents.hostile.http]\nhosts = [\"{}\"]\nprivate = true", web.address());
    let server = server(Options::new(database).config(&grant));
    let client = server.client();
    let peak = async |input: &str| {
        let id = run(&client, "hostile", input).await;
        shown(&client, &id).await["memory_peak_bytes"].as_u64().unwrap()
    };
    let own = peak("say x").await;
    // The answer is there, and the agent does not take it.
    let url = web.url(&format!("/bytes/{BYTES}"));
    let with_answer = peak(&format!("http-at-most 60000 {}", json!({"url": url}))).await;
    assert!((own + BYTES..own + 3 * BYTES).contains(&with_answer), "{with_answer} for {own}");
    let said = peak(&format!("big {}", 1 << 20)).await;
    let said_and_had = own + (3 << 20);
    assert!(said >= said_and_had, "{said} for {own}");
}
