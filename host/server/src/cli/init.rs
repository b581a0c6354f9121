//! `outlast init`: a configuration to begin with.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use bytesize::ByteSize;
use clap::Args;

use super::output::say;
use crate::config::Config;

/// What a configuration begins as. What is commented out is the default.
const TEMPLATE: &str = include_str!("../../templates/outlast.toml");

/// Write a configuration file for this machine, in which every line says what it does.
///
/// It changes nothing: what is not commented out is what the server does without it, except for the plugin folder, which is made
/// beside it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    outlast init && outlast serve --config outlast.toml\n  \
    outlast init /etc/outlast/outlast.toml")]
pub(super) struct Init {
    /// The file that is made. It must not exist.
    #[arg(default_value = "outlast.toml")]
    file: PathBuf,
}

impl Init {
    pub(super) fn run(self) -> Result<(), String> {
        let file = &self.file;
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let plugins = folder.join("plugins");
        let cannot = |path: &Path, error: std::io::Error| format!("cannot write {}: {error}", path.display());
        if file.exists() {
            return Err(format!("{} exists already; name another file", file.display()));
        }
        std::fs::create_dir_all(&plugins).map_err(|error| cannot(&plugins, error))?;
        let mut made = std::fs::File::create_new(file).map_err(|error| cannot(file, error))?;
        made.write_all(filled(&plugins).as_bytes()).map_err(|error| cannot(file, error))?;
        say!(
            "wrote {file} and the folder {plugins}\n\n  outlast check --config {file}    is it right?\n  outlast doctor \
             --config {file}   is this machine right?\n  outlast serve --config {file}    the server",
            file = file.display(),
            plugins = plugins.display(),
        )
    }
}

/// The template with what this machine has.
fn filled(plugins: &Path) -> String {
    let config = Config::default();
    let memory = ByteSize::b(config.instances_memory() as u64).display().iec().to_string();
    TEMPLATE
        .replace("{{plugins}}", &toml_edit::value(plugins.display().to_string()).to_string())
        .replace("{{live_runs}}", &config.live_runs().most.to_string())
        .replace("{{live_runs_why}}", &config.live_runs().to_string())
        .replace("{{instances_memory}}", &memory.replace(' ', ""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Flags;

    /// Every line that is commented out and looks like TOML is TOML that the server takes.
    #[test]
    fn every_line_of_it_can_be_used() {
        let text = filled(Path::new("p\"q"));
        assert!(!text.contains("{{"), "{text}");
        let open = |line: &str| match line.strip_prefix('#') {
            Some(key) if !key.starts_with(' ') => format!("{key}\n"),
            _ => format!("{line}\n"),
        };
        let open: String = text.lines().map(open).collect();
        for (name, text) in [("as it is", &text), ("with all lines", &open)] {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("outlast.toml");
            std::fs::write(&file, text).unwrap();
            let read = Config::read(Some(&file), &Flags::default());
            assert!(read.is_ok(), "{name}: {}", read.unwrap_err());
        }
    }
}
