//! Webhooks: who is told that a response has ended, how often, and where nothing is sent.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{
    cli::command,
    client::{Answer, Client},
    database::{Database, both_databases},
    keys,
    metrics::{eventually, metrics},
    receiver::{Received, Receiver},
    server::{Options, Server},
    wait,
    web::Web,
};

both_databases!(
    the_end_of_a_response_is_told_to_whoever_wants_to_know,
    no_end_is_forgotten_whenever_the_server_is_killed,
    what_fails_is_tried_again_with_the_same_id_and_a_new_time,
    what_is_given_up_is_dead_and_can_be_delivered_again,
    an_endpoint_that_is_gone_is_disabled,
    principals_have_endpoints_of_their_own,
    what_was_delivered_long_enough_ago_goes,
);

/// Lets webhooks be sent to the tests.
const NEAR: &str = "webhook_private = [\"127.0.0.1\"]\n";

fn options(database: Database, config: &str) -> Options {
    Options::new(database).config(&format!("{NEAR}{config}"))
}

async fn send(client: &Client, method: Method, path: &str, body: Option<&Value>) -> Answer {
    let request = client.request(method, path);
    client
        .send(match body {
            Some(body) => request.json(body),
            None => request,
        })
        .await
}

async fn post(client: &Client, path: &str, body: Value) -> Answer {
    send(client, Method::POST, path, Some(&body)).await
}

/// An endpoint that wants to know of the ends of all responses in the background. It comes with its secret.
async fn endpoint(client: &Client, url: &str, changes: Value) -> Value {
    let types = ["response.completed", "response.failed", "response.incomplete", "response.cancelled"];
    let mut body = json!({"name": "mine", "url": url, "event_types": types});
    body.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    post(client, "/v1/webhook_endpoints", body).await.ok()
}

fn path(endpoint: &Value) -> String {
    format!("/v1/webhook_endpoints/{}", endpoint["id"].as_str().unwrap())
}

fn secret(endpoint: &Value) -> &str {
    endpoint["signing_secret"].as_str().unwrap()
}

/// Begins a run in the background, and gives its id.
async fn begin(client: &Client, fields: Value) -> String {
    let mut body = json!({"model": "echo", "input": "hi", "background": true});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    client.post(body).await.response()["id"].as_str().unwrap().to_owned()
}

async fn deliveries(client: &Client, query: &str) -> Vec<Value> {
    let list = client.get_path(&format!("/admin/webhooks/deliveries{query}")).await.ok();
    list["data"].as_array().unwrap().clone()
}

/// Waits until a delivery about this response is in this state.
async fn delivery(client: &Client, response: &str, state: &str) -> Value {
    wait::eventually(format!("the delivery about {response} is {state}"), async || {
        deliveries(client, &format!("?response={response}&state={state}")).await.pop()
    })
    .await
}

fn event_id(response: &str) -> String {
    response.replace("resp_", "evt_")
}

/// The ids of the events that came in, each with the type and the response that it is about.
fn told(events: &[Received]) -> BTreeMap<String, (String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let told = |event: &Received| {
        let json = event.json();
        assert_eq!((&json["id"], &json["object"]), (&json!(event.id), &json!("event")));
        (event.id.clone(), (text(&json["type"]), text(&json["data"]["id"])))
    };
    events.iter().map(told).collect()
}

async fn the_end_of_a_response_is_told_to_whoever_wants_to_know(database: Database) {
    let server = Server::start(options(database, ""));
    let (client, background, all, failures) =
        (server.client(), Receiver::start().await, Receiver::start().await, Receiver::start().await);
    let made = endpoint(&client, &background.url(), json!({})).await;
    assert_eq!(
        (&made["object"], &made["runs"], &made["disabled"]),
        (&json!("webhook_endpoint"), &json!("background"), &json!(false))
    );
    let secret = secret(&made);
    let hint = made["signing_secret_hint"].as_str().unwrap();
    assert!(hint.starts_with("whsec_…") && secret.ends_with(hint.trim_start_matches("whsec_…")), "{made}");
    endpoint(&client, &all.url(), json!({"runs": "all"})).await;
    endpoint(&client, &failures.url(), json!({"runs": "all", "event_types": ["response.failed", "batch.failed"]}))
        .await;

    client.post(json!({"model": "echo", "input": "a", "store": false})).await.ok();
    let foreground = client.post(json!({"model": "echo", "input": "a"})).await.response();
    let foreground = foreground["id"].as_str().unwrap();
    let completed = begin(&client, json!({})).await;
    let cancelled = begin(&client, json!({"metadata": {"delay_ms": "10000"}, "input": "a b"})).await;
    client.cancel(&cancelled).await.response();
    let event = |kind: &str, id: &str| (event_id(id), (format!("response.{kind}"), id.to_owned()));
    let two = [event("completed", &completed), event("cancelled", &cancelled)];
    let seen = background.until(2).await;
    assert_eq!(told(&seen), BTreeMap::from(two.clone()));
    let now = i64::try_from(SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()).unwrap();
    for event in &seen {
        assert!(event.is_signed_by(secret) && (now - event.timestamp.parse::<i64>().unwrap()).abs() < 60, "{event:?}");
        assert!((now - event.json()["created_at"].as_i64().unwrap()).abs() < 60);
    }
    let three = two.into_iter().chain([event("completed", foreground)]).collect();
    assert_eq!(told(&all.until(3).await), three);
    assert!(failures.events().is_empty());
    delivery(&client, &completed, "delivered").await;
    assert!(!server.log().contains("whsec_"));
}

/// How many times the server is killed: `OUTLAST_TEST_KILLS`, or some.
fn kills() -> usize {
    std::env::var("OUTLAST_TEST_KILLS").map_or(20, |kills| kills.parse().unwrap())
}

async fn no_end_is_forgotten_whenever_the_server_is_killed(database: Database) {
    let mut server = Server::start(options(database, ""));
    let receiver = Receiver::start().await;
    let secret = secret(&endpoint(&server.client(), &receiver.url(), json!({})).await).to_owned();
    let mut expected = BTreeSet::new();
    for round in 0..kills() {
        let client = server.client();
        // Every other time the event is on its way, and nobody knows whether it has come.
        receiver.hold(round % 2 == 1);
        let before = receiver.events().len();
        let id = begin(&client, json!({})).await;
        client.ended(&id).await;
        if round % 4 == 1 {
            receiver.until(before + 1).await;
        }
        server.kill9();
        receiver.hold(false);
        expected.insert(event_id(&id));
        server.restart();
    }
    wait::eventually("every end is told", async || {
        let told: BTreeSet<_> = receiver.events().into_iter().map(|event| event.id).collect();
        (told == expected).then_some(())
    })
    .await;
    let events = receiver.events();
    assert!(events.len() > expected.len(), "none was on its way when the server was killed");
    assert_eq!(told(&events).len(), expected.len());
    assert!(events.iter().all(|event| event.is_signed_by(&secret)));
    let client = server.client();
    let waiting = async || deliveries(&client, "?state=pending").await;
    wait::eventually("nothing waits", async || waiting().await.is_empty().then_some(())).await;
}

async fn what_fails_is_tried_again_with_the_same_id_and_a_new_time(database: Database) {
    let server = Server::start(options(database, ""));
    let (client, receiver) = (server.client(), Receiver::start().await);
    receiver.answer(503, &[("retry-after", "7")], "busy");
    let made = endpoint(&client, &receiver.url(), json!({})).await;
    let id = begin(&client, json!({})).await;
    let waiting = wait::eventually("the first attempt fails", async || {
        deliveries(&client, "?state=pending").await.pop().filter(|delivery| delivery["attempts"] == 1)
    })
    .await;
    let at = |name: &str| waiting[name].as_i64().unwrap();
    assert!(at("next_try_at_ms") - at("last_try_at_ms") >= 7_000, "{waiting}");
    assert_eq!((&waiting["last_status"], &waiting["last_answer"]), (&json!(503), &json!("busy")));
    receiver.answer(200, &[], "");
    let seen = receiver.until(2).await;
    assert_eq!((&seen[0].id, &seen[0].body), (&seen[1].id, &seen[1].body));
    assert_ne!(seen[0].timestamp, seen[1].timestamp);
    assert!(seen.iter().all(|event| event.is_signed_by(secret(&made))));
    let delivered = delivery(&client, &id, "delivered").await;
    assert_eq!((&delivered["attempts"], &delivered["last_error"]), (&json!(2), &Value::Null));
    let counted = metrics(&client).await;
    for (series, value) in [
        ("outlast_webhook_attempts_total{outcome=\"refused\"}", 1.0),
        ("outlast_webhook_attempts_total{outcome=\"delivered\"}", 1.0),
        ("outlast_webhook_deliveries_ended_total{outcome=\"delivered\"}", 1.0),
    ] {
        assert_eq!(counted.value(series), value, "{series}");
    }
}

async fn what_is_given_up_is_dead_and_can_be_delivered_again(database: Database) {
    let server = Server::start(options(database, "[limits]\nwebhook_retry_for = \"0s\""));
    let (client, receiver) = (server.client(), Receiver::start().await);
    receiver.answer(500, &[], &"\u{0}x".repeat(2_000));
    let made = endpoint(&client, &receiver.url(), json!({})).await;
    let id = begin(&client, json!({})).await;
    let dead = delivery(&client, &id, "dead").await;
    assert_eq!(
        (&dead["attempts"], &dead["last_status"], &dead["next_try_at_ms"]),
        (&json!(1), &json!(500), &Value::Null)
    );
    assert_eq!(dead["last_answer"].as_str().unwrap().chars().count(), 1_024);
    let at = dead["id"].as_str().unwrap();
    let outlast = async |arguments: &[&str]| {
        let mut command = command(["webhooks"]);
        command.args(arguments).env("OUTLAST_URL", server.url());
        // The receiver answers meanwhile.
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(outlast(&["list"]).await.contains(made["id"].as_str().unwrap()));
    let listed = outlast(&["deliveries", "--state", "dead"]).await;
    assert!(listed.contains(at) && listed.contains("the answer is 500"), "{listed}");
    receiver.answer(204, &[], "");
    assert!(outlast(&["redeliver", at]).await.contains(at));
    delivery(&client, &id, "delivered").await;
    let seen = receiver.events();
    assert_eq!((seen.len(), &seen[0].id), (2, &seen[1].id));
    assert_eq!(outlast(&["test", made["id"].as_str().unwrap()]).await, "it answers 204\n");
    // A sample is signed as well, and not kept.
    let sample = receiver.until(3).await.pop().unwrap();
    assert!(sample.is_signed_by(secret(&made)) && sample.json()["type"] == "response.completed", "{sample:?}");
    assert_eq!(deliveries(&client, "").await.len(), 1);
    let none = format!("/admin/webhooks/deliveries/{}/redeliver", at.replace("whd_", "whe_"));
    send(&client, Method::POST, &none, None).await.refused(404, "webhook_delivery_not_found");
    eventually(&client, "outlast_webhook_deliveries_pending", |pending| pending == 0.0).await;
}

async fn an_endpoint_that_is_gone_is_disabled(database: Database) {
    let server = Server::start(options(database, ""));
    let (client, receiver) = (server.client(), Receiver::start().await);
    receiver.answer(410, &[], "");
    let made = endpoint(&client, &receiver.url(), json!({})).await;
    let first = begin(&client, json!({})).await;
    let dead = delivery(&client, &first, "dead").await;
    wait::eventually("it is disabled", async || {
        (client.get_path(&path(&made)).await.ok()["disabled"] == true).then_some(())
    })
    .await;
    receiver.answer(200, &[], "");
    client.ended(&begin(&client, json!({})).await).await;
    let again = format!("/admin/webhooks/deliveries/{}/redeliver", dead["id"].as_str().unwrap());
    send(&client, Method::POST, &again, None).await.refused(409, "webhook_delivery_busy");
    assert_eq!(post(&client, &path(&made), json!({"disabled": false})).await.ok()["disabled"], false);
    send(&client, Method::POST, &again, None).await.ok();
    let third = begin(&client, json!({})).await;
    let seen: BTreeSet<_> = receiver.until(3).await.into_iter().map(|event| event.id).collect();
    assert_eq!(seen, BTreeSet::from([event_id(&first), event_id(&third)]), "nothing is kept for who is disabled");
}

async fn principals_have_endpoints_of_their_own(database: Database) {
    let receiver = Receiver::start().await;
    let own = "whsec_".to_owned() + &"A".repeat(43) + "=";
    let configured = format!(
        "[[webhooks]]\nname = \"operator\"\nprincipal = \"bob\"\nurl = \"{}\"\nsecret = \"{own}\"\nruns = \"all\"\n",
        receiver.url()
    );
    let keys = [keys::entry("ann"), keys::entry("bob"), format!("{}\nadmin = true", keys::entry("ops"))].join("\n");
    let limits = "[limits]\nwebhook_endpoints = 2";
    let mut server = Server::start(options(database.clone(), &format!("{configured}{keys}\n{limits}")));
    let (ann, bob) = (keys::client(&server, "ann"), keys::client(&server, "bob"));
    let anns = Receiver::start().await;
    let (one, two) = (endpoint(&ann, &anns.url(), json!({})).await, endpoint(&ann, &anns.url(), json!({})).await);
    let third = json!({"name": "c", "url": anns.url(), "event_types": ["response.failed"]});
    let refused = post(&ann, "/v1/webhook_endpoints", third).await;
    refused.refused(429, "too_many_webhook_endpoints");
    assert!(refused.message().contains("limits.webhook_endpoints") && refused.headers["x-should-retry"] == "false");

    let ids = |list: &Value| list["data"].as_array().unwrap().iter().map(|one| one["id"].clone()).collect::<Vec<_>>();
    let list = ann.get_path("/v1/webhook_endpoints?limit=1").await.ok();
    assert_eq!((ids(&list), &list["has_more"]), (vec![two["id"].clone()], &json!(true)));
    let next = format!("/v1/webhook_endpoints?limit=1&after={}", two["id"].as_str().unwrap());
    let list = ann.get_path(&next).await.ok();
    assert_eq!((ids(&list), &list["has_more"]), (vec![one["id"].clone()], &json!(false)));
    assert!(list["data"][0].get("signing_secret").is_none());
    assert!(ids(&bob.get_path("/v1/webhook_endpoints").await.ok()).is_empty(), "the operator's is not shown");
    let at = path(&one);
    for (method, suffix, body) in [
        (Method::GET, "", None),
        (Method::DELETE, "", None),
        (Method::POST, "", Some(json!({"name": "x"}))),
        (Method::POST, "/rotate_secret", Some(json!({}))),
        (Method::POST, "/test", Some(json!({"event_type": "response.failed"}))),
    ] {
        let answer = send(&bob, method, &format!("{at}{suffix}"), body.as_ref()).await;
        answer.refused(404, "webhook_endpoint_not_found");
    }
    ann.get_path("/admin/webhooks").await.refused(403, "admin_not_allowed");

    let id = begin(&bob, json!({})).await;
    let seen = receiver.until(1).await;
    assert!(seen[0].id == event_id(&id) && seen[0].is_signed_by(&own), "{seen:?}");
    let id = begin(&ann, json!({})).await;
    anns.until(2).await;
    assert!(anns.events().iter().all(|event| event.id == event_id(&id)));
    let ops = keys::client(&server, "ops");
    assert_eq!(ids(&ops.get_path("/admin/webhooks").await.ok()).len(), 3);
    assert_eq!(send(&ann, Method::DELETE, &at, None).await.ok()["object"], "webhook_endpoint.deleted");
    ann.get_path(&at).await.refused(404, "webhook_endpoint_not_found");
    assert!(receiver.events().len() == 1, "they are told of others' responses");

    // What the configuration has no more is gone.
    server.restart_with(options(database, &keys));
    let ops = keys::client(&server, "ops");
    assert_eq!(ids(&ops.get_path("/admin/webhooks").await.ok()), [two["id"].clone()]);
}

async fn what_was_delivered_long_enough_ago_goes(database: Database) {
    let server = Server::start(options(database, "retention = \"1s\""));
    let (client, receiver) = (server.client(), Receiver::start().await);
    endpoint(&client, &receiver.url(), json!({})).await;
    begin(&client, json!({})).await;
    receiver.until(1).await;
    wait::eventually("the delivery goes", async || deliveries(&client, "").await.is_empty().then_some(())).await;
}

#[tokio::test]
async fn a_secret_is_replaced() {
    let server = Server::start(options(Database::Sqlite, ""));
    let (client, receiver) = (server.client(), Receiver::start().await);
    let made = endpoint(&client, &receiver.url(), json!({})).await;
    let rotate = format!("{}/rotate_secret", path(&made));
    let kept = json!({"keep_old_secret_active_for_24_hours": true});
    let second = post(&client, &rotate, kept).await.ok();
    begin(&client, json!({})).await;
    let event = receiver.until(1).await.pop().unwrap();
    assert!(event.is_signed_by(secret(&made)) && event.is_signed_by(secret(&second)), "{event:?}");
    let third = send(&client, Method::POST, &rotate, None).await.ok();
    begin(&client, json!({})).await;
    let event = receiver.until(2).await.pop().unwrap();
    assert!(event.is_signed_by(secret(&third)));
    assert!(!event.is_signed_by(secret(&second)) && !event.is_signed_by(secret(&made)), "an old secret signs");
    // What is stored is sealed.
    let row = sqlx::query("SELECT secrets FROM webhook_endpoints").fetch_one(&mut server.database().await).await;
    let sealed: String = sqlx::Row::get(&row.unwrap(), 0);
    assert!(!sealed.contains("whsec_") && !sealed.contains(secret(&third).trim_start_matches("whsec_")));
}

#[tokio::test]
async fn a_slow_endpoint_holds_up_nobody_else() {
    let server =
        Server::start(options(Database::Sqlite, "[limits]\nwebhook_concurrency = 3\nwebhook_timeout = \"5m\""));
    let (client, slow, quick) = (server.client(), Receiver::start().await, Receiver::start().await);
    slow.hold(true);
    endpoint(&client, &slow.url(), json!({})).await;
    endpoint(&client, &quick.url(), json!({})).await;
    for _ in 0..12 {
        begin(&client, json!({})).await;
    }
    quick.until(12).await;
    slow.until(3).await;
    assert_eq!(slow.events().len(), 3, "more are sent at once than may be");
    slow.hold(false);
    assert_eq!(told(&slow.until(12).await).len(), 12);
}

#[tokio::test]
async fn nothing_is_sent_to_what_is_near() {
    let receiver = Receiver::start().await;
    let mut server = Server::start(Options::new(Database::Sqlite));
    let client = server.client();
    for url in [
        &*receiver.url(),
        "https://127.0.0.1/",
        "https://localhost/",
        "https://169.254.169.254/latest/meta-data/",
        "https://[::ffff:10.0.0.1]/",
        "https://2130706433/",
        "https://ann:secret@example.com/",
        "http://1.1.1.1/",
        "ftp://1.1.1.1/",
        "nonsense",
    ] {
        let body = json!({"name": "a", "url": url, "event_types": ["response.failed"]});
        let refused = post(&client, "/v1/webhook_endpoints", body).await;
        assert_eq!(refused.refused(400, "invalid_value"), Some("url"), "{url}");
        assert!(!refused.message().contains("secret"), "{}", refused.message());
    }
    // A name that leads to where something may be sent when it is named, and not any more when something is sent.
    let allowed = "webhook_private = [\"127.0.0.0/8\", \"::1\"]\n[limits]\nwebhook_retry_for = \"0s\"";
    server.restart_with(Options::new(Database::Sqlite).config(allowed));
    let url = format!("http://localhost:{}/", receiver.port());
    let made = endpoint(&server.client(), &url, json!({})).await;
    let id = begin(&server.client(), json!({})).await;
    receiver.until(1).await;
    delivery(&server.client(), &id, "delivered").await;
    server.restart_with(Options::new(Database::Sqlite).config("[limits]\nwebhook_retry_for = \"0s\""));
    let client = server.client();
    let id = begin(&client, json!({})).await;
    let dead = delivery(&client, &id, "dead").await;
    assert!(dead["last_error"].as_str().unwrap().contains("webhook_private"), "{dead}");
    let sample = post(&client, &format!("{}/test", path(&made)), json!({"event_type": "response.failed"})).await;
    sample.refused(502, "webhook_endpoint_failed");
    assert_eq!(receiver.events().len(), 1);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let server = Server::start(options(Database::Sqlite, "[limits]\nwebhook_retry_for = \"0s\""));
    let (client, web, other) = (server.client(), Web::start().await, Receiver::start().await);
    for to in ["http://169.254.169.254/latest/meta-data/".to_owned(), other.url()] {
        let made = endpoint(&client, &web.url(&format!("/redirect/302?to={to}")), json!({})).await;
        let dead = delivery(&client, &begin(&client, json!({})).await, "dead").await;
        assert_eq!(dead["last_status"], 302);
        assert!(dead["last_error"].as_str().unwrap().contains("redirect"), "{dead}");
        send(&client, Method::DELETE, &path(&made), None).await.ok();
    }
    assert!(other.events().is_empty() && web.requests().len() == 2);
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_is_tried_again() {
    let config = "[limits]\nwebhook_retry_for = \"0s\"\nwebhook_timeout = \"200ms\"";
    let server = Server::start(options(Database::Sqlite, config));
    let (client, receiver) = (server.client(), Receiver::start().await);
    receiver.hold(true);
    endpoint(&client, &receiver.url(), json!({})).await;
    let id = begin(&client, json!({})).await;
    let dead = delivery(&client, &id, "dead").await;
    assert_eq!((&dead["last_status"], dead["last_error"].as_str()), (&Value::Null, Some("no answer within 200ms")));
    assert_eq!(metrics(&client).await.value("outlast_webhook_attempts_total{outcome=\"timeout\"}"), 1.0);
}

#[tokio::test]
async fn what_waits_is_measured() {
    let server = Server::start(options(Database::Sqlite, ""));
    let (client, receiver) = (server.client(), Receiver::start().await);
    receiver.answer(500, &[], "");
    endpoint(&client, &receiver.url(), json!({})).await;
    begin(&client, json!({})).await;
    eventually(&client, "outlast_webhook_deliveries_pending", |pending| pending == 1.0).await;
    eventually(&client, "outlast_webhook_oldest_pending_age_seconds", |age| age >= 1.0).await;
}

#[tokio::test]
async fn a_server_that_stops_leaves_what_waits_to_the_next_start() {
    let mut server = Server::start(options(Database::Sqlite, "drain_timeout = \"1s\""));
    let (client, receiver) = (server.client(), Receiver::start().await);
    receiver.hold(true);
    endpoint(&client, &receiver.url(), json!({})).await;
    let id = begin(&client, json!({})).await;
    receiver.until(1).await;
    server.terminate();
    assert!(wait::within(Duration::from_secs(30), "it stops", server.ended()).await.success());
    receiver.hold(false);
    server.restart();
    let seen = receiver.until(2).await;
    assert!(seen.iter().all(|event| event.id == event_id(&id)));
    delivery(&server.client(), &id, "delivered").await;
}

#[tokio::test]
async fn what_is_wrong_is_named_and_nothing_is_kept() {
    let server = Server::start(options(Database::Sqlite, ""));
    let (client, receiver) = (server.client(), Receiver::start().await);
    let right = json!({"name": "a", "url": receiver.url(), "event_types": ["response.failed"]});
    for (change, code, param) in [
        (json!({"name": null}), "missing_required_parameter", "name"),
        (json!({"url": 7}), "invalid_type", "url"),
        (json!({"event_types": []}), "array_below_min_length", "event_types"),
        (json!({"event_types": ["Not one"]}), "invalid_value", "event_types[0]"),
        (json!({"runs": "some"}), "invalid_value", "runs"),
    ] {
        let mut body = right.clone();
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        assert_eq!(post(&client, "/v1/webhook_endpoints", body).await.refused(400, code), Some(param));
    }
    assert_eq!(client.get_path("/v1/webhook_endpoints").await.ok()["data"], json!([]));
    assert_eq!(client.get_path("/v1/webhook_event_types").await.ok()["data"].as_array().unwrap().len(), 4);
    for query in ["?limit=0", "?after=x"] {
        client.get_path(&format!("/v1/webhook_endpoints{query}")).await.refused(400, "invalid_value");
    }
    for query in ["?state=x", "?response=x", "?endpoint=x", "?after=x", "?limit=x", "?principal=%00"] {
        client.get_path(&format!("/admin/webhooks/deliveries{query}")).await.refused(400, "invalid_value");
    }
    client.ended(&begin(&client, json!({})).await).await;
    assert!(deliveries(&client, "").await.is_empty());
}
