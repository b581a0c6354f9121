//! What a long session sends with each turn: it fits into the limits as they are without a configuration.

use serde_json::{Value, json};

use crate::harness::{
    database::Database,
    process,
    server::{Options, Server},
    upstream::{Upstream, end, text},
    wait,
};

/// Sends these items to a model, and gives how many messages it was told and how much more memory the server has had, in
/// KiB. Most of it goes back when the run has ended.
async fn sent(items: Value) -> (usize, u64) {
    let upstream = Upstream::start([vec![text("ok"), end("stop")]]).await;
    let server = Server::start(upstream.options(Options::new(Database::Sqlite)));
    let before = process::rss(server.id());
    let response = server.client().post(json!({"model": "chat/up-1", "input": items})).await.response();
    assert_eq!(response["output"][0]["content"][0]["text"], "ok", "{response}");
    wait::eventually("memory goes back", async || (process::rss(server.id()) < before + (64 << 10)).then_some(()))
        .await;
    let asked = upstream.requests().pop().unwrap();
    (asked["messages"].as_array().unwrap().len(), process::highest_rss(server.id()) - before)
}

#[tokio::test]
async fn ten_screenshots_of_three_megabytes_fit() {
    let image = json!({"type": "input_image", "image_url": format!("data:image/png;base64,{}", "A".repeat(3_000_000))});
    let items: Vec<_> = (0..10).map(|_| json!({"role": "user", "content": [image]})).collect();
    let (messages, memory) = sent(json!(items)).await;
    assert_eq!(messages, 10);
    // The body, what is stored of it, what the agent makes of it and what is sent to the model.
    assert!(memory < 300 << 10, "{memory} KiB");
}

#[tokio::test]
async fn ten_thousand_items_fit() {
    let call = |number| {
        let id = format!("call_{number}");
        let call = json!({"type": "function_call", "call_id": id, "name": "f", "arguments": "{}"});
        [call, json!({"type": "function_call_output", "call_id": id, "output": "x"})]
    };
    let items: Vec<_> = (0..5_000).flat_map(call).collect();
    let (messages, memory) = sent(json!(items)).await;
    assert_eq!(messages, 10_000);
    assert!(memory < 300 << 10, "{memory} KiB");
}

#[tokio::test]
async fn a_text_of_ten_mebibytes_fits() {
    let (messages, memory) = sent(json!([{"role": "user", "content": "x".repeat(10 << 20)}])).await;
    assert_eq!(messages, 1);
    assert!(memory < 300 << 10, "{memory} KiB");
}
