//! The tool component `toolbox` misbehaves on demand: the tests of the host see from outside what becomes of its calls.
//!
//! | tool | behaviour |
//! |---|---|
//! | `say` | answers with `text` |
//! | `get`, `post` | sends a request to `url` with `GET`, with `POST`; answers with its body. `post` is not idempotent |
//! | `repost` | as `post`, and may be called again |
//! | `race` | sends a `GET` to all `urls` at once, answers with their bodies in the order of the urls |
//! | `big` | answers with so many `bytes` |
//! | `grow` | takes `mib` of memory |
//! | `spin`, `sleep` | computes, sleeps for ever |
//! | `panic`, `exit` | panics, after a line on standard error; calls `std::process::exit(3)` |
//! | `fail` | fails with `kind` |
//! | `log` | writes a line to the log, to standard output and to standard error |
//! | `seen` | says what there is to see: its configuration, and how many calls it has had |

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use outlast_guest::tools::{self, NoArguments, Tool};
use outlast_guest::{Failure, FailureKind, ToolComponent, http, log, tasks};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

struct Toolbox;

outlast_guest::tool_component!(Toolbox);

static CALLS: AtomicU64 = AtomicU64::new(0);

#[derive(Deserialize, JsonSchema)]
struct Say {
    text: String,
}

#[derive(Deserialize, JsonSchema)]
struct To {
    url: String,
}

#[derive(Deserialize, JsonSchema)]
struct Race {
    urls: Vec<String>,
}

#[derive(Deserialize, JsonSchema)]
struct Much {
    #[serde(alias = "mib")]
    bytes: usize,
}

#[derive(Deserialize, JsonSchema)]
struct Fail {
    kind: String,
}

impl ToolComponent for Toolbox {
    const NAME: &'static str = "toolbox";
    const ABOUT: &'static str = "Misbehaves on demand, for tests.";

    fn config_schema() -> Option<Value> {
        Some(json!({"type": "object"}))
    }

    fn tools() -> Vec<Tool<'static>> {
        vec![
            Tool::new("say", "Says it.", |say: Say| Ok(say.text)).idempotent(),
            Tool::new("get", "Gets it.", |to: To| http::get(to.url).send()?.text()).idempotent(),
            Tool::new("post", "Posts it, once.", |to: To| post(&to.url)),
            Tool::new("repost", "Posts it, perhaps twice.", |to: To| post(&to.url)).idempotent(),
            Tool::new("race", "Gets them all.", race).idempotent(),
            Tool::new("big", "Says much.", |much: Much| Ok("x".repeat(much.bytes))),
            Tool::new("grow", "Takes memory.", |much: Much| Ok(vec![1_u8; much.bytes << 20].len())),
            Tool::new("spin", "Computes.", spin),
            Tool::new("sleep", "Sleeps.", |NoArguments {}| tasks::sleep(Duration::from_secs(86_400))).idempotent(),
            Tool::new("panic", "Panics.", panic),
            Tool::new("exit", "Exits.", exit),
            Tool::new("fail", "Fails.", fail),
            Tool::new("log", "Logs.", write),
            Tool::new("seen", "Looks.", |NoArguments {}| seen()),
        ]
    }
}

fn post(url: &str) -> Result<String, Failure> {
    http::post(url).body("order").send()?.text()
}

fn race(race: Race) -> Result<Vec<String>, Failure> {
    http::send_all(race.urls.into_iter().map(http::get)).into_iter().map(|answer| answer?.text()).collect()
}

fn spin(_: NoArguments) -> Result<(), Failure> {
    loop {
        CALLS.fetch_add(1, Ordering::Relaxed);
    }
}

fn panic(_: NoArguments) -> Result<(), Failure> {
    eprintln!("something is about to happen");
    panic!("tool logic blew up: n=2");
}

fn exit(_: NoArguments) -> Result<(), Failure> {
    std::process::exit(3);
}

fn fail(fail: Fail) -> Result<(), Failure> {
    let kind = match fail.kind.as_str() {
        "cancelled" => FailureKind::Cancelled,
        "interrupted" => FailureKind::Interrupted,
        "rate-limited" => FailureKind::RateLimited,
        _ => FailureKind::Invalid,
    };
    Err(Failure::new(kind, "told_to", "it was told to fail").retry_after(Duration::from_secs(3)))
}

fn write(_: NoArguments) -> Result<(), Failure> {
    log::warn!("a line of the log");
    println!("a line of standard output");
    eprintln!("a line of standard error");
    Ok(())
}

fn seen() -> Result<Value, Failure> {
    let calls = CALLS.fetch_add(1, Ordering::Relaxed) + 1;
    Ok(json!({"config": tools::config::<Value>()?, "calls": calls, "variables": std::env::vars().count()}))
}
