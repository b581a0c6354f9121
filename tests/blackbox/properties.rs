//! Any body at all: never a 5xx, never a run that begins on a refused request, never a key that it reserves.

use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::{
    prelude::*,
    sample::{Index, select, subsequence},
    test_runner::{Config, TestRunner},
};
use reqwest::{Method, header::CONTENT_TYPE};
use serde_json::{Map, Value, json};
use tokio::runtime::Runtime;

use crate::{
    fields::REQUEST,
    harness::{
        client::Client,
        database::{self, Database},
        server::Server,
    },
};

/// Values that have broken servers, and values that are right somewhere.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        select(vec![
            "",
            "x",
            "\u{0}",
            "false",
            "auto",
            "user",
            "message",
            "conv_1",
            "resp_1",
            "../..",
            "👩‍👩‍👧",
            "\u{feff}"
        ])
        .prop_map(Value::from),
        "\\PC{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let names =
            select(vec!["type", "role", "content", "text", "id", "name", "call_id", "output", "format", "effort"]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(names.prop_map(str::to_owned), inner, 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// Input items, right and nearly right.
fn item() -> impl Strategy<Value = Value> {
    let kinds = select(vec![
        "message",
        "function_call",
        "function_call_output",
        "reasoning",
        "item_reference",
        "compaction",
        "x",
    ]);
    let fields = ["role", "content", "id", "call_id", "name", "arguments", "output", "summary", "encrypted_content"];
    let right = prop_oneof![
        "\\PC{0,20}".prop_map(|text| json!({"role": "user", "content": text})),
        "\\PC{0,20}".prop_map(|text| json!({"role": "assistant", "content": [{"type": "output_text", "text": text}]})),
    ];
    let nearly = (kinds, prop::collection::vec(value(), fields.len())).prop_map(move |(kind, values)| {
        let mut item: Map<String, Value> = fields.iter().map(|field| (*field).to_owned()).zip(values).collect();
        item.insert("type".to_owned(), kind.into());
        Value::Object(item)
    });
    prop_oneof![right, nearly, value()]
}

/// Bodies of `POST /v1/responses`: right ones in which some fields are replaced, added or left out.
fn body() -> impl Strategy<Value = Value> {
    let names = [&REQUEST[..], &["unknown"]].concat();
    let input = prop_oneof![value(), prop::collection::vec(item(), 0..4).prop_map(Value::from)];
    let changed = subsequence(names, 0..4);
    (changed, prop::collection::vec(value(), 4), input, any::<bool>(), 0..6_u8).prop_map(
        |(names, values, input, odd, left_out)| {
            let mut body = json!({"model": "echo", "input": "x"});
            if odd {
                body["input"] = input;
            }
            for (name, value) in names.into_iter().zip(values) {
                body[name] = value;
            }
            if left_out == 0 {
                body.as_object_mut().map(|body| body.remove("input"));
            }
            body
        },
    )
}

/// Sends a body and returns the status and what was said; the answer of an accepted request may be a stream.
async fn send(client: &Client, body: Vec<u8>, key: &str) -> (u16, bool, String) {
    let request = client.request(Method::POST, "/v1/responses").header(CONTENT_TYPE, "application/json");
    let answer = request.header("idempotency-key", key).body(body).send().await.unwrap();
    let (status, replayed) = (answer.status().as_u16(), answer.headers().contains_key("idempotency-replayed"));
    (status, replayed, answer.text().await.unwrap())
}

/// Sends `cases` bodies and checks what must hold for each.
fn check(cases: u32, bodies: impl Strategy<Value = Vec<u8>>) {
    let runtime = Runtime::new().unwrap();
    let _turn = runtime.block_on(database::beside_others());
    let server = {
        let _entered = runtime.enter();
        Server::start(Database::Sqlite)
    };
    let client = server.client();
    let (keys, accepted) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 50, ..Config::default() };
    let result = TestRunner::new(config).run(&bodies, |body| {
        runtime.block_on(async {
            let key = format!("k{}", keys.fetch_add(1, Ordering::Relaxed));
            let stores = serde_json::from_slice::<Value>(&body).is_ok_and(|body| body["store"] != false);
            let (status, replayed, text) = send(&client, body, &key).await;
            prop_assert!(!replayed, "another request had the key");
            if status == 200 {
                prop_assert!(stores, "it was accepted with a key and without store");
                accepted.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            prop_assert!((400..500).contains(&status), "{status}: {text}");
            let error: Value = serde_json::from_str(&text).unwrap();
            prop_assert!(error["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{text}");
            prop_assert!(error["error"]["code"].is_string(), "{text}");
            let right = br#"{"model":"echo","input":"x"}"#.to_vec();
            let (status, replayed, text) = send(&client, right, &key).await;
            prop_assert!(status == 200 && !replayed, "the refused request kept its key: {status}: {text}");
            accepted.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    let stored = runtime.block_on(server.response_ids()).len();
    assert_eq!(stored, accepted.into_inner(), "a refused request has begun a run");
}

#[test]
fn any_body_is_accepted_or_refused_and_nothing_else() {
    check(400, body().prop_map(|body| body.to_string().into_bytes()));
}

#[test]
fn any_bytes_are_accepted_or_refused_and_nothing_else() {
    let bytes = (body(), any::<Index>(), any::<u8>(), 0..4_u8).prop_map(|(body, place, byte, what)| {
        let mut bytes = body.to_string().into_bytes();
        let place = place.index(bytes.len());
        match what {
            0 => bytes.truncate(place),
            1 => bytes[place] = byte,
            2 => bytes.insert(place, byte),
            // The same fields twice.
            _ => {
                bytes = format!("{{{},{}", r#""model":"echo","input":"y","store":true"#, &body.to_string()[1..])
                    .into_bytes()
            }
        }
        bytes
    });
    check(200, bytes);
}
