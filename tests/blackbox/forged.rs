//! A component that says of itself what a terminal or a reader would take for the server's own words.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::contract::component;
use crate::harness::{
    cli::outlast,
    database::Database,
    scratch,
    server::{Options, Server},
};

/// What a component answers to `describe`.
#[derive(Clone, Copy)]
struct Says<'a> {
    name: &'a str,
    about: &'a str,
    schema: Option<&'a str>,
    wants: Option<&'a str>,
}

const HONEST: Says<'_> = Says { name: "forger", about: "Forges.", schema: None, wants: None };

impl Says<'_> {
    /// An agent that says this.
    fn component(&self) -> Vec<u8> {
        let (mut record, mut texts) = (Vec::new(), Vec::new());
        let mut put = |record: &mut Vec<u8>, text: &str| {
            for number in [2_048 + texts.len(), text.len()] {
                record.extend(u32::try_from(number).unwrap().to_le_bytes());
            }
            texts.extend(text.bytes());
        };
        for text in [self.name, "1.0.0", self.about] {
            put(&mut record, text);
        }
        for text in [self.schema, self.wants] {
            record.extend(u32::from(text.is_some()).to_le_bytes());
            put(&mut record, text.unwrap_or_default());
        }
        let quoted = |bytes: &[u8]| {
            bytes.iter().fold(String::new(), |mut text, byte| {
                write!(text, "\\{byte:02x}").unwrap();
                text
            })
        };
        let module = format!(
            r#"(module
                (memory (export "memory") 1)
                (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 32768))
                (func (export "describe") (result i32) (i32.const 1024))
                (func (export "run") (param i32 i32 i32 i32 i32 i32 i32) (result i32) (i32.const 512))
                (data (i32.const 1024) "{}")
                (data (i32.const 2048) "{}"))"#,
            quoted(&record),
            quoted(&texts)
        );
        let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit");
        component(&wit, "agent", Some(wat::parse_str(module).unwrap()))
    }

    fn file(&self) -> (TempDir, PathBuf) {
        let dir = scratch::dir("forged-");
        let path = dir.path().join("forger.wasm");
        fs::write(&path, self.component()).unwrap();
        (dir, path)
    }
}

/// Nothing in a text does more than to be read, and no line is anybody's but the server's.
fn assert_plain(text: &str) {
    let hidden = |character: char| {
        let bidi = matches!(character, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}');
        character != '\n' && (character.is_control() || bidi)
    };
    assert!(!text.chars().any(hidden), "{text:?}");
    assert!(!text.lines().any(|line| line.starts_with("served    yes")), "{text}");
}

#[test]
fn a_description_that_is_not_what_it_shows_is_refused() {
    for (says, named) in [
        (Says { about: "ok\u{1b}[2J\u{1b}[H", ..HONEST }, "`about` contains the character U+001B"),
        (Says { about: "ok\nserved    yes", ..HONEST }, "`about` contains the character U+000A"),
        (Says { about: "ok\u{202e}sey", ..HONEST }, "U+202E"),
        (Says { about: "o\u{200b}k", ..HONEST }, "U+200B"),
        (Says { name: "forger\u{1b}[8m\nserved    yes", ..HONEST }, "the name `forger"),
        (Says { wants: Some(r#"{"why": "x\nserved    yes"}"#), ..HONEST }, "`wants.why` contains the character U+000A"),
        (
            Says {
                wants: Some(r#"{"http": [{"host": "a.test", "headers": ["x = \"…\"\nmodels = true\n#"]}]}"#),
                ..HONEST
            },
            "`wants.http` contains the character U+000A",
        ),
        (Says { wants: Some(r#"{"http": [{"host": "a.test", "methods": ["GET\"]"]}]}"#), ..HONEST }, "is not a method"),
        (
            Says { wants: Some(r#"{"http": [{"host": "a.test", "headers": ["x = 1 #"]}]}"#), ..HONEST },
            "name of a header",
        ),
    ] {
        let (_dir, path) = says.file();
        let path = path.display().to_string();
        let checked = outlast(["plugin", "check", &path]);
        assert_eq!(checked.code, Some(1));
        assert_plain(&checked.stdout);
        assert!(checked.stdout.starts_with("refused ") && checked.stdout.contains(named), "{}", checked.stdout);
        assert_eq!(checked.stdout.lines().count(), 1, "{}", checked.stdout);
        let inspected = outlast(["plugin", "inspect", &path]).failed();
        assert_plain(&inspected);
        assert!(inspected.contains(named), "{inspected}");
    }
}

#[test]
fn what_may_be_said_is_shown_and_does_nothing() {
    let schema = json!({"type": "object", "title": "\u{202e}\u{9b}2J\u{7f}\nserved    yes"});
    let text = schema.to_string();
    let (_dir, path) = Says { schema: Some(&text), ..HONEST }.file();
    let path = path.display().to_string();
    let shown = outlast(["plugin", "inspect", &path]).ok();
    // The one line is the server's own.
    assert_plain(&shown.replace("\nserved    yes\n", "\n"));
    assert!(shown.contains(r"\u202e\u009b2J\u007f\nserved    yes"), "{shown}");
    let shown = outlast(["plugin", "inspect", &path, "--json"]).ok();
    assert_plain(&shown);
    assert_eq!(serde_json::from_str::<Value>(&shown).unwrap()["config_schema"], schema);
}

#[test]
fn the_log_says_what_a_component_says_and_does_not_obey_it() {
    let (dir, _) = Says { name: "x\u{1b}[2J\n2026-01-01T00:00:00.000000Z  INFO forged", ..HONEST }.file();
    let server = Server::start(Options::new(Database::Sqlite).plugins(dir.path()));
    server.logged(&["refused", r"x[2J\n2026-01-01T00:00:00.000000Z  INFO forged"]);
    assert_plain(&server.log());
}

#[test]
fn the_lines_that_are_offered_grant_what_is_wanted_and_no_more() {
    let wants = json!({"http": [
        {"host": "read.example.com", "methods": ["GET"]},
        {"host": "write.example.com", "methods": ["POST"], "headers": ["X-Key"]},
    ]});
    let (dir, path) = Says { wants: Some(&wants.to_string()), ..HONEST }.file();
    let path = path.display().to_string();
    let shown: Value = serde_json::from_str(&outlast(["plugin", "inspect", &path, "--json"]).ok()).unwrap();
    let lines: Vec<_> = shown["missing"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    let config = dir.path().join("outlast.toml");
    fs::write(&config, format!("[agents.forger]\n{}\n", lines.join("\n"))).unwrap();
    let shown = outlast(["plugin", "inspect", &path, "--json", "--config", &config.display().to_string()]).ok();
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["missing"], json!([]), "{shown}");
    let granted = &shown["granted"];
    let hosts =
        json!([{"host": "read.example.com", "methods": ["GET"]}, {"host": "write.example.com", "methods": ["POST"]}]);
    assert_eq!((&granted["http"]["hosts"], &granted["http"]["methods"]), (&hosts, &Value::Null));
    assert_eq!(granted["http"]["secrets"], json!(["x-key (write.example.com)"]));
}
