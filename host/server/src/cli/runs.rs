//! `outlast runs`: the runs of a server, through its API for operators.

use std::{
    fmt::Write as _,
    time::{Duration, UNIX_EPOCH},
};

use clap::{Args, Subcommand};
use outlast_runtime::clock::since_1970;
use outlast_runtime::text::{self as foreign, entry as entry_shown};
use reqwest::{Client, Method};
use serde_json::Value;
use tokio::runtime::Builder;

use super::output::{gone, print};

/// The pause between two looks at a log that goes on.
const LOOK: Duration = Duration::from_millis(500);

/// See and stop the runs of a server.
///
/// On a server with keys, OUTLAST_KEY must hold one that has `admin = true`; `outlast key new NAME --admin` makes it. Runs
/// with `store: false` are not stored, and not shown.
#[derive(Debug, Args)]
pub(super) struct Runs {
    #[command(subcommand)]
    command: Command,
    /// Where the server is.
    #[arg(long, global = true, env = "OUTLAST_URL", default_value = "http://127.0.0.1:8642")]
    url: String,
    /// The key.
    #[arg(long, global = true, env = "OUTLAST_KEY", hide = true, hide_env_values = true)]
    key: Option<String>,
    /// Print the server's JSON answers instead of text.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List runs, the latest first.
    #[command(
        after_help = "Examples:\n  outlast runs list --status failed --agent helper\n  outlast runs list --json | jq .data"
    )]
    List {
        /// Only those of this agent.
        #[arg(long)]
        agent: Option<String>,
        /// Only those of this principal.
        #[arg(long)]
        principal: Option<String>,
        /// Only those with this status: queued, in_progress, completed, failed, incomplete, cancelled.
        #[arg(long)]
        status: Option<String>,
        /// Only those that are older than the run with this id.
        #[arg(long, value_name = "ID")]
        after: Option<String>,
        /// How many, at most 100.
        #[arg(long, default_value_t = 20)]
        limit: u64,
    },
    /// Show a run: whose it is, how far it is, what it has used.
    #[command(after_help = "Examples:\n  outlast runs show resp_0197…")]
    Show {
        /// The id of its response.
        id: String,
    },
    /// Print what the agent of a run has logged and printed.
    #[command(after_help = "Examples:\n  outlast runs logs resp_0197… --follow")]
    Logs {
        /// The id of its response.
        id: String,
        /// Continue until the run has ended.
        #[arg(long, short)]
        follow: bool,
    },
    /// Stop a run, and wait until it has ended.
    #[command(after_help = "Examples:\n  outlast runs cancel resp_0197…")]
    Cancel {
        /// The id of its response.
        id: String,
    },
}

impl Runs {
    pub(super) fn run(self) -> Result<(), String> {
        let Self { command, url, key, json } = self;
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("cannot start a runtime: {error}"))?;
        outlast_model::install_tls();
        let http = Client::builder().build().map_err(|error| format!("cannot make an HTTP client: {error}"))?;
        let api = Api { http, url: url.trim_end_matches('/').to_owned(), key };
        runtime.block_on(command.run(&api, json))
    }
}

impl Command {
    async fn run(self, api: &Api, json: bool) -> Result<(), String> {
        match self {
            Self::List { agent, principal, status, after, limit } => {
                let limit = Some(limit.to_string());
                let query = [
                    ("agent", agent),
                    ("principal", principal),
                    ("status", status),
                    ("after", after),
                    ("limit", limit),
                ];
                let query: Vec<_> = query.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
                let list = api.ask(Method::GET, "", &query).await?;
                print(if json { lines(&list["data"]) } else { table(&list) })
            }
            Self::Show { id } => {
                let run = api.ask(Method::GET, &format!("/{}", part(&id)?), &[]).await?;
                print(if json { format!("{run}\n") } else { card(&run) })
            }
            Self::Logs { id, follow } => logs(api, part(&id)?, follow, json).await,
            Self::Cancel { id } => {
                let run = api.ask(Method::POST, &format!("/{}/cancel", part(&id)?), &[]).await?;
                print(if json { format!("{run}\n") } else { card(&run) })
            }
        }
    }
}

async fn logs(api: &Api, id: &str, follow: bool, json: bool) -> Result<(), String> {
    let mut from = 0;
    loop {
        // Asked before the lines: what an ended run has logged is all there.
        let over = !follow || !api.ask(Method::GET, &format!("/{id}"), &[]).await?["ended_at_ms"].is_null();
        loop {
            let page = api.ask(Method::GET, &format!("/{id}/logs"), &[("from", from.to_string())]).await?;
            from = page["next"].as_u64().unwrap_or(from);
            print(if json { lines(&page["data"]) } else { log(&page["data"]) })?;
            if page["has_more"] != true || gone() {
                break;
            }
        }
        if over || gone() {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The server.
struct Api {
    http: Client,
    url: String,
    key: Option<String>,
}

impl Api {
    async fn ask(&self, method: Method, path: &str, query: &[(&str, String)]) -> Result<Value, String> {
        let mut url = reqwest::Url::parse(&format!("{}/admin/runs{path}", self.url))
            .map_err(|error| format!("--url {:?} is not a URL like http://127.0.0.1:8642: {error}", self.url))?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut request = self.http.request(method, url);
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        let cannot = |error: reqwest::Error| format!("cannot ask the server at {}: {}", self.url, cause(&error));
        let answer = request.send().await.map_err(cannot)?;
        let status = answer.status();
        let body = answer.text().await.map_err(cannot)?;
        let body: Value = serde_json::from_str(&body)
            .map_err(|_| format!("{} answered {status} without JSON: is it an outlast server?", self.url))?;
        if status.is_success() {
            return Ok(body);
        }
        let message = body["error"]["message"].as_str().unwrap_or("no message");
        Err(match status.as_u16() {
            401 => format!("{message} `outlast runs` sends the key that OUTLAST_KEY holds."),
            _ => message.to_owned(),
        })
    }
}

/// An id as a part of a path.
fn part(id: &str) -> Result<&str, String> {
    let right = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    right.then_some(id).ok_or_else(|| format!("{id:?} is not the id of a run, which looks like resp_0197…"))
}

/// The innermost cause of an error.
fn cause(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), cause)
}

/// The values of a list, a line each.
fn lines(list: &Value) -> String {
    list.as_array().into_iter().flatten().map(|value| format!("{value}\n")).collect()
}

fn text<'a>(run: &'a Value, name: &str) -> &'a str {
    run[name].as_str().unwrap_or("-")
}

/// A list of runs, in columns.
fn table(list: &Value) -> String {
    let runs: Vec<_> = list["data"].as_array().into_iter().flatten().collect();
    if runs.is_empty() {
        return "no runs\n".to_owned();
    }
    let mut rows = vec![["ID", "AGENT", "PRINCIPAL", "STATUS", "AGE", "CPU", "MEMORY", "TOKENS"].map(str::to_owned)];
    rows.extend(runs.iter().map(|run| {
        let tokens = format!("{}+{}", run["input_tokens"], run["output_tokens"]);
        [
            text(run, "id").to_owned(),
            shown(text(run, "agent")),
            shown(text(run, "principal")),
            text(run, "status").to_owned(),
            age(run),
            cpu(run),
            memory(run),
            tokens,
        ]
    }));
    let widths: Vec<_> =
        (0..8).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    let mut out = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        let _ = writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    if let (true, Some(last)) = (list["has_more"] == true, list["last_id"].as_str()) {
        let _ = writeln!(out, "more: outlast runs list --after {last}");
    }
    out
}

/// All that is known of a run.
fn card(run: &Value) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(out, "{name:<12}{value}");
    };
    line("id", text(run, "id").to_owned());
    line("status", text(run, "status").to_owned());
    line("agent", format!("{} ({})", shown(text(run, "agent")), text(run, "component").get(..12).unwrap_or("-")));
    line("principal", shown(text(run, "principal")));
    line("age", age(run));
    for (name, key) in [("continues", "previous_response_id"), ("conversation", "conversation")] {
        if let Some(value) = run[key].as_str() {
            line(name, format!(" {}", shown(value)).trim_start().to_owned());
        }
    }
    line("attempts", run["attempts"].to_string());
    line("cpu", cpu(run));
    line("memory", memory(run));
    line("tokens", format!("{} in, {} out", run["input_tokens"], run["output_tokens"]));
    line("log", format!("{} lines", run["log_lines"]));
    if let Some(message) = run["error"]["message"].as_str() {
        line("error", shown(message));
    }
    out
}

/// Lines of a log.
fn log(lines: &Value) -> String {
    let mut out = String::new();
    for line in lines.as_array().into_iter().flatten() {
        let time = UNIX_EPOCH + Duration::from_millis(line["time_ms"].as_u64().unwrap_or_default());
        let (level, source) = (text(line, "level"), text(line, "source"));
        let text = text(line, "text");
        let entry = format!("{}  {level:<5} {source:<6} {text}", httpdate::fmt_http_date(time));
        let _ = writeln!(out, "{}", entry_shown(&entry, false));
    }
    out
}

/// A text of somebody else, in a line.
fn shown(text: &str) -> String {
    foreign::line(text).into_owned()
}

/// How long ago a run was accepted.
fn age(run: &Value) -> String {
    let seconds =
        since_1970().saturating_sub(Duration::from_millis(run["created_at_ms"].as_u64().unwrap_or_default())).as_secs();
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

fn cpu(run: &Value) -> String {
    let seconds = run["cpu_seconds"].as_f64().unwrap_or_default();
    if seconds < 1.0 { format!("{:.1}ms", seconds * 1e3) } else { format!("{seconds:.1}s") }
}

fn memory(run: &Value) -> String {
    bytesize::ByteSize::b(run["memory_peak_bytes"].as_u64().unwrap_or_default()).to_string().replace(' ', "")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_an_agent_logs_does_not_control_the_terminal() {
        let lines = json!([{"time_ms": 0, "level": "info", "source": "log", "text": "a\u{1b}[2Jb"}]);
        assert_eq!(log(&lines), "Thu, 01 Jan 1970 00:00:00 GMT  info  log    a\\u001b[2Jb\n");
    }

    #[test]
    fn an_id_is_no_path() {
        assert!(part("resp_0197").is_ok());
        for wrong in ["", "../keys", "a/b", "a?b", "a b"] {
            assert!(part(wrong).is_err(), "{wrong}");
        }
    }
}
