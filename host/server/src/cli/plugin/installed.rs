//! The plugins of a server, as its configuration names them.

use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
};

use clap::Args;
use outlast_plugin::{BUNDLED, Fetched, Plugin as Loaded, Section, Source, components};
use sha2::{Digest as _, Sha256};

use crate::{
    config::{Config, Flags},
    local::{Examined, Local},
    server::FETCHED,
};

/// Whose plugins.
#[derive(Debug, Args)]
pub(super) struct Of {
    /// The configuration file of the server (TOML): its plugin folder, its pins and its trusted keys hold here too.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The plugin folder, in place of those that the configuration names.
    #[arg(long, value_name = "DIR")]
    plugins: Option<PathBuf>,
}

/// The plugins of a server.
pub(super) struct Installed {
    pub(super) local: Local,
    fetched: Option<Fetched>,
}

/// One of them.
pub(super) struct Plugin {
    /// Where it comes from: a path or a reference.
    pub(super) from: String,
    /// Its file; none where there is no file yet.
    pub(super) path: Option<PathBuf>,
    /// Its size; none where it cannot be read.
    pub(super) bytes: Option<u64>,
    pub(super) sha256: Option<String>,
    /// Its name and its version.
    pub(super) named: Option<(String, String)>,
    /// Whether its functions are tools: it may have the name of an agent then.
    pub(super) tool: bool,
    pub(super) pinned: bool,
    pub(super) signed: bool,
    /// Why it would not be served.
    pub(super) refused: Option<String>,
}

impl Of {
    pub(super) async fn open(&self) -> Result<Installed, String> {
        let plugins = self.plugins.iter().map(|folder| folder.display().to_string()).collect();
        let flags = Flags { plugins, ..Flags::default() };
        let config = Config::read(self.config.as_deref(), &flags).map_err(|error| format!("configuration: {error}"))?;
        let fetched = config.cache_folder().map(|folder| Fetched::at(&folder.join(FETCHED), config.fetch_limits()));
        let local = Local::open(config).await.map_err(|error| error.to_string())?;
        Ok(Installed { local, fetched })
    }
}

impl Installed {
    /// The folder that plugins are put into: the first one.
    pub(super) fn folder(&self) -> Result<&Path, String> {
        let folder = self.local.config().plugins.iter().find_map(Source::folder);
        folder.ok_or_else(|| {
            "there is no plugin folder: `plugins` in the configuration (--config FILE) names one, or --plugins DIR"
                .to_owned()
        })
    }

    /// All plugins, in the order in which a server takes them.
    pub(super) async fn all(&self) -> Result<Vec<Plugin>, String> {
        let mut plugins = Vec::new();
        for source in &self.local.config().plugins {
            match (source, source.folder(), &self.fetched) {
                (_, Some(folder), _) => {
                    let files = components(folder).await;
                    for path in
                        files.map_err(|error| format!("the folder {} cannot be read: {error}", folder.display()))?
                    {
                        plugins.push(self.look(path.display().to_string(), path).await);
                    }
                }
                (Source::Path(path), ..) => plugins.push(self.look(path.display().to_string(), path.clone()).await),
                (Source::Registry(reference), _, Some(fetched)) if fetched.has(reference).await => {
                    plugins.push(self.look(reference.to_string(), fetched.path(reference)).await);
                }
                (Source::Registry(reference), ..) => {
                    let why = "not fetched yet: a server does it when it starts";
                    plugins.push(Plugin::refused(reference.to_string(), why));
                }
            }
        }
        plugins.sort_by(|one, other| one.path.cmp(&other.path));
        let bundled = BUNDLED.iter().map(|(name, _)| ((false, (*name).to_owned()), "the server itself".to_owned()));
        let mut names: HashMap<_, _> = bundled.collect();
        let contested = contested(&plugins);
        for plugin in &mut plugins {
            let Some((name, _)) = plugin.named.as_ref().filter(|_| plugin.refused.is_none()) else { continue };
            let (key, what) = ((plugin.tool, name.clone()), if plugin.tool { "a tool component" } else { "an agent" });
            if contested.contains(&key) {
                let section = if plugin.tool { Section::tool(name) } else { Section::agent(name) }.key();
                plugin.refused = Some(format!(
                    "there is another component that is {what} named `{name}`, and none of them serves unless one does \
                     already: `sha256 = \"…\"` in `[{section}]` says which one is meant, or remove the wrong one"
                ));
                continue;
            }
            match names.get(&key) {
                Some(other) => plugin.refused = Some(format!("there is {what} named `{name}` already, from {other}")),
                None => drop(names.insert(key, plugin.from.clone())),
            }
        }
        let known = plugins.iter().filter_map(|plugin| Some((plugin.tool, plugin.named.as_ref()?.0.clone())));
        let known: BTreeSet<_> = known.collect();
        let config = self.local.config();
        let agents = config.agents.iter().map(|(name, agent)| (false, name, agent.sha256));
        for (tool, name, pin) in agents.chain(config.tools.iter().map(|(name, tool)| (true, name, tool.sha256))) {
            let bundled = !tool && BUNDLED.iter().any(|(bundled, _)| bundled == name);
            if pin.is_some() && !bundled && !known.contains(&(tool, name.clone())) {
                let kind = if tool { "tools" } else { "agents" };
                let why = format!("`{kind}.{name}.sha256` in the configuration pins it, and no plugin has this name");
                plugins.push(Plugin {
                    named: Some((name.clone(), String::new())),
                    tool,
                    pinned: true,
                    ..Plugin::refused(String::new(), &why)
                });
            }
        }
        Ok(plugins)
    }

    async fn look(&self, from: String, path: PathBuf) -> Plugin {
        let config = self.local.config();
        match self.local.examine(&path).await {
            Ok(Examined { plugin, wasm, signed, refused, .. }) => Plugin {
                from,
                path: Some(path),
                bytes: Some(wasm.len() as u64),
                pinned: match &plugin {
                    Loaded::Agent(_) => config.agents.get(plugin.name()).and_then(|agent| agent.sha256),
                    Loaded::Tool(_) => config.tools.get(plugin.name()).and_then(|tool| tool.sha256),
                }
                .is_some(),
                sha256: Some(plugin.sha256().to_owned()),
                named: Some((plugin.name().to_owned(), plugin.version().to_owned())),
                tool: matches!(plugin, Loaded::Tool(_)),
                signed,
                refused: refused.map(|why| why.to_string()),
            },
            Err(why) => {
                let bytes = std::fs::metadata(&path).ok().filter(std::fs::Metadata::is_file).map(|file| file.len());
                let small = bytes.is_some_and(|bytes| bytes <= config.plugin_limits().plugin_bytes as u64);
                let wasm = small.then(|| std::fs::read(&path).ok()).flatten();
                let sha256 = wasm.map(|wasm| hex::encode(Sha256::digest(wasm)));
                Plugin { path: Some(path), bytes, sha256, ..Plugin::refused(from, &why.to_string()) }
            }
        }
    }
}

/// The names that different components want, of those that nothing else keeps from serving.
fn contested(plugins: &[Plugin]) -> BTreeSet<(bool, String)> {
    let mut wanted: HashMap<_, BTreeSet<_>> = HashMap::new();
    for plugin in plugins.iter().filter(|plugin| plugin.refused.is_none()) {
        if let (Some((name, _)), Some(sha256)) = (&plugin.named, &plugin.sha256) {
            wanted.entry((plugin.tool, name.clone())).or_default().insert(sha256);
        }
    }
    wanted.into_iter().filter(|(_, components)| components.len() > 1).map(|(name, _)| name).collect()
}

impl Plugin {
    fn refused(from: String, why: &str) -> Self {
        let refused = Some(why.to_owned());
        let (path, bytes, sha256, named) = (None, None, None, None);
        Self { from, path, bytes, sha256, named, tool: false, pinned: false, signed: false, refused }
    }

    /// Whether this is its name.
    pub(super) fn is_named(&self, name: &str) -> bool {
        self.named.as_ref().is_some_and(|(own, _)| own == name)
    }
}
