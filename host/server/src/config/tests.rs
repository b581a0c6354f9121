#![allow(clippy::result_large_err)]

use std::{fs, time::Duration};

use bytesize::ByteSize;
use figment::Jail;
use outlast_runtime::limits::Section as _;

use super::{rooms::default_cache, *};

/// The tables of the book that have every key with its default.
const LIMITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/src/operating/limits.md");
const CONFIGURATION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/src/operating/configuration.md");

fn read(toml: &str) -> Result<Config, String> {
    let mut result = Err(String::new());
    Jail::expect_with(|jail| {
        jail.create_file("outlast.toml", toml)?;
        result = Config::read(Some(Path::new("outlast.toml")), &Flags::default()).map_err(|error| error.to_string());
        Ok(())
    });
    result
}

#[test]
fn an_empty_file_gives_the_defaults() {
    let config = read("").unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:8642");
    assert_eq!(config.limits.plugin.memory, 256 << 20);
}

#[test]
fn later_sources_win() {
    Jail::expect_with(|jail| {
        jail.create_file("outlast.toml", "database = \"a\"\nlisten = \"127.0.0.1:1\"\n[limits]\nrun_timeout = \"5s\"")?;
        jail.set_env("OUTLAST_DATABASE", "b");
        jail.set_env("OUTLAST_LIMITS__MEMORY", "1MiB");
        jail.set_env("OUTLAST_KEY", "ol-1");
        jail.set_env("OUTLAST_AGENTS__ECHO__STATE", "2KiB");
        jail.set_env("OUTLAST_TLS__CERTIFICATE", "c.pem");
        jail.set_env("OUTLAST_TLS__KEY", "k.pem");
        let flags = Flags { listen: "127.0.0.1:2".parse().ok(), ..Flags::default() };
        let config = Config::read(Some(Path::new("outlast.toml")), &flags).unwrap();
        assert_eq!(config.database.resolve(|_| None).unwrap(), "b");
        assert_eq!(config.listen.port(), 2);
        assert_eq!(config.limits.plugin.run_timeout, Duration::from_secs(5));
        assert_eq!(config.limits.plugin.memory, 1 << 20);
        assert_eq!(config.tls.map(|tls| (tls.certificate, tls.key)), Some(("c.pem".into(), "k.pem".into())));
        assert_eq!(config.agents["echo"].state, Some(outlast_plugin::StateSize::Size(ByteSize::kib(2))));
        Ok(())
    });
}

#[test]
fn plugins_are_one_place_or_many() {
    let places = |toml: &str| read(toml).unwrap().plugins;
    assert_eq!(places(""), []);
    assert_eq!(places("plugins = \"a\""), [Source::Path("a".into())]);
    let pinned = format!("oci://ghcr.io/x/y@sha256:{}", "0".repeat(64));
    let many = places(&format!("plugins = [\"a\", \"b/c.wasm\", \"{pinned}\"]"));
    assert_eq!(many[..2], [Source::Path("a".into()), Source::Path("b/c.wasm".into())]);
    assert_eq!(many[2], Source::Registry(pinned.parse().unwrap()));
}

#[test]
fn the_cache_is_a_folder_or_none() {
    assert_eq!(read("").unwrap().cache, CacheConfig::Enabled(true));
    assert_eq!(read("cache = false").unwrap().cache, CacheConfig::Enabled(false));
    assert_eq!(read("cache = \"/c\"").unwrap().cache, CacheConfig::Folder("/c".into()));
    assert!(read("cache = 7").unwrap_err().contains("the path of a folder, or false"));

    let found = |variables: &[(&str, &str)]| {
        let given = |name: &str| Some(variables.iter().find(|(known, _)| *known == name)?.1.into());
        default_cache(given)
    };
    assert_eq!(found(&[("XDG_CACHE_HOME", "/x"), ("HOME", "/h")]), Some("/x/outlast".into()));
    assert_eq!(found(&[("XDG_CACHE_HOME", "x"), ("HOME", "/h")]), Some("/h/.cache/outlast".into()));
    assert_eq!(found(&[]), None);
}

/// An endpoint that is right but for this line.
fn webhook(line: &str) -> String {
    let key = line.split(" =").next().unwrap();
    let secret = format!("secret = \"whsec_{}\"", "A".repeat(40));
    let lines = ["name = \"a\"", "url = \"https://a.test/\"", &*secret];
    let kept = lines.into_iter().filter(|kept| !kept.starts_with(&format!("{key} =")));
    format!("[[webhooks]]\n{}\n{line}", kept.collect::<Vec<_>>().join("\n"))
}

#[test]
fn a_webhook_needs_a_name_a_url_and_a_secret() {
    let config = read(&webhook("")).unwrap();
    let webhooks = config.webhooks().unwrap();
    assert_eq!((&*webhooks[0].principal, webhooks[0].all_runs, webhooks[0].event_types.len()), ("local", false, 4));
    assert!(!format!("{config:?}").contains("whsec_AAAA"), "a secret is shown");
    for (toml, expected) in [
        (webhook("name = \"\""), "must have 1 to 64 characters"),
        (webhook("principal = \"ann\""), "principal = \"ann\" must be the name of a key"),
        (webhook("runs = \"some\""), "'background', 'all'"),
        (webhook("event_types = []"), "'event_types' must have at least one type"),
        (webhook("secret = \"hush\""), "`openssl rand -base64 32`"),
        (webhook("secret = \"${NOBODY_SETS_THIS}\""), "NOBODY_SETS_THIS, which is not set"),
        (webhook("url = \"http://127.0.0.1:1/\""), "webhook_private"),
        (webhook("url = \"ftp://a.test/\""), "must begin with `https://`"),
        (format!("{0}\n{0}", webhook("")), "two have the name \"a\""),
        ("webhook_private = 7".to_owned(), "write true, false, or a list of networks"),
    ] {
        let error = read(&toml).unwrap_err();
        assert!(error.contains(expected), "{toml}: {error}");
    }
}

#[test]
fn what_is_wrong_is_named_with_key_and_value() {
    for (toml, expected) in [
        ("lisen = \"x\"", "lisen"),
        ("[limits]\nmemorry = 1", "memorry"),
        ("[limits]\nstate_key_bytes = 2000", "limits.state_key_bytes: 2000 must be 1 to 1024"),
        ("[agents.a]\nstate = \"much\"", "agents.a.state: must be a size like `1MiB`, or true or false"),
        ("[limits]\nrun_timeout = \"soon\"", "limits.run_timeout"),
        ("[limits]\nmax_live_runs = 0", "limits.max_live_runs: 0 must be 1 to 1000000"),
        ("[limits]\ncancel_grace = \"2s\"", "limits.cancel_grace: \"2s\" must be \"0s\" to \"1s\""),
        ("on_disconnect = \"maybe\"", "`detach`"),
        ("allocator = \"heap\"", "`on-demand`"),
        ("plugins = 7", "an `oci://` reference with its digest"),
        ("plugins = [\"a\", \"oci://ghcr.io/x/y:1\"]", "has no digest"),
        ("require_signature = true", "outlast plugin keygen"),
        ("trusted_keys = [\"ed25519:AAAA\"]", "32 bytes in base64"),
        ("[agents.a]\nsha256 = \"12\"", "64 hexadecimal digits"),
        ("listen = \"0.0.0.0:1\"", "outlast key new"),
        ("[tls]\ncertificate = \"c.pem\"", "missing field `key`"),
        ("tls = { certificate = \"c\", key = \"k\", ca = \"x\" }", "unknown field: found `ca`"),
        ("allowed_hosts = [\"http://a.lan\"]", "without a port: `outlast.lan`"),
        ("allowed_hosts = [\"a.lan:80\"]", "without a port: `outlast.lan`"),
        ("allowed_hosts = [\"*\"]", "without a port: `outlast.lan`"),
        ("cors_origins = [\"https://a.example\"]", "outlast key new"),
        ("cors_origins = [\"localhost:5173\"]", "an origin as browsers send it"),
        ("conversation_retention = \"1ms\"", "conversation_retention = \"1ms\" must be 1s to 36500d"),
        ("[[keys]]\nname = \"a\"\nsha256 = \"12\"", "64 hexadecimal digits"),
    ] {
        let error = read(toml).unwrap_err();
        assert!(error.contains(expected), "{toml}: {error}");
    }
}

#[test]
fn the_book_has_the_default_of_every_limit() {
    let told = defaults(&fs::read_to_string(LIMITS).unwrap());
    let toml: String = told.iter().filter_map(|(key, told)| Some(format!("{key} = {}\n", told.as_ref()?))).collect();
    let read = read(&format!("[limits]\n{toml}")).unwrap().limits.keys();
    let own = Limits::default().keys();
    assert_eq!(read, own, "{LIMITS} has other defaults");
    for (key, default) in own {
        let told = told.iter().find(|(name, _)| name == key).unwrap_or_else(|| panic!("{LIMITS} lacks {key}"));
        assert_eq!(told.1.is_some(), default.is_some(), "{LIMITS} has another default of {key}");
    }
}

#[test]
fn the_book_has_the_default_of_every_key_of_the_server() {
    let page = fs::read_to_string(CONFIGURATION).unwrap();
    let (_, page) = page.split_once("## Server").unwrap();
    let table = page.split("\n## ").next().unwrap();
    let told: Vec<_> = defaults(table).into_iter().filter_map(|(key, told)| Some((key, told?))).collect();
    assert!(told.len() > 10, "{told:?}");
    let toml: String = told.iter().map(|(key, told)| format!("{key} = {told}\n")).collect();
    assert_eq!(format!("{:?}", read(&toml).unwrap()), format!("{:?}", Config::default()));
}

/// The keys of the tables of a page, each with its default in TOML; none where that is not a value.
fn defaults(page: &str) -> Vec<(String, Option<String>)> {
    let quoted = |cell: &str| {
        Some(cell.strip_prefix('`')?.strip_suffix('`')?).filter(|text| !text.contains('`')).map(str::to_owned)
    };
    let mut all = Vec::new();
    for row in page.lines().filter(|line| line.starts_with("| `")) {
        let mut cells = row.split(" | ").map(|cell| cell.trim_matches(['|', ' ']));
        let (Some(keys), Some(told)) = (cells.next(), cells.next()) else { continue };
        let keys: Vec<_> = keys.split(", ").filter_map(|key| quoted(key.split(" (").next()?)).collect();
        let told: Vec<_> = if keys.len() == 1 { vec![told] } else { told.split(", ").collect() };
        assert_eq!(keys.len(), told.len(), "{row}");
        all.extend(keys.into_iter().zip(told).map(|(key, told)| (key, quoted(told).map(|told| toml(&told)))));
    }
    all
}

/// A value as it is written in TOML.
fn toml(told: &str) -> String {
    let plain = told.parse::<i64>().is_ok() || told.parse::<bool>().is_ok() || told.starts_with(['"', '[']);
    if plain { told.to_owned() } else { format!("\"{told}\"") }
}
