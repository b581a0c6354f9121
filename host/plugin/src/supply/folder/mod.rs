//! The plugin folder: which of its files serve.
//!
//! A look at the folder compares its files with those that were read before. What is new is read and loaded, what is
//! gone does not serve any more, and where a new version does not fit, the one before it goes on serving. A file that is
//! being written is left alone until it has been the same for two looks, so that half of a file is not taken for a
//! version; a file that is renamed into the folder is whole from the beginning.
//!
//! Who has a name has its grants, its secrets and its state. The file that serves under a name keeps it. Where none does, as at
//! the start, and several different components want it, no order of file names decides: none of them serves until the
//! operator pins one, or removes the others.
//!
//! A look changes nothing: it leads to a [`Change`], which serves once its components are kept.
//!
//! Files are [loaded](loading) independently of each other. What takes long serves later, and what was there at the first look
//! wants its name as early as all others of it.

mod change;
mod files;
mod loading;
mod news;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

pub use change::Change;
pub use files::{components, read_component};

use self::{
    files::{Stamp, stamps},
    loading::Loading,
};
use super::{plugin::Plugin, registry::Registry, source::is_file};
use crate::{agent::Agent, toolbox::ToolComponent};

/// How long a look waits for the next file to be loaded.
const PATIENCE: Duration = Duration::from_secs(1);
/// The same for a look that somebody has asked for: at the start, or because the operator wants to know.
const PATIENCE_ASKED: Duration = Duration::from_secs(10);

/// The folders whose `*.wasm` serve, and files that serve by themselves.
#[derive(Debug)]
pub struct Folder {
    paths: Vec<PathBuf>,
    files: BTreeMap<PathBuf, Known>,
    /// The names that were taken while others of the first look were still being loaded; none once all of them are.
    early: Option<BTreeSet<Name>>,
}

/// What serves, by name.
#[derive(Debug, Default)]
pub struct Serving {
    /// Agents.
    pub agents: BTreeMap<String, Arc<Agent>>,
    /// Tool components.
    pub tools: BTreeMap<String, Arc<ToolComponent>>,
}

/// What is taken for a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Whatever is there: at the start, or because the operator says so.
    Now,
    /// What is the same as at the last look.
    Settled,
}

/// A file that was seen.
#[derive(Clone, Debug, Default)]
struct Known {
    /// What was read last; none if it has to be read again.
    read: Option<Stamp>,
    /// How it was at the last look.
    seen: Option<Stamp>,
    /// What serves: what was read last, or the version before it.
    plugin: Option<Plugin>,
    /// What it would serve as, if another one did not have its name, or want it too.
    wants: Option<Claim>,
    /// What is being read.
    loading: Option<Loading>,
}

/// A name, and the component that wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Claim {
    name: Name,
    sha256: String,
    /// The sha256 of all that want it, where nobody has it.
    rivals: Vec<String>,
}

/// What no other one may have: what a plugin is, in a word, and its name.
type Name = (&'static str, String);

/// A folder that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the plugin folder {folder} cannot be read: {error}")]
pub struct FolderError {
    folder: String,
    error: io::Error,
}

impl Folder {
    /// Folders and files that were not looked at.
    pub fn new(paths: Vec<PathBuf>) -> Self {
        Self { paths, files: BTreeMap::new(), early: Some(BTreeSet::new()) }
    }

    /// The folders to watch: those themselves, and those of the files.
    pub fn watched(&self) -> BTreeSet<PathBuf> {
        let folder = |path: &PathBuf| match path.parent() {
            _ if !is_file(path) => path.clone(),
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
            _ => PathBuf::from("."),
        };
        self.paths.iter().map(folder).collect()
    }

    /// Looks at the folders. `now` is in seconds since 1970.
    ///
    /// # Errors
    ///
    /// One of them cannot be read.
    pub async fn look(&self, registry: &Arc<Registry>, trust: Trust, now: i64) -> Result<Change, FolderError> {
        let mut found = BTreeMap::new();
        for path in &self.paths {
            let stamps = stamps(path).await;
            found.extend(stamps.map_err(|error| FolderError { folder: path.display().to_string(), error })?);
        }
        let first = self.early.is_some() && self.files.is_empty();
        let patience = if trust == Trust::Now { PATIENCE_ASKED } else { PATIENCE };
        let mut change = Change::of(self.files.clone(), self.early.clone());
        change.remove_all_but(&found);
        let (mut due, mut fresh) = (Vec::new(), Vec::new());
        for (path, stamp) in found {
            let known = change.files.entry(path.clone()).or_default();
            let settled = trust == Trust::Now || known.seen == Some(stamp);
            known.seen = Some(stamp);
            known.loading.take_if(|loading| loading.stamp != stamp);
            if known.loading.is_none() {
                if known.read == Some(stamp) {
                    continue;
                }
                if !settled {
                    change.unsettled = true;
                    continue;
                }
                let loading = Loading::begin(registry, path.clone(), stamp, known.plugin.clone(), first, now);
                fresh.push(known.loading.insert(loading).clone());
            }
            due.push((path, stamp));
        }
        change.load(registry, due, fresh, patience).await;
        if change.changed || change.freed {
            // A name may be free now.
            let (mut waiting, mut fresh) = (Vec::new(), Vec::new());
            for (path, known) in &mut change.files {
                if let Some(stamp) = known.seen.filter(|_| known.wants.is_some() && known.read == known.seen) {
                    let loading = Loading::begin(registry, path.clone(), stamp, known.plugin.clone(), false, now);
                    fresh.push(known.loading.insert(loading).clone());
                    waiting.push((path.clone(), stamp));
                }
            }
            change.load(registry, waiting, fresh, patience).await;
        }
        Ok(change)
    }

    /// Takes a change over and says so in the log. What serves now.
    pub fn apply(&mut self, change: Change) -> Serving {
        for news in change.news {
            news.tell();
        }
        (self.files, self.early) = (change.files, change.early);
        let mut serving = Serving::default();
        for plugin in self.files.values().filter_map(|known| known.plugin.clone()) {
            match plugin {
                Plugin::Agent(agent) => drop(serving.agents.insert(agent.description.name.clone(), agent)),
                Plugin::Tool(tool) => drop(serving.tools.insert(tool.description.name.clone(), tool)),
            }
        }
        serving
    }
}

/// What an agent is called.
const AGENT: &str = "agent";

fn name_of(plugin: &Plugin) -> Name {
    (plugin.what(), plugin.name().to_owned())
}
