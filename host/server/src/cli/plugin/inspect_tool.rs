//! What `outlast plugin inspect` shows of a tool component.

use bytesize::ByteSize;
use outlast_plugin::{Section, ToolComponent, ToolConfig};
use outlast_runtime::text::line as one_line;
use serde_json::{Value, json};

use super::shown_grants::{hosts, http, secrets};

/// What is shown.
pub(super) struct ShownTool<'a> {
    pub tool: &'a ToolComponent,
    pub size: u64,
    pub config: &'a ToolConfig,
    /// Why a server with this configuration would not serve it.
    pub refused: Option<String>,
}

impl ShownTool<'_> {
    pub(super) fn json(&self) -> Value {
        let (description, config) = (&self.tool.description, self.config);
        let tools = self.tool.names().zip(&description.tools).map(|(name, tool)| {
            json!({
                "name": name,
                "description": tool.description,
                "parameters": serde_json::from_str::<Value>(&tool.parameters).unwrap_or_default(),
                "idempotent": tool.idempotent,
            })
        });
        json!({
            "name": description.name,
            "version": description.version,
            "about": description.about,
            "contract": self.tool.contract(),
            "sha256": self.tool.sha256,
            "bytes": self.size,
            "imports": self.tool.imports,
            "config_schema": description.config_schema,
            "tools": tools.collect::<Vec<_>>(),
            "wants": description.wants.lines(),
            "missing": description.wants.missing_http(&config.http),
            "refused": self.refused,
            "granted": {
                "config": config.config,
                "http": {
                    "hosts": hosts(&config.http),
                    "methods": config.http.methods,
                    "secrets": secrets(&config.http),
                },
                "memory": config.memory.map(|memory| memory.as_u64()),
                "timeout": humantime::format_duration(config.timeout).to_string(),
            },
        })
    }

    pub(super) fn text(&self) -> String {
        let (description, config) = (&self.tool.description, self.config);
        let (name, section) = (&description.name, Section::tool(&description.name).key());
        let mut text = String::new();
        let mut line = |what: &str, value: String| text.push_str(&format!("{what:<10}{}\n", one_line(&value)));
        line("name", format!("{name} {}, a tool component", description.version));
        line("about", description.about.clone());
        line("contract", self.tool.contract());
        line("sha256", self.tool.sha256.clone());
        line("size", ByteSize::b(self.size).display().iec().to_string());
        line("imports", self.tool.imports.first().cloned().unwrap_or_else(|| "nothing".to_owned()));
        self.tool.imports.iter().skip(1).for_each(|import| line("", import.clone()));
        for (n, (name, tool)) in self.tool.names().zip(&description.tools).enumerate() {
            let again = if tool.idempotent { " (may be called again)" } else { "" };
            let about = tool.description.lines().next().unwrap_or_default();
            line(if n == 0 { "tools" } else { "" }, format!("{name}{again}: {about}"));
        }
        line(
            "config",
            match &description.config_schema {
                Some(schema) => format!("its schema: {schema}"),
                None => "none: it has no schema".to_owned(),
            },
        );
        line("granted", format!("with this configuration, in [{section}]:"));
        line("  http", http(&config.http));
        let memory = config.memory.map(|memory| memory.display().iec().to_string());
        line("  memory", memory.unwrap_or_else(|| "limits.memory".to_owned()));
        line("  timeout", humantime::format_duration(config.timeout).to_string());
        let mut wants = description.wants.lines();
        line("wants", if wants.is_empty() { "nothing".to_owned() } else { wants.remove(0) });
        wants.into_iter().for_each(|wanted| line("", wanted));
        let missing = description.wants.missing_http(&config.http);
        if !missing.is_empty() {
            line("missing", "it wants more; this would grant it:".to_owned());
            text.push_str(&format!("\n[{section}]\n{}\n\n", missing.join("\n")));
        }
        let mut line = |what: &str, value: String| text.push_str(&format!("{what:<10}{}\n", one_line(&value)));
        line(
            "served",
            match &self.refused {
                None => format!("yes; agents call it where `tools = [\"{name}__*\"]` grants it"),
                Some(why) => format!("no: {why}"),
            },
        );
        text
    }
}
