//! `outlast plugin add`: puts a plugin into the folder.

use std::path::{Path, PathBuf};

use clap::Args;
use outlast_plugin::{OciReference, Plugin, Section, put, remove, signature_path};

use super::{
    component::examine,
    installed::{Installed, Of},
};
use crate::{
    cli::{outcome, output::say},
    local::Examined,
};

/// Check a plugin and put it into the plugin folder, from a file or from a registry.
///
/// It is checked as `outlast plugin check` does, and stored in the folder as NAME.wasm, by its own name, with its
/// signature if it has one. It replaces another version of the same plugin, and never another plugin. A running server
/// serves it without a restart; active runs keep the version that they started with.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  outlast plugin add target/wasm32-wasip2/release/helper.wasm --config outlast.toml"
)]
pub(in crate::cli) struct Add {
    /// The component: a file, or oci://HOST[:PORT]/REPOSITORY[:TAG][@sha256:…].
    #[arg(value_name = "FILE|REFERENCE")]
    component: String,
    #[command(flatten)]
    of: Of,
    /// Check it and print its digests, and change nothing.
    #[arg(long)]
    dry_run: bool,
}

impl Add {
    pub(in crate::cli) fn run(self) -> Result<(), String> {
        outcome(async {
            let Self { component, of, dry_run } = self;
            let installed = of.open().await?;
            let wrong = |why: &dyn std::fmt::Display| format!("{component}: {why}");
            let (examined, reference) = examine(&component, &installed.local).await.map_err(|why| wrong(&why))?;
            if let Some(why) = &examined.refused {
                return Err(wrong(why));
            }
            let name = examined.plugin.name();
            match dry_run {
                true => {
                    let (version, sha256) = (examined.plugin.version(), examined.plugin.sha256());
                    say!("{name} {version} (sha256 {sha256}) would be served; nothing was changed")?;
                }
                false => install(&installed, &examined).await?,
            }
            advise(&examined, reference.as_ref())
        })
    }
}

/// Puts it into the folder.
async fn install(installed: &Installed, examined: &Examined) -> Result<(), String> {
    let Examined { plugin: added, wasm, signature, .. } = examined;
    let (name, version, what) = (added.name(), added.version(), added.what());
    let tool = matches!(added, Plugin::Tool(_));
    let folder = installed.folder()?;
    std::fs::create_dir_all(folder).map_err(|error| format!("{} cannot be created: {error}", folder.display()))?;
    let there = installed.all().await?;
    let before = there.iter().find(|plugin| plugin.is_named(name) && plugin.tool == tool && plugin.path.is_some());
    let path: PathBuf = match before.and_then(|before| before.path.as_ref()) {
        Some(path) if path.parent() == Some(folder) => path.clone(),
        Some(_) => {
            let from = before.map(|before| before.from.as_str()).unwrap_or_default();
            return Err(format!("`plugins` in the configuration already has the {what} `{name}`, from {from}"));
        }
        None => folder.join(format!("{name}.wasm")),
    };
    let shown = path.display();
    let here = there.iter().find(|plugin| plugin.path.as_ref() == Some(&path));
    if let Some(other) = here.filter(|plugin| !plugin.is_named(name) || plugin.tool != tool) {
        let is = match (&other.named, &other.refused) {
            (Some((name, version)), _) if other.tool => format!("the tool component `{name}` {version}"),
            (Some((name, version)), _) => format!("the agent `{name}` {version}"),
            (None, why) => format!("not a plugin for this server ({})", why.as_deref().unwrap_or("unknown")),
        };
        let file = path.file_name().unwrap_or_default().display();
        return Err(format!("{shown} is {is}, and is not overwritten: `outlast plugin remove {file}` removes it"));
    }
    let cannot = |path: &Path, error| format!("{} cannot be written: {error}", path.display());
    let beside = signature_path(&path);
    // A moment apart: a server that follows the folder waits longer before it reads them.
    match signature {
        Some(signature) => put(&beside, signature.as_bytes()),
        None => remove(&beside),
    }
    .map_err(|error| cannot(&beside, error))?;
    put(&path, wasm).map_err(|error| cannot(&path, error))?;
    say!("added    {name} {version} (sha256 {}): {shown}", added.sha256())?;
    if let Some((plugin, (_, version))) = before.and_then(|before| Some((before, before.named.as_ref()?))) {
        say!("replaced {name} {version} (sha256 {})", plugin.sha256.as_deref().unwrap_or("unknown"))?;
    }
    say!("A running server serves it without a restart; active runs keep the version that they started with.")?;
    Ok(())
}

/// Says how it is pinned.
fn advise(examined: &Examined, reference: Option<&OciReference>) -> Result<(), String> {
    let (name, sha256) = (examined.plugin.name(), examined.plugin.sha256());
    say!("\nIn the configuration, this lets nothing else serve under its name:\n")?;
    let section = match &examined.plugin {
        Plugin::Tool(_) => Section::tool(name),
        Plugin::Agent(_) => Section::agent(name),
    };
    say!("[{}]\nsha256 = \"{sha256}\"", section.key())?;
    if let Some(reference) = reference {
        say!("\nOr, without a file in the folder, the server fetches it itself:\n")?;
        say!("plugins = [\"{reference}\"]")?;
    }
    Ok(())
}
