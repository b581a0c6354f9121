//! One configuration from file, environment and flags; what is wrong is named.

use serde_json::json;

use crate::harness::{
    database::Database,
    keys,
    pgbouncer::PgBouncer,
    postgres::Postgres,
    server::{Options, Server},
};

/// Starts a server that must refuse, with all of `words` on standard error.
fn refused(options: Options, words: &[&str]) {
    let (status, stderr) = Server::refused(options);
    assert!(!status.success());
    for word in words {
        assert!(stderr.contains(word), "no {word} in: {stderr}");
    }
}

fn defaults() -> Options {
    Options::new(Database::Sqlite)
}

#[test]
fn an_unknown_key_is_named() {
    refused(defaults().config("lisen = \"x\""), &["lisen"]);
    refused(defaults().config("[limits]\nmemorry = 1"), &["memorry"]);
}

#[test]
fn a_variable_that_is_nearly_a_key_is_named_with_the_right_one() {
    for (wrong, right) in [
        ("OUTLAST_LIMITS__MEMORRY", "OUTLAST_LIMITS__MEMORY"),
        ("OUTLAST_LIMITS_RUN_TIMEOUT", "OUTLAST_LIMITS__RUN_TIMEOUT"),
        ("OUTLAST_LISTN", "OUTLAST_LISTEN"),
    ] {
        refused(defaults().env(wrong, "1"), &[wrong, &format!("did you mean {right}?")]);
    }
    refused(defaults().env("OUTLAST_AGENTS__ECHO__STAET", "true"), &["OUTLAST_AGENTS__ECHO__STAET"]);
    refused(defaults().env("OUTLAST_LIMITS__RUN_TIMEOUT", "soon"), &["OUTLAST_LIMITS__RUN_TIMEOUT"]);
}

#[test]
fn variables_of_somebody_else_do_not_keep_a_server_from_starting() {
    let mut options = defaults().env("OUTLAST_VERSION", "1.2.3").env("OUTLAST_HOME", "/opt/outlast");
    // Kubernetes puts these into every pod beside a Service that is called `outlast`.
    for (name, value) in [
        ("OUTLAST_PORT", "tcp://10.0.0.1:80"),
        ("OUTLAST_SERVICE_HOST", "10.0.0.1"),
        ("OUTLAST_SERVICE_PORT", "80"),
        ("OUTLAST_SERVICE_PORT_HTTP", "80"),
        ("OUTLAST_PORT_80_TCP", "tcp://10.0.0.1:80"),
        ("OUTLAST_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("OUTLAST_PORT_80_TCP_PORT", "80"),
        ("OUTLAST_PORT_80_TCP_PROTO", "tcp"),
    ] {
        options = options.env(name, value);
    }
    let server = Server::start(options);
    for name in ["OUTLAST_HOME", "OUTLAST_VERSION"] {
        assert!(server.logged(&["WARN", name]).contains("is ignored"));
    }
    assert!(!server.stderr().contains("OUTLAST_PORT") && !server.stderr().contains("OUTLAST_SERVICE"));
}

#[test]
fn a_limit_beyond_what_a_server_can_hold_is_refused_with_its_maximum() {
    let most = u64::MAX.to_string();
    for key in ["connections", "max_runs", "http_connections", "tool_instances", "max_live_runs", "input_items"] {
        let variable = format!("OUTLAST_LIMITS__{}", key.to_uppercase());
        refused(defaults().env(&variable, &most), &[&format!("limits.{key}: {most} must be 1 to 1000000")]);
    }
    refused(defaults().config("[limits]\nmemory = \"5GiB\""), &["limits.memory: \"5GiB\" must be 1 to \"4GiB\""]);
    refused(defaults().config("drain_timeout = \"1000000000y\""), &["drain_timeout", "365d"]);
}

#[test]
fn a_bad_value_is_named_with_its_key() {
    refused(defaults().config("[limits]\nrun_timeout = \"soon\""), &["run_timeout", "soon"]);
    refused(defaults().env("OUTLAST_LIMITS__RUN_TIMEOUT", "soon"), &["run_timeout", "soon"]);
    refused(defaults().config("[limits]\nmax_live_runs = 0"), &["limits.max_live_runs: 0 must be 1 to"]);
    refused(defaults().config("on_disconnect = \"maybe\""), &["on_disconnect", "maybe", "detach"]);
    refused(defaults().config("retention = \"1ms\""), &["retention", "1ms", "1s"]);
    let first = keys::entry("ann");
    let second = format!("[[keys]]\nname = \"ann\"\nsha256 = \"{}\"\n", "0".repeat(64));
    refused(
        defaults().config(&format!("{first}\nmax_live_runs = 1\n{second}max_live_runs = 2")),
        &["\"ann\"", "different limits"],
    );
    refused(defaults().config(&format!("{first}\nrequests_per_second = 0")), &["requests_per_second"]);
}

#[test]
fn only_loopback_is_served_without_a_key() {
    refused(defaults().arg("--listen").arg("0.0.0.0:0"), &["0.0.0.0:0", "outlast key new"]);
    refused(defaults().arg("--listen").arg("[::]:0"), &["[::]:0"]);
}

#[test]
fn a_configuration_file_that_is_not_there_is_named() {
    refused(defaults().arg("--config").arg("nowhere.toml"), &["nowhere.toml"]);
}

#[test]
fn an_address_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    refused(defaults().arg("--listen").arg(&address), &[&address]);
}

#[test]
fn a_database_that_is_not_there_is_named_without_its_password() {
    let url = "postgres://somebody:secret@127.0.0.1:1/nothing";
    let (status, stderr) = Server::refused(Options::new(Database::Postgres(url.to_owned())));
    assert!(!status.success());
    assert!(stderr.contains("127.0.0.1:1") && !stderr.contains("secret"), "{stderr}");
}

#[tokio::test]
async fn the_environment_wins_over_the_file() {
    let options = defaults().config("[limits]\nmax_live_runs = 7").env("OUTLAST_LIMITS__MAX_LIVE_RUNS", "9");
    assert!(Server::start(options).stdout().contains("up to 9 active runs"));
}

#[test]
fn a_database_that_cannot_be_opened_says_why() {
    for (name, words) in [
        ("", "its name is empty"),
        (".", "this is a folder"),
        ("nowhere/o.db", "there is no folder nowhere"),
        ("postgres://u:p@127.0.0.1:1/x", "nothing listens at 127.0.0.1:1"),
    ] {
        refused(Options::named(name), &[words]);
    }
}

#[tokio::test]
async fn a_relative_path_of_whatever_characters_is_a_database() {
    for name in ["a:b.db", "[x] y.db"] {
        let server = Server::start(Options::named(name));
        server.client().post(json!({"model": "echo", "input": "x"})).await.response();
        assert!(server.dir().join(name).is_file());
    }
}

#[tokio::test]
async fn what_postgres_refuses_is_said() {
    let Some(postgres) = Postgres::private() else { return };
    let url = postgres.database().await;
    postgres.asks_for("right").await;
    let place = url.split_once('@').unwrap().1;
    let wrong = format!("postgres://outlast:wrong@{place}");
    refused(Options::named(&wrong), &["the password of the user `outlast` is wrong"]);
    let missing = format!("postgres://outlast:right@127.0.0.1:{}/missing", postgres.port());
    refused(Options::named(&missing), &["has no database `missing`"]);
}

#[tokio::test]
async fn a_pooler_serves_when_it_gives_sessions_and_is_refused_when_it_does_not() {
    let Some(postgres) = Postgres::shared() else { return };
    let url = postgres.database().await;
    let name = url.rsplit_once('/').unwrap().1;
    for mode in ["transaction", "statement"] {
        let lines = format!("pool_mode = {mode}\nignore_startup_parameters = extra_float_digits");
        let Some(pooler) = PgBouncer::before(postgres, &lines) else { return };
        refused(Options::named(&pooler.url(name)), &["PgBouncer", "pool_mode = session"]);
        // Whichever session it gives next.
        let Some(pooler) = PgBouncer::before(postgres, &format!("{lines}\nserver_round_robin = 1")) else { return };
        refused(Options::named(&pooler.url(name)), &["PgBouncer", "pool_mode = session"]);
    }
    let Some(strict) = PgBouncer::before(postgres, "pool_mode = session") else { return };
    refused(Options::named(&strict.url(name)), &["ignore_startup_parameters = extra_float_digits"]);
    let lines = "pool_mode = session\nignore_startup_parameters = extra_float_digits";
    let Some(pooler) = PgBouncer::before(postgres, lines) else { return };
    let server = Server::start(Options::named(&pooler.url(name)));
    server.client().post(json!({"model": "echo", "input": "x"})).await.response();
}
