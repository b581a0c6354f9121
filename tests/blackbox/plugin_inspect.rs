//! `outlast plugin inspect` and `outlast plugin check`: what an operator knows before a plugin is served.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{cli::outlast, plugins, scratch};

#[test]
fn what_a_component_is_and_gets_is_shown() {
    let dir = scratch::dir("inspect-");
    let config = dir.path().join("outlast.toml");
    let text = "[agents.hostile]\nstate = \"2MiB\"\nhttp.hosts = [\"api.example.com\"]\nhttp.methods = [\"GET\"]\n\
                [agents.hostile.http.secrets]\n\"api.example.com\" = { authorization = \"Bearer top-secret\" }";
    fs::write(&config, text).unwrap();
    let component = plugins::hostile().display().to_string();
    let config = config.display().to_string();
    let shown = outlast(["plugin", "inspect", &component, "--config", &config]).ok();
    for expected in [
        "name      hostile 0.1.0",
        "contract  outlast:agent@0.1.0",
        "outlast:agent/http@0.1.0",
        "api.example.com; methods GET; secrets authorization (api.example.com)",
        "2.0 MiB",
        "served    yes",
    ] {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
    assert!(!shown.contains("top-secret"), "{shown}");

    let shown = outlast(["plugin", "inspect", &component, "--json"]).ok();
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["bytes"], fs::metadata(plugins::hostile()).unwrap().len());
    assert_eq!(shown["granted"]["http"]["hosts"], json!([]));
    assert_eq!((&shown["granted"]["state"], &shown["refused"]), (&Value::Null, &Value::Null));
}

#[test]
fn what_would_not_be_served_says_why() {
    let dir = scratch::dir("check-");
    let config = dir.path().join("outlast.toml");
    fs::write(&config, format!("[agents.hostile]\nsha256 = \"{}\"", "0".repeat(64))).unwrap();
    let reserved = plugins::component("echo").display().to_string();
    let (good, torn) = (plugins::component("keeper").display().to_string(), dir.path().join("torn.wasm"));
    let pinned = plugins::hostile().display().to_string();
    fs::write(&torn, &fs::read(plugins::hostile()).unwrap()[..1_000]).unwrap();
    let torn = torn.display().to_string();
    let config = config.display().to_string();

    assert!(outlast(["plugin", "check", &good, &pinned]).ok().contains(": hostile 0.1.0"));
    let taken = outlast(["plugin", "check", &reserved]);
    assert!(taken.code == Some(1) && taken.stdout.contains("the server itself has an agent named `echo`"), "{taken:?}");
    let ended = outlast(["plugin", "check", &good, &pinned, &torn, "--config", &config]);
    assert_eq!(ended.code, Some(1));
    let lines: Vec<_> = ended.stdout.lines().collect();
    assert!(lines[0].starts_with("ok "), "{lines:?}");
    assert!(lines[1].starts_with("refused ") && lines[1].contains(&"0".repeat(64)), "{lines:?}");
    assert!(lines[2].starts_with("refused "), "{lines:?}");
    assert!(ended.stderr.contains("2 of 3 would not be served"), "{}", ended.stderr);
}

#[test]
fn what_a_tool_component_is_and_gets_is_shown() {
    let dir = scratch::dir("inspect-");
    let config = dir.path().join("outlast.toml");
    let text = "[tools.units]\ntimeout = \"5s\"\nmemory = \"8MiB\"\nhttp.hosts = [\"api.example.com\"]";
    fs::write(&config, text).unwrap();
    let component = plugins::component("units").display().to_string();
    let config = config.display().to_string();
    let shown = outlast(["plugin", "inspect", &component, "--config", &config]).ok();
    for expected in [
        "name      units 0.1.0, a tool component",
        "contract  outlast:agent@0.1.0",
        "units__convert (may be called again): Converts an amount",
        "config    its schema:",
        "api.example.com; methods all",
        "8.0 MiB",
        "5s",
        "`tools = [\"units__*\"]`",
    ] {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
    let shown = outlast(["plugin", "inspect", &component, "--json"]).ok();
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["tools"][0]["name"], "units__convert");
    assert_eq!(shown["tools"][0]["parameters"]["properties"]["value"]["type"], "number");
    assert!(outlast(["plugin", "check", &component]).ok().contains(": units 0.1.0, tools units__convert, units__like"));
}
