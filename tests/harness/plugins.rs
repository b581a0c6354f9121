//! Components for the plugin folder.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use tempfile::TempDir;

use super::scratch;

/// The component that misbehaves on demand, built once per process. Its first word chooses what it does: see its
/// own documentation.
pub fn hostile() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build("hostile"))
}

/// The component that posts letters, built once per process: see its own documentation.
pub fn courier() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build("courier"))
}

/// A folder with the component `hostile` in it.
pub fn hostile_folder() -> TempDir {
    folder(&[hostile()])
}

/// A folder with copies of these components.
pub fn folder(components: &[&Path]) -> TempDir {
    let folder = scratch::dir("plugins-");
    for component in components {
        std::fs::copy(component, folder.path().join(component.file_name().unwrap())).unwrap();
    }
    folder
}

/// The component that keeps what it is told to, built once per process: see its own documentation.
pub fn keeper() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build("keeper"))
}

/// A folder with the component `keeper` in it.
pub fn keeper_folder() -> TempDir {
    let folder = scratch::dir("plugins-");
    std::fs::copy(keeper(), folder.path().join("keeper.wasm")).unwrap();
    folder
}

fn build(package: &str) -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    // Not the folder of the build that runs now: it may be locked.
    let target = workspace.join("target/guests");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(&workspace).args(["build", "--quiet", "--profile", "guest", "--target", "wasm32-wasip2"]);
    cargo.args(["--package", package, "--target-dir"]).arg(&target);
    // What the outer cargo says is about the host.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let about_host = ["CARGO_CFG_", "CARGO_FEATURE_", "CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_PROFILE_"];
        if about_host.iter().any(|prefix| text.starts_with(prefix)) {
            cargo.env_remove(&name);
        }
    }
    for name in [
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_BUILD_RUSTFLAGS",
        "CARGO_BUILD_TARGET",
        "CARGO_TARGET_DIR",
        "RUSTC_WORKSPACE_WRAPPER",
    ] {
        cargo.env_remove(name);
    }
    let output = cargo.output().unwrap();
    assert!(output.status.success(), "building {package} failed:\n{}", String::from_utf8_lossy(&output.stderr));
    target.join("wasm32-wasip2/guest").join(format!("{package}.wasm"))
}
