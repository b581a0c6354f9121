//! What a page in a browser can do: nothing, unless it is the server's own or the operator allows it.

use reqwest::{
    Method,
    header::{HOST, ORIGIN},
};
use serde_json::{Value, json};

use crate::harness::{
    client::{Answer, Client},
    database::Database,
    events, keys,
    raw::Connection,
    server::{Options, Server},
    websocket::Socket,
};

const PAGE: &str = "http://evil.example";

fn slow() -> Value {
    json!({"model": "echo", "input": "a b", "stream": true, "metadata": {"delay_ms": "10000"}})
}

/// A request as a page sends it, with the `Host` that it reaches the server by.
async fn from(client: &Client, method: Method, path: &str, headers: &[(&str, &str)], body: Option<Value>) -> Answer {
    let mut request = client.request(method, path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    client.send(body.iter().fold(request, |request, body| request.json(body))).await
}

#[tokio::test]
async fn without_keys_only_names_of_this_machine_are_answered() {
    let server = Server::start(Database::Sqlite);
    let client = server.client();
    let port = server.address().rsplit_once(':').unwrap().1;
    let (evil, near) = (format!("evil.example:{port}"), format!("127.0.0.1.evil.example:{port}"));
    let begin = json!({"model": "echo", "input": "secret"});
    for host in [&*evil, &*near, "10.0.0.1", "localhost.evil.example"] {
        for (method, path, body) in [
            (Method::POST, "/v1/responses", Some(begin.clone())),
            (Method::GET, "/v1/models", None),
            (Method::GET, "/admin/runs", None),
            (Method::GET, "/readyz", None),
            (Method::GET, "/openapi.json", None),
        ] {
            let answer = from(&client, method, path, &[("host", host)], body).await;
            answer.refused(421, "host_not_allowed");
            assert!(answer.message().contains("`allowed_hosts`") && answer.message().contains(host));
        }
    }
    assert_eq!(server.response_ids().await, Vec::<String>::new());
    for host in ["localhost", "LOCALHOST:1", "127.0.0.1", "127.9.9.9:80", "[::1]:8642", "app.localhost"] {
        from(&client, Method::POST, "/v1/responses", &[("host", host)], Some(begin.clone())).await.response();
    }
    let (status, body) = Socket::try_open(server.address(), &[("host", "evil.example")], false).await.unwrap_err();
    assert_eq!((status, &body["error"]["code"]), (421, &json!("host_not_allowed")));
}

#[tokio::test]
async fn a_request_for_no_name_or_for_another_one_in_its_target_is_refused() {
    let server = Server::start(Database::Sqlite);
    for (head, status) in [
        ("GET /healthz HTTP/1.1\r\n\r\n", 421),
        ("GET /healthz HTTP/1.0\r\n\r\n", 421),
        ("GET http://evil.example/healthz HTTP/1.1\r\nhost: localhost\r\n\r\n", 421),
        ("GET http://localhost/healthz HTTP/1.1\r\nhost: evil.example\r\n\r\n", 421),
        ("GET http://localhost/healthz HTTP/1.1\r\nhost: localhost\r\n\r\n", 200),
    ] {
        let mut connection = Connection::open(server.address()).await;
        connection.send(head.as_bytes()).await;
        assert_eq!(connection.head().await.status, status, "{head}");
    }
}

#[tokio::test]
async fn the_operator_names_others_and_with_keys_every_name_is_answered() {
    let server = Server::start(Options::new(Database::Sqlite).config("allowed_hosts = [\"Outlast.lan\"]"));
    let host = |host| [("host", host)];
    from(&server.client(), Method::GET, "/v1/models", &host("outlast.lan:8642"), None).await.ok();
    from(&server.client(), Method::GET, "/v1/models", &host("evil.lan"), None).await.refused(421, "host_not_allowed");
    let server = crate::auth::with_keys(Database::Sqlite);
    from(&keys::client(&server, "ann"), Method::GET, "/v1/models", &host("api.example.com"), None).await.ok();
    let (status, error) =
        Server::refused(Options::new(Database::Sqlite).config("allowed_hosts = [\"http://outlast.lan\"]"));
    assert!(!status.success() && error.contains("without a port: `outlast.lan`"), "{error}");
}

#[tokio::test]
async fn a_page_of_another_origin_changes_nothing() {
    let server = Server::start(Database::Sqlite);
    let client = server.client();
    let mut stream = client.stream(slow()).await;
    let id = events::response_id(&stream.until_delta(1).await);
    let conversation = client.send(client.request(Method::POST, "/v1/conversations").json(&json!({}))).await.ok();
    let conversation = conversation["id"].as_str().unwrap();
    let cross = [("sec-fetch-site", "cross-site")];
    let same_site = [("sec-fetch-site", "same-site"), ("origin", "http://localhost:1")];
    let changes = [
        (Method::POST, "/v1/responses".to_owned(), Some(json!({"model": "echo", "input": "x"}))),
        // No body, so no preflight.
        (Method::POST, format!("/v1/responses/{id}/cancel"), None),
        (Method::POST, format!("/admin/runs/{id}/cancel"), None),
        (Method::DELETE, format!("/v1/responses/{id}"), None),
        (Method::POST, "/v1/conversations".to_owned(), Some(json!({}))),
        (Method::POST, format!("/v1/conversations/{conversation}"), Some(json!({"metadata": {"a": "b"}}))),
        (Method::DELETE, format!("/v1/conversations/{conversation}"), None),
    ];
    for (method, path, body) in &changes {
        for page in [&[("origin", PAGE)][..], &[("origin", "null")], &cross, &same_site] {
            let answer = from(&client, method.clone(), path, page, body.clone()).await;
            answer.refused(403, "origin_not_allowed");
            assert!(!answer.headers.contains_key("access-control-allow-origin"));
        }
    }
    assert_eq!(client.response(&id).await["status"], "in_progress");
    assert_eq!(server.response_ids().await, std::slice::from_ref(&id));
    // The server's own page, and what is no page.
    let own = format!("http://{}", server.address());
    let own = [("origin", &*own), ("sec-fetch-site", "same-origin")];
    from(&client, Method::POST, &format!("/v1/responses/{id}/cancel"), &own, None).await.response();
    let typed = [("sec-fetch-site", "none")];
    from(&client, Method::DELETE, &format!("/v1/responses/{id}"), &typed, None).await.ok();
    let (status, body) = Socket::try_open(server.address(), &cross, false).await.unwrap_err();
    assert_eq!((status, &body["error"]["code"]), (403, &json!("origin_not_allowed")));
}

/// The answer to the question that a browser asks before it lets a page send.
async fn preflight(server: &Server, origin: &str) -> reqwest::Response {
    let request = server.client().request(Method::OPTIONS, "/v1/responses").header(ORIGIN, origin);
    let request = request.header("access-control-request-method", "POST");
    let wanted = "authorization,content-type,x-stainless-os";
    request.header("access-control-request-headers", wanted).send().await.unwrap()
}

#[tokio::test]
async fn no_page_may_read_unless_the_operator_says_so() {
    let server = Server::start(Database::Sqlite);
    let answer = preflight(&server, "http://localhost:5173").await;
    assert_eq!(answer.status(), 204);
    assert!(!answer.headers().keys().any(|name| name.as_str().starts_with("access-control")));

    let origin = "https://app.example.com";
    let config = format!("cors_origins = [\"{origin}\"]\n{}", keys::entry("ann"));
    let server = Server::start(Options::new(Database::Sqlite).config(&config));
    let answer = preflight(&server, origin).await;
    let headers = answer.headers();
    assert_eq!(answer.status(), 200);
    assert_eq!(headers["access-control-allow-origin"], origin);
    assert_eq!(headers["access-control-allow-headers"], "authorization,content-type,x-stainless-os");
    assert!(headers["access-control-allow-methods"].to_str().unwrap().contains("DELETE"));
    assert!(!headers.contains_key("access-control-allow-credentials"));
    assert!(!preflight(&server, PAGE).await.headers().contains_key("access-control-allow-origin"));
    // The answers too, and the errors: a page sees why.
    let begin = Some(json!({"model": "echo", "input": "x"}));
    let page = [("origin", origin)];
    let answer = from(&keys::client(&server, "ann"), Method::POST, "/v1/responses", &page, begin.clone()).await;
    assert_eq!(answer.headers["access-control-allow-origin"], origin);
    assert!(answer.headers["access-control-expose-headers"].to_str().unwrap().contains("x-request-id"));
    answer.response();
    let answer = from(&server.client(), Method::POST, "/v1/responses", &page, begin).await;
    answer.refused(401, "invalid_api_key");
    assert_eq!(answer.headers["access-control-allow-origin"], origin);
}

#[tokio::test]
async fn without_keys_a_page_of_this_machine_may_be_allowed_and_no_other() {
    let origin = "http://localhost:5173";
    let server = Server::start(Options::new(Database::Sqlite).config(&format!("cors_origins = [\"{origin}\"]")));
    assert_eq!(preflight(&server, origin).await.headers()["access-control-allow-origin"], origin);
    let page = [("origin", origin), ("sec-fetch-site", "cross-site")];
    let begin = Some(json!({"model": "echo", "input": "x"}));
    from(&server.client(), Method::POST, "/v1/responses", &page, begin.clone()).await.response();
    let other = [("origin", "http://localhost:5174"), ("sec-fetch-site", "cross-site")];
    from(&server.client(), Method::POST, "/v1/responses", &other, begin).await.refused(403, "origin_not_allowed");
    let (status, error) =
        Server::refused(Options::new(Database::Sqlite).config("cors_origins = [\"https://app.example.com\"]"));
    assert!(!status.success() && error.contains("outlast key new"), "{error}");
}

#[tokio::test]
async fn no_answer_is_taken_for_another_kind_of_document() {
    let server = crate::auth::with_keys(Database::Sqlite);
    let ann = keys::client(&server, "ann");
    for (client, path) in [
        (&ann, "/v1/models"),
        (&ann, "/v1/responses/resp_x"),
        (&ann, "/nowhere"),
        (&server.client(), "/v1/models"),
        (&server.client(), "/healthz"),
        (&server.client(), "/openapi.json"),
    ] {
        let answer = client.request(Method::GET, path).send().await.unwrap();
        assert_eq!(answer.headers()["x-content-type-options"], "nosniff", "{path}");
    }
    let local = Server::start(Options::new(Database::Sqlite).config("[limits]\nbody_bytes = \"1KiB\""));
    let client = local.client();
    let kind = "content-type";
    for (request, status) in [
        (client.request(Method::GET, "/v1/models").header(HOST, "evil.example"), 421),
        (client.request(Method::POST, "/v1/responses").header(ORIGIN, PAGE).json(&json!({})), 403),
        (client.request(Method::PUT, "/v1/responses"), 405),
        (client.request(Method::GET, "/v1/responses"), 426),
        (client.request(Method::POST, "/v1/responses").header(kind, "text/html").body("<b>"), 415),
        (client.request(Method::POST, "/v1/responses").header(kind, "application/json").body(" ".repeat(2_000)), 413),
        (client.request(Method::OPTIONS, "/v1/responses").header(ORIGIN, PAGE), 204),
        (client.request(Method::HEAD, "/healthz"), 200),
        (client.request(Method::GET, "/metrics"), 200),
    ] {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), status);
        assert_eq!(answer.headers()["x-content-type-options"], "nosniff", "{status}");
    }
    let stream = ann.request(Method::POST, "/v1/responses").header(HOST, "x");
    let stream = stream.json(&json!({"model": "echo", "input": "x", "stream": true})).send().await.unwrap();
    assert_eq!(stream.headers()["x-content-type-options"], "nosniff");
}
