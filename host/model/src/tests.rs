//! Calls of a small upstream that speaks Chat Completions over real sockets and does what it is told.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use axum::{
    Json, Router,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
    routing::post,
};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use outlast_metrics::ModelMetrics;
use serde_json::{Value, json};

use super::*;

mod names;
mod native;
mod shapes;

/// What the upstream does with a call: the model's name says it.
async fn answer(State(calls): State<Arc<AtomicUsize>>, headers: HeaderMap, Json(body): Json<Value>) -> Response {
    let call = calls.fetch_add(1, Ordering::SeqCst);
    let error = |status: u16, message: &str| {
        let status = StatusCode::from_u16(status).unwrap();
        (status, Json(json!({"error": {"message": message}}))).into_response()
    };
    let text = |text: &str| chunk(json!({"content": text}), None);
    let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":5,\"total_tokens\":12,\
                 \"prompt_tokens_details\":{\"cached_tokens\":3},\"completion_tokens_details\":{\"reasoning_tokens\":2}}}\n\n";
    let done = "data: [DONE]\n\n";
    match body["model"].as_str().unwrap() {
        "hello" => {
            assert_eq!(headers["authorization"], "Bearer sk-test");
            assert_eq!(body["stream"], true);
            let stop = chunk(json!({}), Some("stop"));
            events(vec![text("Hel"), text("lo"), stop, usage.to_owned(), done.to_owned()])
        }
        "thinks" => {
            let thought = chunk(json!({"reasoning_content": "hm"}), None);
            events(vec![thought, text("42"), chunk(json!({}), Some("length")), done.to_owned()])
        }
        "calls" => {
            assert_eq!(body["tools"][0]["function"]["name"], "weather");
            let call = |function: Value, id: Value| {
                chunk(json!({"tool_calls": [{"index": 0, "id": id, "type": "function", "function": function}]}), None)
            };
            events(vec![
                call(json!({"name": "weather", "arguments": ""}), json!("call_1")),
                call(json!({"arguments": "{\"city\":"}), Value::Null),
                call(json!({"arguments": "\"Bonn\"}"}), Value::Null),
                chunk(json!({}), Some("tool_calls")),
                done.to_owned(),
            ])
        }
        "echo" => events(vec![
            text(&body["messages"].to_string()),
            text(&format!("|{}|{}|{}", body["temperature"], body["top_p"], body["response_format"]["type"])),
            chunk(json!({}), Some("stop")),
            done.to_owned(),
        ]),
        "cut" => events(vec![text("half")]),
        "cut-first" if call == 0 => events(vec![]),
        "busy" if call < 2 => {
            let mut response = error(429, "slow down");
            response.headers_mut().insert("retry-after", "0".parse().unwrap());
            response
        }
        "cut-first" | "busy" => events(vec![text("at last"), chunk(json!({}), Some("stop")), done.to_owned()]),
        "much-later" => {
            let mut response = error(429, "come back tomorrow");
            response.headers_mut().insert("retry-after", "86400".parse().unwrap());
            response
        }
        "down" => error(503, "out of order"),
        "key" => error(401, "Incorrect API key provided: sk-test"),
        "silent" => {
            let first = stream::iter([Ok::<_, std::io::Error>(Bytes::from(text("so")))]);
            Body::from_stream(first.chain(stream::pending())).into_response()
        }
        "mute" => std::future::pending().await,
        "large" => events(vec![text(&"x".repeat(600)), text(&"x".repeat(600)), done.to_owned()]),
        "quiet-end" => {
            let said = [text("all"), chunk(json!({}), Some("stop")), usage.to_owned()];
            let said = stream::iter(said.map(|event| Ok::<_, std::io::Error>(Bytes::from(event))));
            Body::from_stream(said.chain(stream::pending())).into_response()
        }
        "no-done" => events(vec![text("all"), chunk(json!({}), Some("stop"))]),
        "early-error" if call == 0 => {
            events(vec!["data: {\"error\":{\"code\":502,\"message\":\"bad\"}}\n\n".to_owned()])
        }
        "early-error" => events(vec![text("at last"), chunk(json!({}), Some("stop")), done.to_owned()]),
        "drip" => {
            let drip = stream::unfold((), async |()| {
                tokio::time::sleep(Duration::from_millis(100)).await;
                Some((Ok::<_, std::io::Error>(Bytes::from(chunk(json!({"content": "."}), None))), ()))
            });
            Body::from_stream(drip).into_response()
        }
        "beats" => {
            let beat = |beats: usize, text: &str| vec![Bytes::from(text.to_owned()); beats];
            let mut parts = beat(10, ": keep-alive\n\n");
            parts.extend(beat(10, &chunk(json!({"content": ""}), None)));
            parts.push(text("late").into());
            parts.extend(beat(10, ": keep-alive\n\n"));
            parts.push(chunk(json!({}), Some("stop")).into());
            let slow = stream::iter(parts).then(async |part| {
                tokio::time::sleep(Duration::from_millis(40)).await;
                Ok::<_, std::io::Error>(part)
            });
            ([("content-type", "text/event-stream")], Body::from_stream(slow)).into_response()
        }
        "whole" => Json(json!({
            "model": "whole-1", "choices": [{"message": {"content": "all at once"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 2},
        }))
        .into_response(),
        "html" => ([("content-type", "text/html")], "<html>hello</html>").into_response(),
        "large-event" => events(vec![": x\n".repeat(30_000), "data: ".to_owned(), "x".repeat(100_000)]),
        "large-call" => {
            let call =
                |text: String| json!({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": text}}]});
            events(vec![chunk(call("x".repeat(600)), None), chunk(call("x".repeat(600)), None), done.to_owned()])
        }
        "nothing" => {
            assert!(!headers.contains_key("authorization"));
            events(vec![chunk(json!({}), Some("stop")), done.to_owned()])
        }
        "error" => events(vec![text("a"), "data: {\"error\":{\"message\":\"overloaded\"}}\n\n".to_owned()]),
        other => error(404, &format!("no model {other}")),
    }
}

fn chunk(delta: Value, finish: Option<&str>) -> String {
    format!("data: {}\n\n", json!({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}))
}

fn events(events: Vec<String>) -> Response {
    let body = Body::from_stream(stream::iter(events.into_iter().map(Ok::<_, std::io::Error>)));
    ([("content-type", "text/event-stream")], body).into_response()
}

fn models(config: &ModelsConfig) -> Result<Models, ModelConfigError> {
    Models::new(config, &ModelMetrics::default())
}

struct Upstream {
    models: Models,
    base_url: String,
    calls: Arc<AtomicUsize>,
}

impl Upstream {
    async fn start() -> Self {
        let calls = Arc::new(AtomicUsize::new(0));
        let app = Router::new().route("/v1/chat/completions", post(answer)).with_state(calls.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { models: models(&one(provider(base_url.clone()))).unwrap(), base_url, calls }
    }

    async fn ask(&self, call: Call) -> (String, String, Result<Completion, ModelError>) {
        let (mut text, mut reasoning) = (String::new(), String::new());
        let mut generation = match self.models.start(call).await {
            Ok(generation) => generation,
            Err(error) => return (text, reasoning, Err(error)),
        };
        loop {
            match generation.next().await {
                Ok(Some(Delta::Text(delta))) => text.push_str(&delta),
                Ok(Some(Delta::Reasoning(delta))) => reasoning.push_str(&delta),
                Ok(Some(Delta::Logprobs(_) | Delta::Refusal(_) | Delta::Call(_))) => {}
                Ok(None) => return (text, reasoning, generation.completion()),
                Err(error) => return (text, reasoning, Err(error)),
            }
        }
    }

    async fn error(&self, model: &str) -> ModelError {
        self.ask(call(model)).await.2.unwrap_err()
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

fn provider(base_url: String) -> ProviderConfig {
    ProviderConfig {
        base_url: Some(base_url),
        api_key: Some(Secret::new("sk-test")),
        first_token_timeout: Duration::from_secs(30),
        idle_timeout: Duration::from_secs(30),
        retry_pause: Duration::from_millis(1),
        max_response_bytes: bytesize::ByteSize::b(1_000),
        ..ProviderConfig::default()
    }
}

fn one(provider: ProviderConfig) -> ModelsConfig {
    ModelsConfig { default_model: None, providers: [("up".to_owned(), provider)].into() }
}

fn call(model: &str) -> Call {
    Call { model: Some(model.to_owned()), input: vec![json!({"role": "user", "content": "hi"})], ..Call::default() }
}

#[tokio::test]
async fn text_usage_and_finish_reason_arrive() {
    let upstream = Upstream::start().await;
    let (text, _, completion) = upstream.ask(call("up/hello")).await;
    let completion = completion.unwrap();
    assert_eq!(text, "Hello");
    assert_eq!(completion.items[0]["content"][0]["text"], "Hello");
    assert_eq!(completion.finish_reason, "stop");
    let Usage { input_tokens, cached_tokens, output_tokens, reasoning_tokens, .. } = completion.usage;
    assert_eq!((input_tokens, cached_tokens, output_tokens, reasoning_tokens), (7, 3, 5, 2));
}

#[tokio::test]
async fn thoughts_are_kept_apart_and_a_cut_answer_says_so() {
    let (text, reasoning, completion) = Upstream::start().await.ask(call("thinks")).await;
    assert_eq!((text.as_str(), reasoning.as_str()), ("42", "hm"));
    assert_eq!(completion.unwrap().finish_reason, "length");
}

#[tokio::test]
async fn a_function_call_is_put_together_from_its_pieces() {
    let mut call = call("calls");
    call.options
        .insert("tools".to_owned(), json!([{"type": "function", "name": "weather", "parameters": {"type": "object"}}]));
    let completion = Upstream::start().await.ask(call).await.2.unwrap();
    let item = &completion.items[0];
    assert_eq!((item["call_id"].as_str(), item["name"].as_str()), (Some("call_1"), Some("weather")));
    assert_eq!(item["arguments"], "{\"city\":\"Bonn\"}");
}

#[tokio::test]
async fn the_conversation_and_the_options_reach_the_upstream() {
    let mut call = call("echo");
    call.instructions = Some("Be kind.".to_owned());
    call.input
        .push(json!({"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "yes?"}]}));
    call.input.push(json!({"type": "message", "role": "user", "content": [{"type": "input_text", "text": "go on"}]}));
    for (name, value) in [("temperature", json!(0.5)), ("top_p", json!(0.25))] {
        call.options.insert(name.to_owned(), value);
    }
    call.options.insert("text".to_owned(), json!({"format": {"type": "json_object"}}));
    let (text, _, completion) = Upstream::start().await.ask(call).await;
    completion.unwrap();
    for expected in ["Be kind.", "yes?", "go on", "|0.5|0.25|\"json_object\""] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
}

#[tokio::test]
async fn a_call_that_fails_before_its_first_token_is_repeated() {
    for model in ["busy", "cut-first", "early-error"] {
        let (text, _, completion) = Upstream::start().await.ask(call(model)).await;
        completion.unwrap();
        assert_eq!(text, "at last", "{model}");
    }
}

#[tokio::test]
async fn repetitions_are_bounded() {
    let upstream = Upstream::start().await;
    let error = upstream.error("down").await;
    assert_eq!((error.kind, error.code), (ModelErrorKind::Unavailable, "upstream_unavailable"));
    assert_eq!(error.message, "The model provider up is not available (503).");
    assert_eq!(error.detail, "It answered 503: out of order");
    assert_eq!(upstream.calls(), 4);
}

#[tokio::test]
async fn a_pause_that_is_too_long_is_not_waited_for() {
    let upstream = Upstream::start().await;
    let error = upstream.error("much-later").await;
    assert_eq!((error.kind, error.retry_after), (ModelErrorKind::RateLimited, Some(Duration::from_secs(86_400))));
    assert_eq!(upstream.calls(), 1);
}

#[tokio::test]
async fn a_wrong_key_is_said_without_the_key() {
    let upstream = Upstream::start().await;
    let error = upstream.error("key").await;
    assert_eq!(error.message, "The model provider up does not accept the key of this server.");
    assert_eq!(error.detail, "It answered 401: Incorrect API key provided: [secret]");
    assert_eq!(upstream.calls(), 1);
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_an_error_and_is_not_repeated() {
    let upstream = Upstream::start().await;
    let (text, _, completion) = upstream.ask(call("cut")).await;
    assert_eq!((text.as_str(), completion.unwrap_err().code), ("half", "upstream_cut"));
    assert_eq!(upstream.calls(), 1);
    let (text, _, completion) = upstream.ask(call("error")).await;
    let error = completion.unwrap_err();
    assert_eq!((text.as_str(), error.code), ("a", "upstream_failed"));
    assert!(error.detail.contains("overloaded"), "{error:?}");
}

#[tokio::test]
async fn silence_and_size_have_limits() {
    let mut upstream = Upstream::start().await;
    for (model, code) in
        [("large", "upstream_too_large"), ("large-call", "upstream_too_large"), ("large-event", "upstream_too_large")]
    {
        assert_eq!(upstream.error(model).await.code, code, "{model}");
    }
    let mut config = one(provider(upstream.base_url.clone()));
    let mut limits = |first: u64, idle: u64, total: u64| {
        let up = config.providers.get_mut("up").unwrap();
        let [first, idle, total] = [first, idle, total].map(Duration::from_millis);
        (up.first_token_timeout, up.idle_timeout, up.total_timeout) = (first, idle, total);
        models(&config).unwrap()
    };
    upstream.models = limits(30_000, 200, 60_000);
    assert_eq!(upstream.error("silent").await.code, "upstream_timeout");
    upstream.models = limits(200, 30_000, 60_000);
    let calls = upstream.calls();
    let mute = upstream.error("mute").await;
    assert_eq!((mute.kind, upstream.calls()), (ModelErrorKind::Timeout, calls + 1));
    assert!(mute.message.contains("first_token_timeout"), "{mute}");
    let mut drip = limits(30_000, 30_000, 1_000).start(call("drip")).await.unwrap();
    let error = loop {
        if let Err(error) = drip.next().await {
            break error;
        }
    };
    assert!(error.message.contains("total_timeout"), "{error}");
    // A failed call stays failed, and tells so again.
    assert_eq!(drip.next().await.unwrap_err(), error);
    assert_eq!(drip.completion().unwrap_err(), error);
}

#[tokio::test]
async fn a_provider_that_says_that_it_lives_is_waited_for() {
    let upstream = Upstream::start().await;
    let mut config = provider(upstream.base_url.clone());
    (config.first_token_timeout, config.idle_timeout) = (Duration::from_millis(300), Duration::from_millis(300));
    config.max_response_bytes = bytesize::ByteSize::kib(64);
    let upstream = Upstream { models: models(&one(config)).unwrap(), ..upstream };
    let (text, _, completion) = upstream.ask(call("beats")).await;
    assert_eq!((text.as_str(), completion.unwrap().finish_reason.as_str()), ("late", "stop"));
}

#[tokio::test]
async fn a_long_delta_comes_in_pieces() {
    let upstream = Upstream::start().await;
    let mut call = call("echo");
    call.instructions = Some("größer".repeat(50));
    let mut generation = upstream.models.start(call).await.unwrap().in_pieces_of(5);
    let mut said = String::new();
    while let Some(delta) = generation.next().await.unwrap() {
        let Delta::Text(text) = delta else { panic!("{delta:?}") };
        assert!((1..=5).contains(&text.len()), "{text}");
        said.push_str(&text);
    }
    assert_eq!(generation.completion().unwrap().items[0]["content"][0]["text"], said);
    assert!(said.contains(&"größer".repeat(50)));
}

#[tokio::test]
async fn every_honest_end_is_an_end() {
    let upstream = Upstream::start().await;
    for (model, text) in [("quiet-end", "all"), ("no-done", "all"), ("whole", "all at once")] {
        let (said, _, completion) = upstream.ask(call(model)).await;
        assert_eq!((said.as_str(), completion.unwrap().finish_reason.as_str()), (text, "stop"), "{model}");
    }
    let (_, _, completion) = upstream.ask(call("quiet-end")).await;
    assert_eq!(completion.unwrap().usage.input_tokens, 7);
    let completion = upstream.ask(call("whole")).await.2.unwrap();
    assert_eq!((completion.model.as_str(), completion.usage.output_tokens), ("whole-1", 2));
}

#[tokio::test]
async fn what_is_no_answer_is_not_taken_for_one() {
    let upstream = Upstream::start().await;
    assert_eq!(upstream.error("html").await.code, "upstream_unreadable");
    assert_eq!(upstream.calls(), 1);
}

#[tokio::test]
async fn without_a_key_none_is_sent_and_an_empty_answer_is_one() {
    let upstream = Upstream::start().await;
    let mut config = one(provider(format!("{}/", upstream.base_url)));
    config.providers.get_mut("up").unwrap().api_key = None;
    let mut generation = models(&config).unwrap().start(call("nothing")).await.unwrap();
    assert_eq!(generation.next().await.unwrap(), None);
    assert!(generation.completion().unwrap().items.is_empty());
}

/// An upstream that answers the first request with bytes, whatever they are, and then does as it is told.
async fn raw(answer: &'static str) -> (String, tokio::task::JoinHandle<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut buffer = [0; 4096];
        let _ = socket.read(&mut buffer).await.unwrap();
        socket.write_all(answer.as_bytes()).await.unwrap();
        socket
    });
    (base_url, task)
}

#[tokio::test]
async fn a_connection_that_breaks_in_the_middle_is_an_error() {
    let (base_url, task) =
        raw("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n\
         35\r\ndata: {\"choices\":[{\"delta\":{\"content\":\"half\"}}]}\n\nxx\r\n")
        .await;
    let models = models(&one(provider(base_url))).unwrap();
    let mut generation = models.start(call("x")).await.unwrap();
    assert_eq!(generation.next().await.unwrap(), Some(Delta::Text("half".to_owned())));
    drop(task.await.unwrap());
    let error = generation.next().await.unwrap_err();
    assert_eq!((error.kind, error.code), (ModelErrorKind::Unavailable, "upstream_cut"));
}

#[tokio::test]
async fn dropping_a_generation_hangs_up() {
    let (base_url, task) = raw("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n\
         data: {\"choices\":[{\"delta\":{\"content\":\"half\"}}]}\n\n")
    .await;
    let models = models(&one(provider(base_url))).unwrap();
    let generation = models.start(call("x")).await.unwrap();
    let mut socket = task.await.unwrap();
    drop(generation);
    let mut buffer = [0; 16];
    let read = tokio::time::timeout(Duration::from_secs(5), socket.read(&mut buffer)).await.unwrap();
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused_before_anything_is() {
    let upstream = Upstream::start().await;
    let mut call = call("hello");
    call.input.push(json!({"type": "item_reference", "id": "x"}));
    let error = upstream.ask(call).await.2.unwrap_err();
    assert_eq!((error.kind, upstream.calls()), (ModelErrorKind::Invalid, 0));
    assert!(error.message.contains("item_reference"));
}

#[tokio::test]
async fn an_upstream_that_is_not_there_is_named() {
    let mut config = provider("http://127.0.0.1:9/v1".to_owned());
    config.max_retries = 1;
    let models = models(&one(config)).unwrap();
    let error = models.start(call("x")).await.unwrap_err();
    assert_eq!((error.kind, error.code), (ModelErrorKind::Unavailable, "upstream_unreachable"));
    assert!(error.message.starts_with("The model provider up cannot be reached"), "{error}");
}
