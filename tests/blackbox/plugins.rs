//! The plugin folder: what fits serves, what does not is refused in words.

use std::{
    fs,
    ops::Deref,
    path::{Path, PathBuf},
};

use serde_json::json;
use tempfile::TempDir;

use crate::harness::{
    agents::Agent,
    cli,
    database::Database,
    plugins, process, scratch,
    server::{Options, Server},
    wait,
};

/// A component in text form that needs a contract that does not exist yet.
const NEWER: &str = r#"(component (import "outlast:agent/respond@0.2.0" (instance (export "new-thing" (func)))))"#;

/// A server and its plugin folder: what takes long to load is looked at again.
struct Started {
    server: Server,
    _folder: TempDir,
}

impl Deref for Started {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

/// Starts a server with these files beside the component `hostile`.
fn with_files(files: &[(&str, &[u8])]) -> Started {
    let folder = plugins::hostile_folder();
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    Started { server: Server::start(Options::new(Database::Sqlite).plugins(folder.path())), _folder: folder }
}

/// Starts a server with one bad file, which must be refused by name with all of `words`; the others serve.
async fn refused(name: &str, bytes: &[u8], words: &[&str]) {
    let server = with_files(&[(name, bytes)]);
    let mut parts = vec![name];
    parts.extend(words);
    server.logged(&parts);
    assert_eq!(server.client().models().await, ["chat", "echo", "hostile"]);
    let response = server.client().post(json!({"model": "hostile", "input": "say fine"})).await.response();
    assert_eq!(response["output"][0]["content"][0]["text"], "fine");
}

#[tokio::test]
async fn a_component_in_the_folder_serves() {
    let server = with_files(&[]);
    let response = server.client().post(json!({"model": "hostile", "input": "say hello there"})).await.response();
    assert_eq!(response["model"], "hostile");
    assert_eq!(response["output"][0]["content"][0]["text"], "hello there");
    assert!(server.stdout().contains("hostile"), "the start shows the agents: {}", server.stdout());
}

#[tokio::test]
async fn files_that_are_no_plugins_are_left_alone() {
    let server = with_files(&[("README.md", b"# notes"), ("hostile.wasm.bak", b"old")]);
    assert_eq!(server.client().models().await, ["chat", "echo", "hostile"]);
    assert!(!server.stderr().contains("README"));
}

#[tokio::test]
async fn what_is_no_webassembly_is_refused() {
    refused("text.wasm", b"this is a text", &["refused"]).await;
}

#[tokio::test]
async fn an_empty_file_is_refused() {
    refused("empty.wasm", b"", &["refused"]).await;
}

#[tokio::test]
async fn a_core_module_is_refused_as_one() {
    let module = wat::parse_str(r#"(module (func (export "run")))"#).unwrap();
    refused("module.wasm", &module, &["refused", "core WebAssembly module", "wasm32-wasip2"]).await;
}

#[tokio::test]
async fn a_truncated_component_is_refused() {
    let whole = fs::read(plugins::hostile()).unwrap();
    refused("half.wasm", &whole[..whole.len() / 2], &["refused"]).await;
}

#[tokio::test]
async fn a_component_of_a_hundred_megabytes_holds_up_nobody() {
    // As much data as code: none of it is an agent.
    let mut large = fs::read(plugins::component("keeper")).unwrap();
    large.extend(custom_section(100 << 20));
    let server = with_files(&[("large.wasm", &large)]);
    let all = ["chat", "echo", "hostile", "keeper"];
    wait::eventually("it serves beside the others", async || (server.client().models().await == all).then_some(()))
        .await;
    let one = wat::parse_str("(component)").unwrap();
    refused("none.wasm", &[one, custom_section(100 << 20)].concat(), &["refused", "describe"]).await;
    refused("larger.wasm", &custom_section(128 << 20), &["refused", "at most 134217728"]).await;
}

/// A section of so many bytes that means nothing.
fn custom_section(bytes: u32) -> Vec<u8> {
    [vec![0], leb(bytes + 2), vec![1, b'x'], vec![0; bytes as usize]].concat()
}

fn leb(mut number: u32) -> Vec<u8> {
    let mut all = Vec::new();
    while number >= 0x80 {
        all.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    all.push(number as u8);
    all
}

fn section(id: u8, content: &[u8]) -> Vec<u8> {
    [&[id][..], &leb(u32::try_from(content.len()).unwrap()), content].concat()
}

const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";
const MODULE: &[u8] = b"\0asm\x01\0\0\0";

/// A component that takes long to compile: so many functions of a megabyte.
fn heavy(functions: u32) -> Vec<u8> {
    // local.get 0, i32.add, i32.const 5, i32.xor
    let body = [&[0, 0x20, 0][..], &[0x20, 0, 0x6a, 0x41, 5, 0x73].repeat(170_000), &[0x0b]].concat();
    let body = [leb(u32::try_from(body.len()).unwrap()), body].concat();
    let count = leb(functions);
    let module = [
        MODULE.to_vec(),
        section(1, &[1, 0x60, 1, 0x7f, 1, 0x7f]),
        section(3, &[count.clone(), vec![0; functions as usize]].concat()),
        section(10, &[count, body.repeat(functions as usize)].concat()),
    ];
    // What an agent exports, if only by name: the same type twice.
    let record = section(7, &[1, 0x72, 1, 1, b'x', 0x79]);
    let export = |name: &str| [&[0, name.len() as u8][..], name.as_bytes(), &[3, 0, 0]].concat();
    let exports = section(11, &[vec![2], export("describe"), export("run")].concat());
    [COMPONENT, &section(1, &module.concat()), &record, &exports].concat()
}

#[tokio::test]
async fn a_component_that_takes_for_ever_to_compile_is_not_waited_for() {
    let folder = plugins::hostile_folder();
    fs::write(folder.path().join("heavy.wasm"), heavy(40)).unwrap();
    let options = Options::new(Database::Sqlite).plugins(folder.path()).env("RAYON_NUM_THREADS", "1");
    let server = Server::start(options.config("[limits]\nplugin_compile_timeout = \"8s\""));
    server.logged(&["still compiling 38.9 MiB", "heavy.wasm", "seconds="]);
    server.logged(&["heavy.wasm", "refused", "limits.plugin_compile_timeout"]);
    assert_eq!(server.client().models().await, ["chat", "echo", "hostile"]);
    let response = server.client().post(json!({"model": "hostile", "input": "say fine"})).await.response();
    assert_eq!(response["output"][0]["content"][0]["text"], "fine");
}

/// The process that this server has started to compile, and what it says of itself: its environment, how many files it has
/// open, and its folder.
fn compiler(server: u32) -> Option<(u32, String, usize, PathBuf)> {
    let started_by = |id: u32| -> Option<u32> {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
    };
    let all = fs::read_dir("/proc").unwrap();
    let mut ids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let child = ids.find(|id| started_by(*id) == Some(server))?;
    let environment = fs::read(format!("/proc/{child}/environ")).ok()?;
    let environment = String::from_utf8_lossy(&environment).replace('\0', " ");
    let files = fs::read_dir(format!("/proc/{child}/fd")).ok()?.count();
    Some((child, environment, files, fs::read_link(format!("/proc/{child}/cwd")).ok()?))
}

#[tokio::test]
async fn what_takes_long_to_compile_holds_up_neither_the_start_nor_the_others_and_sees_no_secrets() {
    let folder = plugins::hostile_folder();
    fs::write(folder.path().join("a-heavy.wasm"), heavy(40)).unwrap();
    let options = Options::new(Database::Sqlite).plugins(folder.path());
    let mut server = Server::start(options.env("RAYON_NUM_THREADS", "1").env("OPENAI_API_KEY", "sk-secret"));
    assert_eq!(server.client().models().await, ["chat", "echo", "hostile"]);
    let (child, environment, files, cwd) =
        wait::eventually("it is confined", async || compiler(server.id()).filter(|(_, _, files, _)| *files == 3)).await;
    assert_eq!((environment.trim(), files, cwd), ("RAYON_NUM_THREADS=1", 3, PathBuf::from("/")));
    let limits = fs::read_to_string(format!("/proc/{child}/limits")).unwrap();
    for limit in ["Max data size", "Max address space", "Max cpu time"] {
        let line = limits.lines().find(|line| line.starts_with(limit)).unwrap();
        assert!(!line.contains("unlimited"), "{line}");
    }
    fs::write(folder.path().join("new.wasm"), Agent::new("new").component()).unwrap();
    wait::eventually("a new one serves", async || {
        (server.client().models().await == ["chat", "echo", "hostile", "new"]).then_some(())
    })
    .await;
    assert_eq!(compiler(server.id()).map(|(id, ..)| id), Some(child), "it is being compiled still");
    // Nobody waits for it any more.
    server.kill9();
    wait::eventually("the compiler ends", async || {
        let gone = fs::read_to_string(format!("/proc/{child}/stat")).is_ok_and(|stat| stat.contains(") Z "));
        (gone || !Path::new(&format!("/proc/{child}")).exists()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_takes_too_much_memory_to_compile_is_refused_and_takes_none_of_the_servers() {
    let folder = plugins::hostile_folder();
    let heavy = heavy(8);
    fs::write(folder.path().join("heavy.wasm"), &heavy).unwrap();
    let limit = "[limits]\nplugin_compile_memory = \"128MiB\"";
    let server = Server::start(Options::new(Database::Sqlite).plugins(folder.path()).config(limit));
    server.logged(&["heavy.wasm", "refused", "takes more than 128.0 MiB of memory (limits.plugin_compile_memory)"]);
    assert_eq!(server.client().models().await, ["chat", "echo", "hostile"]);
    let highest = process::highest_rss(server.id());
    assert!(highest < 512 << 10, "{highest} KiB");

    let file = folder.path().join("heavy.wasm");
    let mut check = cli::command(["plugin", "check"]);
    check.arg(file).env("OUTLAST_LIMITS__PLUGIN_COMPILE_MEMORY", "128MiB");
    let checked = tokio::task::spawn_blocking(move || check.output().unwrap()).await.unwrap();
    let said = String::from_utf8(checked.stdout).unwrap();
    assert!(!checked.status.success() && said.contains("limits.plugin_compile_memory"), "{said}");
}

#[tokio::test]
async fn a_component_has_few_memories_and_tables() {
    let with = |fields: &str| Agent { fields, ..Agent::new("many") }.component();
    let most = with(&["(memory 1)".repeat(7), "(table 1 funcref)".repeat(32)].concat());
    let server = with_files(&[("most.wasm", &most)]);
    assert_eq!(server.client().models().await, ["chat", "echo", "hostile", "many"]);
    server.client().post(json!({"model": "many", "input": "x"})).await.response();
    for (fields, why) in [
        ("(memory 1)".repeat(8), "9 memories, and a component may have 8"),
        ("(table 1 funcref)".repeat(33), "33 tables, and a component may have 32"),
    ] {
        let server = with_files(&[("many.wasm", &with(&fields))]);
        server.logged(&["many.wasm", "refused", why]);
        let compiled = server.stderr().lines().any(|line| line.contains("many.wasm") && line.contains("compil"));
        assert!(!compiled, "{}", server.stderr());
    }
}

#[tokio::test]
async fn a_component_of_a_hundred_thousand_types_is_refused_in_a_line() {
    use std::fmt::Write as _;
    let mut text = "(component (type $t (record (field \"x\" u32)))".to_owned();
    for number in 0..100_000 {
        write!(text, "(export \"a-type-with-a-long-name-{number}\" (type $t))").unwrap();
    }
    text.push(')');
    let component = wat::parse_str(&text).unwrap();
    let server = with_files(&[("many.wasm", &component)]);
    let line = server.logged(&["many.wasm", "refused"]);
    assert!(line.len() < 2_000, "{} bytes", line.len());
    assert_eq!(server.client().models().await, ["chat", "echo", "hostile"]);
}

#[tokio::test]
async fn a_component_that_is_nested_a_thousand_times_is_refused() {
    let mut nested = COMPONENT.to_vec();
    for _ in 0..1_000 {
        nested = [COMPONENT, &section(4, &nested)].concat();
    }
    refused("nested.wasm", &nested, &["refused", "describe"]).await;

    let mut types = "(component (type $t0 (list u8))".to_owned();
    for number in 1..10_000 {
        types.push_str(&format!("(type $t{number} (list $t{}))", number - 1));
    }
    types.push_str("(import \"deep\" (func (param \"it\" $t9999))))");
    refused("deep.wasm", &wat::parse_str(&types).unwrap(), &["refused"]).await;
}

#[tokio::test]
async fn a_name_as_long_as_its_file_fills_no_log() {
    let name = "x".repeat(90_000);
    let component = wat::parse_str(format!("(component (import \"{name}\" (func)))")).unwrap();
    let server = with_files(&[("long.wasm", &component)]);
    let line = server.logged(&["long.wasm", "refused"]);
    assert!(line.len() < 2_000, "{} bytes", line.len());
}

#[tokio::test]
async fn a_component_without_the_exports_is_refused() {
    let component = wat::parse_str("(component)").unwrap();
    refused("nothing.wasm", &component, &["refused", "describe"]).await;
}

#[tokio::test]
async fn a_component_for_a_newer_contract_is_told_both_versions() {
    let component = wat::parse_str(NEWER).unwrap();
    refused("newer.wasm", &component, &["refused", "0.2.0", "0.1.0"]).await;
}

#[tokio::test]
async fn a_component_that_wants_the_network_is_refused() {
    let component = wat::parse_str(
        r#"(component (import "wasi:http/outgoing-handler@0.2.0" (instance (export "handle" (func)))))"#,
    )
    .unwrap();
    refused("network.wasm", &component, &["refused", "wasi:http"]).await;
}

#[tokio::test]
async fn a_second_agent_of_the_same_name_is_refused() {
    let component = fs::read(plugins::hostile()).unwrap();
    refused("second.wasm", &component, &["refused", "`hostile`"]).await;
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_refused() {
    let folder = plugins::hostile_folder();
    // Not a file at all, which no user can read.
    fs::create_dir(folder.path().join("folder.wasm")).unwrap();
    std::os::unix::fs::symlink("/nowhere", folder.path().join("dangling.wasm")).unwrap();
    let server = Server::start(Options::new(Database::Sqlite).plugins(folder.path()));
    server.logged(&["folder.wasm", "refused"]);
    server.logged(&["dangling.wasm", "refused"]);
    assert_eq!(server.client().models().await, ["chat", "echo", "hostile"]);
}

#[tokio::test]
async fn an_empty_folder_is_fine() {
    let folder = scratch::dir("plugins-");
    let server = Server::start(Options::new(Database::Sqlite).plugins(folder.path()));
    assert_eq!(server.client().models().await, ["chat", "echo"]);
}

#[test]
fn a_folder_that_is_not_there_is_an_error_that_names_it() {
    let (status, stderr) = Server::refused(Options::new(Database::Sqlite).plugins(Path::new("/nowhere/plugins")));
    assert!(!status.success());
    assert!(stderr.contains("/nowhere/plugins"), "{stderr}");
}

/// An agent that says of itself that its configuration has this schema.
fn with_schema(schema: &str) -> Vec<u8> {
    Agent { schema: Some(schema), ..Agent::new("bomb") }.component()
}

#[tokio::test]
async fn a_schema_that_refers_to_too_much_is_refused_and_stops_nobody() {
    let plain = with_files(&[("plain.wasm", &with_schema(r#"{"type": "object"}"#))]);
    assert_eq!(plain.client().models().await, ["bomb", "chat", "echo", "hostile"]);
    // Sixty definitions, each of which refers twice to the one before it.
    let floors = (1..60).map(|floor| {
        let below = format!(r##"{{"$ref": "#/$defs/a{}"}}"##, floor - 1);
        format!(r#", "a{floor}": {{"allOf": [{below}, {below}]}}"#)
    });
    let floors = floors.collect::<String>();
    let bomb = format!(r##"{{"$defs": {{"a0": {{"type": "object"}}{floors}}}, "$ref": "#/$defs/a59"}}"##);
    refused("bomb.wasm", &with_schema(&bomb), &["refused", "20000 keywords"]).await;
}
