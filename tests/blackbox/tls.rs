//! TLS without a proxy: what is served over it, what it is served with, and who is not.

use std::{process::Stdio, time::Duration};

use futures::{SinkExt as _, StreamExt as _};
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, body::Bytes, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::{client_async, tungstenite::Message};

use crate::harness::{
    cli,
    database::Database,
    metrics::Metrics,
    raw::Connection,
    server::{Options, Server},
    tls::{self, Authority},
    wait::{self, within},
};

/// Far less than the times that `PATIENT` sets.
const SOON: Duration = Duration::from_secs(30);
/// No time of a connection ends in a test.
const PATIENT: &str = "first_byte_timeout = \"1h\"\nheader_timeout = \"1h\"\nwrite_timeout = \"1h\"";

fn served(authority: &Authority, limits: &str) -> Server {
    let config = format!("{}\n[limits]\n{limits}", authority.config());
    Server::start(Options::new(Database::Sqlite).config(&config))
}

#[tokio::test]
async fn requests_streams_and_sockets_are_served_over_it() {
    let authority = Authority::new();
    let server = served(&authority, "");
    assert!(server.url().starts_with("https://127.0.0.1:"), "{}", server.url());
    let client = authority.client();
    let body = json!({"model": "echo", "input": "one two", "stream": true});
    let answer = client.post(format!("{}/v1/responses", server.url())).json(&body).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.version()), (200, reqwest::Version::HTTP_2));
    assert!(answer.text().await.unwrap().ends_with("data: [DONE]\n\n"));

    let stream = authority.connect(server.address(), &[b"h2", b"http/1.1"], false).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection) =
        http2::Builder::new(TokioExecutor::new()).handshake(TokioIo::new(stream)).await.unwrap();
    let _connection = tokio::spawn(connection);
    let large = json!({"model": "echo", "input": "x".repeat(900_000), "store": false}).to_string();
    let request = Request::post(format!("{}/v1/responses", server.url()))
        .header("content-type", "application/json")
        .body(Full::<Bytes>::from(large))
        .unwrap();
    let answer = within(SOON, "an answer", sender.send_request(request)).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.version()), (200, hyper::Version::HTTP_2));
    assert!(answer.into_body().collect().await.unwrap().to_bytes().len() > 900_000);

    let stream = authority.connect(server.address(), &[b"http/1.1"], false).await;
    let url = format!("wss://{}/v1/responses", server.address());
    let (mut socket, _) = client_async(url, stream).await.unwrap();
    for input in ["one", "two"] {
        let create = json!({"type": "response.create", "model": "echo", "input": input, "store": false});
        socket.send(Message::text(create.to_string())).await.unwrap();
        let event = wait::within(SOON, "the end of a turn", async {
            loop {
                let Message::Text(text) = socket.next().await.unwrap().unwrap() else { continue };
                let event: Value = serde_json::from_str(&text).unwrap();
                if event["type"] == "response.completed" {
                    return event;
                }
            }
        });
        assert_eq!(event.await["response"]["output"][0]["content"][0]["text"], input);
    }
}

#[tokio::test]
async fn the_command_line_speaks_to_a_server_over_it() {
    let authority = Authority::new();
    let server = served(&authority, "");
    let runs = |url: &str, trusted: bool| {
        let mut command = cli::command(["runs", "list", "--url", url]);
        if trusted {
            command.env("SSL_CERT_FILE", authority.file("ca.pem"));
        }
        let ended = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap();
        (ended.status.success(), String::from_utf8(ended.stdout).unwrap(), String::from_utf8(ended.stderr).unwrap())
    };
    let (url, address) = (server.url().to_owned(), server.address().to_owned());
    assert_eq!(runs(&url, true), (true, "no runs\n".to_owned(), String::new()));
    let (ok, _, why) = runs(&url, false);
    assert!(!ok && why.contains("UnknownIssuer"), "{why}");
    let (ok, _, why) = runs(&format!("http://{address}"), true);
    assert!(!ok && why.contains("https://"), "{why}");
}

#[tokio::test]
async fn who_speaks_without_it_is_told_so() {
    let authority = Authority::new();
    let server = served(&authority, PATIENT);
    for request in ["GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut connection = Connection::open(server.address()).await;
        connection.send(request.as_bytes()).await;
        let head = within(SOON, "an answer", connection.head()).await;
        assert_eq!(head.status, 400);
        assert!(head.headers.contains("connection: close"), "{}", head.headers);
        let body = connection.body(&head).await;
        assert_eq!(body["error"]["code"], "tls_required");
        assert!(body["error"]["message"].as_str().unwrap().contains("https://"), "{body}");
        assert!(within(SOON, "the close", connection.closed()).await);
    }
    let text = authority.client().get(format!("{}/metrics", server.url())).send().await.unwrap().text().await.unwrap();
    let metrics = Metrics::parse(&text);
    assert_eq!(metrics.value("outlast_refusals_total{transport=\"http\",code=\"tls_required\"}"), 2.0);
}

#[tokio::test]
async fn a_new_certificate_is_used_for_new_connections() {
    let authority = Authority::new();
    let server = served(&authority, "");
    let first = authority.shown(server.address()).await;
    let mut open = authority.connect(server.address(), &[b"http/1.1"], false).await;
    authority.renew();
    let second = wait::eventually("another certificate", async || {
        let shown = authority.shown(server.address()).await;
        (shown != first).then_some(shown)
    })
    .await;
    server.logged(&["the certificate was read again"]);
    // What cannot be used changes nothing, and is told once it has stayed.
    std::fs::write(authority.file("key.pem"), authority.certify().1).unwrap();
    server.logged(&["the certificate stays as it was", "tls.key", "is not the key of the first certificate"]);
    assert_eq!(authority.shown(server.address()).await, second);
    std::fs::remove_file(authority.file("cert.pem")).unwrap();
    server.logged(&["the certificate stays as it was", "tls.certificate", "cannot be read"]);
    authority.renew();
    server.hang_up();
    wait::eventually("the third certificate", async || {
        (authority.shown(server.address()).await != second).then_some(())
    })
    .await;
    // A connection that was open stays.
    open.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    within(SOON, "an answer", open.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn what_cannot_be_used_is_refused_at_the_start() {
    let authority = Authority::new();
    let (other, nothing) = (authority.file("other.pem"), authority.file("nothing.pem"));
    std::fs::write(&other, authority.certify().1).unwrap();
    std::fs::write(&nothing, "hello").unwrap();
    let (certificate, key) = (authority.file("cert.pem"), authority.file("key.pem"));
    let missing = authority.file("missing.pem");
    for (certificate, key, expected) in [
        (&missing, &key, "tls.certificate: "),
        (&certificate, &missing, "missing.pem cannot be read: No such file"),
        (&nothing, &key, "has no certificate. It must be PEM"),
        (&key, &key, "has no certificate. It must be PEM"),
        (&certificate, &nothing, "has no private key. It must be PEM"),
        (&certificate, &certificate, "has no private key. It must be PEM"),
        (&certificate, &other, "other.pem is not the key of the first certificate in "),
    ] {
        let (status, why) = Server::refused(Options::new(Database::Sqlite).config(&tls::config(certificate, key)));
        assert!(!status.success() && why.contains("configuration: tls.") && why.contains(expected), "{why}");
    }
}

#[tokio::test]
async fn a_handshake_that_does_not_end_is_given_up() {
    let authority = Authority::new();
    let server = served(&authority, "header_timeout = \"300ms\"\nfirst_byte_timeout = \"1h\"");
    let mut slow = Connection::open(server.address()).await;
    // The beginning of a record.
    slow.send(&[22, 3, 1]).await;
    assert!(within(SOON, "it is closed", slow.closed()).await);
    let mut wrong = Connection::open(server.address()).await;
    wrong.send(&[22, 0, 0, 0, 0, 0]).await;
    let text = wait::eventually("two failures", async || {
        let answer = authority.client().get(format!("{}/metrics", server.url())).send().await.unwrap();
        let metrics = Metrics::parse(&answer.text().await.unwrap());
        (metrics.value("outlast_failed_handshakes_total") == 2.0).then_some(())
    });
    text.await;
}

#[tokio::test]
async fn a_handshake_has_a_place_and_gives_it_up() {
    let authority = Authority::new();
    let server = served(&authority, &format!("connections = 1\n{PATIENT}"));
    let mut slow = Connection::open(server.address()).await;
    slow.send(&[22, 3, 1]).await;
    let asking = authority.client().get(format!("{}/healthz", server.url())).send();
    assert_eq!(within(SOON, "an answer", asking).await.unwrap().status(), 200);
    assert!(within(SOON, "it is closed", slow.closed()).await);
}

#[tokio::test]
async fn answers_that_nobody_reads_are_given_up() {
    let authority = Authority::new();
    let server = served(&authority, "connections = 1\nwrite_timeout = \"300ms\"");
    let mut deaf = authority.connect(server.address(), &[b"http/1.1"], true).await;
    let requests = "GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(200);
    deaf.write_all(requests.as_bytes()).await.unwrap();
    deaf.flush().await.unwrap();
    deaf.read_exact(&mut [0; 12]).await.unwrap();
    let asking = authority.client().get(format!("{}/healthz", server.url())).send();
    assert_eq!(within(SOON, "an answer", asking).await.unwrap().status(), 200);
}
