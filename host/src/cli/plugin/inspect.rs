//! `outlast plugin inspect`: what a component is, and what it would get.

use std::path::PathBuf;

use bytesize::ByteSize;
use clap::Args;
use serde_json::{Value, json};

use super::check::{open, outcome};
use super::inspect_tool::ShownTool;
use crate::plugin::{Agent, AgentConfig, HttpGrant, Plugin, StateSize};

/// Show what a plugin is and what it would get, before it is served.
///
/// It is compiled and asked for its description, with every import refused and within a second; nothing else of it is
/// executed.
#[derive(Debug, Args)]
pub(in crate::cli) struct Inspect {
    /// The component.
    component: PathBuf,
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
            let wrong = |why: &dyn std::fmt::Display| format!("{}: {why}", self.component.display());
            let plugin = local.load_plugin(&self.component).await.map_err(|why| wrong(&why))?;
            let size = std::fs::metadata(&self.component).map_err(|error| wrong(&error))?.len();
            // Whether its pin and its signature fit is another question than what it is.
            let refused = local.admit(&self.component).await.err().map(|why| why.to_string());
            let agent = match &plugin {
                Plugin::Agent(agent) => agent,
                Plugin::Tool(tool) => {
                    let config = local.config().tools.get(&tool.description.name).cloned().unwrap_or_default();
                    let shown = ShownTool { tool, size, config: &config, refused };
                    if self.json {
                        println!("{:#}", shown.json())
                    } else {
                        print!("{}", shown.text())
                    }
                    return Ok(());
                }
            };
            let config = local.config().agents.get(&agent.description.name).cloned().unwrap_or_default();
            let shown = Shown { agent, size, config: &config, refused };
            if self.json {
                println!("{:#}", shown.json())
            } else {
                print!("{}", shown.text())
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
            "refused": self.refused,
            "granted": {
                "config": self.config.config,
                "http": {
                    "hosts": http.hosts.iter().map(ToString::to_string).collect::<Vec<_>>(),
                    "methods": http.methods,
                    "secrets": secrets(http),
                },
                "state": self.state(),
                "tools": self.config.tools.iter().map(ToString::to_string).collect::<Vec<_>>(),
            },
        })
    }

    fn text(&self) -> String {
        let agent = self.agent;
        let description = &agent.description;
        let name = &description.name;
        let mut text = String::new();
        let mut line = |what: &str, value: String| text.push_str(&format!("{what:<10}{value}\n"));
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
        line("granted", format!("with this configuration, in [agents.{name}]:"));
        line("  http", http(&self.config.http));
        let tools = self.config.tools.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let none = || "nothing; tools = [\"units__*\"] would grant some".to_owned();
        line("  tools", if tools.is_empty() { none() } else { tools });
        let state = self.state().unwrap_or_else(|| "nothing; state = \"1MiB\" would grant some".to_owned());
        line("  state", state);
        line(
            "served",
            match &self.refused {
                None => "yes".to_owned(),
                Some(why) => format!("no: {why}"),
            },
        );
        text
    }

    fn state(&self) -> Option<String> {
        match self.config.state? {
            StateSize::Usual(granted) => granted.then(|| "limits.state_bytes".to_owned()),
            StateSize::Size(size) => Some(size.display().iec().to_string()),
        }
    }
}

/// What a grant lets reach, in words.
pub(super) fn http(grant: &HttpGrant) -> String {
    let hosts = grant.hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if hosts.is_empty() {
        return "nothing; http.hosts = [\"api.example.com\"] would grant one".to_owned();
    }
    let methods = grant.methods.as_ref().map(|methods| methods.join(", "));
    let secrets = secrets(grant);
    let secrets = if secrets.is_empty() { "no secrets".to_owned() } else { format!("secrets {}", secrets.join(", ")) };
    format!("{hosts}; methods {}; {secrets}", methods.unwrap_or_else(|| "all".to_owned()))
}

/// The names of the headers that the host puts into requests.
pub(super) fn secrets(grant: &HttpGrant) -> Vec<String> {
    let secrets = grant.secrets.iter();
    secrets.flat_map(|(host, headers)| headers.keys().map(move |name| format!("{name} ({host})"))).collect()
}
