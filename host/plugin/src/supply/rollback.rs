//! Old versions do not come back by themselves.
//!
//! A signature does not age: a version that was signed once, and whose faults are known by now, is as well signed as the
//! one that mended them. Whoever can write to the plugin folder, or answers for a registry, could put it back. So where
//! signatures are looked at, the version that served last is remembered in the database, and an older one is refused,
//! unless the operator pins it or allows any.
//!
//! Versions are compared as semantic versions; one that is none is not older than any.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use semver::Version;

use super::plugin::Plugin;
use crate::{grants::Section, refused::Refused};

/// A version of a plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginVersion {
    /// What it is: an agent or a tool component.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// The versions that served last, by kind and name.
#[derive(Debug, Default)]
pub(super) struct LastServed(Mutex<BTreeMap<(String, String), String>>);

impl LastServed {
    /// These serve, or have served.
    pub(super) fn know(&self, plugins: impl IntoIterator<Item = PluginVersion>) {
        let plugins = plugins.into_iter().map(|PluginVersion { kind, name, version }| ((kind, name), version));
        self.0.lock().extend(plugins);
    }

    /// Refuses a plugin that is older than the one of its name that served last.
    pub(super) fn check(&self, plugin: &Plugin) -> Result<(), Refused> {
        let of = (plugin.what().to_owned(), plugin.name().to_owned());
        let Some(last) = self.0.lock().get(&of).cloned() else { return Ok(()) };
        if !is_older(plugin.version(), &last) {
            return Ok(());
        }
        let section = match plugin {
            Plugin::Agent(_) => Section::agent(plugin.name()),
            Plugin::Tool(_) => Section::tool(plugin.name()),
        };
        Err(Refused(format!(
            "it is version {} of the {} `{}`, and {last} has served already; an older one serves when `{}.sha256 = \"{}\"` \
             in the configuration pins it, or with `allow_rollback = true`",
            plugin.version(),
            plugin.what(),
            plugin.name(),
            section.key(),
            plugin.sha256()
        )))
    }
}

fn is_older(version: &str, than: &str) -> bool {
    match (Version::parse(version), Version::parse(than)) {
        (Ok(version), Ok(than)) => version < than,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        for (version, than, older) in [
            ("0.9.0", "0.10.0", true),
            ("0.10.0", "0.9.0", false),
            ("1.0.0", "1.0.0", false),
            ("1.0.0-rc.1", "1.0.0", true),
            ("yesterday", "1.0.0", false),
            ("0.1.0", "tomorrow", false),
        ] {
            assert_eq!(is_older(version, than), older, "{version} than {than}");
        }
    }
}
