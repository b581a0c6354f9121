//! `allocator`: how instances get their memory makes no difference that a client sees.

use std::fs;

use serde_json::json;

use crate::harness::{
    database::Database,
    plugins,
    server::{Options, Server},
};

fn pooled(more: &str) -> Options {
    Options::new(Database::Sqlite).config(&format!("allocator = \"pooling\"\n[limits]\nmax_live_runs = 20\n{more}"))
}

#[tokio::test]
async fn runs_from_a_pool_are_runs_like_others() {
    let folder = plugins::hostile_folder();
    let server = Server::start(pooled("memory = \"32MiB\"").plugins(folder.path()));
    let shown = server.stdout();
    assert!(shown.contains("up to 20 active runs (limits.max_live_runs); instances from a pool"), "{shown}");
    let client = server.client();
    // Three times as many as the pool has places for beside each other: what ends gives its place back.
    for round in 0..3 {
        let behaviours = ["say fine", "panic", "grow", "overflow", "wait 200"];
        let runs = (0..20).map(|n| {
            let (client, behaviour) = (client.clone(), behaviours[n % behaviours.len()]);
            async move { (behaviour, client.run(json!({"model": "hostile", "input": behaviour})).await) }
        });
        for (behaviour, response) in futures::future::join_all(runs).await {
            let text = &response["output"][0]["content"][0]["text"];
            let message = response["error"]["message"].as_str().unwrap_or_default();
            match behaviour {
                "say fine" => assert_eq!(text, "fine", "round {round}: {response}"),
                "wait 200" => assert_eq!(text, "done", "round {round}: {response}"),
                "grow" => assert!(message.contains("limit 32 MiB (limits.memory)"), "{message}"),
                "overflow" => assert!(message.contains("stack"), "{message}"),
                _ => assert_eq!(response["status"], "failed"),
            }
        }
    }
}

#[tokio::test]
async fn what_a_pool_has_no_place_for_is_refused() {
    let folder = plugins::hostile_folder();
    // It exports what an agent does, if only by name.
    let many = r#"(component (core module (memory 1)) (core instance (instantiate 0)) (core instance (instantiate 0))
        (core instance (instantiate 0)) (type $t (record (field "x" u32))) (export "describe" (type $t))
        (export "run" (type $t)))"#;
    fs::write(folder.path().join("many.wasm"), wat::parse_str(many).unwrap()).unwrap();
    let server = Server::start(pooled("").plugins(folder.path()));
    server.logged(&["many.wasm", "refused", "memories"]);
    assert_eq!(server.client().models().await, ["chat", "echo", "hostile"]);
}

#[test]
fn a_pool_that_is_too_large_is_refused_at_the_start() {
    let config = "allocator = \"pooling\"\n[limits]\nmax_live_runs = 100000\nmemory = \"2GiB\"";
    let (status, stderr) = Server::refused(Options::new(Database::Sqlite).config(config));
    assert!(!status.success());
    assert!(stderr.contains("limits.max_live_runs") && stderr.contains("on-demand"), "{stderr}");
}
