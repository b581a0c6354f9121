//! `outlast plugin test`: scripted cases for a component, whatever it was written in.
//!
//! A case goes the way of every run; only the models and the clock are a script's. Cases run one after the other.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use clap::Args;
use outlast_model::{Models, Script};
use outlast_plugin::{Agent, ToolScript};
use outlast_protocol::{Event, Item, Response, frames};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tracing_subscriber::{Layer as _, filter::Targets, layer::SubscriberExt as _};

use super::{
    case::{self, Case},
    compare::differences,
    run::{interrupts, load, request},
    trace,
};
use crate::{
    cli::output::say,
    config::{Config, Flags},
    local::{self, Local},
};

/// 2026-01-01T00:00:00Z: what a case's clock begins with.
const BEGIN: Duration = Duration::from_secs(1_767_225_600);

/// Run scripted cases for a component: no server, no models, no waiting.
///
/// A case is a TOML or JSON file that says what the agent is given (`input`, `model`, `request`, `history`, `config`,
/// `now`), what its models answer (`answers`) and its tools (`tools`), and what is expected (`expect`). The exit code is 0 when every case is as
/// expected.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  outlast plugin test helper.wasm cases")]
pub(in crate::cli) struct Test {
    /// The component.
    component: PathBuf,
    /// Files of cases, or folders of them.
    #[arg(required = true)]
    cases: Vec<PathBuf>,
    /// Run only the cases whose file names have this in them.
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Write what happens into the cases as their expectation.
    #[arg(long)]
    bless: bool,
    /// The configuration file of a server (TOML): its limits hold here too.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// What is written while a case runs: the calls of imports, and the agent's log.
#[derive(Debug, Default)]
struct Written {
    trace: Vec<String>,
    log: Vec<String>,
}

impl Test {
    pub(in crate::cli) fn run(self) -> Result<(), String> {
        let written = Arc::new(Mutex::new(Written::default()));
        let (calls, lines) = (written.clone(), written.clone());
        let log = Lines(lines).with_filter(Targets::new().with_target("plugin", tracing::Level::TRACE));
        let calls = trace::layer(move |call| calls.lock().trace.push(call.import));
        trace::subscribe(tracing_subscriber::registry().with(calls).with(log))?;
        let runtime = tokio::runtime::Runtime::new().map_err(|error| format!("cannot start threads: {error}"))?;
        let tested = runtime.block_on(async {
            let mut interrupt = interrupts()?;
            tokio::select! {
                tested = self.test(&written) => tested,
                _ = interrupt.recv() => Err("interrupted".to_owned()),
            }
        });
        runtime.shutdown_background();
        tested
    }

    async fn test(self, written: &Mutex<Written>) -> Result<(), String> {
        let config = Config::read(self.config.as_deref(), &Flags::default());
        let mut config = config.map_err(|error| format!("configuration: {error}"))?;
        // What an operator says of agents is not what a case is about.
        config.agents.clear();
        let mut files = Vec::new();
        for path in &self.cases {
            files.extend(case::find(path)?);
        }
        let all = files.len();
        files.retain(|file| self.filter.as_ref().is_none_or(|part| file.to_string_lossy().contains(part.as_str())));
        if files.is_empty() {
            return Err(format!("no case of {all} has `{}` in its name", self.filter.unwrap_or_default()));
        }
        let local = Local::open(config).await.map_err(|error| error.to_string())?;
        let agent = load(&local, &self.component).await?;
        let mut failed = 0;
        for file in &files {
            let began = Instant::now();
            let result = self.one(&local, &agent, file, written).await;
            let name = file.display();
            match result {
                Ok(Verdict::Blessed) => say!("blessed {name}")?,
                Ok(Verdict::Found(found)) if found.is_empty() => say!("ok      {name} ({:.0?})", began.elapsed())?,
                Ok(Verdict::Found(found)) => {
                    failed += 1;
                    say!("FAILED  {name}\n{}", found.join("\n"))?;
                }
                Err(why) => {
                    failed += 1;
                    say!("FAILED  {name}\n  {}", why.trim_end().replace('\n', "\n  "))?;
                }
            }
        }
        let count = files.len();
        say!("\n{} of {count} cases passed", count - failed)?;
        if failed > 0 { Err(format!("{failed} of {count} cases failed")) } else { Ok(()) }
    }

    async fn one(
        &self,
        local: &Local,
        agent: &Agent,
        file: &Path,
        written: &Mutex<Written>,
    ) -> Result<Verdict, String> {
        let case = Case::read(file)?;
        let begin = match case.now.as_deref() {
            None => BEGIN,
            Some(text) => time(text)?,
        };
        let script = Arc::new(Script::new(case.answers.iter().cloned()));
        let models = Arc::new(Models::scripted(script.clone(), &local.metrics().models));
        let tools = Arc::new(ToolScript::new(case.tools.iter().cloned()));
        let granted =
            local.scripted_tools(&agent.description.name, tools.clone()).map_err(|error| error.to_string())?;
        let agent = agent
            .clone()
            .with_config(&case.config)
            .map_err(|why| why.to_string())?
            .scripted(models, begin)
            .scripted_tools(granted);
        let mut request = request(local, &agent, case.model.as_deref(), case.fields())?;
        request.earlier.clone_from(&case.history);
        *written.lock() = Written::default();
        let manager = local.manager(agent).await.map_err(|error| error.to_string())?;
        let mut subscription = local::begin(&manager, request).await.map_err(|refusal| refusal.to_string())?;
        let mut response = None;
        while let Some(bytes) = subscription.next().await.map_err(|error| error.to_string())? {
            for frame in frames(&bytes) {
                let frame = frame.map_err(|error| format!("an event cannot be read: {error}"))?;
                if let Event::Completed { response: last }
                | Event::Failed { response: last }
                | Event::Incomplete { response: last } = frame.event
                {
                    response = Some(last.into_owned());
                }
            }
        }
        let response = response.ok_or("the run was lost")?;
        let seen = seen(&response, &script, &tools, &written.lock());
        if self.bless {
            case::bless(file, &case, &seen)?;
            return Ok(Verdict::Blessed);
        }
        Ok(Verdict::Found(judged(&case, &seen, script.left(), tools.left())))
    }
}

enum Verdict {
    Blessed,
    /// What is not as expected, as text.
    Found(Vec<String>),
}

/// What is not as the case expects.
fn judged(case: &Case, seen: &Map<String, Value>, left: usize, tools_left: usize) -> Vec<String> {
    let usual = Map::from_iter([("status".to_owned(), json!("completed"))]);
    let expect = case.expect.as_ref().unwrap_or(&usual);
    let mut found: Vec<_> = expect
        .iter()
        .flat_map(|(key, value)| differences(key, value, seen.get(key)))
        .map(|difference| difference.to_string())
        .collect();
    if left > 0 {
        found.push(format!("  answers\n    - {} answers of models\n    + {left} were not used", case.answers.len()));
    }
    if tools_left > 0 {
        found.push(format!("  tools\n    + {tools_left} answers were not used"));
    }
    // Why it failed is the first thing to know, also where nobody expected it.
    if let Some(error) = seen.get("error").filter(|_| !found.is_empty() && !expect.contains_key("error")) {
        let text = |key: &str| error[key].as_str().unwrap_or_default();
        found.push(format!("  the response failed: {} ({})", text("message"), text("code")));
    }
    found
}

/// Everything that can be expected.
fn seen(response: &Response, script: &Script, tools: &ToolScript, written: &Written) -> Map<String, Value> {
    let mut seen = Map::new();
    seen.insert("status".to_owned(), response.status.as_str().into());
    seen.insert("text".to_owned(), text(&response.output).into());
    seen.insert("output".to_owned(), without_ids(json!(response.output)));
    if let Some(error) = &response.error {
        seen.insert("error".to_owned(), json!({"code": error.code, "message": error.message}));
    }
    if let Some(details) = &response.incomplete_details {
        seen.insert("incomplete".to_owned(), details.reason.clone().into());
    }
    if let Some(usage) = &response.usage {
        seen.insert("usage".to_owned(), json!(usage));
    }
    let asked = script.asked().into_iter().map(|call| {
        let mut asked = json!({"input": without_ids(call.input.into())});
        for (name, text) in [("model", call.model), ("instructions", call.instructions)] {
            if let Some(text) = text {
                asked[name] = text.into();
            }
        }
        if !call.options.is_empty() {
            asked["options"] = call.options.into();
        }
        asked
    });
    seen.insert("asked".to_owned(), asked.collect());
    seen.insert("called".to_owned(), tools.calls().into());
    seen.insert("trace".to_owned(), written.trace.clone().into());
    seen.insert("log".to_owned(), written.log.clone().into());
    seen
}

/// The text of all messages.
fn text(output: &[Item]) -> String {
    let texts = output.iter().filter_map(|item| match item {
        Item::Message { content, .. } => Some(content.iter().map(|part| match part {
            outlast_protocol::Content::OutputText { text, .. } => text.as_str(),
            outlast_protocol::Content::Refusal { refusal } => refusal.as_str(),
        })),
        _ => None,
    });
    texts.flatten().collect()
}

/// Items without what is another one in every run, and without what is always empty.
fn without_ids(mut items: Value) -> Value {
    for item in items.as_array_mut().into_iter().flatten() {
        let Some(fields) = item.as_object_mut() else { continue };
        fields.remove("id");
        for part in fields.get_mut("content").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(part) = part.as_object_mut() {
                part.retain(|key, value| !matches!(key.as_str(), "annotations" | "logprobs") || *value != json!([]));
            }
        }
    }
    items
}

fn time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_rfc3339(text).map_err(|error| format!("now = \"{text}\" is not a time: {error}"))?;
    SystemTime::duration_since(&time, UNIX_EPOCH).map_err(|_| format!("now = \"{text}\" is before 1970"))
}

/// Takes the lines that the agent logs.
struct Lines(Arc<Mutex<Written>>);

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Lines {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        let mut message = Message::default();
        event.record(&mut message);
        let level = event.metadata().level().as_str().to_lowercase();
        self.0.lock().log.push(format!("{level}: {}", message.0));
    }
}

#[derive(Default)]
struct Message(String);

impl tracing::field::Visit for Message {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}
