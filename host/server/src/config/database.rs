//! Where the database is.
//!
//! The URL of a PostgreSQL database has a password in it. So it need not stand in the configuration file: it may come from
//! a variable of the environment, or from a file, as orchestrators mount secrets.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use outlast_plugin::Template;
use serde::Deserialize;

/// The largest file with a URL, in bytes.
const FILE_BYTES: u64 = 64 << 10;

/// Where the database is: `"outlast.db"`, `"postgres://…"`, `"${DATABASE_URL}"`, or `{ file = "/run/secrets/database" }`.
/// Never shown: it may have a password.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "must be a path, a URL, or { file = \"PATH\" }")]
pub enum DatabaseConfig {
    /// The path of an SQLite file, or a PostgreSQL URL. `${NAME}` stands for an environment variable.
    Named(Template),
    /// It stands in a file.
    InFile(DatabaseFile),
}

/// A file with the path of an SQLite file, or a PostgreSQL URL, in one line.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseFile {
    /// Its path.
    pub file: PathBuf,
}

impl From<&str> for DatabaseConfig {
    fn from(name: &str) -> Self {
        Self::Named(name.into())
    }
}

impl DatabaseConfig {
    /// The path of an SQLite file, or a PostgreSQL URL. `lookup` reads environment variables.
    ///
    /// # Errors
    ///
    /// A variable is not set, or the file cannot be read; in words that end a sentence about the key `database`.
    pub fn resolve(&self, lookup: impl Fn(&str) -> Option<String>) -> Result<String, String> {
        match self {
            Self::Named(template) => Ok(template.fill(lookup)?.value),
            Self::InFile(DatabaseFile { file }) => read(file),
        }
    }
}

fn read(path: &Path) -> Result<String, String> {
    let cannot =
        |why: &dyn std::fmt::Display| format!("names the file {}, which cannot be read: {why}", path.display());
    let mut text = String::new();
    let mut file = File::open(path).map_err(|error| cannot(&error))?.take(FILE_BYTES);
    file.read_to_string(&mut text).map_err(|error| cannot(&error))?;
    match text.trim() {
        line if line.is_empty() || line.contains('\n') => {
            Err(format!("names the file {}, which must hold one line: the URL", path.display()))
        }
        line => Ok(line.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(toml: &str) -> Result<String, String> {
        #[derive(Deserialize)]
        struct Config {
            database: DatabaseConfig,
        }
        let config: Config = toml_edit::de::from_str(toml).map_err(|error| error.to_string())?;
        config.database.resolve(|name| (name == "URL").then(|| "postgres://u:p@h/d".to_owned()))
    }

    #[test]
    fn it_is_named_or_in_a_variable_or_in_a_file() {
        assert_eq!(resolved("database = \"a b.db\"").unwrap(), "a b.db");
        assert_eq!(resolved("database = \"${URL}?sslmode=require\"").unwrap(), "postgres://u:p@h/d?sslmode=require");
        assert!(resolved("database = \"${NONE}\"").unwrap_err().contains("NONE, which is not set"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("url");
        let toml = format!("database = {{ file = {path:?} }}");
        assert!(resolved(&toml).unwrap_err().contains("cannot be read"));
        std::fs::write(&path, "postgres://u:p@h/d\n").unwrap();
        assert_eq!(resolved(&toml).unwrap(), "postgres://u:p@h/d");
        std::fs::write(&path, "one\ntwo\n").unwrap();
        let error = resolved(&toml).unwrap_err();
        assert!(error.contains("one line") && !error.contains("two"), "{error}");
        assert!(resolved("database = { fiel = \"x\" }").unwrap_err().contains("must be a path, a URL, or"));
    }
}
