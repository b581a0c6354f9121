//! Requests that are nearly right, over all routes: each is answered or refused, in time, and none is a defect of the server
//! or grows it.
//!
//! ```text
//! cargo test --workspace --test blackbox -- mutated
//! OUTLAST_MUTATIONS=500000 OUTLAST_MUTATIONS_SEED=7 cargo test --release --workspace --test blackbox -- mutated --nocapture
//! ```
//!
//! | variable | default | |
//! |---|---|---|
//! | `OUTLAST_MUTATIONS` | 1000 | how many requests, on each database, with keys and again without |
//! | `OUTLAST_MUTATIONS_SEED` | 3 | of everything that is chosen |
//!
//! A request is made from the seed and its number alone, but for the ids in it, which are what earlier answers told. One
//! that fails is shown whole.

mod bodies;
mod requests;
mod values;
mod wire;

use std::{
    collections::BTreeMap,
    sync::Mutex,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, stream};
use serde_json::Value;

use crate::harness::{
    database::{Database, both_databases},
    keys, process,
    server::{Options, Server},
    wait,
};
use requests::{Made, Routes};
use wire::Outcome;

both_databases!(alone: no_request_is_a_defect_of_the_server, with_keys_no_request_is_a_defect_of_the_server);

/// Requests at once.
const AT_ONCE: usize = 16;
/// The longest that any answer may take, streams included: the times below, and patience with a busy machine.
const HANG: Duration = Duration::from_secs(40);
/// How much larger the server may be at the end than after a quarter of the requests, in KiB.
const GROWTH: u64 = 96 << 10;
/// How many files it may have open when all is over, beyond those that it had before.
const FILES: usize = 40;
/// Short times, so that requests that are not completed, and runs that wait, end soon; what is kept goes soon, too.
const CONFIG: &str = "retention = \"10s\"\nconversation_retention = \"10s\"\nlog = \"warn\"";
const LIMITS: &str = "[limits]\nfirst_byte_timeout = \"2s\"\nheader_timeout = \"2s\"\nbody_timeout = \"2s\"\n\
                      run_timeout = \"3s\"\nwebsocket_lifetime = \"5s\"\nkeep_alive = \"500ms\"";

async fn no_request_is_a_defect_of_the_server(database: Database) {
    check(Options::new(database).config(CONFIG).config(LIMITS), false).await;
}

async fn with_keys_no_request_is_a_defect_of_the_server(database: Database) {
    let ops = format!("{}\nadmin = true\nmetrics = true", keys::entry("ops"));
    let options = Options::new(database).config(CONFIG).config(&keys::entry("ann")).config(&ops);
    check(options.config(LIMITS), true).await;
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// What is known of a server while it is asked.
struct World {
    server: Server,
    routes: Routes,
    /// How often each status came.
    statuses: Mutex<BTreeMap<u16, u64>>,
}

async fn check(options: Options, keys: bool) {
    let (seed, count) = (number("OUTLAST_MUTATIONS_SEED", 3), number("OUTLAST_MUTATIONS", 1_000));
    let server = Server::start(options);
    let description = server.client().get_path("/openapi.json").await.ok();
    let world = World { server, routes: Routes::new(&description, keys), statuses: Mutex::default() };
    let files = files(&world.server);
    let (start, quarter) = (Instant::now(), count / 4);
    world.send(seed, 0..quarter).await;
    let before = process::rss(world.server.id());
    world.send(seed, quarter..count).await;
    let after = process::rss(world.server.id());
    println!(
        "{count} requests with the seed {seed} in {:?}: {:?}; {before} KiB after a quarter, {after} KiB at the end",
        start.elapsed(),
        world.statuses.lock().unwrap()
    );
    assert!(after < before + GROWTH, "{before} KiB after a quarter, {after} KiB at the end");
    world.rests(files).await;
}

impl World {
    async fn send(&self, seed: u64, numbers: std::ops::Range<u64>) {
        stream::iter(numbers).for_each_concurrent(AT_ONCE, |number| self.one(seed, number)).await;
    }

    async fn one(&self, seed: u64, number: u64) {
        let made = self.routes.request(seed, number);
        let outcome = tokio::time::timeout(HANG, wire::send(self.server.address(), &made)).await;
        let Ok(outcome) = outcome else { panic!("no answer within {HANG:?} to {number} of {seed}:\n{made}") };
        if let Err(why) = self.judge(&made, &outcome) {
            panic!("{why}: {number} of {seed}:\n{made}\nthe answer:\n{outcome}");
        }
        *self.statuses.lock().unwrap().entry(outcome.status).or_default() += 1;
        self.routes.learn(&outcome.body);
    }

    /// What must hold for every answer.
    fn judge(&self, made: &Made, outcome: &Outcome) -> Result<(), String> {
        let Outcome { status, head, body, .. } = outcome;
        // A run that failed is no defect: the agent did not like its request.
        let run_failed = || {
            let body: Value = serde_json::from_slice(body).unwrap_or_default();
            body["error"]["response_id"].is_string() || body["error"]["code"] == "compaction_failed"
        };
        match status {
            // Closed without an answer: only what is no request, and whoever looks gone.
            0 if made.broken || made.half_closes => return Ok(()),
            0 => return Err("no answer".to_owned()),
            502 if run_failed() => {}
            500.. => return Err(format!("a defect, {status}")),
            _ => {}
        }
        if let Some(error) = outcome.messages.iter().find(|message| message["status"].as_u64() >= Some(500)) {
            return Err(format!("a defect in a message: {error}"));
        }
        // What cannot be parsed is answered by what parses it.
        let unparsed = made.broken && body.is_empty();
        if *status >= 400 && !unparsed && !made.is_head() {
            let error: Value = serde_json::from_slice(body).map_err(|error| format!("no envelope, {error}"))?;
            let text = |name: &str| error["error"][name].as_str().is_some_and(|text| !text.is_empty());
            if !text("message") || !text("code") {
                return Err("an envelope without a message or a code".to_owned());
            }
        }
        for header in ["x-request-id:", "x-content-type-options: nosniff"] {
            if !unparsed && !head.contains(header) {
                return Err(format!("no {header}"));
            }
        }
        Ok(())
    }

    /// All that was begun ends, and nothing is left over.
    async fn rests(mut self, files_before: usize) {
        wait::eventually("connections and files are closed", async || {
            (files(&self.server) <= files_before + FILES).then_some(())
        })
        .await;
        assert!(!self.server.log().contains("panicked"), "{}", self.server.log());
        assert!(self.server.running());
        self.server.client().get_path("/readyz").await.ok();
        self.server.terminate();
        assert!(self.server.ended().await.success());
    }
}

/// How many files a server has open.
fn files(server: &Server) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", server.id())).unwrap().count()
}
