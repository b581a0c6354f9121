//! The plugin folder: what fits serves, what does not is refused in words.

use std::{fs, path::Path};

use serde_json::json;

use crate::harness::{
    database::Database,
    plugins, scratch,
    server::{Options, Server},
};

/// A component in text form that needs a contract that does not exist yet.
const NEWER: &str = r#"(component (import "outlast:agent/respond@0.2.0" (instance (export "new-thing" (func)))))"#;

/// Starts a server with these files beside the component `hostile`.
fn with_files(files: &[(&str, &[u8])]) -> Server {
    let folder = plugins::hostile_folder();
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    Server::start(Options::new(Database::Sqlite).plugins(folder.path()))
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
    assert_eq!(server.client().models().await, ["chat", "echo", "hostile", "keeper"]);
    drop(server);
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
    [COMPONENT, &section(1, &module.concat())].concat()
}

#[tokio::test]
async fn a_component_that_takes_for_ever_to_compile_is_not_waited_for() {
    let folder = plugins::hostile_folder();
    fs::write(folder.path().join("heavy.wasm"), heavy(40)).unwrap();
    let options = Options::new(Database::Sqlite).plugins(folder.path()).env("RAYON_NUM_THREADS", "1");
    let server = Server::start(options.config("[limits]\nplugin_compile_timeout = \"8s\""));
    server.logged(&["compiling 38.9 MiB, still", "heavy.wasm", "seconds="]);
    server.logged(&["heavy.wasm", "refused", "limits.plugin_compile_timeout"]);
    assert_eq!(server.client().models().await, ["chat", "echo", "hostile"]);
    let response = server.client().post(json!({"model": "hostile", "input": "say fine"})).await.response();
    assert_eq!(response["output"][0]["content"][0]["text"], "fine");
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
    let hexadecimal = |bytes: &[u8]| bytes.iter().map(|byte| format!("\\{byte:02x}")).collect::<String>();
    let texts = ["bomb", "0", "a", schema];
    let mut place = 2_048;
    let mut spans = Vec::new();
    for text in texts {
        spans.push([place, text.len() as u32]);
        place += text.len() as u32;
    }
    // Name, version, about, the schema that is there, and no wants.
    let words = [spans[0], spans[1], spans[2]].concat();
    let words: Vec<u32> = [words, vec![1], spans[3].to_vec(), vec![0; 3]].concat();
    let record: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let text = format!(
        r#"(module
            (memory (export "memory") 4)
            (global $top (mut i32) (i32.const 131072))
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (local i32)
                (local.set 4 (global.get $top))
                (global.set $top (i32.add (global.get $top) (i32.and (i32.add (local.get 3) (i32.const 15)) (i32.const -16))))
                (local.get 4))
            (func (export "describe") (result i32) (i32.const 1024))
            (func (export "run") (param i32 i32 i32 i32 i32 i32 i32) (result i32) (i32.const 512))
            (data (i32.const 1024) "{}")
            (data (i32.const 2048) "{}"))"#,
        hexadecimal(&record),
        hexadecimal(texts.concat().as_bytes()),
    );
    let mut resolve = wit_parser::Resolve::default();
    let (package, _) = resolve.push_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../wit")).unwrap();
    let world = resolve.select_world(&[package], Some("agent")).unwrap();
    let mut module = wat::parse_str(text).unwrap();
    wit_component::embed_component_metadata(&mut module, &resolve, world, wit_component::StringEncoding::UTF8).unwrap();
    wit_component::ComponentEncoder::default().module(&module).unwrap().encode().unwrap()
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
