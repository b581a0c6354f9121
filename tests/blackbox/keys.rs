//! Keys: that they can be taken back while the server runs, how long they hold, and what they are for.

use std::time::{Duration, SystemTime};

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{
    client::Client,
    database::{Database, both_databases},
    events, keys,
    metrics::metrics,
    server::{Options, Server},
    upstream::{self, Upstream},
    wait,
    websocket::Socket,
};

both_databases!(what_goes_on_for_a_key_ends_with_it_and_its_runs_go_on);

fn admin(name: &str) -> String {
    format!("{}\nadmin = true\nmetrics = true", keys::entry(name))
}

/// Writes another configuration, and makes the server read it.
fn reread(server: &Server, config: &[String], expected: &str) {
    std::fs::write(server.dir().join("outlast.toml"), config.join("\n")).unwrap();
    server.hang_up();
    server.logged(&[expected]);
}

fn slow(input: &str) -> Value {
    json!({"model": "echo", "input": input, "metadata": {"delay_ms": "10000"}})
}

async fn what_goes_on_for_a_key_ends_with_it_and_its_runs_go_on(database: Database) {
    let (ann, bob, ops) = (keys::entry("ann"), keys::entry("bob"), admin("ops"));
    let server = Server::start(Options::new(database).config(&[ann.clone(), bob.clone(), ops.clone()].join("\n")));
    let client = |name: &str| keys::client(&server, name);
    let mut stream = client("ann").stream(slow("a b c")).await;
    let id = events::response_id(&stream.until_delta(1).await);
    let mut socket = Socket::open_with_key(server.address(), "key-ann").await;
    socket.create(slow("d e f")).await;
    socket.until(0, |event| event.delta().is_some()).await;
    let mut idle = Socket::open_with_key(server.address(), "key-ann").await;
    let waiting = tokio::spawn({
        let client = client("ann");
        async move { client.post(slow("g h i")).await }
    });
    wait::eventually("three runs go on", async || {
        let runs = client("ops").get_path("/admin/runs?status=in_progress").await.ok();
        (runs["data"].as_array().unwrap().len() == 3).then_some(())
    })
    .await;
    let mut others = client("bob").stream(slow("j k")).await;
    others.until_delta(1).await;

    reread(&server, &[bob.clone(), ops.clone()], "the keys were read again keys=2 new=0 gone=1");
    client("ann").get(&id).await.refused(401, "invalid_api_key");
    stream.rest_or_cut().await;
    assert!(!stream.done());
    socket.refused(401, "invalid_api_key").await;
    assert_eq!(socket.closed().await, Some(1008));
    idle.refused(401, "invalid_api_key").await;
    assert_eq!(idle.closed().await, Some(1008));
    waiting.await.unwrap().refused(401, "invalid_api_key");

    // The runs are the principal's, who may have another key, or the same one again.
    let runs = client("ops").get_path("/admin/runs?status=in_progress&principal=ann").await.ok();
    assert_eq!(runs["data"].as_array().unwrap().len(), 3);
    reread(&server, &[ann, bob, ops], "the keys were read again keys=3 new=1 gone=0");
    assert_eq!(client("ann").response(&id).await["status"], "in_progress");
    client("ann").cancel(&id).await.response();
    // Nobody else has noticed.
    others.until_delta(1).await;
}

#[tokio::test]
async fn a_configuration_that_is_not_right_changes_nothing() {
    let server = Server::start(Options::new(Database::Sqlite).config(&admin("ann")));
    let ann = keys::client(&server, "ann");
    reread(
        &server,
        &["[[keys]]\nname = \"bob\"\nsha256 = \"12\"".to_owned()],
        "the keys are unchanged: configuration: keys",
    );
    ann.get_path("/v1/models").await.ok();
    // Without keys everybody would come in.
    reread(&server, &[], "needs a restart");
    server.client().get_path("/v1/models").await.refused(401, "invalid_api_key");
    reread(&server, &[admin("ann"), keys::entry("bob")], "the keys were read again");
    keys::client(&server, "bob").get_path("/v1/models").await.ok();
    let counted = metrics(&ann).await;
    assert_eq!(counted.value("outlast_key_reloads_total{outcome=\"refused\"}"), 2.0);
    assert_eq!(counted.value("outlast_key_reloads_total{outcome=\"taken\"}"), 1.0);
}

#[tokio::test]
async fn the_limits_of_a_principal_are_exchanged_with_its_keys() {
    let server = Server::start(Options::new(Database::Sqlite).config(&keys::entry("ann")));
    let ann = keys::client(&server, "ann");
    reread(&server, &[keys::entry("ann"), "max_live_runs = 1".to_owned()], "the keys were read again");
    let mut stream = ann.stream(slow("a b")).await;
    stream.until_delta(1).await;
    ann.post(json!({"model": "echo", "input": "x"})).await.refused(429, "rate_limit_exceeded");
}

#[tokio::test]
async fn a_key_holds_until_its_time_is_over() {
    let over = rfc3339(SystemTime::now() - Duration::from_secs(60));
    let soon = rfc3339(SystemTime::now() + Duration::from_secs(8));
    let server = Server::start(Options::new(Database::Sqlite).config(&format!(
        "{}\nexpires = \"{over}\"\n{}\nexpires = {soon}\n{}\nexpires = 2999-12-31",
        keys::entry("ann"),
        keys::entry("bob"),
        keys::entry("eve"),
    )));
    let client = |name: &str| keys::client(&server, name);
    client("ann").get_path("/v1/models").await.refused(401, "invalid_api_key");
    server.logged(&["an expired key was refused", "principal=\"ann\""]);
    client("eve").get_path("/v1/models").await.ok();
    let mut stream = client("bob").stream(slow("a b c d")).await;
    stream.until_delta(1).await;
    stream.rest_or_cut().await;
    assert!(!stream.done());
    client("bob").get_path("/v1/models").await.refused(401, "invalid_api_key");
}

/// A time of RFC 3339, in whole seconds.
fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

#[tokio::test]
async fn what_a_key_is_not_for_is_not_there() {
    let upstream = Upstream::start([vec![upstream::text("hello"), upstream::end("stop")]]).await;
    let config = [
        format!("{}\nagents = [\"echo\"]", keys::entry("ann")),
        format!("{}\nmodels = [\"up/one\"]", keys::entry("bob")),
    ];
    let server = Server::start(upstream.options(Options::new(Database::Sqlite)).config(&config.join("\n")));
    let (ann, bob) = (keys::client(&server, "ann"), keys::client(&server, "bob"));
    assert_eq!(ann.models().await, ["echo"]);
    assert_eq!(bob.models().await, ["chat", "echo"]);
    ann.get_path("/v1/models/chat").await.refused(404, "model_not_found");
    ann.get_path("/v1/models/echo").await.ok();
    refused(&ann, "chat/one").await;
    ann.post(json!({"model": "echo", "input": "x"})).await.response();
    let mut socket = Socket::open_with_key(server.address(), "key-ann").await;
    for generate in [true, false] {
        socket.create(json!({"model": "chat", "input": "x", "store": false, "generate": generate})).await;
        socket.refused(404, "model_not_found").await;
    }
    socket.turn(json!({"model": "echo", "input": "x"})).await;
    refused(&bob, "chat/two").await;
    let response = bob.post(json!({"model": "chat/one", "input": "x"})).await.response();
    assert_eq!(response["status"], "completed");
    // What it does not call it is not asked for.
    bob.post(json!({"model": "echo/two", "input": "x"})).await.response();
}

/// Whoever asks for this model in any way learns that there is none.
async fn refused(client: &Client, model: &str) {
    let body = json!({"model": model, "input": "x"});
    for path in ["/v1/responses", "/v1/responses/compact", "/v1/responses/input_tokens"] {
        let answer = client.send(client.request(Method::POST, path).json(&body)).await;
        assert_eq!(answer.refused(404, "model_not_found"), Some("model"), "{path}");
    }
}

#[tokio::test]
async fn wrong_keys_are_told_counted_and_slowed_down() {
    let server = Server::start(Options::new(Database::Sqlite).config(&admin("ann")));
    let (ann, eve) = (keys::client(&server, "ann"), server.client().with_key("key-eve-is-wrong"));
    let mut wrong = 0;
    let limited = loop {
        let answer = eve.get_path("/v1/models").await;
        wrong += 1;
        if answer.status != 401 {
            break answer;
        }
        assert!(wrong < 1_000, "nobody slows it down");
    };
    limited.refused(429, "too_many_wrong_keys");
    assert!(limited.retry_after().is_some_and(|seconds| (1..=60).contains(&seconds)), "{limited:?}");
    assert!(wrong > 60);
    // Whoever has a right one comes in from there all the same, and without one it is what it was.
    ann.get_path("/v1/models").await.ok();
    server.client().get_path("/v1/models").await.refused(401, "invalid_api_key");
    assert_eq!(metrics(&ann).await.value("outlast_wrong_keys_total"), f64::from(wrong));
    server.logged(&["a wrong key was refused", "address=\"127.0.0.1\""]);
    assert!(!server.log().contains("key-eve-is-wrong"));
}

#[tokio::test]
async fn what_an_operator_does_is_told() {
    let server = Server::start(Options::new(Database::Sqlite).config(&[keys::entry("ann"), admin("ops")].join("\n")));
    let mut stream = keys::client(&server, "ann").stream(slow("a b")).await;
    let id = events::response_id(&stream.until_delta(1).await);
    let ops = keys::client(&server, "ops");
    ops.send(ops.request(Method::POST, &format!("/admin/runs/{id}/cancel"))).await.ok();
    server.logged(&["a run is cancelled by an operator", "operator=\"ops\"", "address=127.0.0.1", &id]);
}
