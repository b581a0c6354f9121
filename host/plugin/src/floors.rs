//! Keeps the floors of this crate: which room may import from which.
//!
//! A room is a folder or file of `src/`. It imports from other rooms by `crate::`, and within itself by `super::`.

use std::{fs, path::Path};

/// From the ground up. A room may import from the floors below its own, and from nothing else.
const FLOORS: [&[&str]; 10] = [
    &["json", "meter", "refused"],
    &["bindings"],
    &["failure"],
    &["grants"],
    &["outbound"],
    &["sandbox"],
    &["engine", "imports"],
    &["toolbox"],
    &["agent"],
    &["supply"],
];

fn floor(room: &str) -> usize {
    let floor = FLOORS.iter().position(|rooms| rooms.contains(&room));
    floor.unwrap_or_else(|| panic!("`{room}` is not a room on one of the floors"))
}

#[test]
fn a_room_imports_only_from_the_floors_below_it() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut folders, mut seen) = (vec![source.clone()], 0);
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            let inside = path.strip_prefix(&source).unwrap();
            let room = inside.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
            if path.is_dir() {
                folders.push(path);
            } else if !["lib", "floors"].contains(&room) {
                let text = fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]").next().unwrap();
                for other in rooms(code) {
                    assert!(other == room || floor(other) < floor(room), "{} imports from `{other}`", inside.display());
                }
                let is_root = inside.iter().count() == 1 || inside == Path::new(room).join("mod.rs");
                let leaves = code.contains("super::super") || is_root && code.contains("\nuse super::");
                assert!(!leaves, "{} imports by `super::` what is not in its room", inside.display());
                seen += 1;
            }
        }
    }
    assert!(seen > 50, "only {seen} files were found");
}

/// The rooms that code names after `crate::`, one or a list in braces.
fn rooms(code: &str) -> Vec<&str> {
    let word = |text| str::trim(text).split(|letter: char| !letter.is_alphanumeric() && letter != '_').next();
    let mut rooms = Vec::new();
    for path in code.split("crate::").skip(1) {
        let Some(list) = path.strip_prefix('{') else {
            rooms.extend(word(path));
            continue;
        };
        let mut depth = 0;
        for piece in list.split_inclusive([',', '{', '}']) {
            rooms.extend(word(piece).filter(|word| depth == 0 && !word.is_empty()));
            match piece.chars().next_back() {
                Some('{') => depth += 1,
                Some('}') if depth == 0 => break,
                Some('}') => depth -= 1,
                _ => {}
            }
        }
    }
    rooms
}

#[test]
fn rooms_are_found_wherever_they_are_named() {
    let code = "use crate::a::X;\nuse crate::{\n    b::{self, c::{Y, Z}},\n    d::V, e,\n};\nfn f() { crate::g::h(); }";
    assert_eq!(rooms(code), ["a", "b", "d", "e", "g"]);
}
