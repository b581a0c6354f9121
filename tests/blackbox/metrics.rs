//! `GET /metrics`: what an operator watches.

use reqwest::Method;
use serde_json::json;

use crate::harness::{
    client::Client,
    database::{Database, both_databases},
    events, keys,
    metrics::{eventually, metrics},
    postgres::Postgres,
    raw::Connection,
    server::{Options, Server},
    upstream::{self, Upstream},
    wait,
    websocket::Socket,
};

both_databases!(
    runs_are_counted_from_their_admission_to_their_end,
    what_is_committed_is_counted,
    what_is_kept_is_measured,
    a_run_that_the_last_stop_cut_off_is_counted,
);

const ECHO_LIVE: &str = "outlast_runs_live{agent=\"echo\",state=\"in_progress\"}";

fn ended(agent: &str, status: &str) -> String {
    format!("outlast_runs_ended_total{{agent=\"{agent}\",status=\"{status}\"}}")
}

fn refusals(transport: &str, code: &str) -> String {
    format!("outlast_refusals_total{{transport=\"{transport}\",code=\"{code}\"}}")
}

fn calls(provider: &str, outcome: &str) -> String {
    format!("outlast_model_calls_ended_total{{provider=\"{provider}\",outcome=\"{outcome}\"}}")
}

async fn runs_are_counted_from_their_admission_to_their_end(database: Database) {
    let server = Server::start(Options::new(database).config("[limits]\nmax_live_runs = 7\nconnections = 70"));
    let client = server.client();
    let start = metrics(&client).await;
    // An agent shows zeros before its first run, so that its rate is right from the first one on.
    for status in ["completed", "failed", "incomplete", "cancelled", "lost"] {
        assert_eq!((start.value(&ended("echo", status)), start.value(&ended("chat", status))), (0.0, 0.0));
    }
    assert_eq!((start.value("outlast_limits_max_live_runs"), start.value("outlast_limits_connections")), (7.0, 70.0));
    let slow = json!({"model": "echo", "input": "a b", "metadata": {"delay_ms": "10000"}});
    let mut stream = client.stream(slow).await;
    let id = events::response_id(&stream.until_delta(1).await);
    let now = metrics(&client).await;
    assert_eq!(now.value(ECHO_LIVE), 1.0);
    assert_eq!(now.value("outlast_runs_live{agent=\"echo\",state=\"queued\"}"), 0.0);
    assert_eq!(now.value("outlast_run_first_output_seconds_count{agent=\"echo\"}"), 1.0);
    assert_eq!(now.value("outlast_run_duration_seconds_count{agent=\"echo\"}"), 0.0);
    client.cancel(&id).await.response();
    client.post(json!({"model": "echo", "input": "x"})).await.response();
    client.post(json!({"model": "echo", "input": "x", "store": false})).await.response();
    // There is no provider.
    client.run(json!({"model": "chat/m", "input": "x"})).await;
    let end = eventually(&client, "outlast_run_duration_seconds_count{agent=\"echo\"}", |count| count == 3.0).await;
    assert_eq!((end.value(&ended("echo", "cancelled")), end.value(&ended("echo", "completed"))), (1.0, 2.0));
    eventually(&client, &ended("chat", "failed"), |count| count == 1.0).await;
    eventually(&client, ECHO_LIVE, |live| live == 0.0).await;
}

async fn what_is_committed_is_counted(database: Database) {
    let server = Server::start(database);
    let client = server.client();
    let mut seen = Vec::new();
    for store in [true, false] {
        let mut stream = client.stream(json!({"model": "echo", "input": "a b c", "store": store})).await;
        let count = stream.rest().await.len() as f64;
        seen.push((count, stream.frames().len() as f64));
    }
    let events = |writer: &str| format!("outlast_events_committed_total{{writer=\"{writer}\"}}");
    let bytes = |writer: &str| format!("outlast_event_bytes_committed_total{{writer=\"{writer}\"}}");
    for (writer, (count, length)) in ["durable", "ephemeral"].into_iter().zip(seen) {
        let now = eventually(&client, &events(writer), |events| events == count).await;
        assert_eq!(now.value(&bytes(writer)), length);
    }
    let now = metrics(&client).await;
    let transactions = now.value("outlast_commit_duration_seconds_count");
    assert!(transactions >= 2.0);
    assert_eq!(now.value("outlast_commit_runs_count"), transactions);
    assert_eq!(now.value("outlast_commit_runs_sum"), transactions);
    assert_eq!(now.value("outlast_commit_events_sum"), now.value(&events("durable")));
    for reason in ["unavailable", "timed_out", "rejected", "other"] {
        assert_eq!(now.value(&format!("outlast_commit_failures_total{{reason=\"{reason}\"}}")), 0.0);
    }
}

async fn what_is_kept_is_measured(database: Database) {
    let server = Server::start(database);
    let client = server.client();
    let empty = metrics(&client).await;
    assert_eq!((empty.value("outlast_storage_up"), empty.value("outlast_storage_responses")), (1.0, 0.0));
    assert_eq!(empty.value("outlast_storage_oldest_response_age_seconds"), 0.0);
    assert!(empty.value("outlast_storage_bytes") > 4_096.0);
    for _ in 0..3 {
        client.post(json!({"model": "echo", "input": "x"})).await.response();
    }
    let full = eventually(&client, "outlast_storage_responses", |responses| responses == 3.0).await;
    assert!(full.value("outlast_storage_bytes") >= empty.value("outlast_storage_bytes"));
    eventually(&client, "outlast_storage_oldest_response_age_seconds", |age| age >= 1.0).await;
}

async fn a_run_that_the_last_stop_cut_off_is_counted(database: Database) {
    let mut server = Server::start(database);
    let slow = json!({"model": "echo", "input": "a b", "metadata": {"delay_ms": "10000"}});
    server.client().stream(slow).await.until_delta(1).await;
    assert_eq!(metrics(&server.client()).await.value("outlast_runs_resumed_total"), 0.0);
    server.restart();
    assert_eq!(metrics(&server.client()).await.value("outlast_runs_resumed_total"), 1.0);
}

#[tokio::test]
async fn subscribers_are_counted_while_they_read() {
    let server = Server::start(Database::Sqlite);
    let client = server.client();
    let over = |name: &str, transport: &str| format!("outlast_{name}{{transport=\"{transport}\"}}");
    let slow = json!({"model": "echo", "input": "a b", "stream": true, "metadata": {"delay_ms": "10000"}});
    let mut stream = client.stream(slow.clone()).await;
    let id = events::response_id(&stream.until_delta(1).await);
    let mut second = client.get_stream(&id, None).await;
    second.until_delta(1).await;
    let mut goes = Connection::open(server.address()).await;
    goes.post(&slow).await;
    assert_eq!(goes.head().await.status, 200);
    let mut socket = Socket::open(server.address()).await;
    socket.create(json!({"model": "echo", "input": "a b", "metadata": {"delay_ms": "10000"}})).await;
    socket.until(0, |event| event.delta().is_some()).await;
    let now = metrics(&client).await;
    assert_eq!((now.value(&over("subscribers", "http")), now.value(&over("subscribers", "websocket"))), (3.0, 1.0));
    assert_eq!(now.value("outlast_websockets"), 1.0);
    assert!(now.value("outlast_http_connections") >= 4.0);
    // One goes, two have the last event, and a socket is closed within its turn.
    goes.abort();
    eventually(&client, &over("subscribers_gone_total", "http"), |gone| gone == 1.0).await;
    client.cancel(&id).await.response();
    stream.rest().await;
    second.rest().await;
    socket.close().await;
    let end = eventually(&client, &over("subscribers_gone_total", "websocket"), |gone| gone == 1.0).await;
    assert_eq!(end.value(&over("subscribers", "websocket")), 0.0);
    let end = eventually(&client, &over("subscribers", "http"), |readers| readers == 0.0).await;
    assert_eq!(end.value(&over("subscribers_gone_total", "http")), 1.0);
    eventually(&client, "outlast_websockets", |open| open == 0.0).await;
}

#[tokio::test]
async fn calls_of_models_are_counted_by_provider_and_by_listed_model() {
    let say = |end: &str, input, output| vec![upstream::text("x"), upstream::end(end), upstream::usage(input, output)];
    let answers = [say("stop", 7, 3), say("length", 20, 1), say("stop", 100, 40), say("content_filter", 1_000, 400)];
    let upstream = Upstream::start(answers).await;
    // One refuses connections; one takes a call and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let more = format!(
        "[providers.away]\nbase_url = \"http://127.0.0.1:9/v1\"\nmax_retries = 2\nretry_pause = \"1ms\"\n\
         [providers.silent]\nbase_url = \"http://{}/v1\"",
        silent.local_addr().unwrap()
    );
    let options = Options::new(Database::Sqlite).config("default_model = \"up/usual\"");
    let server = Server::start(upstream.options(options).config(&more));
    let client = server.client();
    let ask = async |model: &str| client.run(json!({"model": model, "input": "x"})).await;
    for (model, status) in [
        ("chat", "completed"),
        ("chat/up/usual", "incomplete"),
        ("chat/up/invented", "completed"),
        ("chat/up/invented-too", "incomplete"),
        ("chat/away/m", "failed"),
    ] {
        assert_eq!(ask(model).await["status"], status, "{model}");
    }
    let mut waits = client.stream(json!({"model": "chat/silent/m", "input": "x"})).await;
    let id = events::response_id(&[waits.next().await.unwrap()]);
    eventually(&client, "outlast_model_calls_live{provider=\"silent\"}", |live| live == 1.0).await;
    client.cancel(&id).await.response();
    let now = eventually(&client, &calls("silent", "cancelled"), |count| count == 1.0).await;
    assert_eq!(now.value("outlast_model_calls_live{provider=\"silent\"}"), 0.0);
    assert_eq!((now.value(&calls("up", "completed")), now.value(&calls("up", "incomplete"))), (2.0, 2.0));
    assert_eq!(now.value(&calls("away", "failed")), 1.0);
    assert_eq!(now.value("outlast_model_retries_total{provider=\"away\"}"), 2.0);
    let failures = "outlast_model_call_failures_total{provider=\"away\",code=\"upstream_unreachable\"}";
    assert_eq!(now.value(failures), 1.0);
    assert_eq!(now.value("outlast_model_call_duration_seconds_count{provider=\"up\"}"), 4.0);
    assert_eq!(now.value("outlast_model_first_token_seconds_count{provider=\"up\"}"), 4.0);
    let tokens = |way: &str, model: &str| {
        now.value(&format!("outlast_model_{way}_tokens_total{{provider=\"up\",model=\"{model}\"}}"))
    };
    assert_eq!((tokens("input", "usual"), tokens("output", "usual")), (27.0, 4.0));
    assert_eq!((tokens("input", "other"), tokens("output", "other")), (1_100.0, 440.0));
    assert!(!now.text().contains("invented"));
}

#[tokio::test]
async fn what_is_refused_is_counted_by_its_code_and_makes_no_label_of_its_own() {
    let server = Server::start(Database::Sqlite);
    let client = server.client();
    metrics(&client).await;
    for path in ["/nowhere/17", "/nowhere/18", "/v1/responses/resp_secret", "/v1/models/secret-model", "/%ff"] {
        assert!(client.get_path(path).await.status >= 400, "{path}");
    }
    client.post(json!({"model": "secret-model", "input": "x"})).await.refused(404, "model_not_found");
    client.post(json!({"model": "secret-model/m", "input": "x"})).await.refused(404, "model_not_found");
    client.post(json!({"model": "echo"})).await.refused(400, "missing_required_parameter");
    let invented = Method::from_bytes(b"SECRET").unwrap();
    client.send(client.request(invented, "/v1/responses")).await.refused(405, "method_not_allowed");
    let mut socket = Socket::open(server.address()).await;
    socket.create(json!({"model": "secret-model", "input": "x"})).await;
    socket.refused(404, "model_not_found").await;
    let now = metrics(&client).await;
    for (transport, code, count) in [
        ("http", "unknown_url", 3.0),
        ("http", "response_not_found", 1.0),
        ("http", "model_not_found", 3.0),
        ("http", "missing_required_parameter", 1.0),
        ("http", "method_not_allowed", 1.0),
        ("websocket", "model_not_found", 1.0),
    ] {
        assert_eq!(now.value(&refusals(transport, code)), count, "{transport} {code}");
    }
    let requests = |route: &str, method: &str, status: u16| {
        let labels = format!("route=\"{route}\",method=\"{method}\",status=\"{status}\"");
        now.value(&format!("outlast_http_requests_total{{{labels}}}"))
    };
    assert_eq!(requests("other", "GET", 404), 3.0);
    assert_eq!(requests("/v1/responses/{id}", "GET", 404), 1.0);
    assert_eq!(requests("/v1/models/{id}", "GET", 404), 1.0);
    assert_eq!(requests("/v1/responses", "POST", 404), 2.0);
    assert_eq!(requests("/v1/responses", "POST", 400), 1.0);
    assert_eq!(requests("/v1/responses", "other", 405), 1.0);
    assert_eq!(requests("/v1/responses", "GET", 101), 1.0);
    assert_eq!(requests("/metrics", "GET", 200), 1.0);
    let text = now.text();
    for secret in ["nowhere", "secret", "SECRET", "ff"] {
        assert!(!text.contains(secret), "{secret} in\n{text}");
    }
}

/// The status of a look, and what its answer says.
async fn look(client: &Client) -> (u16, String) {
    let answer = client.request(Method::GET, "/metrics").send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test]
async fn with_keys_only_a_key_with_the_right_reads_the_metrics() {
    let reader = format!("{}\nmetrics = true", keys::entry("prometheus"));
    let ann = keys::entry("ann");
    let server = Server::start(Options::new(Database::Sqlite).config(&reader).config(&ann));
    let client = keys::client(&server, "ann");
    let response = client.post(json!({"model": "echo", "input": "a word of ann"})).await.response();
    for stranger in [server.client(), keys::client(&server, "eve")] {
        let answer = stranger.get_path("/metrics").await;
        answer.refused(401, "invalid_api_key");
        assert!(answer.headers.contains_key("www-authenticate"));
    }
    let answer = client.get_path("/metrics").await;
    answer.refused(403, "metrics_not_allowed");
    assert!(answer.message().contains("`metrics = true`"), "{}", answer.message());
    let reader = keys::client(&server, "prometheus");
    let now = eventually(&reader, &ended("echo", "completed"), |count| count == 1.0).await;
    assert_eq!(now.value(&refusals("http", "metrics_not_allowed")), 1.0);
    assert_eq!(now.value(&refusals("http", "invalid_api_key")), 2.0);
    let (status, text) = look(&reader).await;
    assert_eq!(status, 200);
    for word in ["ann", "prometheus", "a word", response["id"].as_str().unwrap()] {
        assert!(!text.contains(word), "{word} in\n{text}");
    }
}

#[tokio::test]
async fn a_database_that_is_gone_does_not_hide_the_rest() {
    let Some(postgres) = Postgres::private() else { return };
    let server = Server::start(Database::Postgres(postgres.database().await));
    let client = server.client();
    client.post(json!({"model": "echo", "input": "x"})).await.response();
    eventually(&client, "outlast_storage_responses", |responses| responses == 1.0).await;
    postgres.stop();
    client.post(json!({"model": "echo", "input": "x"})).await.refused(503, "storage_unavailable");
    let down = eventually(&client, "outlast_storage_up", |up| up == 0.0).await;
    // What was known stays.
    assert_eq!(down.value("outlast_storage_responses"), 1.0);
    assert_eq!(down.value(&refusals("http", "storage_unavailable")), 1.0);
    assert!(down.value("outlast_commit_failures_total{reason=\"unavailable\"}") >= 1.0);
    postgres.start();
    eventually(&client, "outlast_storage_up", |up| up == 1.0).await;
}

#[tokio::test]
async fn what_is_shown_is_documented() {
    let away = "[providers.away]\nbase_url = \"http://127.0.0.1:9/v1\"\nmax_retries = 0";
    let server = Server::start(Options::new(Database::Sqlite).config(away));
    let client = server.client();
    // What has no series before there is something to count.
    client.run(json!({"model": "chat/m", "input": "x"})).await;
    client.get_path("/nowhere").await.refused(404, "unknown_url");
    let now = metrics(&client).await;
    let page = include_str!("../../docs/src/operating/metrics.md");
    for family in now.families() {
        assert!(page.contains(&format!("`{family}")), "docs/src/operating/metrics.md does not say what {family} is");
    }
    let version = format!("outlast_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    assert_eq!(now.value(&version), 1.0);
    let start = now.value("process_start_time_seconds");
    let epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((epoch - start) < wait::PATIENCE.as_secs_f64(), "{start}");
}
