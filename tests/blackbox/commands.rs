//! Commands for the operator's first day: a configuration, whether it is right, whether the machine is.

use std::fs;

use serde_json::Value;

use crate::harness::{
    cli::{command, outlast},
    database::{Database, both_databases},
    scratch,
    server::{Options, Server},
};

both_databases!(the_doctor_says_what_is_wrong);

#[tokio::test]
async fn a_configuration_is_written_checked_and_served() {
    let folder = scratch::dir("init-");
    let file = folder.path().join("outlast.toml");
    let file = file.to_str().unwrap();
    let written = outlast(["init", file]).ok();
    assert!(written.contains("outlast serve --config"), "{written}");
    assert!(folder.path().join("plugins").is_dir());
    assert!(outlast(["check", "--config", file]).ok().starts_with("ok: "));
    assert!(outlast(["init", file]).failed().contains("exists already"));
    Server::start(Options::configured(Database::Sqlite).config(&fs::read_to_string(file).unwrap()));
}

#[test]
fn a_configuration_that_a_server_would_refuse_is_refused() {
    let folder = scratch::dir("check-");
    let file = folder.path().join("outlast.toml");
    for (toml, says) in [
        ("lisen = \"x\"", "lisen"),
        ("[providers.a]\nbase_url = \"nonsense\"", "providers.a.base_url"),
        ("[agents.a]\nhttp = { hosts = [\"ftp://a.example\"] }", "agents.a"),
        ("tls = { certificate = \"/nowhere.pem\", key = \"k\" }", "tls.certificate: /nowhere.pem cannot be read"),
        ("database = \"${NOT_SET_ANYWHERE}\"", "NOT_SET_ANYWHERE"),
    ] {
        fs::write(&file, toml).unwrap();
        let refused = outlast(["check", "--config", file.to_str().unwrap()]).failed();
        assert!(refused.contains(says), "{toml}: {refused}");
    }
}

async fn the_doctor_says_what_is_wrong(database: Database) {
    let server = Server::start(Options::new(database.clone()).config("[limits]\nconnections = 1000000"));
    let plugins = server.dir().join("plugins");
    let (address, database) = (server.address(), database.argument(server.dir()));
    let file = server.dir().join("doctor.toml");
    let examine = |plugins_toml: &str| {
        let toml =
            format!("listen = {address:?}\ndatabase = {database:?}\n{plugins_toml}[limits]\nconnections = 1000000");
        fs::write(&file, toml).unwrap();
        let ended = command(["doctor", "--json", "--config", file.to_str().unwrap()]).output().unwrap();
        let findings: Value = serde_json::from_slice(&ended.stdout).unwrap();
        (ended.status.success(), findings.as_array().unwrap().clone())
    };
    let says = |findings: &[Value], about: &str, state: &str, words: &str| {
        let found = findings.iter().any(|finding| {
            finding["about"] == about && finding["state"] == state && finding["says"].as_str().unwrap().contains(words)
        });
        assert!(found, "{about} {state} {words}: {findings:#?}");
    };
    let (well, findings) = examine("");
    assert!(well, "{findings:#?}");
    says(&findings, "listen", "warning", "is in use");
    says(&findings, "database", "ok", "can be used");
    says(&findings, "clock", "ok", "it agrees");
    says(&findings, "limits", "warning", "LimitNOFILE");
    says(&findings, "configuration", "warning", "no model provider");

    let (well, findings) = examine(&format!("plugins = {plugins:?}\n"));
    assert!(!well, "{findings:#?}");
    says(&findings, "plugins", "problem", "No such file");

    let mut connection = server.database().await;
    let far = "INSERT INTO responses (id, principal, status, epoch, agent, component, created_at, request) VALUES \
               ('resp_ffffffffffff7fffbfffffffffffffff', 'ann', 'completed', 1, 'echo', '00', 99999999999999, '{}')";
    sqlx::query(far).execute(&mut connection).await.unwrap();
    let (well, findings) = examine("");
    assert!(!well, "{findings:#?}");
    says(&findings, "clock", "problem", "in the future");
}

#[test]
fn shells_and_manuals_know_all_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = outlast(["completions", shell]).ok();
        assert!(script.contains("doctor") && !script.contains("compile-component"), "{shell}");
    }
    let folder = scratch::dir("man-");
    outlast(["man".as_ref(), folder.path().as_os_str()]).ok();
    for page in ["outlast.1", "outlast-serve.1", "outlast-plugin-new.1", "outlast-backup.1"] {
        let text = fs::read_to_string(folder.path().join(page)).unwrap();
        assert!(text.contains(".SH SYNOPSIS") && (page == "outlast.1" || text.contains("Examples")), "{page}: {text}");
    }
}
