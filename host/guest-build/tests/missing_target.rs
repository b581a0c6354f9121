//! A toolchain without the target of components: it is installed, or a sentence helps, and within seconds.
//!
//! The compiler is the real one with another folder of targets, in which there is nothing but the host's.

#![allow(clippy::unwrap_used)]

use std::{
    cell::RefCell,
    ffi::OsString,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use guest_build::{
    Toolchain, ToolchainError,
    toolchain::{TARGET, Target},
};
use tempfile::TempDir;

/// How long a build that cannot succeed may take to say so, on a machine that does much else meanwhile.
const SOON: Duration = Duration::from_secs(60);

/// A rustup that cannot install anything.
const UNABLE: &str = "case $1 in target) echo 'error: no network' >&2; exit 1;; esac";

/// A toolchain without the target.
struct Bare {
    folder: TempDir,
    /// Of the real one.
    rustc: PathBuf,
}

impl Bare {
    fn new() -> Self {
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let ask = |what: &str| {
            let output = Command::new(&rustc).args(["--print", what]).output().unwrap();
            PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
        };
        let (sysroot, host) = (ask("sysroot"), ask("host-tuple"));
        let bare = Self { folder: tempfile::tempdir().unwrap(), rustc: sysroot.join("bin/rustc") };
        fs::create_dir_all(bare.path("lib/rustlib")).unwrap();
        let targets = Path::new("lib/rustlib").join(host);
        symlink(sysroot.join(&targets), bare.folder.path().join(&targets)).unwrap();
        bare.script("rustc", &format!("exec {} --sysroot {} \"$@\"", bare.rustc.display(), bare.path("").display()));
        bare
    }

    fn path(&self, inside: &str) -> PathBuf {
        self.folder.path().join(inside)
    }

    fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        path
    }

    /// What puts the target where the compiler looks for it, as far as anybody looks.
    fn installing(&self) -> String {
        let libraries = self.path("lib/rustlib").join(TARGET).join("lib");
        let said = self.path("rustup-said");
        format!(
            "case $1 in target) echo \"$@\" >{}; mkdir -p {libraries}; : >{libraries}/libstd-0.rlib;; esac",
            said.display(),
            libraries = libraries.display()
        )
    }

    /// The toolchain with this rustup, and what it says meanwhile.
    fn ensured(&self, rustup: PathBuf) -> (Result<Target, ToolchainError>, Vec<String>) {
        let said = RefCell::new(Vec::new());
        let toolchain = Toolchain {
            rustc: self.path("rustc").into(),
            rustup: rustup.into(),
            name: Some("1.2.3".into()),
            folder: self.path(""),
        };
        let found = toolchain.ensure_target(|words| said.borrow_mut().push(words.to_owned()));
        (found, said.into_inner())
    }

    /// cargo with this toolchain, in the workspace, and with this as rustup: never with the one of this machine.
    fn cargo(&self, rustup: &str, arguments: &[&str]) -> Output {
        fs::create_dir_all(self.path("bin")).unwrap();
        self.script("bin/rustup", rustup);
        let mut path = OsString::from(self.path("bin"));
        path.push(":/usr/bin:/bin");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")).args(arguments);
        cargo.args(["--locked", "--offline", "--target-dir"]).arg(self.path("target"));
        // Clippy, say, has put itself there.
        cargo.env_remove("RUSTC_WORKSPACE_WRAPPER").env_remove("RUSTC_WRAPPER");
        cargo.env("RUSTC", self.path("rustc")).env("PATH", path).output().unwrap()
    }
}

#[test]
fn a_target_that_is_there_is_left_alone() {
    let bare = Bare::new();
    let libraries = bare.path("lib/rustlib").join(TARGET).join("lib");
    fs::create_dir_all(&libraries).unwrap();
    fs::write(libraries.join("libstd-0.rlib"), "").unwrap();
    let (found, said) = bare.ensured(bare.path("no-rustup"));
    assert_eq!(found.unwrap(), Target::There);
    assert!(said.is_empty(), "{said:?}");
}

#[test]
fn rustup_installs_a_target_that_is_missing_and_that_is_said() {
    let bare = Bare::new();
    let (found, said) = bare.ensured(bare.script("rustup", &bare.installing()));
    assert_eq!(found.unwrap(), Target::Installed);
    assert!(said[0].contains("`rustup target add wasm32-wasip2 --toolchain 1.2.3`"), "{said:?}");
    let asked = fs::read_to_string(bare.path("rustup-said")).unwrap();
    assert_eq!(asked.trim(), "target add wasm32-wasip2 --toolchain 1.2.3");
}

#[test]
fn without_rustup_a_sentence_says_what_to_install() {
    let bare = Bare::new();
    let error = bare.ensured(bare.path("no-rustup")).0.unwrap_err().to_string();
    for words in [TARGET, "no rustup", "https://rustup.rs", &bare.path("").display().to_string()] {
        assert!(error.contains(words.trim_end_matches('/')), "no {words} in: {error}");
    }
    assert_eq!(error.lines().count(), 1);
}

#[test]
fn what_rustup_says_when_it_cannot_is_passed_on() {
    let bare = Bare::new();
    let rustup = bare.script("rustup", UNABLE);
    let error = bare.ensured(rustup).0.unwrap_err().to_string();
    assert!(error.contains("`rustup target add wasm32-wasip2 --toolchain 1.2.3`"), "{error}");
    assert!(error.ends_with("error: no network"), "{error}");
}

#[test]
fn a_rustup_of_another_toolchain_is_found_out() {
    let bare = Bare::new();
    let error = bare.ensured(bare.script("rustup", "exit 0")).0.unwrap_err();
    assert!(matches!(error, ToolchainError::Elsewhere(..)), "{error}");
}

#[test]
fn a_build_of_the_server_without_the_target_ends_before_anything_is_compiled() {
    let bare = Bare::new();
    let began = Instant::now();
    let output = bare.cargo(UNABLE, &["build", "--package", "outlast"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("lacks the target wasm32-wasip2") && said.contains("error: no network"), "{said}");
    assert!(!said.contains("Compiling"), "{said}");
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
}

#[test]
fn the_first_command_installs_the_target_also_after_it_could_not() {
    let bare = Bare::new();
    // The real command builds the server for minutes. What cargo does before that is the same for every package here.
    let check = ["check", "--package", "guest-build", "--lib"];
    fs::create_dir(bare.path("target")).unwrap();
    assert!(!bare.cargo(UNABLE, &check).status.success());
    let output = bare.cargo(&bare.installing(), &check);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(bare.path("rustup-said").exists());
}
