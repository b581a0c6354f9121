//! `outlast runs`: the runs of a server, through its API for operators.

use std::{
    fmt::Write as _,
    time::{Duration, UNIX_EPOCH},
};

use clap::{Args, Subcommand};
use outlast_runtime::text::entry as entry_shown;
use reqwest::Method;
use serde_json::Value;

use super::{
    admin::{self, Access, Api, age, given, lines, shown, table, text},
    output::{gone, print},
};

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
    #[command(flatten)]
    access: Access,
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
        let Self { command, access } = self;
        let json = access.json;
        access.with("runs", async |api| command.run(&api, json).await)
    }
}

impl Command {
    async fn run(self, api: &Api, json: bool) -> Result<(), String> {
        match self {
            Self::List { agent, principal, status, after, limit } => {
                let query = given([
                    ("agent", agent),
                    ("principal", principal),
                    ("status", status),
                    ("after", after),
                    ("limit", Some(limit.to_string())),
                ]);
                let list = api.ask(Method::GET, "/runs", &query).await?;
                print(if json { lines(&list["data"]) } else { runs(&list) })
            }
            Self::Show { id } => {
                let run = api.ask(Method::GET, &format!("/runs/{}", part(&id)?), &[]).await?;
                print(if json { format!("{run}\n") } else { card(&run) })
            }
            Self::Logs { id, follow } => logs(api, part(&id)?, follow, json).await,
            Self::Cancel { id } => {
                let run = api.ask(Method::POST, &format!("/runs/{}/cancel", part(&id)?), &[]).await?;
                print(if json { format!("{run}\n") } else { card(&run) })
            }
        }
    }
}

async fn logs(api: &Api, id: &str, follow: bool, json: bool) -> Result<(), String> {
    let mut from = 0;
    loop {
        // Asked before the lines: what an ended run has logged is all there.
        let over = !follow || !api.ask(Method::GET, &format!("/runs/{id}"), &[]).await?["ended_at_ms"].is_null();
        loop {
            let page = api.ask(Method::GET, &format!("/runs/{id}/logs"), &[("from", from.to_string())]).await?;
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

/// An id as a part of a path.
fn part(id: &str) -> Result<&str, String> {
    admin::part(id, "the id of a run, which looks like resp_0197…")
}

/// A list of runs, in columns.
fn runs(list: &Value) -> String {
    let columns = ["ID", "AGENT", "PRINCIPAL", "STATUS", "AGE", "CPU", "MEMORY", "TOKENS"];
    table(list, "runs", columns, "runs list", |run| {
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
    })
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
