//! What happened in a look at the folders, for the log.

use std::{collections::BTreeMap, path::PathBuf};

use tracing::{error, info, warn};

use super::{AGENT, name_of};
use crate::{grants::Section, refused::Refused, supply::plugin::Plugin};

#[derive(Debug)]
pub(super) enum News {
    Serves(PathBuf, Plugin),
    Refused(PathBuf, Refused, bool),
    /// Several components want a name that nobody has.
    Contested(PathBuf, Refused),
    Gone(PathBuf, Plugin),
}

impl News {
    pub(super) fn tell(self) {
        match self {
            Self::Serves(path, plugin) => {
                let (plugin_path, version, sha256) = (path.display(), plugin.version(), plugin.sha256());
                match &plugin {
                    Plugin::Agent(agent) => {
                        let name = plugin.name();
                        info!(plugin = %plugin_path, agent = name, version, sha256, "serves");
                        if !agent.missing().is_empty() {
                            let lines = agent.missing().join(", ");
                            info!(
                                agent = name,
                                "wants more than it is granted; in its section of the configuration: {lines}"
                            );
                        }
                    }
                    Plugin::Tool(tool) => {
                        let tools = tool.names().collect::<Vec<_>>().join(", ");
                        info!(plugin = %plugin_path, tool = plugin.name(), version, sha256, tools, "serves");
                    }
                }
            }
            Self::Refused(path, why, true) => {
                warn!(plugin = %path.display(), "refused: {why}; the previous version continues to serve");
            }
            Self::Contested(path, why) => error!(plugin = %path.display(), "refused: {why}"),
            Self::Refused(path, why, false) => warn!(plugin = %path.display(), "refused: {why}"),
            Self::Gone(path, plugin) => {
                let (path, name) = (path.display(), plugin.name());
                match plugin {
                    Plugin::Agent(_) => {
                        info!(plugin = %path, agent = name, "the file is gone: no new runs start; active runs are not \
                                                             affected");
                    }
                    Plugin::Tool(_) => {
                        info!(plugin = %path, tool = name, "the file is gone: no new calls start; active calls are not \
                                                            affected");
                    }
                }
            }
        }
    }
}

/// Why none of several components serves under a name, and what is to be done.
pub(super) fn contest(plugin: &Plugin, files: &BTreeMap<String, PathBuf>) -> String {
    let ((what, name), own) = (name_of(plugin), plugin.sha256());
    let others: Vec<_> = files
        .iter()
        .filter(|(sha256, _)| *sha256 != own)
        .map(|(sha256, path)| format!("{} (sha256 {sha256})", path.display()))
        .collect();
    let section = if what == AGENT { Section::agent(&name) } else { Section::tool(&name) };
    format!(
        "it is {} `{name}` (sha256 {own}), and so is {}; none of them serves, because nothing says which one has its grants: \
         `sha256 = \"…\"` in the section `[{}]` of the configuration does, or remove the wrong one",
        if what == AGENT { "the agent" } else { "the tool component" },
        others.join(", "),
        section.key()
    )
}
