//! A case of `outlast plugin test`: what an agent is given, and what is expected of it. One file, TOML or JSON.

use std::path::{Path, PathBuf};

use outlast_model::ScriptedAnswer;
use outlast_plugin::ScriptedTool;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// What an agent is given, and what is expected.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Case {
    /// What the user says: a text or items.
    #[serde(default)]
    pub input: Value,
    /// What a client writes after the agent's name.
    pub model: Option<String>,
    /// The request's other fields.
    #[serde(default)]
    pub request: Map<String, Value>,
    /// The items of earlier turns.
    #[serde(default)]
    pub history: Vec<Value>,
    /// The agent's configuration.
    #[serde(default)]
    pub config: Map<String, Value>,
    /// What the agent's clock shows when it begins. Default: `2026-01-01T00:00:00Z`.
    pub now: Option<String>,
    /// What the models answer, call by call.
    #[serde(default)]
    pub answers: Vec<ScriptedAnswer>,
    /// The tools that are granted, and what they answer, call by call.
    #[serde(default)]
    pub tools: Vec<ScriptedTool>,
    /// What is expected; without it, everything is right that is not a failure.
    pub expect: Option<Map<String, Value>>,
}

/// What may be expected.
pub(super) const EXPECTED: [&str; 10] =
    ["status", "text", "output", "error", "incomplete", "usage", "asked", "called", "trace", "log"];
/// What is expected by `--bless` where nothing is.
const USUAL: [&str; 2] = ["status", "text"];

impl Case {
    /// Reads a case.
    ///
    /// # Errors
    ///
    /// It is no case; the error says where and why.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read it: {error}"))?;
        let case: Self = match is_toml(path) {
            true => toml_edit::de::from_str(&text).map_err(|error| error.to_string())?,
            false => serde_json::from_str(&text).map_err(|error| error.to_string())?,
        };
        let unknown = case.expect.iter().flat_map(Map::keys).find(|key| !EXPECTED.contains(&key.as_str()));
        if let Some(key) = unknown {
            return Err(format!("`expect.{key}` is not an expectation; valid ones: {}", EXPECTED.join(", ")));
        }
        Ok(case)
    }

    /// The fields of the request.
    pub(super) fn fields(&self) -> Map<String, Value> {
        let mut fields = self.request.clone();
        let input = if self.input.is_null() { json!([]) } else { self.input.clone() };
        fields.insert("input".to_owned(), input);
        fields
    }
}

/// The files of cases below a path, in the order of their names; a file is itself.
///
/// # Errors
///
/// The path cannot be read, or has no cases.
pub(super) fn find(path: &Path) -> Result<Vec<PathBuf>, String> {
    let cannot = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    if !std::fs::metadata(path).map_err(cannot)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries: Result<Vec<_>, _> = std::fs::read_dir(path).map_err(cannot)?.collect();
    let entries = entries.map_err(cannot)?.into_iter().map(|entry| entry.path());
    let known = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "toml" || kind == "json");
    let mut files: Vec<_> = entries.filter(known).collect();
    files.sort();
    if files.is_empty() { Err(format!("{} has no cases: *.toml or *.json", path.display())) } else { Ok(files) }
}

/// Writes what happened into a case: for what it expects, or the usual where it expects nothing. The rest of the file
/// stays as it is.
///
/// # Errors
///
/// The file cannot be written.
pub(super) fn bless(path: &Path, case: &Case, seen: &Map<String, Value>) -> Result<(), String> {
    let keys: Vec<&str> = match &case.expect {
        Some(expect) => expect.keys().map(String::as_str).collect(),
        None => USUAL.to_vec(),
    };
    let mut expect: Map<String, Value> =
        keys.iter().map(|key| ((*key).to_owned(), seen.get(*key).cloned().unwrap_or_default())).collect();
    // What is not there cannot be written in TOML, and need not be expected.
    expect.retain(|_, value| !value.is_null());
    if seen.contains_key("error") && !expect.contains_key("error") {
        expect.insert("error".to_owned(), seen["error"].clone());
    }
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read it: {error}"))?;
    let written = if is_toml(path) {
        let mut document: toml_edit::DocumentMut =
            text.parse().map_err(|error| format!("it is not valid TOML: {error}"))?;
        let table =
            toml_edit::ser::to_document(&expect).map_err(|error| format!("it cannot be written as TOML: {error}"))?;
        document["expect"] = toml_edit::Item::Table(table.as_table().clone());
        document.to_string()
    } else {
        let mut document: Map<String, Value> = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        document.insert("expect".to_owned(), expect.into());
        format!("{:#}\n", Value::Object(document))
    };
    std::fs::write(path, written).map_err(|error| format!("cannot write it: {error}"))
}

fn is_toml(path: &Path) -> bool {
    path.extension().is_some_and(|kind| kind == "toml")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    #[test]
    fn both_forms_say_the_same() {
        let toml = "input = \"hi\"\n[[answers]]\ntext = [\"a\", \"b\"]\n[expect]\nstatus = \"completed\"";
        let json = r#"{"input": "hi", "answers": [{"text": ["a", "b"]}], "expect": {"status": "completed"}}"#;
        let (_one, toml) = file("a.toml", toml);
        let (_two, json) = file("a.json", json);
        assert_eq!(format!("{:?}", Case::read(&toml).unwrap()), format!("{:?}", Case::read(&json).unwrap()));
    }

    #[test]
    fn what_is_unknown_is_refused_with_what_is_known() {
        for (text, says) in [
            ("inptu = \"hi\"", "unknown field `inptu`"),
            ("[expect]\ntxt = \"\"", "`expect.txt` is not an expectation; valid ones: status, text"),
            (
                "[[answers]]\nerror = { code = \"oops\" }",
                "`oops` is not an error code of a model; valid codes: no_provider",
            ),
        ] {
            let (_folder, path) = file("a.toml", text);
            let error = Case::read(&path).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_blessed_file_keeps_the_rest_and_expects_what_happened() {
        let text = "# Greets.\ninput = \"hi\"   # short\n\n[expect]\ntext = \"old\"\n";
        let (_folder, path) = file("a.toml", text);
        let seen = json!({"status": "completed", "text": "new", "usage": {}});
        bless(&path, &Case::read(&path).unwrap(), seen.as_object().unwrap()).unwrap();
        let blessed = std::fs::read_to_string(&path).unwrap();
        assert_eq!(blessed, "# Greets.\ninput = \"hi\"   # short\n\n[expect]\ntext = \"new\"\n");
        let (_folder, path) = file("a.json", r#"{"input": "hi"}"#);
        bless(&path, &Case::read(&path).unwrap(), seen.as_object().unwrap()).unwrap();
        let blessed: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(blessed, json!({"input": "hi", "expect": {"status": "completed", "text": "new"}}));
    }
}
