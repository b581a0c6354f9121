//! `outlast plugin inspect`: what a component is, and what it would get.

use std::path::PathBuf;

use bytesize::ByteSize;
use clap::Args;
use outlast_plugin::{Agent, AgentConfig, Plugin, Section, StateSize, TimeLimit};
use outlast_runtime::text::line as one_line;
use serde_json::{Value, json};

use super::{
    check::open,
    component::examine,
    inspect_tool::ShownTool,
    shown_grants::{hosts, http, secrets},
};
use crate::{
    cli::{
        outcome,
        output::{print, say},
    },
    local::Examined,
};

/// Show what a plugin is and what it would get, before it is served.
///
/// It is compiled and asked for its description, with every import refused and within a second; nothing else of it is
/// executed.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  outlast plugin inspect helper.wasm\n  outlast plugin inspect helper.wasm --json")]
pub(in crate::cli) struct Inspect {
    /// The component: a file, or oci://HOST[:PORT]/REPOSITORY[:TAG][@sha256:…].
    #[arg(value_name = "FILE|REFERENCE")]
    component: String,
    /// The configuration file of a server (TOML): what it grants is shown, and whether it would serve the component.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Inspect {
    pub(in crate::cli) fn run(self) -> Result<(), String> {
        outcome(async {
            let local = open(self.config.as_deref()).await?;
            // Whether its pin and its signature fit is another question than what it is.
            let (examined, _) =
                examine(&self.component, &local).await.map_err(|why| format!("{}: {why}", self.component))?;
            let Examined { plugin, wasm, refused, .. } = examined;
            let (size, refused) = (wasm.len() as u64, refused.map(|why| why.to_string()));
            let agent = match &plugin {
                Plugin::Agent(agent) => agent,
                Plugin::Tool(tool) => {
                    let config = local.config().tools.get(&tool.description.name).cloned().unwrap_or_default();
                    let shown = ShownTool { tool, size, config: &config, refused };
                    if self.json {
                        say!("{:#}", shown.json())?
                    } else {
                        print(shown.text())?
                    }
                    return Ok(());
                }
            };
            let config = local.config().agents.get(&agent.description.name).cloned().unwrap_or_default();
            let shown = Shown { agent, size, config: &config, refused };
            if self.json {
                say!("{:#}", shown.json())?
            } else {
                print(shown.text())?
            }
            Ok(())
        })
    }
}

/// What is shown.
struct Shown<'a> {
    agent: &'a Agent,
    size: u64,
    config: &'a AgentConfig,
    /// Why a server with this configuration would not serve it.
    refused: Option<String>,
}

impl Shown<'_> {
    fn json(&self) -> Value {
        let (agent, http) = (self.agent, &self.config.http);
        json!({
            "name": agent.description.name,
            "version": agent.description.version,
            "about": agent.description.about,
            "contract": agent.contract(),
            "sha256": agent.sha256,
            "bytes": self.size,
            "imports": agent.imports,
            "config_schema": agent.description.config_schema,
            "wants": agent.description.wants.lines(),
            "missing": agent.missing(),
            "refused": self.refused,
            "granted": {
                "config": self.config.config,
                "http": {
                    "hosts": hosts(http),
                    "methods": http.methods,
                    "secrets": secrets(http),
                },
                "models": self.models(),
                "state": self.state(),
                "memory": self.memory(),
                "cpu_time": self.time(agent.cpu_time()),
                "run_timeout": self.time(agent.run_timeout()),
                "max_live_runs": self.config.max_live_runs,
                "tools": self.config.tools.iter().map(ToString::to_string).collect::<Vec<_>>(),
            },
        })
    }

    fn text(&self) -> String {
        let agent = self.agent;
        let description = &agent.description;
        let (name, section) = (&description.name, Section::agent(&description.name).key());
        let mut text = String::new();
        let mut line = |what: &str, value: String| text.push_str(&format!("{what:<10}{}\n", one_line(&value)));
        line("name", format!("{name} {}", description.version));
        line("about", description.about.clone());
        line("contract", agent.contract());
        line("sha256", agent.sha256.clone());
        line("size", ByteSize::b(self.size).display().iec().to_string());
        line("imports", agent.imports.first().cloned().unwrap_or_else(|| "nothing".to_owned()));
        agent.imports.iter().skip(1).for_each(|import| line("", import.clone()));
        line(
            "config",
            match &description.config_schema {
                Some(schema) => format!("its schema: {schema}"),
                None => "none: it has no schema".to_owned(),
            },
        );
        line("granted", format!("with this configuration, in [{section}]:"));
        line("  http", http(&self.config.http));
        line(
            "  models",
            match self.models().as_str() {
                "false" => "none; models = [\"provider/model\"] would grant one".to_owned(),
                "true" => "all".to_owned(),
                patterns => patterns.to_owned(),
            },
        );
        let tools = self.config.tools.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let none = || "nothing; tools = [\"units__*\"] would grant some".to_owned();
        line("  tools", if tools.is_empty() { none() } else { tools });
        let state = self.state().unwrap_or_else(|| "nothing; state = \"1MiB\" would grant some".to_owned());
        line("  state", state);
        line("limits", format!("memory {}", self.memory()));
        line("", format!("cpu_time {}", self.time(agent.cpu_time())));
        line("", format!("run_timeout {}", self.time(agent.run_timeout())));
        let runs = self.config.max_live_runs.map_or_else(|| "as the server has".to_owned(), |most| most.to_string());
        line("", format!("max_live_runs {runs}"));
        let wants = description.wants.lines();
        line("wants", wants.first().cloned().unwrap_or_else(|| "nothing".to_owned()));
        wants.iter().skip(1).for_each(|wanted| line("", wanted.clone()));
        match agent.missing() {
            [] => line("missing", "nothing".to_owned()),
            lines => {
                line("missing", "it wants more; this would grant it:".to_owned());
                text.push_str(&format!("\n[{section}]\n{}\n\n", lines.join("\n")));
            }
        }
        let mut line = |what: &str, value: String| text.push_str(&format!("{what:<10}{}\n", one_line(&value)));
        line(
            "served",
            match &self.refused {
                None => "yes".to_owned(),
                Some(why) => format!("no: {why}"),
            },
        );
        text
    }

    fn models(&self) -> String {
        self.agent.models().to_string()
    }

    fn memory(&self) -> String {
        ByteSize::b(self.agent.memory()).display().iec().to_string()
    }

    fn time(&self, limit: &TimeLimit) -> String {
        humantime::format_duration(limit.most).to_string()
    }

    fn state(&self) -> Option<String> {
        match self.config.state? {
            StateSize::Usual(granted) => granted.then(|| "limits.state_bytes".to_owned()),
            StateSize::Size(size) => Some(size.display().iec().to_string()),
        }
    }
}
