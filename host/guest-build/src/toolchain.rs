//! The compiler in use, and whether it can build components.
//!
//! A toolchain without the target fails late and with words that help nobody (“can't find crate for `std`”). So this
//! looks whether the target's standard library is there, which takes milliseconds, before anything is built for it.
//! This file has no dependencies, not even on the rest of the crate, and is its own program where nothing else is
//! compiled yet: see `wrapper.sh`.

use std::{
    env,
    ffi::OsString,
    fmt, fs, io,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// The target of components.
pub const TARGET: &str = "wasm32-wasip2";

/// The compiler in use, and who installs what it lacks.
#[derive(Clone, Debug)]
pub struct Toolchain {
    /// The compiler.
    pub rustc: OsString,
    /// rustup, by its name or its path.
    pub rustup: OsString,
    /// What rustup calls the toolchain; none where it has to look for itself.
    pub name: Option<OsString>,
    /// Where rustup looks for `rust-toolchain.toml`.
    pub folder: PathBuf,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The target was there.
    There,
    /// It was missing, and is there now.
    Installed,
}

/// Why components cannot be built.
#[derive(Debug)]
pub enum ToolchainError {
    /// The compiler does not answer.
    Rustc(OsString, String),
    /// The target is missing, and there is no rustup that could install it. Where the compiler keeps its targets.
    NoRustup(PathBuf),
    /// The target is missing, and rustup does not install it. The command, and rustup's words.
    Rustup(String, String),
    /// rustup has installed the target, and the compiler does not have it. The command, and the compiler's folder.
    Elsewhere(String, PathBuf),
}

impl fmt::Display for ToolchainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rustc(rustc, why) => {
                write!(f, "{} does not say where it keeps the target {TARGET}: {why}", rustc.display())
            }
            Self::NoRustup(folder) => write!(
                f,
                "the Rust toolchain in {} lacks the target {TARGET}, which agents are built for, and there is no rustup to \
                 install it: install rustup (https://rustup.rs), or the package of your system that has the standard \
                 library for {TARGET}",
                folder.display()
            ),
            Self::Rustup(command, why) => write!(
                f,
                "the Rust toolchain lacks the target {TARGET}, which agents are built for, and `{command}` did not \
                 install it; run it yourself once that can work. It said: {why}"
            ),
            Self::Elsewhere(command, folder) => write!(
                f,
                "`{command}` has installed the target {TARGET}, but for another toolchain than the one in {}, which \
                 is in use: let cargo and rustc be rustup's, or install the target there",
                folder.display()
            ),
        }
    }
}

impl std::error::Error for ToolchainError {}

impl Toolchain {
    /// The toolchain of the cargo that has started this program, or of the one that would be started in this folder.
    pub fn of(folder: &Path) -> Self {
        Self {
            rustc: env::var_os("RUSTC").filter(|rustc| !rustc.is_empty()).unwrap_or_else(|| "rustc".into()),
            rustup: "rustup".into(),
            name: env::var_os("RUSTUP_TOOLCHAIN").filter(|name| !name.is_empty()),
            folder: folder.to_owned(),
        }
    }

    /// Looks for the target, and lets rustup install it where it is missing. `say` is given a sentence before that
    /// begins: it takes as long as 20 MB take to come.
    ///
    /// # Errors
    ///
    /// The target is not there, and cannot be installed; with the sentence that helps.
    pub fn ensure_target(&self, say: impl FnOnce(&str)) -> Result<Target, ToolchainError> {
        if self.has_target()? {
            return Ok(Target::There);
        }
        let mut rustup = Command::new(&self.rustup);
        rustup.args(["target", "add", TARGET]).current_dir(&self.folder);
        let mut shown = format!("rustup target add {TARGET}");
        if let Some(name) = &self.name {
            rustup.arg("--toolchain").arg(name);
            shown.push_str(&format!(" --toolchain {}", name.display()));
        }
        if let Err(error) = Command::new(&self.rustup).arg("--version").output() {
            return Err(match error.kind() {
                io::ErrorKind::NotFound => ToolchainError::NoRustup(self.sysroot()),
                _ => ToolchainError::Rustup(shown, error.to_string()),
            });
        }
        say(&format!(
            "the Rust toolchain lacks the target {TARGET}, which agents are built for: `{shown}` installs it"
        ));
        match rustup.output() {
            Err(error) => Err(ToolchainError::Rustup(shown, error.to_string())),
            Ok(output) if !output.status.success() => Err(ToolchainError::Rustup(shown, words(&output))),
            Ok(_) if !self.has_target()? => Err(ToolchainError::Elsewhere(shown, self.sysroot())),
            Ok(_) => Ok(Target::Installed),
        }
    }

    /// Whether the compiler has the standard library for the target.
    fn has_target(&self) -> Result<bool, ToolchainError> {
        let libraries = PathBuf::from(self.ask(&["--print", "target-libdir", "--target", TARGET])?);
        let standard = |name: &str| name.starts_with("libstd-") && name.ends_with(".rlib");
        let Ok(files) = fs::read_dir(libraries) else { return Ok(false) };
        Ok(files.flatten().any(|file| file.file_name().to_str().is_some_and(standard)))
    }

    fn sysroot(&self) -> PathBuf {
        self.ask(&["--print", "sysroot"]).map_or_else(|_| PathBuf::from(&self.rustc), PathBuf::from)
    }

    fn ask(&self, arguments: &[&str]) -> Result<String, ToolchainError> {
        let cannot = |why: String| ToolchainError::Rustc(self.rustc.clone(), why);
        let output = Command::new(&self.rustc).args(arguments).current_dir(&self.folder).output();
        let output = output.map_err(|error| cannot(error.to_string()))?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
            false => Err(cannot(words(&output))),
        }
    }
}

/// What a program that failed has said, on one line.
fn words(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    if said.is_empty() { format!("nothing, and ended with {}", output.status) } else { said }
}
