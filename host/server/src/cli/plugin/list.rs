//! `outlast plugin list`: the plugins of a server.

use bytesize::ByteSize;
use clap::Args;
use outlast_runtime::text;
use serde_json::{Value, json};

use super::installed::{Of, Plugin};
use crate::cli::{
    outcome,
    output::{print, say},
};

/// List the plugins that a server has, and those that it would refuse.
///
/// Every file of its plugin folder and everything else that `plugins` in its configuration names, each with its agent's
/// name and version, its sha256 and size, whether it is pinned and signed, and why it would not be served.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  outlast plugin list --config outlast.toml\n  outlast plugin list --plugins plugins --json"
)]
pub(in crate::cli) struct List {
    #[command(flatten)]
    of: Of,
    /// Print JSON, with whole digests.
    #[arg(long)]
    json: bool,
}

impl List {
    pub(in crate::cli) fn run(self) -> Result<(), String> {
        outcome(async {
            let installed = self.of.open().await?;
            let plugins = installed.all().await?;
            if self.json {
                say!("{:#}", Value::from_iter(plugins.iter().map(json)))?;
            } else if plugins.is_empty() {
                installed.folder()?;
                say!("no plugins: `outlast plugin add FILE` adds one")?;
            } else {
                print(table(&plugins))?;
            }
            Ok(())
        })
    }
}

fn json(plugin: &Plugin) -> Value {
    let named = plugin.named.as_ref();
    json!({
        "name": named.map(|(name, _)| name),
        "kind": if plugin.tool { "tool" } else { "agent" },
        "version": named.map(|(_, version)| version),
        "sha256": plugin.sha256,
        "bytes": plugin.bytes,
        "pinned": plugin.pinned,
        "signed": plugin.signed,
        "from": plugin.from,
        "file": plugin.path.as_ref().map(|path| path.display().to_string()),
        "refused": plugin.refused,
    })
}

/// A table; what is refused has a line more.
fn table(plugins: &[Plugin]) -> String {
    let mut rows = vec![["NAME", "VERSION", "SHA256", "SIZE", "TRUST", "FROM"].map(str::to_owned)];
    for plugin in plugins {
        let (name, version) = plugin.named.clone().unwrap_or_default();
        let sha256 = plugin.sha256.as_ref().map(|sha256| sha256.chars().take(12).collect()).unwrap_or_default();
        let size = plugin.bytes.map(|bytes| ByteSize::b(bytes).display().iec().to_string()).unwrap_or_default();
        let trust = [(plugin.pinned, "pinned"), (plugin.signed, "signed")];
        let trust: Vec<_> = trust.into_iter().filter_map(|(is, word)| is.then_some(word)).collect();
        rows.push([name, version, sha256, size, trust.join(", "), plugin.from.clone()]);
    }
    let mut widths = [0; 6];
    for row in &mut rows {
        for (cell, width) in row.iter_mut().zip(&mut widths) {
            *cell = text::line(cell).into_owned();
            if cell.is_empty() {
                cell.push('-');
            }
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for (index, row) in rows.iter().enumerate() {
        let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
        if let Some(why) = index.checked_sub(1).and_then(|index| plugins[index].refused.as_ref()) {
            out.push_str(&format!("    refused: {}\n", text::line(why)));
        }
    }
    out
}
