//! The options of a call, read once and checked before anything is sent.
//!
//! The names are those of the Responses API. `null` means absent; what is not known is ignored; what is known and has
//! the wrong shape is an error that names it.

use serde_json::{Map, Value};

use super::{error::ModelError, offer, parameter::Parameter};

/// What `include` asks for the likelihood of tokens with.
const LOGPROBS: &str = "message.output_text.logprobs";

/// How a model shall answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Settings {
    pub temperature: Option<f64>,
    pub top_p: Option<f64>,
    pub presence_penalty: Option<f64>,
    pub frequency_penalty: Option<f64>,
    pub max_output_tokens: Option<u64>,
    /// `reasoning.effort`, in the caller's words: providers differ in what they know.
    pub effort: Option<String>,
    /// `text.verbosity`.
    pub verbosity: Option<String>,
    /// `text.format`; none: text.
    pub format: Option<Format>,
    pub tools: Vec<Tool>,
    /// None without tools.
    pub tool_choice: Option<ToolChoice>,
    /// None without tools.
    pub parallel_tool_calls: Option<bool>,
    /// Whether the caller asks how likely the tokens of the text are.
    pub logprobs: bool,
    /// What not every provider takes.
    pub extras: Vec<(Parameter, Value)>,
}

impl Settings {
    /// What the caller gave for a parameter.
    pub(super) fn extra(&self, parameter: Parameter) -> Option<&Value> {
        self.extras.iter().find(|(its, _)| *its == parameter).map(|(_, value)| value)
    }
}

/// The form of the answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Format {
    /// Any JSON object.
    JsonObject,
    /// JSON that fits a schema.
    JsonSchema { name: String, schema: Value, strict: Option<bool> },
}

/// A function that the model may call.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tool {
    pub name: String,
    pub description: Option<String>,
    /// A JSON Schema.
    pub parameters: Option<Value>,
    pub strict: Option<bool>,
}

/// Which function the model shall call.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ToolChoice {
    Auto,
    None,
    Required,
    Function(String),
}

impl Settings {
    /// Reads the options of a call, and the tools that its input brings.
    pub(super) fn read(options: &Map<String, Value>, input: &[Value]) -> Result<Self, ModelError> {
        read(options, input).map_err(|what| ModelError::invalid(format!("options.{what}")))
    }
}

fn read(options: &Map<String, Value>, input: &[Value]) -> Result<Settings, String> {
    let object = |name: &str| match options.get(name) {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(Value::Object(map)) => Ok(map.clone()),
        Some(_) => Err(format!("{name} is not an object")),
    };
    let (reasoning, text) = (object("reasoning")?, object("text")?);
    let max_output_tokens =
        get(options, "max_output_tokens", "a whole number above 0", |value| value.as_u64().filter(|count| *count > 0))?;
    let mut settings = Settings {
        temperature: get(options, "temperature", "a number", Value::as_f64)?,
        top_p: get(options, "top_p", "a number", Value::as_f64)?,
        presence_penalty: get(options, "presence_penalty", "a number", Value::as_f64)?,
        frequency_penalty: get(options, "frequency_penalty", "a number", Value::as_f64)?,
        max_output_tokens,
        effort: get(&reasoning, "effort", "a text", word).map_err(|what| format!("reasoning.{what}"))?,
        verbosity: get(&text, "verbosity", "a text", word).map_err(|what| format!("text.{what}"))?,
        format: text.get("format").map_or(Ok(None), format).map_err(|what| format!("text.format{what}"))?,
        ..Settings::default()
    };
    for parameter in Parameter::ALL {
        let (what, fits) = parameter.shape();
        let value = get(options, parameter.name(), what, |value| fits(value).then(|| value.clone()))?;
        settings.extras.extend(value.map(|value| (parameter, value)));
    }
    let include = options.get("include").and_then(Value::as_array);
    settings.logprobs = include.is_some_and(|include| include.iter().any(|what| what == LOGPROBS))
        || settings.extra(Parameter::TopLogprobs).is_some_and(|count| *count != 0);
    match options.get("tools") {
        None | Some(Value::Null) => {}
        Some(Value::Array(tools)) => {
            for (index, tool) in tools.iter().enumerate() {
                check_tool(tool).map_err(|what| format!("tools[{index}]{what}"))?;
            }
        }
        Some(_) => return Err("tools is not a list".to_owned()),
    }
    settings.tools = offer::functions(offer::tools(options, input));
    // Providers refuse both when there are no tools.
    if !settings.tools.is_empty() {
        settings.parallel_tool_calls = get(options, "parallel_tool_calls", "true or false", Value::as_bool)?;
        settings.tool_choice = match options.get("tool_choice") {
            None | Some(Value::Null) => None,
            Some(choice) => {
                let read = offer::choice(choice, &mut settings.tools);
                Some(read.ok_or("tool_choice is not auto, none, required, a function, a custom tool or allowed_tools")?)
            }
        };
        if settings.tools.is_empty() {
            (settings.parallel_tool_calls, settings.tool_choice) = (None, None);
        }
    }
    Ok(settings)
}

fn get<T>(
    map: &Map<String, Value>,
    name: &str,
    what: &str,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<Option<T>, String> {
    match map.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => read(value).map(Some).ok_or_else(|| format!("{name} is not {what}")),
    }
}

fn word(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn format(format: &Value) -> Result<Option<Format>, String> {
    if format.is_null() {
        return Ok(None);
    }
    match format["type"].as_str() {
        Some("text") => Ok(None),
        Some("json_object") => Ok(Some(Format::JsonObject)),
        Some("json_schema") => {
            let schema = format["schema"].clone();
            if !schema.is_object() {
                return Err(".schema is not an object".to_owned());
            }
            let name = word(&format["name"]).unwrap_or_else(|| "answer".to_owned());
            Ok(Some(Format::JsonSchema { name, schema, strict: format["strict"].as_bool() }))
        }
        _ => Err(".type is not text, json_object or json_schema".to_owned()),
    }
}

/// Checks a tool as far as a model is told of it.
fn check_tool(tool: &Value) -> Result<(), String> {
    let kind = tool["type"].as_str().ok_or(".type is not a text")?;
    if matches!(kind, "function" | "custom" | "namespace") && !tool["name"].is_string() {
        return Err(".name is not a text".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings(options: Value) -> Result<Settings, ModelError> {
        Settings::read(options.as_object().unwrap(), &[])
    }

    #[test]
    fn null_and_unknown_options_are_nothing() {
        let options =
            json!({"temperature": null, "tools": null, "text": null, "reasoning": {"effort": null}, "store": 1});
        assert_eq!(settings(options).unwrap(), Settings::default());
        let options =
            json!({"tool_choice": "required", "parallel_tool_calls": true, "text": {"format": {"type": "text"}}});
        assert_eq!(settings(options).unwrap(), Settings::default());
    }

    #[test]
    fn a_wrong_option_is_named() {
        for (options, expected) in [
            (json!({"temperature": "hot"}), "options.temperature is not a number"),
            (json!({"max_output_tokens": 0}), "options.max_output_tokens is not a whole number above 0"),
            (json!({"text": {"format": {"type": "xml"}}}), "options.text.format.type is not"),
            (json!({"tools": [{"name": "f"}]}), "options.tools[0].type is not a text"),
            (
                json!({"tools": [{"type": "function", "name": "f"}], "tool_choice": {"type": "web_search"}}),
                "options.tool_choice is not auto",
            ),
            (json!({"tools": [{"type": "function"}]}), "options.tools[0].name is not a text"),
            (json!({"reasoning": {"effort": 3}}), "options.reasoning.effort is not a text"),
            (json!({"reasoning": "high"}), "options.reasoning is not an object"),
            (json!({"user": 7}), "options.user is not a text"),
            (json!({"top_logprobs": "2"}), "options.top_logprobs is not a whole number"),
        ] {
            let error = settings(options).unwrap_err();
            assert!(error.message.starts_with(expected), "{error}");
        }
    }
}
