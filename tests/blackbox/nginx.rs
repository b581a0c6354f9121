//! nginx in front of the server, with its defaults and as the book says.

use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio_tungstenite::{client_async, tungstenite::Message};

use crate::harness::{
    client::Client,
    database::Database,
    events, keys,
    nginx::Nginx,
    server::{Options, Server},
    tls::Authority,
    wait::{PATIENCE, within},
};

/// The pause between two signs of life of a stream, far less than the time that nginx waits for one.
const ALIVE: &str = "[limits]\nkeep_alive = \"100ms\"";
/// How long nginx waits for whoever is silent.
const IMPATIENT: &str = "1s";
/// A word that is said after this has come is one after nginx' patience.
const SILENCE: &str = "2500";

/// The block of the book, with a place for what is here.
fn of_the_book(server: &Server, authority: &Authority, port: u16, read_timeout: &str) -> String {
    let page = include_str!("../../docs/src/operating/proxy.md");
    let block = page.split("```nginx\n").nth(1).unwrap().split("```").next().unwrap();
    let (certificate, key) = (authority.file("cert.pem"), authority.file("key.pem"));
    let mut block = block.to_owned();
    for (written, here) in [
        ("listen 443 ssl", format!("listen 127.0.0.1:{port} ssl")),
        ("/etc/ssl/outlast/cert.pem", certificate.display().to_string()),
        ("/etc/ssl/outlast/key.pem", key.display().to_string()),
        ("http://127.0.0.1:8642", server.url().to_owned()),
        ("proxy_read_timeout 11m", format!("proxy_read_timeout {read_timeout}")),
    ] {
        assert_eq!(block.matches(written).count(), 1, "{written}: {block}");
        block = block.replace(written, &here);
    }
    block
}

/// Nothing but the way to the server.
fn bare(server: &Server, port: u16) -> String {
    format!(
        "server {{ listen 127.0.0.1:{port}; proxy_read_timeout {IMPATIENT}; location / {{ proxy_pass {}; }} }}",
        server.url()
    )
}

#[tokio::test]
async fn streams_pass_it_as_they_come_and_outlast_its_timeouts() {
    let server = Server::start(Options::new(Database::Sqlite).config(ALIVE));
    let Some(nginx) = Nginx::start(|port| bare(&server, port)) else { return };
    let client = Client::new(&format!("http://{}", nginx.address())).proxied();
    let request = json!({"model": "echo", "input": "one two", "metadata": {"delay_ms": SILENCE}});
    let mut stream = client.stream(request).await;
    let seen = stream.until(|event| event.kind == "response.in_progress").await;
    // What was seen was passed on before the end.
    let id = events::response_id(&seen);
    assert_eq!(server.client().response(&id).await["status"], "in_progress");
    let rest = stream.rest().await;
    assert_eq!(rest.last().unwrap().kind, "response.completed");
    let replayed = client.get_stream(&id, None).await.rest().await;
    assert_eq!(replayed.len(), seen.len() + rest.len());
    // What is silent is ended by nginx, and not by the server.
    let request = json!({"model": "echo", "input": "one two", "metadata": {"delay_ms": SILENCE}});
    let request = client.request(reqwest::Method::POST, "/v1/responses").header("idempotency-key", "k").json(&request);
    let answer = within(PATIENCE, "an answer", request.try_clone().unwrap().send()).await.unwrap();
    assert_eq!(answer.status(), 504);
    crate::harness::wait::eventually("the run ends", async || {
        let answer = request.try_clone().unwrap().send().await.unwrap();
        (answer.status() == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_the_book_says_serves_everything() {
    let config = format!("{}\n{ALIVE}", keys::entry("ann"));
    let server = Server::start(Options::new(Database::Sqlite).config(&config));
    let authority = Authority::new();
    let Some(nginx) = Nginx::start(|port| of_the_book(&server, &authority, port, IMPATIENT)) else { return };
    let (client, url) = (authority.client(), format!("https://{}/v1/responses", nginx.address()));
    let post = |url: String, body: Value| client.post(url).bearer_auth("key-ann").json(&body).send();

    // An error of the server stays its own.
    let answer = post(url.clone(), json!({"model": "nobody", "input": "x"})).await.unwrap();
    assert_eq!(answer.status(), 404);
    assert_eq!(answer.json::<Value>().await.unwrap()["error"]["code"], "model_not_found");

    let stream = authority.connect(&nginx.address(), &[b"http/1.1"], false).await;
    let request = tokio_tungstenite::tungstenite::ClientRequestBuilder::new(
        format!("wss://{}/v1/responses", nginx.address()).parse().unwrap(),
    )
    .with_header("authorization", "Bearer key-ann");
    let (mut socket, _) = client_async(request, stream).await.unwrap();
    // Nobody says anything for longer than nginx waits.
    let mut pings = 0;
    within(PATIENCE, "pings", async {
        while pings < 25 {
            let message = socket.next().await.unwrap().unwrap();
            assert!(matches!(message, Message::Ping(_)), "{message:?}");
            pings += 1;
        }
    })
    .await;
    let create = json!({
        "type": "response.create", "model": "echo", "input": "one two", "metadata": {"delay_ms": SILENCE},
    });
    socket.send(Message::text(create.to_string())).await.unwrap();
    let response = within(Duration::from_secs(60), "the end of a turn", async {
        loop {
            let Message::Text(text) = socket.next().await.unwrap().unwrap() else { continue };
            let event: Value = serde_json::from_str(&text).unwrap();
            if event["type"] == "response.completed" {
                return event["response"].clone();
            }
        }
    })
    .await;
    assert_eq!(response["output"][0]["content"][0]["text"], "one two");
}

#[tokio::test]
async fn a_request_that_waits_and_a_large_one_are_answered_as_the_book_says() {
    let server = Server::start(Options::new(Database::Sqlite).config(&keys::entry("ann")));
    let authority = Authority::new();
    let Some(nginx) = Nginx::start(|port| of_the_book(&server, &authority, port, "11m")) else { return };
    let body = json!({"model": "echo", "input": "one two", "metadata": {"delay_ms": SILENCE}});
    let client = authority.client();
    let post = |path: &str, body: Value| {
        let request = client.post(format!("https://{}/v1/responses{path}", nginx.address()));
        within(PATIENCE, "an answer", request.bearer_auth("key-ann").json(&body).send())
    };
    assert_eq!(post("", body).await.unwrap().status(), 200);
    // Larger than what nginx takes by itself, and than what it keeps in memory.
    let large: Vec<_> = (0..3).map(|_| json!({"role": "user", "content": "word ".repeat(1_600_000)})).collect();
    let answer = post("/input_tokens", json!({"model": "echo", "input": large})).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.json::<Value>().await.unwrap()["input_tokens"].as_u64().unwrap() > 1_000_000);
}
