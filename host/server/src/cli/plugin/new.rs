//! `outlast plugin new`: a project to begin with.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use include_dir::{Dir, include_dir};

use crate::cli::output::say;

/// One folder for each language.
static TEMPLATES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/templates/plugin");
/// The contract, for languages whose SDK does not bring it.
static WIT: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../../wit");

/// Write a small agent with tests, which builds with the language's own tool.
///
/// Its README says how to build, test, run and serve it.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  outlast plugin new my-agent\n  outlast plugin new my-agent --lang python --path agents/mine"
)]
pub(in crate::cli) struct New {
    /// The agent's name: 1 to 64 of a-z, 0-9 and `-`, beginning with a letter.
    name: String,
    /// What it is written in.
    #[arg(long, value_enum, default_value_t = Language::Rust)]
    lang: Language,
    /// The folder to create [default: the name].
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
    /// Rust: the folder of `outlast-guest`, instead of its version on crates.io.
    #[arg(long, value_name = "DIR")]
    sdk: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Language {
    Rust,
    Js,
    Python,
}

impl Language {
    fn word(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::Js => "js",
            Self::Python => "python",
        }
    }
}

impl New {
    pub(in crate::cli) fn run(self) -> Result<(), String> {
        let Self { name, lang, path, sdk } = self;
        if !is_name(&name) {
            return Err(format!("`{name}` is not a valid name: 1 to 64 of a-z, 0-9 and `-`, beginning with a letter"));
        }
        let sdk = match (&sdk, lang) {
            (Some(folder), Language::Rust) => sdk_at(folder)?,
            (Some(_), _) => return Err("--sdk is for Rust; the other languages need none".to_owned()),
            (None, _) => format!("\"{}\"", env!("CARGO_PKG_VERSION")),
        };
        let folder = path.unwrap_or_else(|| PathBuf::from(&name));
        let file = name.replace('-', "_");
        let fill = |text: &str| text.replace("{{name}}", &name).replace("{{file}}", &file).replace("{{sdk}}", &sdk);
        let template = TEMPLATES.get_dir(lang.word()).ok_or("this binary has no templates")?;
        let mut files = Vec::new();
        collect(template, template.path(), &mut files);
        let mut files: Vec<_> = files.into_iter().map(|(path, text)| (renamed(path), fill(text))).collect();
        if lang != Language::Rust {
            let mut contract = Vec::new();
            collect(&WIT, WIT.path(), &mut contract);
            // Not what was released before.
            contract.retain(|(path, _)| path.extension().is_some_and(|kind| kind == "wit") && path.iter().count() == 1);
            files.extend(contract.into_iter().map(|(path, text)| (Path::new("wit").join(path), text.to_owned())));
        }
        write(&folder, &files)?;
        let readme = folder.join("README.md");
        say!("wrote {} files to {}; {} says what to do with them", files.len(), folder.display(), readme.display())?;
        Ok(())
    }
}

fn is_name(name: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    name.len() <= 64 && name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase()) && name.bytes().all(word)
}

/// The dependency on an SDK that lies in a folder.
fn sdk_at(folder: &Path) -> Result<String, String> {
    let cannot = |error: std::io::Error| format!("--sdk: cannot read {}: {error}", folder.display());
    let folder = folder.canonicalize().map_err(cannot)?;
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).map_err(cannot)?;
    if !manifest.contains("name = \"outlast-guest\"") {
        return Err(format!("--sdk: {} is not the folder of `outlast-guest`", folder.display()));
    }
    let mut path = toml_edit::InlineTable::new();
    path.insert("path", folder.display().to_string().into());
    Ok(path.to_string().trim().to_owned())
}

/// The files below a folder, each by its path from `root`.
fn collect<'a>(dir: &'a Dir<'a>, root: &Path, files: &mut Vec<(PathBuf, &'a str)>) {
    for file in dir.files() {
        let path = file.path().strip_prefix(root).unwrap_or(file.path());
        // Everything that is embedded is text.
        files.push((path.to_owned(), file.contents_utf8().unwrap_or_default()));
    }
    for dir in dir.dirs() {
        collect(dir, root, files);
    }
}

/// Some files would mean something where the templates lie.
fn renamed(path: PathBuf) -> PathBuf {
    match path.to_str() {
        Some("gitignore") => PathBuf::from(".gitignore"),
        Some("Cargo.toml.template") => PathBuf::from("Cargo.toml"),
        _ => path,
    }
}

fn write(folder: &Path, files: &[(PathBuf, String)]) -> Result<(), String> {
    if std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) || folder.is_file() {
        return Err(format!("{} already exists: choose another name, or --path", folder.display()));
    }
    for (path, text) in files {
        let path = folder.join(path);
        let parent = path.parent().unwrap_or(folder);
        std::fs::create_dir_all(parent)
            .and_then(|()| std::fs::write(&path, text))
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_can_be_an_agents_a_crates_and_a_files() {
        for name in ["a", "shout", "my-agent-2"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "-a", "2a", "A", "a_b", "a.b", "a/b", "../a", "é", &"x".repeat(65)] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn every_language_has_a_template_with_cases_and_a_readme() {
        for lang in Language::value_variants() {
            let mut files = Vec::new();
            let template = TEMPLATES.get_dir(lang.word()).unwrap();
            collect(template, template.path(), &mut files);
            for wanted in ["README.md", "gitignore", "cases/words.toml"] {
                assert!(files.iter().any(|(path, _)| path == Path::new(wanted)), "{lang:?}: {wanted}");
            }
            assert!(files.iter().all(|(_, text)| !text.is_empty()), "{lang:?}");
        }
    }
}
