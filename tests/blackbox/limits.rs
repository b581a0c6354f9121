//! How much may go on at once, and for how long.

use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{
    agents::Agent,
    client::Client,
    database::{Database, both_databases},
    events, keys, plugins, process, scratch,
    server::{Options, Server},
    wait,
};

both_databases!(
    beyond_the_most_live_runs_requests_are_refused,
    a_principal_has_limits_of_its_own,
    a_run_that_takes_too_long_is_ended,
    a_thousand_waiting_runs_hold_no_threads,
    naps_do_not_give_a_run_more_time_of_a_processor,
    a_kill_does_not_give_a_run_more_time_of_a_processor,
);

async fn beyond_the_most_live_runs_requests_are_refused(database: Database) {
    let server = Server::start(Options::new(database).config("[limits]\nmax_live_runs = 2"));
    let client = server.client();
    let mut runs = Vec::new();
    for store in [true, false] {
        let request = json!({"model": "echo", "input": "a b", "store": store, "metadata": {"delay_ms": "10000"}});
        let mut stream = client.stream(request).await;
        stream.until_delta(1).await;
        runs.push(stream);
    }
    let before = server.response_ids().await;
    for (store, stream) in [(true, true), (true, false), (false, true), (false, false)] {
        let request = json!({"model": "echo", "input": "x", "store": store, "stream": stream});
        let answer = client.post(request).await;
        answer.refused(429, "rate_limit_exceeded");
        assert!(answer.retry_after().is_some(), "{:?}", answer.headers);
        assert!(answer.message().contains("max_live_runs"), "{}", answer.message());
    }
    assert_eq!(server.response_ids().await, before);
    // What is there can be read, and one that ends makes room.
    client.response(&before[0]).await;
    client.cancel(&before[0]).await.response();
    wait::eventually("there is room", async || {
        let answer = client.post(json!({"model": "echo", "input": "x"})).await;
        (answer.status == 200).then_some(())
    })
    .await;
}

async fn a_principal_has_limits_of_its_own(database: Database) {
    let ann = format!("{}\nmax_live_runs = 1", keys::entry("ann"));
    let bob = format!("{}\nrequests_per_second = 3", keys::entry("bob"));
    let server = Server::start(Options::new(database).config(&ann).config(&bob));
    let (ann, bob) = (keys::client(&server, "ann"), keys::client(&server, "bob"));
    let slow = json!({"model": "echo", "input": "a b", "metadata": {"delay_ms": "10000"}});
    let keyed = |body: &Value| ann.request(Method::POST, "/v1/responses").header("idempotency-key", "k").json(body);
    let mut body = slow.clone();
    body["stream"] = true.into();
    let id = events::response_id(&ann.events(keyed(&body), 0).await.until_delta(1).await);
    let refused = ann.post(slow.clone()).await;
    refused.refused(429, "rate_limit_exceeded");
    assert!(refused.message().contains("the limit of this key (max_live_runs)"), "{}", refused.message());
    // A repeated request begins nothing, so no limit keeps it out; and the limit is ann's alone.
    let again = keyed(&slow);
    let replayed = tokio::spawn({
        let ann = ann.clone();
        async move { ann.send(again).await }
    });
    bob.post(json!({"model": "echo", "input": "x"})).await.response();
    ann.cancel(&id).await.response();
    assert_eq!(replayed.await.unwrap().response()["id"], id);
    ann.post(json!({"model": "echo", "input": "x"})).await.response();

    let answers = join_all((0..20).map(|_| bob.get_path("/v1/models"))).await;
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status != 200).collect();
    assert!(!refused.is_empty());
    for answer in refused {
        answer.refused(429, "rate_limit_exceeded");
        assert_eq!(answer.retry_after(), Some(1));
    }
    // A rate is a matter of time: it comes back.
    wait::eventually("bob may ask again", async || (bob.get_path("/v1/models").await.status == 200).then_some(()))
        .await;
}

async fn a_run_that_takes_too_long_is_ended(database: Database) {
    let server = Server::start(Options::new(database).env("OUTLAST_LIMITS__RUN_TIMEOUT", "300ms"));
    let client = server.client();
    let request = json!({"model": "echo", "input": "said unsaid", "metadata": {"delay_ms": "10000"}});
    let response = client.run(request).await;
    assert_eq!(response["status"], "failed");
    let message = response["error"]["message"].as_str().unwrap();
    assert!(message.contains("limits.run_timeout"), "{message}");
    assert_eq!(response["output"][0]["content"][0]["text"], "said ");
    assert_eq!(client.response(response["id"].as_str().unwrap()).await, response);
}

/// What a run has used of something.
async fn used(client: &Client, id: &str, what: &str) -> f64 {
    client.get_path(&format!("/admin/runs/{id}")).await.ok()[what].as_f64().unwrap()
}

/// How much time of a processor a run took that is over.
async fn cpu_seconds(client: &Client, response: &Value) -> f64 {
    used(client, response["id"].as_str().unwrap(), "cpu_seconds").await
}

fn ended_at(response: &Value, limit: &str) {
    assert_eq!(response["status"], "failed", "{response}");
    let message = response["error"]["message"].as_str().unwrap();
    assert!(message.contains(limit), "{message}");
}

async fn naps_do_not_give_a_run_more_time_of_a_processor(database: Database) {
    let folder = plugins::hostile_folder();
    let options = Options::new(database).plugins(folder.path());
    let server = Server::start(options.config("[limits]\ncpu_time = \"600ms\"\nidle_after = \"20ms\""));
    let client = server.client();
    // Long enough to be worth leaving memory at first, which has to be paid for, and then not any more.
    let response = client.run(json!({"model": "hostile", "input": "laps 100000 5 100"})).await;
    ended_at(&response, "0.6 seconds of CPU time (limits.cpu_time)");
    let seconds = cpu_seconds(&client, &response).await;
    assert!((0.6..1.0).contains(&seconds), "{seconds}");
    // What is expensive to replay stays where it is: it has half of its time left. A machine that does other things counts
    // more for both: only what is so each time is the server's.
    let mut seen = Vec::new();
    for _ in 0..4 {
        let once = client.post(json!({"model": "hostile", "input": "compute 20 0 0"})).await.response();
        let often = client.post(json!({"model": "hostile", "input": "compute 20 10 21"})).await.response();
        assert_eq!((&once["status"], &often["status"]), (&json!("completed"), &json!("completed")), "{often}");
        let (once, often) = (cpu_seconds(&client, &once).await, cpu_seconds(&client, &often).await);
        seen.push((once, often));
        if often < once * 3.0 + 0.05 {
            return;
        }
    }
    panic!("once, and often: {seen:?}");
}

async fn a_kill_does_not_give_a_run_more_time_of_a_processor(database: Database) {
    let folder = plugins::hostile_folder();
    let options = Options::new(database).plugins(folder.path());
    let mut server = Server::start(options.config("[limits]\ncpu_time = \"3s\""));
    let client = server.client();
    let request = json!({"model": "hostile", "input": "laps 100000 5 1", "background": true});
    let id = client.post(request).await.response()["id"].as_str().unwrap().to_owned();
    wait::eventually("it has computed", async || (used(&client, &id, "cpu_seconds").await > 1.5).then_some(())).await;
    let laps = |response: &Value| response["output"][0]["content"][0]["text"].as_str().unwrap_or_default().len();
    let before = laps(&client.response(&id).await);
    server.kill9();
    server.restart();
    let client = server.client();
    let response = client.ended(&id).await;
    ended_at(&response, "3 seconds of CPU time (limits.cpu_time)");
    let seconds = cpu_seconds(&client, &response).await;
    assert!((3.0..3.5).contains(&seconds), "{seconds}");
    // What it had to do once more is not its own.
    assert!(laps(&response) * 4 > before * 5, "{} laps, {before} before the kill", laps(&response));
}

#[tokio::test]
async fn tables_are_memory() {
    let folder = scratch::dir("plugins-");
    let fields = "(table 12000 funcref)".repeat(8);
    let tables = Agent { fields: &fields, ..Agent::new("tables") }.component();
    plugins::put(folder.path(), "tables.wasm", &tables);
    let start = |config: &str| Server::start(Options::new(Database::Sqlite).plugins(folder.path()).config(config));
    let request = json!({"model": "tables", "input": "x"});
    let server = start("");
    let response = server.client().post(request.clone()).await.response();
    assert_eq!(response["status"], "completed", "{response}");
    let peak = used(&server.client(), response["id"].as_str().unwrap(), "memory_peak_bytes").await;
    assert!(peak >= f64::from(4 * 65_536 + 8 * 12_000 * 8), "{peak}");
    let server = start("[agents.tables]\nmemory = \"512KiB\"");
    ended_at(&server.client().run(request).await, "limit 0.5 MiB (agents.tables.memory)");
}

#[tokio::test]
async fn an_instance_with_many_memories_takes_several_places() {
    let folder = scratch::dir("plugins-");
    let fields = "(memory 1)".repeat(7);
    let run = "(call $sleep (i64.const 600000) (i32.const 640))";
    let agent = Agent { fields: &fields, run, ..Agent::new("memories") };
    plugins::put(folder.path(), "memories.wasm", &agent.component());
    let config = "[limits]\nmax_live_runs = 6\nidle_after = \"1h\"";
    let server = Server::start(Options::new(Database::Sqlite).plugins(folder.path()).config(config));
    let client = server.client();
    let begin = async |model: &str| {
        let metadata = json!({"delay_ms": "10000"});
        client.post(json!({"model": model, "input": "a b c d", "background": true, "metadata": metadata})).await
    };
    // Its memories have mappings for four.
    let large = begin("memories").await.response();
    begin("memories").await.refused(429, "rate_limit_exceeded");
    begin("echo").await.response();
    begin("echo").await.response();
    begin("echo").await.refused(429, "rate_limit_exceeded");
    client.cancel(large["id"].as_str().unwrap()).await.response();
    wait::eventually("there is room", async || (begin("echo").await.status == 200).then_some(())).await;
}

async fn a_thousand_waiting_runs_hold_no_threads(database: Database) {
    const RUNS: usize = 1_000;
    process::raise_open_files();
    let server = Server::start(Options::new(database).config("[limits]\nmax_live_runs = 1000"));
    let client = server.client();
    let threads = process::threads(server.id());
    let begin = async |n: usize| {
        let request = json!({"model": "echo", "input": format!("run {n} waits"), "metadata": {"delay_ms": "10000"}});
        let mut stream = client.stream(request).await.unchecked();
        let seen = stream.until_delta(1).await;
        (events::response_id(&seen), stream)
    };
    let mut runs = Vec::new();
    // A hundred at a time: there is a limit on how many connections may wait to be taken.
    for start in (0..RUNS).step_by(100) {
        runs.extend(join_all((start..start + 100).map(begin)).await);
    }
    let waiting = process::threads(server.id());
    assert!(waiting < threads + 64, "{threads} threads before, {waiting} with {RUNS} waiting runs");
    // They wait, and the server does not.
    client.get_path("/readyz").await.ok();
    client.post(json!({"model": "echo", "input": "x"})).await.refused(429, "rate_limit_exceeded");
    // Half of the clients go; all runs come to their end.
    runs.truncate(RUNS / 2);
    for (_, stream) in &mut runs {
        assert_eq!(stream.rest().await.pop().unwrap().kind, "response.completed");
    }
    let ids = server.response_ids().await;
    assert_eq!(ids.len(), RUNS);
    for id in ids.iter().step_by(25) {
        assert_eq!(client.ended(id).await["status"], "completed");
    }
}
