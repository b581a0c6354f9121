//! Agents as text: what no compiler of a language makes.

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};

/// An agent in core WebAssembly.
#[derive(Clone, Copy, Debug)]
pub struct Agent<'a> {
    /// Its name.
    pub name: &'a str,
    /// The schema of its configuration.
    pub schema: Option<&'a str>,
    /// What its module has beside what every agent has: tables, memories, functions.
    pub fields: &'a str,
    /// What its run does before it completes; `$sleep` takes milliseconds and a place for the answer.
    pub run: &'a str,
}

impl<'a> Agent<'a> {
    /// One that completes at once.
    pub fn new(name: &'a str) -> Self {
        Self { name, schema: None, fields: "", run: "" }
    }

    /// Its component.
    pub fn component(self) -> Vec<u8> {
        let schema = self.schema.unwrap_or_default();
        let texts = [self.name, "0", "a", schema];
        let mut place = 2_048;
        let mut spans = Vec::new();
        for text in texts {
            spans.push([place, text.len() as u32]);
            place += text.len() as u32;
        }
        // Name, version, about, the schema if it is there, and no wants.
        let there = u32::from(self.schema.is_some());
        let words: Vec<u32> =
            [&spans[0][..], &spans[1], &spans[2], &[there], &spans[3].map(|word| word * there), &[0; 3]].concat();
        let record: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let import = match self.run.contains("$sleep") {
            true => r#"(import "outlast:agent/tasks@0.1.0" "sleep" (func $sleep (param i64 i32)))"#,
            false => "",
        };
        let text = format!(
            r#"(module
                {import}
                (memory (export "memory") 4)
                (global $top (mut i32) (i32.const 131072))
                (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (local i32)
                    (local.set 4 (global.get $top))
                    (global.set $top (i32.add (global.get $top) (i32.and (i32.add (local.get 3) (i32.const 15)) (i32.const -16))))
                    (local.get 4))
                (func (export "describe") (result i32) (i32.const 1024))
                (func (export "run") (param i32 i32 i32 i32 i32 i32 i32) (result i32) {} (i32.const 512))
                {}
                (data (i32.const 1024) "{}")
                (data (i32.const 2048) "{}"))"#,
            self.run,
            self.fields,
            hexadecimal(&record),
            hexadecimal(texts.concat().as_bytes()),
        );
        let mut resolve = wit_parser::Resolve::default();
        let (package, _) = resolve.push_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../../wit")).unwrap();
        let world = resolve.select_world(&[package], Some("agent")).unwrap();
        let mut module = wat::parse_str(text).unwrap();
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
        ComponentEncoder::default().module(&module).unwrap().encode().unwrap()
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("\\{byte:02x}")).collect()
}
