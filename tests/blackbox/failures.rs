//! A failed run is a failure: an error where a client waits for it, an event in its stream, and the upstream's meaning in
//! words of ours.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{
    client::{Answer, Client},
    database::{Database, both_databases},
    events::{self, kinds},
    fold::fold,
    server::{Options, Server},
    upstream::{Upstream, end, fails, text},
};

both_databases!(a_repeated_request_is_answered_with_the_same_failure, what_was_said_before_a_failure_is_kept,);

async fn with(database: Database, answers: impl IntoIterator<Item = Vec<Value>>) -> (Server, Upstream) {
    let upstream = Upstream::start(answers).await;
    let once = format!("{}\nmax_retries = 0", upstream.providers());
    (Server::start(Options::new(database).config(&once)), upstream)
}

fn ask() -> Value {
    json!({"model": "chat/up-1", "input": "x"})
}

/// A request with an idempotency key.
async fn keyed(client: &Client, key: &str) -> Answer {
    let request = client.request(Method::POST, "/v1/responses").header("idempotency-key", key);
    client.send(request.json(&ask())).await
}

fn header<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    Some(answer.headers.get(name)?.to_str().unwrap())
}

#[tokio::test]
async fn a_failed_run_is_answered_with_what_the_upstream_meant() {
    let error = |code: &str| json!({"message": "No, says org-SECRET at vllm-7.corp.example", "code": code});
    let cases = [
        (fails(429, Some(30), error("rate_limit_exceeded")), 429, "rate_limit_exceeded", Some(30), None),
        (fails(429, None, error("slow_down")), 429, "rate_limit_exceeded", Some(5), None),
        (fails(429, None, error("insufficient_quota")), 429, "insufficient_quota", None, Some("false")),
        (fails(402, None, error("")), 429, "insufficient_quota", None, Some("false")),
        (fails(400, None, error("context_length_exceeded")), 400, "context_length_exceeded", None, None),
        (fails(400, None, error("content_policy_violation")), 400, "content_policy_violation", None, None),
        (fails(404, None, error("model_not_found")), 404, "model_not_found", None, None),
        (fails(401, None, error("invalid_api_key")), 502, "server_error", None, Some("false")),
        (fails(403, None, error("")), 502, "server_error", None, Some("false")),
        (fails(400, None, error("")), 502, "server_error", None, Some("false")),
        (fails(503, None, error("")), 502, "server_error", None, Some("false")),
        (fails(408, None, error("")), 504, "server_error", None, Some("false")),
    ];
    let answers: Vec<_> = cases.iter().map(|(answer, ..)| vec![answer.clone()]).collect();
    let (server, _upstream) = with(Database::Sqlite, answers.iter().chain(&answers).cloned().collect::<Vec<_>>()).await;
    let client = server.client();
    for (answer, status, code, retry_after, should_retry) in &cases {
        let failed = client.post(ask()).await;
        failed.refused(*status, code);
        assert_eq!(failed.retry_after(), *retry_after, "{answer}");
        assert_eq!(header(&failed, "x-should-retry"), *should_retry, "{answer}");
        let id = failed.body["error"]["response_id"].as_str().unwrap();
        assert_eq!(header(&failed, "x-outlast-response-id"), Some(id));
        let response = client.response(id).await;
        assert_eq!((&response["status"], &response["error"]["code"]), (&json!("failed"), &json!(code)));
        assert_eq!(response["error"]["message"], failed.message());
    }
    for (_, _, code, retry_after, _) in &cases {
        let events = client.stream(ask()).await.rest().await;
        let [.., error, last] = &events[..] else { panic!("{events:?}") };
        assert_eq!((error.kind.as_str(), &error.data["code"]), ("error", &json!(code)));
        assert_eq!(fold(&events)["error"]["code"], *code);
        let known = last.data["response"]["error"]["retry_after"].as_u64();
        assert!(known.is_none() || known == *retry_after, "{last:?}");
        let shown = String::from_utf8_lossy(&[&error.frame[..], &last.frame[..]].concat()).into_owned();
        assert!(!shown.contains("SECRET") && !shown.contains("corp.example"), "{shown}");
    }
    // The operator reads what was said.
    server.logged(&["upstream_unavailable", "says org-SECRET at vllm-7.corp.example"]);
}

async fn a_repeated_request_is_answered_with_the_same_failure(database: Database) {
    let slow = fails(429, Some(30), json!({"message": "slow down"}));
    let (mut server, upstream) = with(database, [vec![slow]]).await;
    let first = keyed(&server.client(), "once").await;
    first.refused(429, "rate_limit_exceeded");
    for _ in 0..2 {
        let again = keyed(&server.client(), "once").await;
        assert_eq!((again.status, &again.body, again.retry_after()), (429, &first.body, Some(30)));
        assert_eq!(header(&again, "idempotency-replayed"), Some("true"));
        // With this key, it fails for ever.
        assert_eq!(header(&again, "x-should-retry"), Some("false"));
        server.kill9();
        server.restart();
    }
    assert_eq!(upstream.requests().len(), 1);
}

async fn what_was_said_before_a_failure_is_kept(database: Database) {
    let half = vec![text("half an "), json!({"error": {"message": "boom"}})];
    let (server, _upstream) = with(database, [half.clone(), half.clone(), half]).await;
    let client = server.client();
    let response = client.run(ask()).await;
    assert_eq!(response["output"][0]["content"][0]["text"], "half an ");
    assert_eq!(response["output"][0]["status"], "incomplete");
    let events = client.stream(ask()).await.rest().await;
    assert!(kinds(&events).ends_with(&["response.output_item.done", "error", "response.failed"]), "{events:?}");
    // A cursor may stand between the two.
    let error = &events[events.len() - 2];
    let rest = client.get_stream(&events::response_id(&events), Some(error.number)).await.rest().await;
    assert_eq!(rest, events[events.len() - 1..]);
    // Nobody waits for a run in the background.
    let mut background = ask();
    background["background"] = true.into();
    let id = client.post(background).await.response()["id"].as_str().unwrap().to_owned();
    assert_eq!(client.ended(&id).await["status"], "failed");
}

#[tokio::test]
async fn a_failure_that_is_not_stored_is_an_error_too() {
    let fine = vec![text("fine"), end("stop")];
    let (server, _upstream) = with(Database::Sqlite, [vec![fails(500, None, json!("boom"))], fine]).await;
    let client = server.client();
    let mut body = ask();
    body["store"] = false.into();
    let failed = client.post(body.clone()).await;
    failed.refused(502, "server_error");
    client.get(failed.body["error"]["response_id"].as_str().unwrap()).await.refused(404, "response_not_found");
    client.post(body).await.response();
}
