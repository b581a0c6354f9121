//! The contract with plugins: what was released is kept in `wit/released`, and holds.
//!
//! For each version, a component is made that imports everything which that version has, in its shapes: it must still
//! link. A small agent of that version is kept as text, and must still run.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::json;
use wit_component::{ComponentEncoder, StringEncoding, WitPrinter, dummy_module, embed_component_metadata};
use wit_parser::{LiftLowerAbi, ManglingAndAbi, PackageId, Resolve};

use crate::harness::{
    cli::outlast,
    database::Database,
    scratch,
    server::{Options, Server},
};

/// The worlds.
const WORLDS: [&str; 2] = ["agent", "tool"];

fn wit() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit")
}

/// The released versions: the folders that have them.
fn released() -> Vec<PathBuf> {
    let mut folders: Vec<_> =
        fs::read_dir(wit().join("released")).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert!(!folders.is_empty());
    folders
}

fn read(folder: &Path) -> (Resolve, PackageId) {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(folder).unwrap();
    (resolve, package)
}

/// The contract in a folder, without its comments.
fn text(folder: &Path) -> String {
    let (resolve, package) = read(folder);
    let mut printer = WitPrinter::default();
    printer.emit_docs(false).print(&resolve, package, &[]).unwrap();
    printer.output.to_string()
}

/// A component of a core module, by the contract in a folder. Without a module: one that imports everything.
pub(super) fn component(folder: &Path, world: &str, module: Option<Vec<u8>>) -> Vec<u8> {
    let (resolve, package) = read(folder);
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    let mut module =
        module.unwrap_or_else(|| dummy_module(&resolve, world, ManglingAndAbi::Legacy(LiftLowerAbi::Sync)));
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default().module(&module).unwrap().validate(true).encode().unwrap()
}

/// What the server says of a component.
fn checked(component: &[u8]) -> String {
    let folder = scratch::dir("contract-");
    let file = folder.path().join("component.wasm");
    fs::write(&file, component).unwrap();
    outlast(["plugin", "check", &file.display().to_string()]).stdout
}

#[test]
fn a_released_version_is_never_changed() {
    let (resolve, package) = read(&wit());
    let version = resolve.packages[package].name.version.as_ref().unwrap().to_string();
    for folder in released() {
        if folder.ends_with(&version) {
            assert_eq!(text(&folder), text(&wit()), "{version} is released: a change is another version");
        }
    }
}

#[test]
fn everything_that_was_released_still_links() {
    for folder in released() {
        for world in WORLDS {
            let said = checked(&component(&folder, world, None));
            // It links; what it would do is missing.
            assert!(said.contains("its `describe` failed"), "{} {world}: {said}", folder.display());
        }
    }
}

/// The test above would see a change.
#[test]
fn a_changed_shape_does_not_link() {
    let folder = scratch::dir("changed-");
    for entry in fs::read_dir(&released()[0]).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let changed = text.replace("retry-after-ms: option<u64>,", "retry-after-ms: option<u64>, more: u32,");
        fs::write(folder.path().join(path.file_name().unwrap()), changed).unwrap();
    }
    let said = checked(&component(folder.path(), "agent", None));
    assert!(said.contains("does not match the contract"), "{said}");
}

#[tokio::test]
async fn an_agent_of_every_released_version_still_runs() {
    for folder in released() {
        let version = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let kept =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../tests/blackbox/contract/agent-{version}.wat"));
        let plugins = scratch::dir("plugins-");
        let agent = component(&folder, "agent", Some(wat::parse_file(kept).unwrap()));
        fs::write(plugins.path().join("kept.wasm"), agent).unwrap();
        let server = Server::start(Options::new(Database::Sqlite).plugins(plugins.path()));
        let response = server.client().post(json!({"model": "kept-agent", "input": "still here"})).await.response();
        assert_eq!(response["status"], "completed");
        let said = response["output"][0]["content"][0]["text"].as_str().unwrap();
        assert!(said.contains("\"still here\""), "{said}");
        server.logged(&["said it", "kept-agent"]);
    }
}
