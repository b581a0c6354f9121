//! The API for operators, as commands ask it, and how they print what it answers.

use std::{fmt::Write as _, time::Duration};

use clap::Args;
use outlast_runtime::{clock::since_1970, text as foreign};
use reqwest::{Client, Method};
use serde_json::Value;
use tokio::runtime::Builder;

/// Which server is asked, and how.
#[derive(Debug, Args)]
pub(super) struct Access {
    /// Where the server is.
    #[arg(long, global = true, env = "OUTLAST_URL", default_value = "http://127.0.0.1:8642")]
    url: String,
    /// The key.
    #[arg(long, global = true, env = "OUTLAST_KEY", hide = true, hide_env_values = true)]
    key: Option<String>,
    /// Print the answers of the server, JSON, and not text for people.
    #[arg(long, global = true)]
    pub json: bool,
}

impl Access {
    /// Runs a command that asks the server.
    ///
    /// # Errors
    ///
    /// Those of the command.
    pub fn with(self, command: &'static str, run: impl AsyncFnOnce(Api) -> Result<(), String>) -> Result<(), String> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("cannot start a runtime: {error}"))?;
        outlast_model::install_tls();
        let http = Client::builder().build().map_err(|error| format!("cannot make an HTTP client: {error}"))?;
        let api = Api { http, url: self.url.trim_end_matches('/').to_owned(), key: self.key, command };
        runtime.block_on(run(api))
    }
}

/// The server.
pub(super) struct Api {
    http: Client,
    url: String,
    key: Option<String>,
    /// The command that asks.
    command: &'static str,
}

impl Api {
    /// Asks for a path below `/admin`.
    ///
    /// # Errors
    ///
    /// The server is not there, or refuses: its own words.
    pub async fn ask(&self, method: Method, path: &str, query: &[(&str, String)]) -> Result<Value, String> {
        self.send(method, path, query, None).await
    }

    /// The same, with a body.
    ///
    /// # Errors
    ///
    /// As above.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        body: Option<&Value>,
    ) -> Result<Value, String> {
        let mut url = reqwest::Url::parse(&format!("{}/admin{path}", self.url))
            .map_err(|error| format!("--url {:?} is not a URL like http://127.0.0.1:8642: {error}", self.url))?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut request = self.http.request(method, url);
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let cannot = |error: reqwest::Error| format!("cannot ask the server at {}: {}", self.url, cause(&error));
        let answer = request.send().await.map_err(cannot)?;
        let status = answer.status();
        let body = answer.text().await.map_err(cannot)?;
        let body: Value = serde_json::from_str(&body)
            .map_err(|_| format!("{} answers {status} and no JSON: is it an outlast server?", self.url))?;
        if status.is_success() {
            return Ok(body);
        }
        let message = body["error"]["message"].as_str().unwrap_or("no message");
        Err(match status.as_u16() {
            401 => format!("{message} `outlast {}` sends the key that OUTLAST_KEY holds.", self.command),
            _ => message.to_owned(),
        })
    }
}

/// What of a query is given.
pub(super) fn given<const LENGTH: usize>(
    query: [(&'static str, Option<String>); LENGTH],
) -> Vec<(&'static str, String)> {
    query.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

/// An id as a part of a path. `what` it should be, for whoever gave another.
pub(super) fn part<'a>(id: &'a str, what: &str) -> Result<&'a str, String> {
    let right = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    right.then_some(id).ok_or_else(|| format!("{id:?} is not {what}"))
}

/// The innermost cause of an error.
fn cause(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), cause)
}

/// The values of a list, a line each.
pub(super) fn lines(list: &Value) -> String {
    list.as_array().into_iter().flatten().map(|value| format!("{value}\n")).collect()
}

/// A field that is a text.
pub(super) fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or("-")
}

/// A text of somebody else, in a line.
pub(super) fn shown(text: &str) -> String {
    foreign::line(text).into_owned()
}

/// How long ago something was made.
pub(super) fn age(value: &Value) -> String {
    let made = Duration::from_millis(value["created_at_ms"].as_u64().unwrap_or_default());
    long(since_1970().saturating_sub(made))
}

/// A time, in the unit that fits.
pub(super) fn long(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A list in columns. `what` it is of, and the command that shows the next page.
pub(super) fn table<const COLUMNS: usize>(
    list: &Value,
    what: &str,
    columns: [&str; COLUMNS],
    command: &str,
    row: impl Fn(&Value) -> [String; COLUMNS],
) -> String {
    let values: Vec<_> = list["data"].as_array().into_iter().flatten().collect();
    if values.is_empty() {
        return format!("no {what}\n");
    }
    let mut rows = vec![columns.map(str::to_owned)];
    rows.extend(values.into_iter().map(row));
    let widths: Vec<_> =
        (0..COLUMNS).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    let mut out = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        let _ = writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    if let (true, Some(last)) = (list["has_more"] == true, list["last_id"].as_str()) {
        let _ = writeln!(out, "more: outlast {command} --after {last}");
    }
    out
}
