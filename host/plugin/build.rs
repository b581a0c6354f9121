//! Builds the bundled agents to components, for the library to embed.

use std::{env, path::PathBuf, process::ExitCode};

use guest_build::Build;

const BUNDLED: [&str; 2] = ["echo", "chat"];

fn main() -> ExitCode {
    let own = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let Some(workspace) = own.ancestors().nth(2) else { panic!("{} is not in the workspace", own.display()) };
    for input in ["wit", "guest-sdk", "plugins", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", workspace.join(input).display());
    }
    let target_dir = PathBuf::from(variable("OUT_DIR")).join("guests");
    match Build::new(workspace, &target_dir).components(&BUNDLED, |said| println!("cargo::warning={said}")) {
        Ok(components) => {
            for (name, wasm) in BUNDLED.iter().zip(components) {
                println!("cargo::rustc-env=BUNDLED_{}_WASM={}", name.to_uppercase(), wasm.display());
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            for line in error.to_string().lines() {
                println!("cargo::error={line}");
            }
            ExitCode::FAILURE
        }
    }
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo did not set {name}"))
}
