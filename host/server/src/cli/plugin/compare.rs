//! Expected against seen.
//!
//! An object that is expected may have fewer fields than the one that was seen: ids and the like need not be written
//! down. A list has as many elements as were seen. Everything else is equal, except that a number is what it means:
//! `1` is `1.0`.

use serde_json::Value;

/// A difference: where, what was expected, and what was seen.
#[derive(Debug, PartialEq)]
pub(super) struct Difference {
    path: String,
    expected: Option<Value>,
    seen: Option<Value>,
}

/// Every difference, in the order of what is expected.
pub(super) fn differences(path: &str, expected: &Value, seen: Option<&Value>) -> Vec<Difference> {
    let mut found = Vec::new();
    compare(path, Some(expected), seen, &mut found);
    found
}

fn compare(path: &str, expected: Option<&Value>, seen: Option<&Value>, found: &mut Vec<Difference>) {
    match (expected, seen) {
        (Some(Value::Object(expected)), Some(Value::Object(seen))) => {
            for (key, value) in expected {
                compare(&format!("{path}.{key}"), Some(value), seen.get(key), found);
            }
        }
        (Some(Value::Array(expected)), Some(Value::Array(seen))) => {
            for at in 0..expected.len().max(seen.len()) {
                compare(&format!("{path}[{at}]"), expected.get(at), seen.get(at), found);
            }
        }
        (Some(Value::Number(one)), Some(Value::Number(other))) if one.as_f64() == other.as_f64() => {}
        // What is expected to be null may be absent.
        (Some(Value::Null), None) => {}
        (expected, seen) if expected == seen => {}
        _ => found.push(Difference { path: path.to_owned(), expected: expected.cloned(), seen: seen.cloned() }),
    }
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "  {}", self.path)?;
        writeln!(f, "    - {}", shown(self.expected.as_ref()))?;
        write!(f, "    + {}", shown(self.seen.as_ref()))
    }
}

fn shown(value: Option<&Value>) -> String {
    value.map_or_else(|| "nothing".to_owned(), Value::to_string)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(expected: &Value, seen: &Value) -> Vec<String> {
        differences("x", expected, Some(seen)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_not_expected_may_be_anything() {
        let seen = json!([{"type": "message", "id": "msg_1", "n": 1.0}, "b"]);
        assert_eq!(found(&json!([{"type": "message", "n": 1, "gone": null}, "b"]), &seen), Vec::<String>::new());
    }

    #[test]
    fn a_difference_says_where_and_what() {
        assert_eq!(found(&json!({"a": [{"b": "1"}]}), &json!({"a": [{"b": 1}]})), ["  x.a[0].b\n    - \"1\"\n    + 1"]);
        assert_eq!(found(&json!(["a"]), &json!(["a", "b"])), ["  x[1]\n    - nothing\n    + \"b\""]);
        assert_eq!(found(&json!({"a": 1}), &json!({})), ["  x.a\n    - 1\n    + nothing"]);
    }
}
