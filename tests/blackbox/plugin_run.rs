//! `outlast plugin run`: an agent in the terminal.

use std::{io::Read as _, path::PathBuf};

use serde_json::{Value, json};

use crate::harness::{
    cli::{self, outlast, outlast_reading},
    plugins,
    process::{self, Signal},
    scratch,
    upstream::{Upstream, call, end, text},
    wait,
};

fn echo() -> PathBuf {
    plugins::component("echo")
}

fn run(component: PathBuf, arguments: &[&str]) -> Vec<String> {
    let component = component.display().to_string();
    ["plugin", "run", &component].into_iter().chain(arguments.iter().copied()).map(str::to_owned).collect()
}

#[test]
fn the_text_goes_to_standard_output_and_nothing_else_does() {
    let ended = outlast(run(echo(), &["two words"]));
    assert_eq!((ended.stdout.as_str(), ended.stderr.as_str(), ended.code), ("two words\n", "", Some(0)));
    assert_eq!(outlast_reading(run(echo(), &["-"]), "from a pipe\n").ok(), "from a pipe\n");
    assert_eq!(outlast_reading(run(echo(), &[]), "without a name\n").ok(), "without a name\n");
    let request = r#"{"input": [{"role": "user", "content": "items"}]}"#;
    assert_eq!(outlast(run(echo(), &["--request", request])).ok(), "items\n");
}

#[test]
fn the_log_says_what_a_component_says_and_does_not_obey_it() {
    let ended = outlast(run(plugins::component("keeper"), &["log a\u{202e}b\u{9b}2J\n INFO plugin: c"]));
    assert!(ended.stderr.contains(r"a\u202eb"), "{:?}", ended.stderr);
    let hidden = |character: char| character == '\u{202e}' || (character.is_control() && character != '\n');
    assert!(!ended.stderr.chars().any(hidden), "{:?}", ended.stderr);
    assert!(!ended.stderr.contains("\n INFO plugin: c"), "{:?}", ended.stderr);
}

#[test]
fn a_trace_shows_every_call_with_its_answer() {
    let ended = outlast(run(echo(), &["a b", "--trace", "--request", r#"{"metadata": {"delay_ms": "1"}}"#]));
    assert_eq!(ended.stdout, "a b\n");
    let calls: Vec<_> = ended.stderr.lines().map(|line| line.split_once(" ms  ").unwrap().1).collect();
    assert_eq!(calls[0], r#"context.request() → "{"metadata":{"delay_ms":"1"},"model":"echo"}""#);
    assert_eq!(
        calls[1..6],
        [
            "respond.message() → #0",
            r#"respond.message.write(#0, text: "a ")"#,
            "tasks.sleep(milliseconds: 1) → Ok(())",
            r#"respond.message.write(#0, text: "b")"#,
            "respond.message.finish(#0)",
        ]
    );
    assert_eq!(calls.last(), Some(&"completed, 2 input and 2 output tokens"));
}

#[test]
fn json_prints_the_events_as_a_client_gets_them() {
    let events: Vec<Value> =
        outlast(run(echo(), &["a b", "--json"])).ok().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let numbers: Vec<_> = events.iter().map(|event| event["sequence_number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..events.len() as u64).collect::<Vec<_>>());
    assert_eq!(events.first().unwrap()["type"], "response.created");
    assert_eq!(events.last().unwrap()["type"], "response.completed");
}

#[test]
fn what_is_wrong_is_said_and_the_exit_code_tells() {
    let folder = scratch::dir("run-");
    let broken = folder.path().join("broken.wasm");
    std::fs::write(&broken, "no wasm").unwrap();
    for (arguments, says) in [
        (run(broken, &["x"]), "broken.wasm: it is not WebAssembly"),
        (run(folder.path().join("gone.wasm"), &["x"]), "gone.wasm: it cannot be read"),
        (run(echo(), &["x", "--request", "[1]"]), "--request is not a JSON object"),
        (run(echo(), &["x", "--request", r#"{"temperature": "hot"}"#]), "'temperature'"),
        (run(echo(), &["x", "--request", r#"{"metadata": {"delay_ms": "soon"}}"#]), "metadata.delay_ms must be"),
        (run(echo(), &["x", "--request", "@gone.json"]), "--request: cannot read gone.json"),
        (run(plugins::hostile(), &["panic"]), "panicked at"),
        (run(plugins::component("assistant"), &["x"]), "no model provider is configured"),
    ] {
        let error = outlast(arguments).failed();
        assert!(error.contains(says), "{says}: {error}");
    }
}

#[test]
fn ctrl_c_cancels_and_leaves_nothing_behind() {
    let folder = scratch::dir("run-");
    let mut command = cli::command(run(echo(), &["a b c", "--request", r#"{"metadata": {"delay_ms": "10000"}}"#]));
    command.env("TMPDIR", folder.path());
    let mut child = process::spawn(command, Signal::KILL).unwrap();
    let mut first = [0; 2];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    assert_eq!(&first, b"a ");
    process::signal(&child, Signal::INT);
    let status = wait::eventually_blocking("it ends", || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(130));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn an_agent_asks_the_models_of_the_configuration() {
    let folder = scratch::dir("run-");
    let config = folder.path().join("outlast.toml");
    let ask = vec![call(0, Some("a"), Some("calculate"), "{\"expression\":\"6*7\"}"), end("tool_calls")];
    let upstream = Upstream::start([ask, vec![text("It is "), text("42."), end("stop")]]).await;
    let agent = "\n[agents.assistant]\nconfig = { instructions = \"Rhyme.\" }";
    std::fs::write(&config, upstream.providers() + agent).unwrap();
    let config = config.display().to_string();
    let arguments = run(
        plugins::component("assistant"),
        &["6*7?", "--config", &config, "--model", "up-1", "--agent-config", r#"{"instructions": "Be brief."}"#],
    );
    let ended = tokio::task::spawn_blocking(|| outlast(arguments)).await.unwrap();
    assert_eq!(ended.ok(), "It is 42.\n");
    let requests = upstream.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!((&requests[0]["model"], &requests[0]["messages"][0]["content"]), (&json!("up-1"), &json!("Be brief.")));
}
