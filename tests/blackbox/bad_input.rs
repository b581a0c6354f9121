//! Requests that are wrong: the right status, the one envelope, nothing started and nothing stored.

use reqwest::{Method, header::CONTENT_TYPE};
use serde_json::{Value, json};

use crate::harness::{
    client::{Answer, Client},
    database::{Database, both_databases},
    raw::Connection,
    server::{Options, Server},
};

both_databases!(nothing_of_a_refused_request_is_stored);

fn server() -> Server {
    Server::start(Database::Sqlite)
}

/// A right request with one field set.
fn with(field: &str, value: Value) -> Value {
    let mut request = json!({"model": "echo", "input": "x"});
    request[field] = value;
    request
}

/// Posts each, and checks that it is a 400 about `param`.
async fn all_refused(client: &Client, cases: impl IntoIterator<Item = (Value, &str)>) {
    for (request, param) in cases {
        let answer = client.post(request.clone()).await;
        let shown: String = request.to_string().chars().take(200).collect();
        assert_eq!(
            (answer.status, answer.body["error"]["param"].as_str()),
            (400, Some(param)),
            "{shown}: {}",
            answer.body
        );
        assert_eq!(answer.body["error"]["type"], "invalid_request_error");
    }
}

async fn nothing_of_a_refused_request_is_stored(database: Database) {
    let server = Server::start(Options::new(database).config("[limits]\nbody_bytes = \"64KiB\""));
    let client = server.client();
    for request in [
        json!({"input": "x"}),
        json!({"model": "echo"}),
        with("model", json!("nobody")),
        with("stream", json!("false")),
        with("metadata", json!({"a": 1})),
        with("input", json!("x".repeat(100_000))),
        with("background", json!(true))
            .as_object()
            .map(|request| json!({"store": false, "background": request["background"], "model": "echo", "input": "x"}))
            .unwrap(),
    ] {
        for stream in [true, false] {
            let mut request = request.clone();
            if request.get("stream").is_none() {
                request["stream"] = json!(stream);
            }
            assert!((400..500).contains(&client.post(request).await.status));
        }
    }
    client.post_bytes("{").await.refused(400, "invalid_json");
    assert_eq!(server.response_ids().await, Vec::<String>::new());
    client.post(json!({"model": "echo", "input": "right"})).await.response();
    assert_eq!(server.response_ids().await.len(), 1);
}

#[tokio::test]
async fn malformed_json_is_refused() {
    let server = server();
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let cut = r#"{"model":"echo","input":"x""#;
    for body in ["", "{", "nonsense", cut, "{}{}", "\u{feff}{}", &deep] {
        let answer = server.client().post_bytes(body.to_owned()).await;
        answer.refused(400, "invalid_json");
    }
    server.client().post_bytes(&b"{\"model\":\"\xff\"}"[..]).await.refused(400, "invalid_json");
    for body in ["null", "[]", "7", "\"text\""] {
        assert_eq!(server.client().post_bytes(body).await.status, 400, "{body}");
    }
}

#[tokio::test]
async fn model_and_input_are_required() {
    let server = server();
    let client = server.client();
    for (request, param) in [
        (json!({}), "model"),
        (json!({"input": "x"}), "model"),
        (json!({"model": null, "input": "x"}), "model"),
        (json!({"model": "echo"}), "input"),
        (json!({"model": "echo", "input": null}), "input"),
    ] {
        assert_eq!(client.post(request).await.refused(400, "missing_required_parameter"), Some(param));
    }
}

#[tokio::test]
async fn an_unknown_model_is_not_found() {
    let server = server();
    for model in ["nobody", "Echo", "echo2", "/echo", "../echo", "echo\u{0}"] {
        let answer = server.client().post(with("model", json!(model))).await;
        assert_eq!(answer.refused(404, "model_not_found"), Some("model"), "{model}");
    }
}

#[tokio::test]
async fn a_quoted_boolean_is_refused() {
    let server = server();
    let names = ["store", "stream", "background", "parallel_tool_calls"];
    let wrong = [json!("false"), json!("true"), json!(0), json!(1), json!([]), json!({})];
    let cases = names.iter().flat_map(|name| wrong.iter().map(|value| (with(name, value.clone()), *name)));
    all_refused(&server.client(), cases).await;
}

#[tokio::test]
async fn wrong_types_are_refused_by_name() {
    let server = server();
    let cases = [
        (with("model", json!(7)), "model"),
        (with("model", json!({})), "model"),
        (with("input", json!(7)), "input"),
        (with("input", json!({})), "input"),
        (with("input", json!(["x"])), "input[0]"),
        (with("instructions", json!(7)), "instructions"),
        (with("metadata", json!([])), "metadata"),
        (with("metadata", json!({"delay_ms": 5})), "metadata.delay_ms"),
        (with("temperature", json!("1")), "temperature"),
        (with("top_p", json!([])), "top_p"),
        (with("max_output_tokens", json!(1.5)), "max_output_tokens"),
        (with("max_output_tokens", json!("9")), "max_output_tokens"),
        (with("tools", json!({})), "tools"),
        (with("tools", json!([7])), "tools[0]"),
        (with("tool_choice", json!(7)), "tool_choice"),
        (with("user", json!(7)), "user"),
        (with("text", json!("x")), "text"),
        (with("reasoning", json!("x")), "reasoning"),
        (with("stream_options", json!("x")), "stream_options"),
    ];
    all_refused(&server.client(), cases).await;
}

#[tokio::test]
async fn numbers_out_of_their_range_are_refused() {
    let server = server();
    let cases = [
        (with("temperature", json!(-0.1)), "temperature"),
        (with("temperature", json!(2.1)), "temperature"),
        (with("top_p", json!(1.1)), "top_p"),
        (with("presence_penalty", json!(-2.5)), "presence_penalty"),
        (with("frequency_penalty", json!(2.5)), "frequency_penalty"),
        (with("top_logprobs", json!(21)), "top_logprobs"),
        (with("max_output_tokens", json!(0)), "max_output_tokens"),
        (with("max_output_tokens", json!(-5)), "max_output_tokens"),
        (with("max_tool_calls", json!(0)), "max_tool_calls"),
    ];
    all_refused(&server.client(), cases).await;
}

#[tokio::test]
async fn words_that_are_not_in_the_list_are_refused() {
    let server = server();
    let cases = [
        (with("truncation", json!("sometimes")), "truncation"),
        (with("tool_choice", json!("maybe")), "tool_choice"),
        (with("input", json!([{"role": "robot", "content": "x"}])), "input[0].role"),
        (with("input", json!([{"type": 7}])), "input[0].type"),
        (with("input", json!([])), "input"),
        (
            with("input", json!([{"role": "user", "content": [{"type": "input_image", "image_url": "x.png"}]}])),
            "input[0].content[0].image_url",
        ),
        (with("tools", json!([{"type": "function", "name": "f"}, {"type": "custom", "name": "f"}])), "tools[1].name"),
        (with("tool_choice", json!({"type": "function", "name": "f"})), "tool_choice.name"),
        (with("input", json!([{"role": "user", "content": [{"type": "smell"}]}])), "input[0].content[0].type"),
        (with("reasoning", json!({"summary": "enormous"})), "reasoning.summary"),
        (with("text", json!({"format": {"type": "xml"}})), "text.format.type"),
    ];
    all_refused(&server.client(), cases).await;
}

#[tokio::test]
async fn metadata_has_limits() {
    let server = server();
    let client = server.client();
    let pairs = |count: usize| (0..count).map(|n| (format!("k{n}"), json!("v"))).collect::<serde_json::Map<_, _>>();
    let right = [
        json!(pairs(16)),
        json!({"k".repeat(64): "v".repeat(512)}),
        // Characters count, not bytes.
        json!({"ü".repeat(64): "ü".repeat(512)}),
        json!({}),
    ];
    for metadata in right {
        assert_eq!(client.post(with("metadata", metadata.clone())).await.response()["metadata"], metadata);
    }
    let wrong = [json!(pairs(17)), json!({"k".repeat(65): "v"}), json!({"k": "v".repeat(513)}), json!({"k": null})];
    for metadata in wrong {
        let answer = client.post(with("metadata", metadata)).await;
        assert_eq!(answer.status, 400);
        assert!(answer.body["error"]["param"].as_str().unwrap().starts_with("metadata"));
    }
}

#[tokio::test]
async fn background_needs_store() {
    let server = server();
    for stream in [true, false] {
        let request = json!({"model": "echo", "input": "x", "store": false, "background": true, "stream": stream});
        assert_eq!(server.client().post(request).await.refused(400, "background_requires_store"), Some("background"));
    }
}

#[tokio::test]
async fn a_tool_call_needs_its_output_and_an_output_its_call() {
    let server = server();
    let call = json!({"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"});
    let output = json!({"type": "function_call_output", "call_id": "c1", "output": "x"});
    let message = json!({"role": "user", "content": "go on"});
    let client = server.client();
    for input in [json!([call, message]), json!([output, message])] {
        let answer = client.post(with("input", input)).await;
        assert_eq!((answer.status, answer.body["error"]["param"].as_str()), (400, Some("input")), "{}", answer.body);
    }
    client.post(with("input", json!([call, output, message]))).await.response();
}

#[tokio::test]
async fn what_is_larger_than_its_limit_is_refused() {
    let limits = "[limits]\ntext_bytes = \"1MiB\"\ninput_items = 1000\nbody_bytes = \"10MiB\"";
    let server = Server::start(Options::new(Database::Sqlite).config(limits));
    let client = server.client();
    let most = "x".repeat(1 << 20);
    client.post(with("input", json!(most))).await.response();
    let more = format!("{most}x");
    let part = json!([{"role": "user", "content": [{"type": "input_text", "text": more}]}]);
    all_refused(&client, [(with("input", json!(more)), "input"), (with("input", part), "input[0].content[0].text")])
        .await;
    let items = |count| json!(vec![json!({"role": "user", "content": "x"}); count]);
    client.post(with("input", items(1_000))).await.response();
    all_refused(&client, [(with("input", items(1_001)), "input")]).await;
    let body = |bytes: usize| {
        let head = r#"{"model":"echo","input":"x","ignored":""#;
        format!("{head}{}\"}}", "x".repeat(bytes - head.len() - 2))
    };
    let most = client.post_bytes(body(10 << 20)).await;
    assert_eq!(most.status, 200, "{}", most.body);
    client.post_bytes(body((10 << 20) + 1)).await.refused(413, "request_too_large");
}

#[tokio::test]
async fn a_body_without_a_length_has_the_same_limit() {
    let server = Server::start(Options::new(Database::Sqlite).config("[limits]\nbody_bytes = \"16KiB\""));
    let mut connection = Connection::open(server.address()).await;
    let head = "POST /v1/responses HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    connection.send(head.as_bytes()).await;
    let chunk = format!("4000\r\n{}\r\n", " ".repeat(0x4000));
    connection.send(chunk.as_bytes()).await;
    connection.send(chunk.as_bytes()).await;
    assert_eq!(connection.head().await.status, 413);
}

#[tokio::test]
async fn what_is_not_json_by_its_media_type_is_refused() {
    let server = server();
    let client = server.client();
    let send = async |media_type: Option<&str>| -> Answer {
        let mut request = client.request(Method::POST, "/v1/responses").body(r#"{"model":"echo","input":"x"}"#);
        if let Some(media_type) = media_type {
            request = request.header(CONTENT_TYPE, media_type);
        }
        client.send(request).await
    };
    for wrong in [None, Some("text/plain"), Some("application/x-www-form-urlencoded"), Some("multipart/form-data")] {
        send(wrong).await.refused(415, "unsupported_media_type");
    }
    for right in ["application/json", "application/json; charset=utf-8", "Application/JSON"] {
        send(Some(right)).await.response();
    }
}

#[tokio::test]
async fn unknown_routes_are_not_found() {
    let server = server();
    let client = server.client();
    for path in ["/", "/v1", "/v1/nothing", "/v1/responses/a/b/c", "/v2/responses", "/V1/responses", "//"] {
        assert_eq!(client.get_path(path).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn a_wrong_method_is_refused_and_the_right_ones_are_named() {
    let server = server();
    let client = server.client();
    let wrong = [(Method::PUT, "/v1/responses"), (Method::POST, "/v1/models"), (Method::POST, "/healthz")];
    for (method, path) in wrong {
        let answer = client.send(client.request(method.clone(), path)).await;
        assert_eq!(answer.status, 405, "{method} {path}");
        assert!(answer.headers.contains_key("allow"), "{method} {path}");
    }
}

#[tokio::test]
async fn a_request_that_is_no_http_does_no_harm() {
    let server = server();
    for bytes in [&b"\x16\x03\x01\x02\x00\x01"[..], b"GET\r\n\r\n", b"POST / HTTP/9.9\r\n\r\n", &[0; 100_000]] {
        let mut connection = Connection::open(server.address()).await;
        connection.send(bytes).await;
        connection.abort();
    }
    server.client().post(with("input", json!("fine"))).await.response();
}

#[tokio::test]
async fn a_body_that_is_cut_starts_nothing() {
    let server = server();
    let mut connection = Connection::open(server.address()).await;
    let head = "POST /v1/responses HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n";
    connection.send(format!("{head}{{\"model\":\"echo\",\"input\":\"x\"}}").as_bytes()).await;
    connection.abort();
    server.client().get_path("/readyz").await.ok();
    assert_eq!(server.response_ids().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_body_that_does_not_come_is_given_up() {
    let server = Server::start(Options::new(Database::Sqlite).config("[limits]\nbody_timeout = \"200ms\""));
    let mut connection = Connection::open(server.address()).await;
    let head = "POST /v1/responses HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n";
    connection.send(head.as_bytes()).await;
    assert_eq!(connection.head().await.status, 408);
}

#[tokio::test]
async fn a_delay_that_echo_does_not_know_fails_the_run_and_says_why() {
    let server = server();
    let response = server.client().run(with("metadata", json!({"delay_ms": "soon"}))).await;
    assert_eq!(response["status"], "failed");
    assert!(response["error"]["message"].as_str().unwrap().contains("delay_ms"), "{}", response["error"]);
}

#[tokio::test]
async fn a_url_that_is_no_text_is_refused_in_the_envelope() {
    let server = Server::start(Database::Sqlite);
    let client = server.client();
    for path in ["/v1/responses/%ff", "/v1/responses/%ff/input_items", "/v1/models/%ff"] {
        client.get_path(path).await.refused(400, "invalid_url");
    }
}
