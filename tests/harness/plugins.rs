//! Components for the plugin folder.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{LazyLock, Mutex},
};

use guest_build::Build;
use tempfile::TempDir;

use super::scratch;

/// The component that misbehaves on demand. Its first word chooses what it does: see its own documentation.
pub fn hostile() -> PathBuf {
    component("hostile")
}

/// A folder with the component `hostile` in it.
pub fn hostile_folder() -> TempDir {
    folder("hostile")
}

/// A folder with the component of this package of the workspace in it.
pub fn folder(package: &str) -> TempDir {
    let folder = scratch::dir("plugins-");
    std::fs::copy(component(package), folder.path().join(format!("{package}.wasm"))).unwrap();
    folder
}

/// Puts the component of this package of the workspace into a folder.
pub fn add(folder: &Path, package: &str) {
    std::fs::copy(component(package), folder.join(format!("{package}.wasm"))).unwrap();
}

/// The component of a package of the workspace, built once per process.
pub fn component(package: &str) -> PathBuf {
    static BUILT: LazyLock<Mutex<HashMap<String, PathBuf>>> = LazyLock::new(Mutex::default);
    // One after the other: each build uses all processors.
    let mut built = BUILT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    built.entry(package.to_owned()).or_insert_with(|| build(package)).clone()
}

fn build(package: &str) -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    // Not the folder of the build that runs now: it may be locked.
    let build = Build::new(&workspace, &workspace.join("target/guests"));
    let components = build.components(&[package], |said| eprintln!("{said}"));
    components.unwrap_or_else(|error| panic!("{error}")).remove(0)
}

/// The component `hostile` in another version, 0 to 9: what it says of a behaviour that does not exist is [`said_by`] it.
pub fn version(number: u8) -> Vec<u8> {
    assert!(number < 10);
    let mut wasm = std::fs::read(hostile()).unwrap();
    let (old, new) = (b"no such behaviour", said_by(number));
    assert_eq!(old.len(), new.len());
    let places: Vec<_> =
        wasm.windows(old.len()).enumerate().filter(|(_, text)| text == old).map(|(at, _)| at).collect();
    assert!(!places.is_empty(), "hostile has no such words any more");
    for place in places {
        wasm[place..place + new.len()].copy_from_slice(new.as_bytes());
    }
    wasm
}

/// What the version of this number says.
pub fn said_by(number: u8) -> String {
    format!("version {number} of mine")
}

/// Puts a file into a folder as one should: whole, by a rename.
pub fn put(folder: &Path, name: &str, bytes: &[u8]) {
    let temporary = folder.join(format!(".{name}.new"));
    std::fs::write(&temporary, bytes).unwrap();
    std::fs::rename(temporary, folder.join(name)).unwrap();
}
