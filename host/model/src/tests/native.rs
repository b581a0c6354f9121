//! Anthropic and Gemini, against upstreams that speak their words over real sockets.

use super::*;

/// Events as a provider's own API sends them, whatever was asked.
async fn native(kind: ProviderKind, path: &'static str, said: Vec<(&'static str, Value)>) -> Models {
    let said: String = said.iter().map(|(event, data)| format!("event: {event}\ndata: {data}\n\n")).collect();
    let calls = Arc::new(AtomicUsize::new(0));
    let handler = async move || {
        if calls.fetch_add(1, Ordering::SeqCst) == 0 {
            let body = Json(json!({"error": {"message": "slow down"}}));
            return (StatusCode::TOO_MANY_REQUESTS, [("retry-after-ms", "5")], body).into_response();
        }
        events(vec![said])
    };
    let app = Router::new().route(path, post(handler));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    models(&one(ProviderConfig { kind, ..provider(base_url) })).unwrap()
}

async fn completed(models: &Models) -> Result<Completion, ModelError> {
    let mut generation = models.start(call("m")).await?;
    while generation.next().await?.is_some() {}
    generation.completion()
}

#[tokio::test]
async fn anthropic_keeps_the_same_promises() {
    let start = (
        "message_start",
        json!({"type": "message_start", "message": {"usage": {"input_tokens": 7, "output_tokens": 1}}}),
    );
    let text = |text: &str| {
        let delta = json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}});
        ("content_block_delta", delta)
    };
    let begin = |block: Value| {
        ("content_block_start", json!({"type": "content_block_start", "index": 0, "content_block": block}))
    };
    let end = ("content_block_stop", json!({"type": "content_block_stop", "index": 0}));
    let input = json!({"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "{\"a\":1}"}});
    let stop = json!({"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 9}});
    let all = vec![
        start,
        begin(json!({"type": "text", "text": ""})),
        text("hel"),
        text("lo"),
        end.clone(),
        begin(json!({"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}})),
        ("content_block_delta", input),
        end,
        ("message_delta", stop),
        ("message_stop", json!({"type": "message_stop"})),
    ];
    let half = all[..3].to_vec();
    let completion = completed(&native(ProviderKind::Anthropic, "/v1/messages", all).await).await.unwrap();
    assert_eq!(completion.items[0]["content"][0]["text"], "hello");
    assert_eq!(
        (&completion.items[1]["call_id"], &completion.items[1]["arguments"]),
        (&json!("toolu_1"), &json!("{\"a\":1}"))
    );
    assert_eq!((completion.finish_reason.as_str(), completion.usage.output_tokens), ("tool_calls", 9));
    let error = completed(&native(ProviderKind::Anthropic, "/v1/messages", half).await).await.unwrap_err();
    assert_eq!(error.code, "upstream_cut");
}

#[tokio::test]
async fn gemini_keeps_the_same_promises() {
    let said = |text: &str, finish: Value| {
        let candidate = json!({"content": {"parts": [{"text": text}], "role": "model"}, "finishReason": finish});
        (
            "message",
            json!({"candidates": [candidate], "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2}}),
        )
    };
    let path = "/v1/models/{model}";
    let whole = native(ProviderKind::Gemini, path, vec![said("hel", Value::Null), said("lo", json!("STOP"))]).await;
    let completion = completed(&whole).await.unwrap();
    assert_eq!(
        (completion.items[0]["content"][0]["text"].as_str(), &*completion.finish_reason),
        (Some("hello"), "stop")
    );
    assert_eq!((completion.usage.input_tokens, completion.usage.output_tokens), (3, 2));
    let part = json!({"functionCall": {"name": "f", "args": {"a": 1}}});
    let candidate = json!({"content": {"parts": [part.clone(), part], "role": "model"}, "finishReason": "STOP"});
    let calls = native(ProviderKind::Gemini, path, vec![("message", json!({"candidates": [candidate]}))]).await;
    let completion = completed(&calls).await.unwrap();
    assert_eq!(
        (completion.finish_reason.as_str(), &completion.items[0]["arguments"]),
        ("tool_calls", &json!("{\"a\":1}"))
    );
    assert_ne!(completion.items[0]["call_id"], completion.items[1]["call_id"]);
    let half = native(ProviderKind::Gemini, path, vec![said("hel", Value::Null)]).await;
    assert_eq!(completed(&half).await.unwrap_err().code, "upstream_cut");
}
