//! What an operator watches: counters, gauges and histograms, shown by `GET /metrics`.
//!
//! One struct for each room that measures itself. The rooms know these structs; the structs know only the words of the
//! protocol. What a metric is called and what it means stands in `register` of its struct, and in the book,
//! `docs/src/operating/metrics.md`.
//!
//! - **Bounded.** A label is the name of an agent or a provider, a model that the configuration lists, a route, or a
//!   word of this program. Never an id, a principal, or a text of a client: whoever asks for `/nowhere/17` or for a
//!   model that does not exist makes no new series.
//! - **Cheap.** Labels are looked up once for a run, a call, a request or a provider, never for an event or a subscriber
//!   of one. The writer adds up a batch and counts it once.

#![deny(unsafe_code)]
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod commits;
mod http;
mod log;
mod models;
mod requests;
mod runs;
mod storage;
mod tools;
mod webhooks;

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::{
    encoding::text,
    metrics::{
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::Histogram,
    },
    registry::Registry,
};

pub use commits::{CommitFailure, CommitMetrics, Published, WriterKind};
pub use http::{HttpMetrics, Subscriber, Transport};
pub use log::LogMetrics;
pub use models::{LiveCall, ModelMetrics, ProviderMetrics};
pub use requests::{AgentRequests, LiveRequest, RequestMetrics};
pub use runs::{AgentMetrics, LiveRun, RunMetrics};
pub use storage::{StorageFigures, StorageMetrics};
pub use tools::{LiveToolCall, ServerUp, ToolCalls, ToolMetrics};
pub use webhooks::{WebhookMetrics, WebhookTry};

/// The content type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Upper ends of the buckets of durations, in seconds: from a commit to the longest run.
const SECONDS: [f64; 18] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];

/// Durations, by labels.
type Durations<L> = Family<L, Histogram, fn() -> Histogram>;

/// All metrics of a server.
#[derive(Debug)]
pub struct Metrics {
    /// Runs.
    pub runs: RunMetrics,
    /// What the writers commit.
    pub commits: CommitMetrics,
    /// Calls of upstream models.
    pub models: ModelMetrics,
    /// Requests that agents send.
    pub requests: RequestMetrics,
    /// Calls of tools.
    pub tools: ToolMetrics,
    /// Requests, connections and subscribers.
    pub http: HttpMetrics,
    /// Deliveries to webhooks.
    pub webhooks: WebhookMetrics,
    /// What is kept.
    pub storage: StorageMetrics,
    /// The log.
    pub log: LogMetrics,
    registry: Registry,
}

impl Metrics {
    /// Metrics that say nothing yet, of a server with these limits: runs at once, connections at once.
    pub fn new(max_live_runs: usize, connections: usize) -> Self {
        let mut registry = Registry::default();
        let start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        registry.register(
            "process_start_time_seconds",
            "When the process began, in seconds since 1970",
            ConstGauge::<f64>::new(start),
        );
        let own = registry.sub_registry_with_prefix("outlast");
        let build = Family::<[(&str, &str); 1], Gauge>::default();
        build.get_or_create(&[("version", env!("CARGO_PKG_VERSION"))]).set(1);
        own.register("build_info", "Always 1; the label is the version", build);
        for (name, help, limit) in [
            ("limits_max_live_runs", "The limit of active runs (limits.max_live_runs)", max_live_runs),
            ("limits_connections", "The limit of open connections (limits.connections)", connections),
        ] {
            own.register(name, help, ConstGauge::new(whole(limit)));
        }
        let (runs, commits, models) = (RunMetrics::default(), CommitMetrics::default(), ModelMetrics::default());
        let (http, storage, requests) = (HttpMetrics::default(), StorageMetrics::default(), RequestMetrics::default());
        runs.register(own);
        commits.register(own);
        models.register(own);
        requests.register(own);
        let tools = ToolMetrics::default();
        tools.register(own);
        http.register(own);
        let webhooks = WebhookMetrics::default();
        webhooks.register(own);
        storage.register(own);
        let log = LogMetrics::default();
        log.register(own);
        Self { runs, commits, models, requests, tools, http, webhooks, storage, log, registry }
    }

    /// All metrics in Prometheus' text format, version 0.0.4.
    pub fn text(&self) -> String {
        let mut openmetrics = String::new();
        // Fails only when memory does not take a text.
        let _ = text::encode(&mut openmetrics, &self.registry);
        prometheus(&openmetrics)
    }
}

/// OpenMetrics as the older format, which every scraper reads: there, a counter's name ends with `_total` in its first
/// two lines too, and no line says that the text is complete.
fn prometheus(openmetrics: &str) -> String {
    let mut text = String::with_capacity(openmetrics.len() + 1_024);
    let mut lines = openmetrics.lines().filter(|line| *line != "# EOF").peekable();
    while let Some(line) = lines.next() {
        let kind = lines.peek().copied().unwrap_or_default();
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' '))
            && kind.strip_prefix("# TYPE ").and_then(|rest| rest.strip_prefix(name)) == Some(" counter")
        {
            text.push_str(&format!("# HELP {name}_total {help}\n# TYPE {name}_total counter\n"));
            lines.next();
        } else {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

/// A gauge that counts things by holding them: one more, until it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Held(Gauge);

impl Held {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A histogram of durations.
fn durations() -> Histogram {
    Histogram::new(SECONDS)
}

/// A number as a gauge holds it.
fn whole(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_named_like_its_samples() {
        let openmetrics = "# HELP a Much of it.\n# TYPE a counter\na_total{x=\"1\"} 2\n\
                           # HELP b Now.\n# TYPE b gauge\nb 3\n# EOF\n";
        let expected = "# HELP a_total Much of it.\n# TYPE a_total counter\na_total{x=\"1\"} 2\n\
                        # HELP b Now.\n# TYPE b gauge\nb 3\n";
        assert_eq!(prometheus(openmetrics), expected);
    }

    #[test]
    fn a_new_server_has_its_version_and_its_limits() {
        let text = Metrics::new(7, 9).text();
        for line in [
            concat!("outlast_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
            "outlast_limits_max_live_runs 7",
            "outlast_limits_connections 9",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
        }
    }

    #[test]
    fn a_held_thing_counts_until_it_is_dropped() {
        let gauge = Gauge::default();
        let (one, other) = (Held::new(&gauge), Held::new(&gauge));
        assert_eq!(gauge.get(), 2);
        drop((one, other));
        assert_eq!(gauge.get(), 0);
    }
}
