//! A plugin that misbehaves hurts only its own run.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{
    client::Client,
    database::{self, Database, both_databases},
    events::{self, text},
    fold::fold,
    plugins, process,
    server::{Options, Server},
    upstream::{self, Upstream},
    wait,
};

both_databases!(
    an_endless_loop_is_stopped_at_the_run_timeout,
    a_panic_fails_the_run,
    an_event_of_a_hundred_megabytes_fails_the_run,
    what_is_left_open_is_closed,
);

/// A server with the component `hostile`.
fn hostile(options: Options) -> Server {
    let folder = plugins::hostile_folder();
    Server::start(options.plugins(folder.path()))
}

fn small() -> Server {
    hostile(Options::new(Database::Sqlite))
}

/// Runs a behaviour, whose stream must end in order, while another run goes on beside it.
async fn run(server: &Server, behaviour: &str) -> Value {
    let client = server.client();
    let input = "beside it all goes on as if nothing happened";
    let mut beside = client.stream(json!({"model": "echo", "input": input, "metadata": {"delay_ms": "20"}})).await;
    let seen = beside.until_delta(1).await;
    let events = client.stream(json!({"model": "hostile", "input": behaviour})).await.rest().await;
    let response = fold(&events);
    assert_eq!(client.response(response["id"].as_str().unwrap()).await, response);
    let rest = beside.rest().await;
    assert_eq!(text(&seen) + &text(&rest), input);
    response
}

/// Runs a behaviour that must fail, and returns the message.
async fn failure(server: &Server, behaviour: &str) -> String {
    let response = run(server, behaviour).await;
    assert_eq!(response["status"], "failed", "{response}");
    assert_eq!(response["error"]["code"], "server_error");
    let message = response["error"]["message"].as_str().unwrap().to_owned();
    assert!(!message.contains("wasm backtrace") && !message.contains("/src/"), "the inside is not shown: {message}");
    // The server is as well as before.
    let after = server.client().post(json!({"model": "hostile", "input": "say fine"})).await.response();
    assert_eq!(after["output"][0]["content"][0]["text"], "fine");
    message
}

async fn an_endless_loop_is_stopped_at_the_run_timeout(database: Database) {
    let server = hostile(Options::new(database).config("[limits]\nrun_timeout = \"500ms\""));
    let message = failure(&server, "spin").await;
    assert!(message.contains("limits.run_timeout"), "{message}");
}

async fn a_panic_fails_the_run(database: Database) {
    let server = hostile(Options::new(database));
    let message = failure(&server, "panic").await;
    assert!(!message.contains("n=1"), "{message}");
    // Message and place are for the operator.
    let line = server.logged(&["panicked at", "agent logic blew up: n=1"]);
    assert!(line.contains(".rs:"), "{line}");
}

async fn an_event_of_a_hundred_megabytes_fails_the_run(database: Database) {
    let server = hostile(Options::new(database).config("[limits]\nmemory = \"512MiB\""));
    let before = process::rss(server.id());
    let message = failure(&server, "big 100000000").await;
    assert!(message.contains("limits.event_bytes"), "{message}");
    wait::eventually("its memory is given back", async || {
        (process::rss(server.id()) < before + (64 << 10)).then_some(())
    })
    .await;
}

async fn what_is_left_open_is_closed(database: Database) {
    let server = hostile(Options::new(database));
    let response = run(&server, "open").await;
    assert_eq!(response["status"], "completed");
    let output = response["output"].as_array().unwrap();
    assert_eq!(output.len(), 3);
    for item in output {
        assert_eq!(item["status"], "incomplete");
    }
    assert_eq!(output[0]["content"][0]["text"], "partial");
    assert_eq!(output[1]["summary"][0]["text"], "partial thought");
}

#[tokio::test]
async fn memory_beyond_the_limit_is_named() {
    let server = hostile(Options::new(Database::Sqlite).config("[limits]\nmemory = \"32MiB\""));
    let before = process::rss(server.id());
    let message = failure(&server, "grow").await;
    assert!(message.contains("limits.memory") && message.contains("32 MiB"), "{message}");
    assert!(process::rss(server.id()) < before + (64 << 10));
    assert_eq!(run(&server, "grow 16").await["status"], "completed");
}

#[tokio::test]
async fn all_runs_together_have_a_limit_of_memory_and_small_ones_go_on() {
    let limits = "[limits]\nmemory = \"256MiB\"\ninstances_memory = \"200MiB\"\nidle_after = \"1h\"";
    let server = hostile(Options::new(Database::Sqlite).config(limits));
    let client = server.client();
    let mut large = client.stream(json!({"model": "hostile", "input": "grow-hold 150 60000"})).await;
    let id = events::response_id(&large.until_delta(1).await);
    let message = failure(&server, "grow 150").await;
    assert!(message.contains("200 MiB") && message.contains("limits.instances_memory"), "{message}");
    client.cancel(&id).await.response();
    wait::eventually("there is room", async || {
        let response = client.run(json!({"model": "hostile", "input": "grow 150"})).await;
        (response["status"] == "completed").then_some(())
    })
    .await;
}

#[tokio::test]
async fn memory_that_is_not_touched_is_not_missing() {
    const RUNS: usize = 100;
    // Each of them has asked for more than a MiB.
    let server = hostile(Options::new(Database::Sqlite).config("[limits]\ninstances_memory = \"64MiB\""));
    let client = server.client();
    let run = async |_: usize| {
        let response = client.post(json!({"model": "hostile", "input": "wait 5000"})).await.response();
        assert_eq!(response["status"], "completed", "{response}");
    };
    futures::future::join_all((0..RUNS).map(run)).await;
}

#[tokio::test]
async fn a_stack_that_overflows_fails_the_run() {
    let message = failure(&small(), "overflow").await;
    assert!(message.contains("stack"), "{message}");
}

#[tokio::test]
async fn an_agent_that_exits_fails_its_run_only() {
    let message = failure(&small(), "exit").await;
    assert!(message.contains("exit"), "{message}");
}

#[tokio::test]
async fn a_failure_of_the_agent_is_shown_in_its_own_words() {
    let message = failure(&small(), "fail").await;
    assert!(message.contains("the agent was told to fail"), "{message}");
}

#[tokio::test]
async fn writing_to_a_finished_message_fails_the_run() {
    let response = run(&small(), "late-write").await;
    assert_eq!(response["status"], "failed");
    assert_eq!(response["output"][0]["content"][0]["text"], "in time");
}

#[tokio::test]
async fn ten_million_empty_events_are_no_events() {
    let server = hostile(Options::new(Database::Sqlite).config("[limits]\nrun_timeout = \"20s\""));
    let before = process::rss(server.id());
    let client = server.client();
    let mut stream = client.stream(json!({"model": "hostile", "input": "empty 10000000"})).await;
    let beside = client.post(json!({"model": "echo", "input": "meanwhile"}));
    wait::within(Duration::from_secs(5), "another run", beside).await.response();
    let events = stream.rest().await;
    assert!(events.len() < 20, "{:?}", events::kinds(&events));
    assert!(process::rss(server.id()) < before + (32 << 10));
}

#[tokio::test]
async fn too_many_events_fail_the_run() {
    let server = hostile(Options::new(Database::Sqlite).config("[limits]\nevents = 2000"));
    let client = server.client();
    let events = client.stream(json!({"model": "hostile", "input": "events 100000"})).await.unchecked().rest().await;
    let response = fold(&events);
    assert_eq!(response["status"], "failed");
    let message = response["error"]["message"].as_str().unwrap();
    assert!(message.contains("limits.events"), "{message}");
    assert!(events.len() < 2_100, "{}", events.len());
}

#[tokio::test]
async fn too_much_output_fails_the_run() {
    let server = hostile(Options::new(Database::Sqlite).config("[limits]\noutput_bytes = \"100KB\""));
    assert_eq!(run(&server, "big 100000").await["status"], "completed");
    let message = failure(&server, "events 100001").await;
    assert!(message.contains("limits.output_bytes"), "{message}");
}

#[tokio::test]
async fn too_many_items_fail_the_run() {
    let server = small();
    assert_eq!(run(&server, "messages 1000").await["status"], "completed");
    let message = failure(&server, "messages 1001").await;
    assert!(message.contains("limits.output_items"), "{message}");
}

#[tokio::test]
async fn what_it_prints_goes_to_the_log_and_nowhere_else() {
    let server = small();
    assert_eq!(run(&server, "stdout 3").await["status"], "completed");
    server.logged(&["stdout line 2", "hostile"]);
    server.logged(&["stderr line 2", "hostile"]);
    assert!(!server.stdout().contains("stdout line"));
}

#[tokio::test]
async fn a_flood_of_log_lines_is_cut() {
    let server = hostile(Options::new(Database::Sqlite).config("[limits]\nlog_lines = 100"));
    assert_eq!(run(&server, "log 5000 20").await["status"], "completed");
    server.logged(&["limits.log_lines"]);
    assert!(server.stderr().matches(&"x".repeat(20)).count() <= 100);
    // A line of a megabyte is shortened.
    assert_eq!(run(&server, "log 1 1000000").await["status"], "completed");
    assert!(server.stderr().lines().all(|line| line.len() < 20_000));
}

#[tokio::test]
async fn nothing_of_the_world_outside_is_seen() {
    let server = hostile(Options::new(Database::Sqlite).env("SECRET", "x"));
    let response = run(&server, "env").await;
    let seen = response["output"][0]["content"][0]["text"].as_str().unwrap();
    assert_eq!(seen, "args 0\nvars 0\nfile refused\nsocket refused");
}

#[tokio::test]
async fn nothing_is_granted_by_default() {
    let upstream =
        "default_model = \"up/up-1\"\n[providers.up]\nbase_url = \"http://127.0.0.1:1/v1\"\nmodels = [\"up-1\"]";
    let server = hostile(Options::new(Database::Sqlite).config(upstream));
    let response = run(&server, "denied").await;
    let said = response["output"][0]["content"][0]["text"].as_str().unwrap();
    let expected = ["denied host_not_granted"; 2].into_iter();
    let expected = expected.chain(["denied state_not_granted"; 2]).chain(["denied model_not_granted"; 2]);
    assert_eq!(said, expected.chain(["models 0"]).collect::<Vec<_>>().join("\n"));
    for line in [
        "`hosts = [\"example.com\"]` in the section `[agents.hostile.http]`",
        "`state = \"1MiB\"` in the section `[agents.hostile]`",
        "`models = [\"up/up-1\"]` in the section `[agents.hostile]`",
    ] {
        server.logged(&["WARN", line]);
    }
}

#[tokio::test]
async fn a_thousand_tasks_are_nothing_special() {
    let server = small();
    let response = run(&server, "timers 1000").await;
    assert_eq!(response["output"][0]["content"][0]["text"], "1000");
}

#[tokio::test]
async fn handles_that_are_never_given_back_have_a_limit() {
    let server = small();
    assert_eq!(run(&server, "leak 9000").await["status"], "completed");
    let before = process::rss(server.id());
    let message = failure(&server, "leak 100000").await;
    assert!(message.contains("10000 open handles"), "{message}");
    assert!(process::rss(server.id()) < before + (64 << 10));
}

#[tokio::test]
async fn a_header_of_a_gigabyte_is_not_copied() {
    let grant = "[agents.hostile.http]\nhosts = [\"127.0.0.1:1\"]\nprivate = true";
    let config = format!("[limits]\nmemory = \"2500MiB\"\n{grant}");
    let server = hostile(Options::new(Database::Sqlite).config(&config));
    let before = process::rss(server.id());
    let behaviour = r#"http-large 1000000000 {"url": "http://127.0.0.1:1/"}"#;
    let message = failure(&server, behaviour).await;
    assert!(message.contains("The agent"), "{message}");
    wait::eventually("its memory is given back", async || {
        (process::rss(server.id()) < before + (64 << 10)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_agent_that_is_told_nonsense_says_so() {
    let message = failure(&small(), "dance").await;
    assert!(message.contains("dance"), "{message}");
}

#[tokio::test]
async fn a_hundred_that_crash_at_once_leave_a_server_that_serves() {
    let server = hostile(Options::new(Database::Sqlite).config("[limits]\nrun_timeout = \"3s\""));
    let client = server.client();
    let behaviours =
        ["panic", "overflow", "grow", "exit", "fail", "late-write", "open", "big 100000000", "spin", "env"];
    let run = async |client: Client, behaviour: String| {
        let answer = client.run(json!({"model": "hostile", "input": behaviour})).await;
        assert_ne!(answer["status"], "in_progress");
    };
    let runs = (0..100).map(|n| run(client.clone(), behaviours[n % behaviours.len()].to_owned()));
    futures::future::join_all(runs).await;
    client.post(json!({"model": "echo", "input": "still here"})).await.response();
}

/// How much longer than beside runs that compute somebody may wait beside hostile ones.
const SPARE: Duration = Duration::from_millis(500);

/// How long somebody else waits for an answer while these runs are active, at worst, and how many KiB the server has more.
async fn beside_runs(server: &Server, behaviours: &[&str]) -> (Duration, u64) {
    let client = server.client();
    let runs = behaviours.iter().map(|behaviour| client.post(json!({"model": "hostile", "input": behaviour})));
    beside(server, futures::future::join_all(runs)).await
}

/// The same, while others do this.
async fn beside<T>(server: &Server, others: impl Future<Output = T>) -> (Duration, u64) {
    let client = server.client();
    let (mut worst, before, mut most) = (Duration::ZERO, process::rss(server.id()), 0);
    let mut runs = std::pin::pin!(others);
    let mut neighbours = 0;
    loop {
        let start = Instant::now();
        let echo = client.post(json!({"model": "echo", "input": "meanwhile"}));
        let neighbour = std::pin::pin!(async { echo.await.response() });
        match futures::future::select(&mut runs, neighbour).await {
            futures::future::Either::Left(_) if neighbours > 0 => return (worst, most),
            futures::future::Either::Left((_, neighbour)) => {
                neighbour.await;
                return (start.elapsed(), most);
            }
            futures::future::Either::Right(_) => {}
        }
        neighbours += 1;
        worst = worst.max(start.elapsed());
        most = most.max(process::rss(server.id()).saturating_sub(before));
    }
}

#[tokio::test]
async fn a_call_of_the_host_is_limited_in_time_and_in_memory() {
    let _turn = database::alone().await;
    let server = hostile(Options::new(Database::Sqlite).config(
        "[limits]\nmemory = \"256MiB\"\nrun_timeout = \"3s\"\n[providers.up]\nbase_url = \"http://127.0.0.1:1/v1\"\n",
    ));
    // As many runs that compute and nothing else: what this machine takes while it has something to do.
    let (quiet, _) = beside_runs(&server, &["spin"; 4]).await;
    for behaviour in [
        "stdout-at-once 50000000",
        "stdout-breaks 5000",
        "random 25000000",
        "http-options 30000000",
        "model-values 30000000 4 up/x",
        "model-values 4000000 4 up/x",
    ] {
        let (mut waited, mut grown) = beside_runs(&server, &[behaviour; 4]).await;
        // Another program can hold up everything: only what is so each time is the server's.
        for _ in 0..3 {
            if waited < quiet * 4 + SPARE {
                break;
            }
            let again = beside_runs(&server, &[behaviour; 4]).await;
            (waited, grown) = (waited.min(again.0), grown.max(again.1));
        }
        eprintln!("{behaviour}: {waited:?}, and {quiet:?} beside runs that compute");
        assert!(waited < quiet * 4 + SPARE, "{behaviour}: {waited:?}, and {quiet:?} otherwise");
        // What they have themselves, and a call of each.
        assert!(grown < (4 * 160 + 64) << 10, "{behaviour}: {} MiB", grown >> 10);
    }
}

#[tokio::test]
async fn large_bodies_hold_up_nobody() {
    let _turn = database::alone().await;
    let server = hostile(Options::new(Database::Sqlite).config("[limits]\nrun_timeout = \"3s\"\n"));
    let (quiet, _) = beside_runs(&server, &["spin"; 4]).await;
    // As many values as fit.
    let body = format!("{{\"model\": \"nobody\", \"input\": [{}[]]}}", "[],".repeat(3 << 20));
    let (client, url) = (reqwest::Client::new(), format!("{}/v1/responses", server.url()));
    let clients = || {
        (0..8).map(|_| async {
            for _ in 0..4 {
                let request = client.post(&url).header("content-type", "application/json").body(body.clone());
                assert!(request.send().await.unwrap().status().is_client_error());
            }
        })
    };
    let mut waited = beside(&server, futures::future::join_all(clients())).await.0;
    for _ in 0..3 {
        if waited < quiet * 4 + SPARE {
            break;
        }
        waited = waited.min(beside(&server, futures::future::join_all(clients())).await.0);
    }
    eprintln!("large bodies: {waited:?}, and {quiet:?} beside runs that compute");
    assert!(waited < quiet * 4 + SPARE, "{waited:?}, and {quiet:?} otherwise");
}

#[tokio::test]
async fn what_is_too_much_for_a_call_is_named() {
    let server = hostile(Options::new(Database::Sqlite).config("[limits]\nmemory = \"256MiB\""));
    for (behaviour, named) in [
        ("stdout-at-once 50000000", "limits.event_bytes"),
        ("stdout-at-once 10000", "`check-write` allows 4096"),
        ("http-options 30000000", "limits.http_request_bytes"),
        ("model-values 30000000 1 up/x", "limits.model_input_bytes"),
    ] {
        let message = failure(&server, behaviour).await;
        assert!(message.contains(named), "{behaviour}: {message}");
    }
    failure(&server, "random 100000").await;
    server.logged(&["limit 65536"]);
    // What can be copied is looked at before it is read.
    let text = |response: Value| response["output"][0]["content"][0]["text"].as_str().unwrap().to_owned();
    let said = text(run(&server, "http-options 1000000").await);
    assert!(said.starts_with("limit request_too_large") && said.contains("limits.http_header_bytes"), "{said}");
}

#[tokio::test]
async fn a_run_that_prints_line_breaks_is_cancelled_at_once() {
    let server = small();
    let client = server.client();
    let ids = futures::future::join_all((0..4).map(|_| async {
        let request = json!({"model": "hostile", "input": "stdout-breaks 100000000", "background": true});
        client.post(request).await.response()["id"].as_str().unwrap().to_owned()
    }))
    .await;
    server.logged(&["limits.log_lines"]);
    for id in ids {
        let cancelled = wait::within(Duration::from_secs(5), "the answer to the cancel", client.cancel(&id)).await;
        assert_eq!(cancelled.response()["status"], "cancelled");
    }
}

#[tokio::test]
async fn calls_of_models_that_are_held_have_a_limit() {
    let answers = (0..64).map(|_| vec![upstream::text("x"), upstream::end("stop")]);
    let upstream = Upstream::start(answers).await;
    let options = upstream.options(Options::new(Database::Sqlite));
    let server = hostile(options.config("[limits]\nmodel_calls = 5\nmodel_input_bytes = \"3MiB\""));
    let text = |response: Value| response["output"][0]["content"][0]["text"].as_str().unwrap().to_owned();
    let said = text(run(&server, "model-hold 1000 9 up/x").await);
    assert!(said.starts_with("5 limit too_many_calls") && said.contains("limits.model_calls"), "{said}");
    let said = text(run(&server, "model-hold 1000000 9 up/x").await);
    assert!(said.starts_with("3 limit input_too_large") && said.contains("limits.model_input_bytes"), "{said}");
    let said = text(run(&server, "model-values 2000000 1 up/x").await);
    assert!(said.starts_with("limit too_many_values"), "{said}");
}
