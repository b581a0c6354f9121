//! What a look at the folders leads to.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use bytes::Bytes;

use super::{
    AGENT, Claim, Known, Name,
    files::Stamp,
    loading::{Candidate, Loading, settle},
    name_of,
    news::{News, contest},
};
use crate::{
    refused::Refused,
    supply::{plugin::Plugin, registry::Registry, rollback::PluginVersion},
};

/// What a look at the folder led to.
#[derive(Debug)]
pub struct Change {
    pub(super) files: BTreeMap<PathBuf, Known>,
    /// See [`Folder`](super::Folder).
    pub(super) early: Option<BTreeSet<Name>>,
    /// The agents' components that were not there before: their sha256 and bytes. They must be kept before they serve.
    pub components: Vec<(String, Bytes)>,
    /// Whether a file is being written, so that another look is needed soon.
    pub unsettled: bool,
    /// Whether others serve than before.
    pub changed: bool,
    /// Whether a file does not want its name any more.
    pub(super) freed: bool,
    /// What happened, for the log.
    pub(super) news: Vec<News>,
}

/// A file as it was looked at, and what that led to.
type Looked = ((PathBuf, Stamp), Candidate);

impl Change {
    /// What begins to serve with it.
    pub fn begins(&self) -> impl Iterator<Item = PluginVersion> {
        self.news.iter().filter_map(|news| match news {
            News::Serves(_, plugin) => Some(PluginVersion {
                kind: plugin.what().to_owned(),
                name: plugin.name().to_owned(),
                version: plugin.version().to_owned(),
            }),
            _ => None,
        })
    }

    /// None yet.
    pub(super) fn of(files: BTreeMap<PathBuf, Known>, early: Option<BTreeSet<Name>>) -> Self {
        let (components, news) = (Vec::new(), Vec::new());
        Self { files, early, components, unsettled: false, changed: false, freed: false, news }
    }

    pub(super) fn remove_all_but(&mut self, found: &BTreeMap<PathBuf, Stamp>) {
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
    fn contested(&self, candidates: &[Looked], names: &BTreeSet<Name>) -> BTreeMap<Name, BTreeMap<String, PathBuf>> {
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

    /// What the files that are ready led to. Those that are not are looked at again.
    fn ready(&mut self, due: Vec<(PathBuf, Stamp)>) -> Vec<Looked> {
        let mut ready = Vec::new();
        for (path, stamp) in due {
            let Some(known) = self.files.get_mut(&path) else { continue };
            let Some(loading) = known.loading.take() else { continue };
            let Some(candidate) = loading.ready() else {
                known.loading = Some(loading);
                self.unsettled = true;
                continue;
            };
            if let (true, Candidate::Fits(plugin, _)) = (loading.early, &candidate) {
                ready.extend(self.unseat(&path, plugin));
            }
            ready.push(((path, stamp), candidate));
        }
        ready
    }

    /// A plugin of the first look is ready, later than another one of the same name that has the name by now: as if both had
    /// been ready together, none of them has it.
    fn unseat(&mut self, path: &PathBuf, late: &Plugin) -> Option<Looked> {
        let name = name_of(late);
        if !self.early.as_ref()?.contains(&name) {
            return None;
        }
        let other = |plugin: &Plugin| name_of(plugin) == name && plugin.sha256() != late.sha256();
        let (holder, known) =
            self.files.iter_mut().find(|(file, known)| *file != path && known.plugin.as_ref().is_some_and(other))?;
        let (stamp, plugin) = (known.read?, known.plugin.take()?);
        self.changed = true;
        Some(((holder.clone(), stamp), Candidate::Fits(plugin, Bytes::new())))
    }

    /// Lets files serve that are loaded, in the order of their names. Those of which the loading is `fresh` are waited for.
    pub(super) async fn load(
        &mut self,
        registry: &Registry,
        due: Vec<(PathBuf, Stamp)>,
        fresh: Vec<Loading>,
        patience: Duration,
    ) {
        settle(fresh, patience).await;
        let candidates = self.ready(due);

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
                // What served then does not any more.
                Candidate::Same if known_before.is_none() => {
                    known.read = None;
                    self.unsettled = true;
                }
                Candidate::Same => self.freed |= wanted_before.is_some(),
                Candidate::Fits(plugin, wasm) => {
                    let name = name_of(&plugin);
                    self.freed |= wanted_before.as_ref().is_some_and(|wanted| wanted.name != name);
                    let rivals = contested.get(&name);
                    if rivals.is_none() && names.insert(name.clone()) {
                        if let Some(early) = &mut self.early {
                            early.insert(name.clone());
                        }
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
                            let why = Refused(format!("{article} {what} named `{name}` already exists"));
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
        if self.files.values().all(|known| known.loading.as_ref().is_none_or(|loading| !loading.early)) {
            self.early = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use outlast_metrics::Metrics;
    use outlast_model::{Models, ModelsConfig};

    use super::*;
    use crate::{BUNDLED, Engine, Grants, PluginLimits, Signatures, ToolsConfig};

    fn registry() -> Registry {
        let metrics = Metrics::new(1, 1);
        let models = Arc::new(Models::new(&ModelsConfig::default(), &metrics.models).unwrap());
        let grants =
            Grants::new(Default::default(), ToolsConfig::default(), PluginLimits::default(), &metrics).unwrap();
        Registry::new(Engine::new().unwrap(), models, grants, Signatures::default())
    }

    /// The agent `echo`, in a file that differs from others by this.
    async fn echo(registry: &Registry, section: u8) -> (Plugin, Bytes) {
        // A section that means nothing: its length, that of its name, its name, and a byte.
        let wasm = Bytes::from([BUNDLED[0].1, &[0, 3, 1, b'x', section]].concat());
        (registry.load_unpinned("echo", wasm.clone(), 1).await.unwrap(), wasm)
    }

    async fn settled(early: bool) -> Change {
        let registry = registry();
        let ((first, _), (late, wasm)) = (echo(&registry, 1).await, echo(&registry, 2).await);
        let (seen, name) = (Some(Stamp::default()), name_of(&first));
        let holder = Known { read: seen, seen, plugin: Some(first), ..Known::default() };
        let loading = Some(Loading::done(Candidate::Fits(late, wasm), early));
        let files = [("a".into(), holder), ("b".into(), Known { seen, loading, ..Known::default() })];
        let mut change = Change::of(files.into(), early.then(|| [name].into()));
        change.load(&registry, vec![("b".into(), Stamp::default())], Vec::new(), Duration::ZERO).await;
        change
    }

    #[tokio::test]
    async fn of_two_that_were_there_at_the_start_the_one_that_is_ready_sooner_does_not_win() {
        let change = settled(true).await;
        assert!(change.files.values().all(|known| known.plugin.is_none() && known.wants.is_some()), "{change:?}");
        assert!(change.changed && change.components.is_empty() && change.early.is_none());
        assert_eq!(change.news.iter().filter(|news| matches!(news, News::Contested(..))).count(), 2);
    }

    #[tokio::test]
    async fn one_that_came_later_takes_nobodys_name() {
        let change = settled(false).await;
        let serves: Vec<_> = change.files.values().map(|known| known.plugin.is_some()).collect();
        assert_eq!((serves, change.changed), (vec![true, false], false));
    }
}
