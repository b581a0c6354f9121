//! Builds the bundled agents to components, for the library to embed.
//!
//! A component is built for another target and with another profile, which stable cargo cannot express as a
//! dependency, so this calls cargo once more, in a target folder of its own: it must not wait for the lock that
//! the outer cargo holds.

use std::{env, path::PathBuf, process::Command};

const TARGET: &str = "wasm32-wasip2";
const BUNDLED: [&str; 2] = ["echo", "chat"];

fn main() {
    let host = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let Some(workspace) = host.parent() else { panic!("{} has no parent folder", host.display()) };
    for input in ["wit", "guest-sdk", "plugins", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", workspace.join(input).display());
    }
    for embedded in ["migrations", "templates"] {
        println!("cargo::rerun-if-changed={embedded}");
    }

    let target_dir = PathBuf::from(variable("OUT_DIR")).join("guests");
    let mut cargo = Command::new(variable("CARGO"));
    cargo.current_dir(workspace).args(["build", "--locked", "--profile", "guest", "--target", TARGET]);
    cargo.arg("--target-dir").arg(&target_dir);
    for name in BUNDLED {
        cargo.args(["--package", name]);
    }
    // What the outer cargo tells this script is about the host and must not reach the guests.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let outer = ["CARGO_CFG_", "CARGO_FEATURE_", "CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_PROFILE_", "DEP_"];
        if outer.iter().any(|prefix| text.starts_with(prefix)) {
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
        "RUSTDOC",
        "TARGET",
        "HOST",
        "OUT_DIR",
        "PROFILE",
        "DEBUG",
        "OPT_LEVEL",
        "NUM_JOBS",
    ] {
        cargo.env_remove(name);
    }
    let status = cargo.status();
    assert!(
        status.as_ref().is_ok_and(|status| status.success()),
        "building the bundled agents failed ({status:?}); `rustup target add {TARGET}` installs the target if it is \
         missing"
    );
    for name in BUNDLED {
        let wasm = target_dir.join(TARGET).join("guest").join(format!("{name}.wasm"));
        println!("cargo::rustc-env=BUNDLED_{}_WASM={}", name.to_uppercase(), wasm.display());
    }
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo did not set {name}"))
}
