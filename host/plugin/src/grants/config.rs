//! The configuration of a component, checked against its own JSON Schema.
//!
//! The schema comes from the component and is hostile: it is bounded, also once it is unfolded, regular expressions cost linear time, and nothing
//! that it refers to is fetched.

use jsonschema::{PatternOptions, Validator};
use serde_json::{Map, Value};

use super::{section::Section, unfold};
use crate::refused::Refused;

/// The largest schema, in bytes.
pub(crate) const SCHEMA_BYTES: usize = 64 * 1024;

/// A schema that can be used.
pub(crate) fn validator(schema: &Value) -> Result<Validator, String> {
    unfold::check(schema)?;
    jsonschema::options()
        .with_pattern_options(PatternOptions::regex().size_limit(1 << 20))
        .build(schema)
        .map_err(|error| format!("`config-schema` is not a JSON Schema: {error}"))
}

/// Checks a `config` of the section.
pub(crate) fn check(section: &Section, schema: Option<&Value>, config: &Map<String, Value>) -> Result<(), Refused> {
    let key = format!("{}.config", section.key());
    let Some(schema) = schema else {
        return match config.is_empty() {
            true => Ok(()),
            false => Err(Refused(format!("`{key}` is set, but the component has no configuration"))),
        };
    };
    // What it says for an empty one, it says for the operator's silence, too: its defaults stand then.
    let (validator, config) = (validator(schema).map_err(Refused)?, Value::Object(config.clone()));
    unfold::check_against(schema, &config).map_err(Refused)?;
    let Err(error) = validator.validate(&config) else { return Ok(()) };
    let path = error.instance_path().as_str().replace('/', ".");
    // The value stands in the operator's file, and may be a secret.
    Err(Refused(format!("`{key}{path}` in the configuration is not valid: {}", error.masked_with("the value"))))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn checked(schema: Option<Value>, config: Value) -> Result<(), String> {
        let Value::Object(config) = config else { panic!("not an object") };
        check(&Section::agent("a"), schema.as_ref(), &config).map_err(|Refused(why)| why)
    }

    #[test]
    fn what_is_wrong_is_said_with_its_path() {
        let schema = json!({
            "type": "object",
            "properties": {"limits": {"properties": {"max": {"type": "integer", "maximum": 10}}}, "name": {"pattern": "^[a-z]+$"}},
            "additionalProperties": false,
        });
        assert_eq!(checked(Some(schema.clone()), json!({"limits": {"max": 3}, "name": "x"})), Ok(()));
        let why = checked(Some(schema.clone()), json!({"limits": {"max": 30}})).unwrap_err();
        assert!(why.contains("`agents.a.config.limits.max`") && why.contains("10"), "{why}");
        let why = checked(Some(schema.clone()), json!({"name": "S3cret"})).unwrap_err();
        assert!(why.contains("`agents.a.config.name`") && !why.contains("S3cret"), "{why}");
        let why = checked(Some(schema), json!({"nmae": "x"})).unwrap_err();
        assert!(why.contains("nmae"), "{why}");
    }

    #[test]
    fn a_component_without_a_schema_takes_nothing() {
        assert_eq!(checked(None, json!({})), Ok(()));
        assert!(checked(None, json!({"x": 1})).unwrap_err().contains("has no configuration"));
    }

    #[test]
    fn a_schema_fetches_nothing_and_costs_little() {
        let why = checked(Some(json!({"$ref": "http://127.0.0.1:1/schema.json"})), json!({})).unwrap_err();
        assert!(why.contains("config-schema"), "{why}");
        let evil = json!({"properties": {"x": {"pattern": "^(a+)+$"}}});
        let start = std::time::Instant::now();
        assert!(checked(Some(evil), json!({"x": format!("{}!", "a".repeat(50_000))})).is_err());
        assert!(start.elapsed() < std::time::Duration::from_secs(10));
        assert!(checked(Some(json!({"properties": {"x": {"pattern": "(x{1000}){1000}"}}})), json!({})).is_err());
    }
}
