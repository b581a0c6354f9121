//! The files of the folders: which there are, and whether they have changed.

use std::{
    collections::BTreeMap,
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use bytes::Bytes;

use crate::{
    refused::Refused,
    supply::{oci::too_large, signature::signature_path, source::is_file},
};

/// A file that differs from another one, or from itself at another time, has another stamp.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp {
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

/// The `*.wasm` of a folder, or a file by itself.
pub(super) async fn stamps(path: &Path) -> io::Result<BTreeMap<PathBuf, Stamp>> {
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

pub(super) async fn read(path: &Path, stamp: Stamp, most: usize) -> Result<Bytes, Refused> {
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
    pub(super) async fn of(path: &Path) -> Self {
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
