//! The plugin folder: which of its files serve.
//!
//! A look at the folder compares its files with those that were read before. What is new is read and loaded, what is
//! gone does not serve any more, and where a new version does not fit, the one before it goes on serving. A file that is
//! being written is left alone until it has been the same for two looks, so that half of a file is not taken for a
//! version; a file that is renamed into the folder is whole from the beginning.
//!
//! Who has a name has its grants, its secrets and its state. The file that serves under a name keeps it. Where none does, as at
//! the start, and several different components want it, no order of file names decides: none of them serves until the
//! operator [pins](super::Pin) one, or removes the others.
//!
//! A look changes nothing: it leads to a [`Change`], which serves once its components are kept.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use sha2::{Digest as _, Sha256};
use tracing::{error, info, warn};

use super::{
    component::Refused,
    engine,
    grants::Section,
    instance::Agent,
    oci::too_large,
    registry::{Plugin, Registry},
    signature::signature_path,
    source::is_file,
    tools::ToolComponent,
};
use crate::store::ServedPlugin;

/// The folders whose `*.wasm` serve, and files that serve by themselves.
#[derive(Debug)]
pub struct Folder {
    paths: Vec<PathBuf>,
    files: BTreeMap<PathBuf, Known>,
}

/// What a look at the folder led to.
#[derive(Debug)]
pub struct Change {
    files: BTreeMap<PathBuf, Known>,
    /// The agents' components that were not there before: their sha256 and bytes. They must be kept before they serve.
    pub components: Vec<(String, Bytes)>,
    /// Whether a file is being written, so that another look is needed soon.
    pub unsettled: bool,
    /// Whether others serve than before.
    pub changed: bool,
    /// Whether a file does not want its name any more.
    freed: bool,
    /// What happened, for the log.
    news: Vec<News>,
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

/// A file that differs from another one, or from itself at another time, has another stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    component: FileStamp,
    /// Of its signature.
    signature: FileStamp,
}

/// Zeros for a file that cannot be looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct FileStamp {
    file: (u64, u64),
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// A folder that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the plugin folder {folder} cannot be read: {error}")]
pub struct FolderError {
    folder: String,
    error: io::Error,
}

#[derive(Debug)]
enum News {
    Serves(PathBuf, Plugin),
    Refused(PathBuf, Refused, bool),
    /// Several components want a name that nobody has.
    Contested(PathBuf, Refused),
    Gone(PathBuf, Plugin),
}

/// What reading a file led to.
enum Candidate {
    /// It changed meanwhile.
    Moving,
    /// It has the same bytes as before.
    Same,
    Fits(Plugin, Bytes),
    Refused(Refused),
}

impl Folder {
    /// Folders and files that were not looked at.
    pub fn new(paths: Vec<PathBuf>) -> Self {
        Self { paths, files: BTreeMap::new() }
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
    pub async fn look(&self, registry: &Registry, trust: Trust, now: i64) -> Result<Change, FolderError> {
        let mut found = BTreeMap::new();
        for path in &self.paths {
            let stamps = stamps(path).await;
            found.extend(stamps.map_err(|error| FolderError { folder: path.display().to_string(), error })?);
        }
        let mut change = Change {
            files: self.files.clone(),
            components: Vec::new(),
            unsettled: false,
            changed: false,
            freed: false,
            news: Vec::new(),
        };
        change.remove_all_but(&found);
        let mut due = Vec::new();
        for (path, stamp) in found {
            let known = change.files.entry(path.clone()).or_default();
            let settled = trust == Trust::Now || known.seen == Some(stamp);
            known.seen = Some(stamp);
            if known.read == Some(stamp) {
                continue;
            }
            if settled {
                due.push((path, stamp));
            } else {
                change.unsettled = true;
            }
        }
        change.load(registry, due, now).await;
        if change.changed || change.freed {
            // A name may be free now.
            let waiting = change.files.iter().filter(|(_, known)| known.wants.is_some() && known.read == known.seen);
            let waiting: Vec<_> = waiting.filter_map(|(path, known)| Some((path.clone(), known.seen?))).collect();
            change.load(registry, waiting, now).await;
        }
        Ok(change)
    }

    /// Takes a change over and says so in the log. What serves now.
    pub fn apply(&mut self, change: Change) -> Serving {
        for news in change.news {
            news.tell();
        }
        self.files = change.files;
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

impl Change {
    /// What begins to serve with it.
    pub fn begins(&self) -> impl Iterator<Item = ServedPlugin> {
        self.news.iter().filter_map(|news| match news {
            News::Serves(_, plugin) => Some(ServedPlugin {
                kind: plugin.what().to_owned(),
                name: plugin.name().to_owned(),
                version: plugin.version().to_owned(),
            }),
            _ => None,
        })
    }

    fn remove_all_but(&mut self, found: &BTreeMap<PathBuf, Stamp>) {
        let (news, changed, freed) = (&mut self.news, &mut self.changed, &mut self.freed);
        self.files.retain(|path, known| {
            let stays = found.contains_key(path);
            if !stays && let Some(plugin) = known.plugin.take() {
                news.push(News::Gone(path.clone(), plugin));
                *changed = true;
            }
            *freed |= !stays && known.wants.is_some();
            stays
        });
    }

    /// The names that nobody has and several different components want, with the files that want them.
    fn contested(
        &self,
        candidates: &[((PathBuf, Stamp), Candidate)],
        names: &BTreeSet<Name>,
    ) -> BTreeMap<Name, BTreeMap<String, PathBuf>> {
        let mut wanted: BTreeMap<Name, BTreeMap<String, PathBuf>> = BTreeMap::new();
        let mut want = |name: Name, sha256: &str, path: &PathBuf| {
            wanted.entry(name).or_default().entry(sha256.to_owned()).or_insert_with(|| path.clone());
        };
        for ((path, _), candidate) in candidates {
            if let Candidate::Fits(plugin, _) = candidate {
                want(name_of(plugin), plugin.sha256(), path);
            }
        }
        for (path, known) in &self.files {
            if let Some(Claim { name, sha256, .. }) = &known.wants
                && !candidates.iter().any(|((candidate, _), _)| candidate == path)
            {
                want(name.clone(), sha256, path);
            }
        }
        wanted.retain(|name, files| files.len() > 1 && !names.contains(name));
        wanted
    }

    /// Reads and loads files, several at once, and lets them serve in the order of their names.
    async fn load(&mut self, registry: &Registry, due: Vec<(PathBuf, Stamp)>, now: i64) {
        let loading: Vec<_> = due
            .iter()
            .map(|(path, stamp)| {
                let serving = self.files.get(path).and_then(|known| known.plugin.clone());
                candidate(registry, path, *stamp, serving, now)
            })
            .collect();
        let candidates: Vec<_> = stream::iter(loading).buffered(engine::cores()).collect().await;
        let candidates: Vec<_> = due.into_iter().zip(candidates).collect();

        // A file that has a version that fits gives its old name up; the others keep theirs.
        let moving: BTreeSet<&PathBuf> = candidates
            .iter()
            .filter_map(|((path, _), candidate)| matches!(candidate, Candidate::Fits(..)).then_some(path))
            .collect();
        let kept = self.files.iter().filter(|(path, _)| !moving.contains(path));
        let bundled = registry.bundled_names().map(|name| (AGENT, name.to_owned()));
        let mut names: BTreeSet<_> =
            kept.filter_map(|(_, known)| Some(name_of(known.plugin.as_ref()?))).chain(bundled).collect();

        // Whose name stays the same keeps it, whatever else came with it.
        let keeps = |path: &PathBuf, candidate: &Candidate| {
            let before = self.files.get(path).and_then(|known| known.plugin.as_ref());
            matches!((before, candidate), (Some(before), Candidate::Fits(new, _)) if name_of(before) == name_of(new))
        };
        let (keeping, others): (Vec<_>, Vec<_>) =
            candidates.into_iter().partition(|((path, _), candidate)| keeps(path, candidate));
        let kept: BTreeSet<_> = keeping
            .iter()
            .filter_map(|(_, candidate)| match candidate {
                Candidate::Fits(plugin, _) => Some(name_of(plugin)),
                _ => None,
            })
            .chain(names.iter().cloned())
            .collect();
        let contested = self.contested(&others, &kept);

        for ((path, stamp), candidate) in keeping.into_iter().chain(others) {
            let Some(known) = self.files.get_mut(&path) else { continue };
            let (known_before, repeated) = (known.plugin.clone(), known.read == Some(stamp));
            known.read = Some(stamp);
            let wanted_before = known.wants.take();
            match candidate {
                Candidate::Moving => {
                    known.read = None;
                    known.wants = wanted_before;
                    self.unsettled = true;
                }
                Candidate::Same => self.freed |= wanted_before.is_some(),
                Candidate::Fits(plugin, wasm) => {
                    let name = name_of(&plugin);
                    self.freed |= wanted_before.as_ref().is_some_and(|wanted| wanted.name != name);
                    let rivals = contested.get(&name);
                    if rivals.is_none() && names.insert(name.clone()) {
                        // A call of a tool does not outlive its version.
                        if let Plugin::Agent(agent) = &plugin {
                            self.components.push((agent.sha256.clone(), wasm));
                        }
                        self.news.push(News::Serves(path, plugin.clone()));
                        known.plugin = Some(plugin);
                        self.changed = true;
                        continue;
                    }
                    let claim = Claim {
                        name,
                        sha256: plugin.sha256().to_owned(),
                        rivals: rivals.into_iter().flat_map(BTreeMap::keys).cloned().collect(),
                    };
                    let told = repeated && wanted_before.as_ref() == Some(&claim);
                    known.wants = Some(claim);
                    let had_one = known_before.is_some();
                    // The version before, if its name is still its own.
                    known.plugin = known_before.filter(|before| names.insert(name_of(before)));
                    self.changed |= known.plugin.is_none() && had_one;
                    match rivals {
                        _ if told => {}
                        Some(rivals) => self.news.push(News::Contested(path, Refused(contest(&plugin, rivals)))),
                        None => {
                            let (what, name) = name_of(&plugin);
                            let article = if what == AGENT { "an" } else { "a" };
                            let why = Refused(format!("there is {article} {what} named `{name}` already"));
                            self.news.push(News::Refused(path, why, known.plugin.is_some()));
                        }
                    }
                }
                Candidate::Refused(why) => {
                    self.freed |= wanted_before.is_some();
                    self.news.push(News::Refused(path, why, known.plugin.is_some()));
                }
            }
        }
    }
}

impl News {
    fn tell(self) {
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
                warn!(plugin = %path.display(), "refused: {why}; the version before goes on serving");
            }
            Self::Contested(path, why) => error!(plugin = %path.display(), "refused: {why}"),
            Self::Refused(path, why, false) => warn!(plugin = %path.display(), "refused: {why}"),
            Self::Gone(path, plugin) => {
                let (path, name) = (path.display(), plugin.name());
                match plugin {
                    Plugin::Agent(_) => {
                        info!(plugin = %path, agent = name, "the file is gone: no new runs; those that go on are not touched");
                    }
                    Plugin::Tool(_) => {
                        info!(plugin = %path, tool = name, "the file is gone: no new calls; those that go on are not touched");
                    }
                }
            }
        }
    }
}

/// What an agent is called.
const AGENT: &str = "agent";

/// Why none of several components serves under a name, and what is to be done.
fn contest(plugin: &Plugin, files: &BTreeMap<String, PathBuf>) -> String {
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

fn name_of(plugin: &Plugin) -> Name {
    (plugin.what(), plugin.name().to_owned())
}

/// Reads a file and loads what is in it.
async fn candidate(registry: &Registry, path: &Path, stamp: Stamp, serving: Option<Plugin>, now: i64) -> Candidate {
    let wasm = match read(path, stamp, registry.plugin_bytes()).await {
        Ok(wasm) => wasm,
        Err(why) => return Candidate::Refused(why),
    };
    if Stamp::of(path).await != stamp {
        return Candidate::Moving;
    }
    if serving.is_some_and(|plugin| plugin.sha256() == hex::encode(Sha256::digest(&wasm))) {
        return Candidate::Same;
    }
    match registry.load_file(path, wasm.clone(), now).await {
        Ok(plugin) => Candidate::Fits(plugin, wasm),
        Err(why) => Candidate::Refused(why),
    }
}

/// The `*.wasm` of a folder, or a file by itself.
async fn stamps(path: &Path) -> io::Result<BTreeMap<PathBuf, Stamp>> {
    let paths = if is_file(path) {
        let there = tokio::fs::try_exists(path).await?;
        there.then(|| path.to_owned()).into_iter().collect()
    } else {
        components(path).await?
    };
    let mut found = BTreeMap::new();
    for path in paths {
        let stamp = Stamp::of(&path).await;
        found.insert(path, stamp);
    }
    Ok(found)
}

/// The `*.wasm` of a folder, in the order of their names.
///
/// # Errors
///
/// The folder cannot be read.
pub async fn components(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    let mut entries = tokio::fs::read_dir(folder).await?;
    while let Some(entry) = entries.next_entry().await? {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "wasm") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Reads a component's file of at most so many bytes.
///
/// # Errors
///
/// It cannot be read, or is too large.
pub async fn read_component(path: &Path, most: usize) -> Result<Bytes, Refused> {
    read(path, Stamp::of(path).await, most).await
}

async fn read(path: &Path, stamp: Stamp, most: usize) -> Result<Bytes, Refused> {
    let cannot = |error: io::Error| Refused(format!("it cannot be read: {error}"));
    if stamp.component.bytes > most as u64 {
        return Err(too_large(stamp.component.bytes, most));
    }
    // A pipe or a device would never end.
    if !tokio::fs::metadata(path).await.map_err(cannot)?.is_file() {
        return Err(Refused("it cannot be read: it is not a file".to_owned()));
    }
    Ok(tokio::fs::read(path).await.map_err(cannot)?.into())
}

impl Stamp {
    /// Of a component and its signature as they are.
    async fn of(path: &Path) -> Self {
        let (component, signature) = (FileStamp::of(path).await, FileStamp::of(&signature_path(path)).await);
        Self { component, signature }
    }
}

impl FileStamp {
    async fn of(path: &Path) -> Self {
        match tokio::fs::metadata(path).await {
            Ok(metadata) => Self {
                file: (metadata.dev(), metadata.ino()),
                bytes: metadata.size(),
                modified: (metadata.mtime(), metadata.mtime_nsec()),
                changed: (metadata.ctime(), metadata.ctime_nsec()),
            },
            Err(_) => Self::default(),
        }
    }
}
