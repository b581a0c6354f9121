//! What `/metrics` says, read strictly: Prometheus' text format, version 0.0.4.
//!
//! A real parser forgives much. This one takes only what the format and good custom say: each family once, `# HELP`
//! and `# TYPE` before its samples, samples of this family only, no series twice, counters that end with `_total`,
//! units that are seconds and bytes, histograms whose buckets grow up to `+Inf`, the count.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::Method;

use super::{client::Client, wait};

/// All samples of one look.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Values by series: name and labels, as they were written.
    samples: BTreeMap<String, f64>,
    /// Types by family.
    types: BTreeMap<String, String>,
}

/// Looks.
pub async fn metrics(client: &Client) -> Metrics {
    wait::within(wait::PATIENCE, "the metrics", async {
        let answer = client.request(Method::GET, "/metrics").send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
        assert!(answer.headers().contains_key("x-request-id"));
        Metrics::parse(&answer.text().await.unwrap())
    })
    .await
}

/// Looks until a series has a value for which `right` holds, and returns what was seen then.
pub async fn eventually(client: &Client, series: &str, right: impl Fn(f64) -> bool) -> Metrics {
    wait::eventually(format!("{series} is right"), async || {
        let metrics = metrics(client).await;
        metrics.samples.get(series).copied().is_some_and(&right).then_some(metrics)
    })
    .await
}

impl Metrics {
    /// Reads a whole exposition.
    pub fn parse(text: &str) -> Self {
        assert!(text.ends_with('\n') && !text.contains("\n\n") && !text.contains('\r'), "{text}");
        let mut metrics = Self::default();
        let (mut family, mut kind) = (String::new(), String::new());
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap();
                assert!(!help.is_empty(), "{line}");
                let types = lines.next().and_then(|line| line.strip_prefix("# TYPE ")).unwrap();
                let (typed, its) = types.split_once(' ').unwrap();
                assert_eq!(typed, name);
                (family, kind) = (name.to_owned(), its.to_owned());
                check_name(&family, &kind);
                assert!(metrics.types.insert(family.clone(), kind.clone()).is_none(), "{family} comes twice");
                continue;
            }
            let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let of_family = match kind.as_str() {
                "histogram" => ["_bucket", "_sum", "_count"].iter().any(|part| name == format!("{family}{part}")),
                _ => name == family,
            };
            assert!(of_family, "{line} stands below {family}");
            check_labels(labels);
            let value: f64 = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
            assert!(value.is_finite() && (kind != "counter" || value >= 0.0), "{line}");
            assert!(metrics.samples.insert(series.to_owned(), value).is_none(), "{series} comes twice");
        }
        metrics.check_histograms();
        metrics
    }

    /// The value of a series, which must be there.
    #[track_caller]
    pub fn value(&self, series: &str) -> f64 {
        *self.samples.get(series).unwrap_or_else(|| panic!("no {series} in {:#?}", self.samples))
    }

    /// The names of all families.
    pub fn families(&self) -> BTreeSet<&str> {
        self.types.keys().map(String::as_str).collect()
    }

    /// Every series and every label.
    pub fn text(&self) -> String {
        self.samples.keys().map(|series| format!("{series}\n")).collect()
    }

    fn check_histograms(&self) {
        for (family, _) in self.types.iter().filter(|(_, kind)| *kind == "histogram") {
            let mut last: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
            for (series, value) in &self.samples {
                let Some(labels) = series.strip_prefix(&format!("{family}_bucket{{")) else { continue };
                let (before, rest) = labels.split_once("le=\"").unwrap();
                let (end, after) = rest.split_once('"').unwrap();
                let end = if end == "+Inf" { f64::INFINITY } else { end.parse().unwrap() };
                let of = format!("{before}{after}").trim_matches([',', '}']).to_owned();
                last.entry(of).or_default().push((end, *value));
            }
            for (labels, mut buckets) in last {
                buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
                assert!(
                    buckets.is_sorted_by(|one, other| one.0 < other.0 && one.1 <= other.1),
                    "{family}: {buckets:?}"
                );
                let (end, all) = *buckets.last().unwrap();
                let labels = if labels.is_empty() { labels } else { format!("{{{labels}}}") };
                assert_eq!((end, all), (f64::INFINITY, self.value(&format!("{family}_count{labels}"))), "{family}");
                assert!(self.value(&format!("{family}_sum{labels}")) >= 0.0);
            }
        }
    }
}

fn check_name(name: &str, kind: &str) {
    assert!(name.starts_with("outlast_") || name == "process_start_time_seconds", "{name}");
    assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
    assert!(["counter", "gauge", "histogram"].contains(&kind), "{name} is a {kind}");
    assert_eq!(name.ends_with("_total"), kind == "counter", "{name} is a {kind}");
    assert!(!["milli", "minutes", "kib", "_ms"].iter().any(|unit| name.contains(unit)), "{name} has no base unit");
}

/// `name="value",…}` or nothing.
fn check_labels(labels: &str) {
    let mut rest = labels;
    while !rest.is_empty() {
        let (name, value) = rest.split_once("=\"").unwrap_or_else(|| panic!("{labels}"));
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{labels}");
        let (value, after) = value.split_once('"').unwrap_or_else(|| panic!("{labels}"));
        assert!(!value.contains('\\'), "no label of these tests needs an escape: {labels}");
        rest = match after {
            "}" => "",
            more => more.strip_prefix(',').unwrap_or_else(|| panic!("{labels}")),
        };
    }
}
