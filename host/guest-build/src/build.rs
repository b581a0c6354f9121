//! The call of cargo that builds components.

use std::{
    env, fmt, io,
    path::{Path, PathBuf},
    process::Command,
};

use crate::toolchain::{TARGET, Toolchain, ToolchainError};

/// The profile of components: see the workspace's `Cargo.toml`.
const PROFILE: &str = "guest";

/// What an outer cargo tells a program about the host, which must not reach the guests: beginnings of names, …
const OUTER: [&str; 7] =
    ["CARGO_BIN_EXE_", "CARGO_CFG_", "CARGO_FEATURE_", "CARGO_MANIFEST_", "CARGO_PKG_", "CARGO_PROFILE_", "DEP_"];

/// … and whole names.
const OUTER_NAMES: [&str; 16] = [
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_PRIMARY_PACKAGE",
    "CARGO_TARGET_DIR",
    "DEBUG",
    "HOST",
    "NUM_JOBS",
    "OPT_LEVEL",
    "OUT_DIR",
    "PROFILE",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTDOC",
    "RUSTDOCFLAGS",
    "RUSTFLAGS",
    "TARGET",
];

/// A build of components.
#[derive(Clone, Debug)]
pub struct Build {
    workspace: PathBuf,
    target_dir: PathBuf,
    toolchain: Toolchain,
}

/// Why nothing was built.
#[derive(Debug)]
pub enum BuildError {
    /// The toolchain cannot.
    Toolchain(ToolchainError),
    /// cargo cannot be started.
    Cargo(io::Error),
    /// cargo has failed; what it said.
    Failed(Vec<String>, String),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Toolchain(error) => error.fmt(f),
            Self::Cargo(error) => write!(f, "cargo cannot be started: {error}"),
            Self::Failed(packages, said) => write!(f, "building {} failed:\n{said}", packages.join(" and ")),
        }
    }
}

impl std::error::Error for BuildError {}

impl Build {
    /// Of packages of this workspace, into this target folder, which no other build that runs now may use.
    pub fn new(workspace: &Path, target_dir: &Path) -> Self {
        let toolchain = Toolchain::of(workspace);
        Self { workspace: workspace.to_owned(), target_dir: target_dir.to_owned(), toolchain }
    }

    /// Builds these packages. Their components, in the same order. `say` is given what a person should know meanwhile.
    ///
    /// # Errors
    ///
    /// The toolchain cannot build components, or the build has failed.
    pub fn components(&self, packages: &[&str], say: impl FnOnce(&str)) -> Result<Vec<PathBuf>, BuildError> {
        self.toolchain.ensure_target(say).map_err(BuildError::Toolchain)?;
        let output = self.command(packages).output().map_err(BuildError::Cargo)?;
        if !output.status.success() {
            let packages = packages.iter().map(|&package| package.to_owned()).collect();
            return Err(BuildError::Failed(packages, String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        let folder = self.target_dir.join(TARGET).join(PROFILE);
        Ok(packages.iter().map(|package| folder.join(format!("{package}.wasm"))).collect())
    }

    fn command(&self, packages: &[&str]) -> Command {
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(&self.workspace).args(["build", "--locked", "--profile", PROFILE, "--target", TARGET]);
        cargo.arg("--target-dir").arg(&self.target_dir);
        for package in packages {
            cargo.args(["--package", package]);
        }
        for (name, _) in env::vars_os() {
            let text = name.to_string_lossy();
            if OUTER.iter().any(|prefix| text.starts_with(prefix)) || OUTER_NAMES.contains(&&*text) {
                cargo.env_remove(&name);
            }
        }
        cargo
    }
}
