//! `outlast plugin remove`: takes a plugin out of the folder.

use clap::Args;
use outlast_plugin::{remove, signature_path};

use super::installed::{Of, Plugin};
use crate::cli::{outcome, output::say};

/// Remove a plugin from the plugin folder: its file, and its signature.
///
/// A running server stops serving it at once. Active runs keep the component that they started with until they end
/// and across restarts, and responses that are stored stay.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  outlast plugin remove helper --config outlast.toml")]
pub(in crate::cli) struct Remove {
    /// The agent's name, or the name of a file in the folder.
    name: String,
    #[command(flatten)]
    of: Of,
}

impl Remove {
    pub(in crate::cli) fn run(self) -> Result<(), String> {
        outcome(async {
            let Self { name, of } = self;
            let installed = of.open().await?;
            let folder = installed.folder()?;
            let plugins = installed.all().await?;
            let is_file = |plugin: &&Plugin| {
                plugin.path.as_ref().and_then(|path| path.file_name()).is_some_and(|file| file == name.as_str())
            };
            let mut found: Vec<_> = plugins.iter().filter(|plugin| plugin.is_named(&name)).collect();
            if found.is_empty() {
                found = plugins.iter().filter(is_file).collect();
            }
            let plugin = match &*found {
                [plugin] => plugin,
                [] => {
                    let names: Vec<_> = plugins.iter().filter_map(|plugin| Some(&*plugin.named.as_ref()?.0)).collect();
                    let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                    return Err(format!("there is no plugin `{name}` in {}; there are: {names}", folder.display()));
                }
                several => {
                    let files: Vec<_> = several.iter().map(|plugin| plugin.from.as_str()).collect();
                    return Err(format!(
                        "several plugins have the name `{name}`; name one of the files: {}",
                        files.join(", ")
                    ));
                }
            };
            let path = match &plugin.path {
                Some(path) if path.parent() == Some(folder) => path,
                _ if plugin.from.is_empty() => {
                    let kind = if plugin.tool { "tools" } else { "agents" };
                    return Err(format!("there is no such plugin: remove `{kind}.{name}` from the configuration"));
                }
                _ => {
                    let from = &plugin.from;
                    return Err(format!(
                        "it is not in {}: remove {from} from `plugins` in the configuration",
                        folder.display()
                    ));
                }
            };
            let shown = path.display();
            remove(path).map_err(|error| format!("{shown} cannot be removed: {error}"))?;
            let signature = signature_path(path);
            remove(&signature).map_err(|error| format!("{} cannot be removed: {error}", signature.display()))?;
            match &plugin.named {
                Some((agent, version)) => say!("removed {agent} {version}: {shown}")?,
                None => say!("removed {shown}")?,
            }
            say!("Active runs keep it until they end; stored responses are not affected.")?;
            if plugin.pinned {
                let kind = if plugin.tool { "tools" } else { "agents" };
                say!("The configuration still pins it: [{kind}.{name}]")?;
            }
            Ok(())
        })
    }
}
