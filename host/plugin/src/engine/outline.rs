//! What is to be seen of a component before it is compiled: what it imports, and how large its functions are.
//!
//! To compile a component takes minutes where its author wants it to. What will not serve anyway is refused before, and
//! so is what no compiler of a language makes.

use wasmparser::{ComponentTypeRef, Encoding, Parser, Payload};

use crate::{
    failure::shorten,
    refused::Refused,
    sandbox::{LARGE_TABLE, MEMORIES, TABLES},
};

/// The most functions of a component, all its modules together. Those of large languages have some ten thousands.
const FUNCTIONS: usize = 250_000;
/// The largest body of a function, in bytes: the loop of an interpreter has some hundred kilobytes.
const BODY: usize = 4 << 20;
/// The most variables of a function.
const LOCALS: u64 = 20_000;

/// What is to be seen.
#[derive(Debug, Default)]
pub(super) struct Outline {
    /// The names of the interfaces that it imports.
    pub imports: Vec<String>,
    /// The names of its exports.
    pub exports: Vec<String>,
    /// The memories of its modules.
    pub memories: usize,
    /// The tables of its modules.
    pub tables: usize,
    /// Those of them that may become large.
    pub large_tables: usize,
}

/// Looks at a component. Takes time in proportion to its length, and little.
///
/// # Errors
///
/// It has more memories, tables or functions than there may be, or larger ones, or is no component.
pub(super) fn outline(wasm: &[u8]) -> Result<Outline, Refused> {
    let invalid = |error: wasmparser::BinaryReaderError| {
        Refused(format!("it is not a valid component: {}", shorten(error.message(), 500)))
    };
    let mut outline = Outline::default();
    let (mut depth, mut functions) = (0_usize, 0_usize);
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.map_err(invalid)? {
            Payload::Version { encoding, .. } => {
                if depth == 0 && encoding != Encoding::Component {
                    return Err(Refused("it is a core WebAssembly module, not a component".to_owned()));
                }
                depth += 1;
            }
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(imports) if depth == 1 => {
                for import in imports {
                    let import = import.map_err(invalid)?;
                    if matches!(import.ty, ComponentTypeRef::Instance(_)) {
                        outline.imports.push(import.name.name.to_owned());
                    }
                }
            }
            Payload::ComponentExportSection(exports) if depth == 1 => {
                for export in exports {
                    outline.exports.push(export.map_err(invalid)?.name.name.to_owned());
                }
            }
            Payload::MemorySection(memories) => {
                outline.memories = outline.memories.saturating_add(memories.count() as usize);
                may_have("memories", outline.memories, MEMORIES)?;
            }
            Payload::TableSection(tables) => {
                outline.tables = outline.tables.saturating_add(tables.count() as usize);
                may_have("tables", outline.tables, TABLES)?;
                for table in tables {
                    let kind = table.map_err(invalid)?.ty;
                    outline.large_tables += usize::from(kind.maximum.is_none_or(|most| most >= LARGE_TABLE));
                }
            }
            Payload::CodeSectionEntry(body) => {
                functions += 1;
                within("functions", functions as u64, FUNCTIONS as u64)?;
                within("bytes in one function", body.as_bytes().len() as u64, BODY as u64)?;
                let mut locals = 0_u64;
                for kind in body.get_locals_reader().map_err(invalid)? {
                    locals += u64::from(kind.map_err(invalid)?.0);
                    within("variables in one function", locals, LOCALS)?;
                }
            }
            _ => {}
        }
    }
    Ok(outline)
}

fn within(what: &str, count: u64, most: u64) -> Result<(), Refused> {
    match count > most {
        true => Err(Refused(format!("it has {count} {what}, and at most {most} are compiled"))),
        false => Ok(()),
    }
}

/// Each instance takes mappings for them, of which the system allows a process only so many.
pub(super) fn may_have(what: &str, count: usize, most: usize) -> Result<(), Refused> {
    match count > most {
        true => Err(Refused(format!("it has {count} {what}, and a component may have {most}"))),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(text: &str) -> Result<Outline, String> {
        outline(&wat::parse_str(text).unwrap()).map_err(|Refused(why)| why)
    }

    #[test]
    fn imports_and_exports_are_those_of_the_component_itself() {
        let text = r#"(component
            (import "wasi:http/types@0.2.0" (instance))
            (component (import "inner:one/x" (instance)) (core module (func)))
            (core module $m (func (export "f")))
            (core instance $i (instantiate $m))
            (func (export "run") (canon lift (core func $i "f")))
        )"#;
        let Outline { imports, exports, .. } = seen(text).unwrap();
        assert_eq!((imports, exports), (vec!["wasi:http/types@0.2.0".to_owned()], vec!["run".to_owned()]));
    }

    #[test]
    fn what_no_compiler_makes_is_refused() {
        let with = |locals: usize| format!("(component (core module (func (local{}))))", " i64".repeat(locals));
        assert!(seen(&with(20_000)).is_ok());
        let why = seen(&with(20_001)).unwrap_err();
        assert!(why.contains("20001 variables in one function"), "{why}");
    }

    #[test]
    fn memories_and_tables_are_counted_over_all_modules() {
        let modules =
            |what: &str, count: usize| format!("(component {})", format!("(core module {what})").repeat(count));
        assert_eq!(seen(&modules("(memory 1)", 8)).unwrap().memories, 8);
        assert_eq!(seen(&modules("(memory 1)", 9)).unwrap_err(), "it has 9 memories, and a component may have 8");
        let why = seen(&format!("(component (core module {}))", "(table 1 funcref)".repeat(33))).unwrap_err();
        assert_eq!(why, "it has 33 tables, and a component may have 32");
        let Outline { tables, large_tables, .. } =
            seen("(component (core module (table 9 9 funcref) (table 9 funcref) (table 9 16000 funcref)))").unwrap();
        assert_eq!((tables, large_tables), (3, 2));
    }
}
