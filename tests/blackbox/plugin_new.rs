//! `outlast plugin new`: a project to begin with. `tests/languages/run` builds them.

use std::{fs, path::Path};

use crate::harness::{cli::outlast, scratch};

/// Every file below a folder, by its path from there, in order.
fn files(folder: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => {
                    let name = path.strip_prefix(folder).unwrap().display().to_string();
                    found.push((name, fs::read_to_string(path).unwrap()));
                }
            }
        }
    }
    found.sort();
    found
}

fn new(arguments: &[&str]) -> crate::harness::cli::Ended {
    outlast(["plugin", "new"].iter().chain(arguments))
}

#[test]
fn a_project_has_what_its_language_needs_and_its_own_name() {
    let folder = scratch::dir("new-");
    let sdk = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guest-sdk").display().to_string();
    for (lang, more, wanted) in [
        (
            "rust",
            &["--sdk", &sdk][..],
            &["Cargo.toml", "src/lib.rs", ".gitignore", "README.md", "cases/words.toml"][..],
        ),
        ("js", &[], &["package.json", "agent.js", "wit/agent.wit", ".gitignore", "cases/words.toml"]),
        ("python", &[], &["requirements.txt", "app.py", "wit/agent.wit", ".gitignore", "cases/words.toml"]),
    ] {
        let project = folder.path().join(lang);
        let path = project.display().to_string();
        let said = new(&[&["my-agent", "--lang", lang, "--path", &path], more].concat()).ok();
        assert!(said.contains("README.md"), "{said}");
        let files = files(&project);
        for name in wanted {
            assert!(files.iter().any(|(file, _)| file == name), "{lang}: {name}");
        }
        assert!(files.iter().all(|(_, text)| !text.contains("{{")), "{lang}: a place was not filled");
        assert!(files.iter().any(|(_, text)| text.contains("\"my-agent\"")), "{lang}: the name");
        assert!(!files.iter().any(|(file, _)| file.ends_with(".template") || file.ends_with("CHANGES.md")));
    }
    let contract = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit");
    let present = |name: &str| name.ends_with(".wit") && !name.contains('/');
    assert!(!folder.path().join("js/wit/released").exists());
    for (name, text) in files(&contract).iter().filter(|(name, _)| present(name)) {
        assert_eq!(&fs::read_to_string(folder.path().join("js/wit").join(name)).unwrap(), text);
    }
}

#[test]
fn what_is_there_is_left_alone_and_what_is_wrong_is_said() {
    let folder = scratch::dir("new-");
    fs::write(folder.path().join("mine"), "mine").unwrap();
    let path = folder.path().display().to_string();
    for (arguments, says) in [
        (&["a", "--path", &path][..], "already exists"),
        (&["My Agent"], "`My Agent` is not a valid name: 1 to 64 of a-z"),
        (&["../up"], "is not a valid name"),
        (&["a", "--lang", "js", "--sdk", &path], "--sdk is for Rust"),
        (&["a", "--sdk", &path], "--sdk: cannot read"),
    ] {
        let error = new(arguments).failed();
        assert!(error.contains(says), "{error}");
    }
    assert_eq!(files(folder.path()), [("mine".to_owned(), "mine".to_owned())]);
    assert!(!Path::new("a").exists() && !Path::new("My Agent").exists());
}
