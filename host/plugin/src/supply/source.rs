//! Where plugins come from.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor, value::SeqAccessDeserializer},
};

use super::oci::OciReference;

/// An entry of `plugins`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Source {
    /// A folder whose `*.wasm` serve, or one such file.
    Path(PathBuf),
    /// A component in a registry, with its digest.
    Registry(OciReference),
}

impl Source {
    /// The folder of this source, if it is one.
    pub fn folder(&self) -> Option<&Path> {
        match self {
            Self::Path(path) if !is_file(path) => Some(path),
            _ => None,
        }
    }
}

/// Whether a path in the configuration means a file, which may be missing, and not a folder.
pub(super) fn is_file(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "wasm") && !path.is_dir()
}

impl TryFrom<String> for Source {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.is_empty() {
            return Err("the path of a folder or a file must not be empty".to_owned());
        }
        if !OciReference::is_meant(&text) {
            return Ok(Self::Path(text.into()));
        }
        let reference: OciReference = text.parse()?;
        if reference.digest().is_none() {
            return Err(format!(
                "`{text}` has no digest, so that somebody else would decide what is served: write {text}@sha256:…; \
                 `outlast plugin add {text} --dry-run` prints it"
            ));
        }
        Ok(Self::Registry(reference))
    }
}

/// Reads one source, or a list of them.
pub fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Source>, D::Error> {
    struct OneOrMany;

    impl<'de> Visitor<'de> for OneOrMany {
        type Value = Vec<Source>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a folder, a `*.wasm` file, an `oci://` reference with its digest, or a list of these")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
            Source::try_from(text.to_owned()).map(|source| vec![source]).map_err(E::custom)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
            Vec::deserialize(SeqAccessDeserializer::new(list))
        }
    }

    deserializer.deserialize_any(OneOrMany)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Source, String> {
        Source::try_from(text.to_owned())
    }

    #[test]
    fn a_source_is_a_folder_a_file_or_a_reference() {
        assert_eq!(read("plugins").unwrap().folder(), Some(Path::new("plugins")));
        assert_eq!(read("plugins/shout.wasm").unwrap().folder(), None);
        let pinned = format!("oci://ghcr.io/somebody/shout:1@sha256:{}", "ab".repeat(32));
        assert!(matches!(read(&pinned), Ok(Source::Registry(reference)) if reference.to_string() == pinned));
        let error = read("oci://ghcr.io/somebody/shout:1").unwrap_err();
        assert!(error.contains("no digest") && error.contains("plugin add"), "{error}");
    }
}
