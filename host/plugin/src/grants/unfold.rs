//! How much a JSON Schema is once everything that it refers to stands in its place.
//!
//! A schema of some kilobytes can refer to itself in a way that takes longer than anybody waits: sixty definitions, each
//! of which refers twice to the one before it, are 2^60 of them. Whoever compiles or checks such a schema goes through
//! all of them, so they are counted first, and the count stops at its limit.

use serde_json::{Map, Value};

/// The most that a schema may be, in steps: a keyword each, more for a pattern and for long values.
const STEPS: usize = 20_000;
/// What a regular expression counts: it is compiled to up to a megabyte.
const PATTERN: usize = 100;
/// So many bytes of a value count as a step.
const STEP_BYTES: usize = 64;
/// How deeply schemas stand in each other, references followed.
const NESTED: usize = 256;

/// Where a keyword's schemas look.
enum Looks {
    /// At the same value.
    Here,
    /// At what is in the value.
    Inside,
}

/// Counts.
struct Unfolding<'a> {
    root: &'a Value,
    /// What is open, each with how far inside the value it looks.
    open: Vec<(&'a Value, usize)>,
    /// How far inside the value is looked at most; none to follow a circle once.
    depth: Option<usize>,
    steps: usize,
}

/// Checks that a schema can be compiled.
///
/// # Errors
///
/// It is too much, refers to what is not in it, or goes round in a circle.
pub(super) fn check(schema: &Value) -> Result<(), String> {
    unfold(schema, None)
}

/// Checks that `value` can be held against a schema.
///
/// # Errors
///
/// It would be too much.
pub(super) fn check_against(schema: &Value, value: &Value) -> Result<(), String> {
    unfold(schema, Some(depth(value)))
}

fn unfold(schema: &Value, depth: Option<usize>) -> Result<(), String> {
    let mut unfolding = Unfolding { root: schema, open: Vec::new(), depth, steps: 0 };
    unfolding.schema(schema, 0).map_err(|why| format!("`config-schema` {why}"))
}

/// How many arrays and objects stand in each other.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(values) => 1 + values.iter().map(depth).max().unwrap_or_default(),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or_default(),
        _ => 0,
    }
}

/// How many steps a value is that is compared with.
fn size(value: &Value) -> usize {
    match value {
        Value::Array(values) => 1 + values.iter().map(size).sum::<usize>(),
        Value::Object(fields) => {
            1 + fields.iter().map(|(name, value)| name.len() / STEP_BYTES + size(value)).sum::<usize>()
        }
        Value::String(text) => 1 + text.len() / STEP_BYTES,
        _ => 1,
    }
}

impl<'a> Unfolding<'a> {
    fn step(&mut self, steps: usize) -> Result<(), String> {
        self.steps += steps;
        match self.steps > STEPS {
            true => Err(format!("has more than {STEPS} keywords once its references are resolved")),
            false => Ok(()),
        }
    }

    fn schema(&mut self, schema: &'a Value, inside: usize) -> Result<(), String> {
        self.step(1)?;
        let Value::Object(keywords) = schema else { return Ok(()) };
        if self.depth.is_some_and(|depth| inside > depth) {
            return Ok(());
        }
        if let Some((_, before)) = self.open.iter().rev().find(|(open, _)| std::ptr::eq(*open, schema)) {
            if *before == inside {
                return Err("has a reference to itself for the same value".to_owned());
            }
            if self.depth.is_none() {
                return Ok(());
            }
        }
        if self.open.len() >= NESTED {
            return Err(format!("nests schemas more than {NESTED} deep"));
        }
        if !std::ptr::eq(schema, self.root) && keywords.get("$id").is_some_and(Value::is_string) {
            return Err("has an `$id` below its root".to_owned());
        }
        self.open.push((schema, inside));
        self.keywords(keywords, inside)?;
        self.open.pop();
        Ok(())
    }

    fn keywords(&mut self, keywords: &'a Map<String, Value>, inside: usize) -> Result<(), String> {
        for (keyword, value) in keywords {
            match (keyword.as_str(), value) {
                ("$defs" | "definitions", Value::Object(_)) => {}
                ("$ref" | "$dynamicRef" | "$recursiveRef", Value::String(reference)) => {
                    if let Some(schema) = self.find(reference)? {
                        self.schema(schema, inside)?;
                    }
                }
                ("properties", Value::Object(schemas)) => self.each(schemas.values(), Looks::Inside, inside)?,
                ("patternProperties", Value::Object(schemas)) => {
                    self.step(PATTERN * schemas.len())?;
                    self.each(schemas.values(), Looks::Inside, inside)?;
                }
                ("dependentSchemas" | "dependencies", Value::Object(schemas)) => {
                    self.each(schemas.values(), Looks::Here, inside)?;
                }
                ("allOf" | "anyOf" | "oneOf", Value::Array(schemas)) => self.each(schemas, Looks::Here, inside)?,
                ("not" | "if" | "then" | "else", schema) => self.each([schema], Looks::Here, inside)?,
                ("items" | "prefixItems", Value::Array(schemas)) => self.each(schemas, Looks::Inside, inside)?,
                (
                    "items"
                    | "additionalItems"
                    | "unevaluatedItems"
                    | "contains"
                    | "additionalProperties"
                    | "unevaluatedProperties"
                    | "propertyNames",
                    schema,
                ) => self.each([schema], Looks::Inside, inside)?,
                ("pattern", _) => self.step(PATTERN)?,
                (_, value) => self.step(size(value))?,
            }
        }
        Ok(())
    }

    fn each(
        &mut self,
        schemas: impl IntoIterator<Item = &'a Value>,
        looks: Looks,
        inside: usize,
    ) -> Result<(), String> {
        let inside = match looks {
            Looks::Here => inside,
            Looks::Inside => inside + 1,
        };
        schemas.into_iter().try_for_each(|schema| self.schema(schema, inside))
    }

    /// The schema that a reference means; none where there is none, of which the compiler says so.
    fn find(&self, reference: &str) -> Result<Option<&'a Value>, String> {
        let (base, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        let own = self.root["$id"].as_str().map(|id| id.trim_end_matches('#'));
        if !base.is_empty() && own != Some(base) {
            let shown = crate::failure::shorten(reference, 80);
            return Err(format!("refers to `{shown}`, which it does not contain"));
        }
        Ok(match fragment {
            "" => Some(self.root),
            pointer if pointer.starts_with('/') => self.root.pointer(&decoded(pointer)),
            anchor => anchored(self.root, anchor),
        })
    }
}

/// A pointer without its `%25`.
fn decoded(pointer: &str) -> String {
    let bytes = pointer.as_bytes();
    let (mut decoded, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let hexadecimal = (bytes[at] == b'%').then(|| pointer.get(at + 1..at + 3)).flatten();
        match hexadecimal.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// The schema with this anchor.
fn anchored<'a>(value: &'a Value, anchor: &str) -> Option<&'a Value> {
    match value {
        Value::Array(values) => values.iter().find_map(|value| anchored(value, anchor)),
        Value::Object(fields) => {
            let named =
                ["$anchor", "$dynamicAnchor"].iter().any(|key| fields.get(*key).is_some_and(|name| name == anchor));
            if named { Some(value) } else { fields.values().find_map(|value| anchored(value, anchor)) }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Definitions of which each refers so often to the one before it.
    fn tower(floors: usize, times: usize) -> Value {
        let refer = |to: usize| json!({"$ref": format!("#/$defs/a{to}")});
        let mut definitions = Map::from_iter([("a0".to_owned(), json!({"type": "object"}))]);
        for floor in 1..floors {
            definitions.insert(format!("a{floor}"), json!({"allOf": vec![refer(floor - 1); times]}));
        }
        json!({"$defs": definitions, "allOf": [refer(floors - 1)]})
    }

    #[test]
    fn what_unfolds_to_too_much_is_refused_at_once() {
        assert_eq!(check(&tower(10, 2)), Ok(()));
        let why = check(&tower(60, 2)).unwrap_err();
        assert!(why.contains("20000 keywords"), "{why}");
        // By values that are looked into, too.
        let mut inside = tower(60, 1);
        for floor in 1..60 {
            let below = json!({"$ref": format!("#/$defs/a{}", floor - 1)});
            inside["$defs"][format!("a{floor}")] = json!({"properties": {"x": below, "y": below}});
        }
        assert!(check(&inside).is_err());
        assert!(check(&json!({"allOf": vec![json!({"pattern": "x"}); 1_000]})).is_err());
    }

    #[test]
    fn a_schema_may_refer_to_itself_for_what_is_inside() {
        let tree =
            json!({"properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}}, "additionalProperties": false});
        assert_eq!(check(&tree), Ok(()));
        assert_eq!(check_against(&tree, &json!({"left": {"right": {}}})), Ok(()));
        let circle = json!({"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"});
        assert!(check(&circle).unwrap_err().contains("itself"));
        // Twice at every level: the depth of the value decides.
        let twice = json!({"properties": {"x": {"allOf": vec![json!({"$ref": "#"}); 20]}}});
        assert_eq!(check(&twice), Ok(()));
        assert_eq!(check_against(&twice, &json!({"x": {}})), Ok(()));
        assert!(check_against(&twice, &json!({"x": {"x": {"x": {"x": {"x": {}}}}}})).is_err());
    }

    #[test]
    fn references_are_found_as_they_are_written() {
        let bomb = tower(60, 2);
        let hidden = |reference: &str| {
            let mut schema = bomb.clone();
            schema["$id"] = json!("https://example.com/a.json");
            schema["$defs"]["a59"]["$anchor"] = json!("top");
            schema["allOf"] = json!([{"$ref": reference}]);
            check(&schema)
        };
        for reference in ["#/$defs/a59", "#/%24defs/a59", "#top", "https://example.com/a.json#/$defs/a59"] {
            assert!(hidden(reference).unwrap_err().contains("keywords"), "{reference}");
        }
        assert!(hidden("b.json").unwrap_err().contains("does not contain"));
        assert!(check(&json!({"allOf": [{"$id": "x"}]})).unwrap_err().contains("$id"));
    }
}
