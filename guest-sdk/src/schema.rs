use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value;

/// The JSON Schema of a type, without references where it does not contain itself. Doc comments become
/// descriptions.
///
/// ```
/// use outlast_guest::schema;
///
/// #[derive(schemars::JsonSchema)]
/// struct Add {
///     /// The first number.
///     a: f64,
///     b: f64,
/// }
///
/// assert_eq!(schema::<Add>()["properties"]["a"]["description"], "The first number.");
/// ```
pub fn schema<T: JsonSchema>() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.inline_subschemas = true;
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    // The names of a dialect and of a Rust type say nothing to who reads it.
    if let Some(schema) = schema.as_object_mut() {
        schema.remove("$schema");
        schema.remove("title");
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[derive(JsonSchema)]
    #[allow(dead_code)]
    struct Outer {
        /// Inside.
        inner: Option<Inner>,
    }

    #[derive(JsonSchema)]
    #[allow(dead_code)]
    struct Inner {
        n: u8,
    }

    #[test]
    fn a_schema_stands_alone() {
        let schema = schema::<Outer>();
        assert_eq!(schema["type"], "object");
        assert_eq!(schema["properties"]["inner"]["description"], "Inside.");
        assert!(schema.get("$schema").is_none() && schema.get("$defs").is_none(), "{schema}");
        assert_eq!(schema["properties"]["inner"]["properties"]["n"]["type"], json!("integer"));
    }
}
