//! What surrounds this turn.
//!
//! Each function asks the server anew: call it once and keep the answer.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use crate::host::context as host;
use crate::{Failure, Item};

/// Options of a model that agents have no use for themselves.
const PASSED_ON: [&str; 8] = [
    "presence_penalty",
    "frequency_penalty",
    "top_logprobs",
    "prompt_cache_key",
    "safety_identifier",
    "service_tier",
    "truncation",
    "include",
];

/// The request as the client sent it, without its input.
///
/// # Errors
///
/// `invalid_json` when a field has another type than the protocol says.
pub fn request() -> Result<Request, Failure> {
    Ok(serde_json::from_str(&host::request())?)
}

/// The items of earlier turns, inputs and outputs, oldest first; empty at the first turn.
///
/// # Errors
///
/// `invalid_json` when the history is not a list.
pub fn history() -> Result<Vec<Item>, Failure> {
    Ok(serde_json::from_str(&host::history())?)
}

/// The configuration that the operator gave this agent; an empty object when there is none. Give every
/// field of `T` a default (`#[serde(default)]`), and describe `T` in
/// [`config_schema`](crate::Agent::config_schema).
///
/// ```
/// use outlast_guest::{context, mock::Mock};
/// use serde_json::json;
///
/// #[derive(Default, serde::Deserialize, schemars::JsonSchema)]
/// #[serde(default, deny_unknown_fields)]
/// struct Config {
///     /// How the agent speaks.
///     tone: String,
/// }
///
/// let run = Mock::new().config(json!({"tone": "dry"})).call(context::config::<Config>);
/// assert_eq!(run.result.unwrap().tone, "dry");
/// let run = Mock::new().config(json!({"voice": "dry"})).call(context::config::<Config>);
/// assert_eq!(run.result.err().unwrap().code, "invalid_config");
/// ```
///
/// # Errors
///
/// `invalid_config` when it does not fit `T`.
pub fn config<T: DeserializeOwned>() -> Result<T, Failure> {
    serde_json::from_str(&host::config())
        .map_err(|error| Failure::invalid("invalid_config", format!("the agent's configuration does not fit: {error}")))
}

/// Whether the run is being cancelled. Calls that wait notice by themselves; a long computation should ask
/// now and then, and return.
pub fn cancelled() -> bool {
    host::cancelled()
}

/// The request of this turn. What the client did not send is empty.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Request {
    /// The model as the client named it: the agent, and perhaps an upstream model after a `/`.
    pub model: String,
    /// The client's instructions.
    pub instructions: Option<String>,
    /// The client's own words about the request.
    #[serde(deserialize_with = "null_is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// The sampling temperature.
    pub temperature: Option<f64>,
    /// The probability mass of nucleus sampling.
    pub top_p: Option<f64>,
    /// How many tokens the output may have, reasoning included.
    pub max_output_tokens: Option<u64>,
    /// How much the model should think: `effort`, `summary`.
    pub reasoning: Option<Value>,
    /// The form of the text: `format`, `verbosity`.
    pub text: Option<Value>,
    /// The functions that the client offers.
    pub tools: Option<Value>,
    /// Which of them to call.
    pub tool_choice: Option<Value>,
    /// Whether several may be called in parallel.
    pub parallel_tool_calls: Option<bool>,
    /// The client's name for its user.
    pub user: Option<String>,
    /// Every other field, by its name.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

impl Request {
    /// The options that a model understands, only those that the client sent: `temperature`, `tools` and so on.
    pub fn model_options(&self) -> Map<String, Value> {
        let options = [
            ("temperature", self.temperature.map(Value::from)),
            ("top_p", self.top_p.map(Value::from)),
            ("max_output_tokens", self.max_output_tokens.map(Value::from)),
            ("reasoning", self.reasoning.clone()),
            ("text", self.text.clone()),
            ("tools", self.tools.clone()),
            ("tool_choice", self.tool_choice.clone()),
            ("parallel_tool_calls", self.parallel_tool_calls.map(Value::from)),
            ("user", self.user.clone().map(Value::from)),
            ("metadata", Some(&self.metadata).filter(|metadata| !metadata.is_empty()).map(|metadata| json!(metadata))),
        ];
        let others =
            PASSED_ON.into_iter().map(|name| (name, self.rest.get(name).filter(|value| !value.is_null()).cloned()));
        options.into_iter().chain(others).filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }

    /// The names of the tools that the client offers and runs itself: functions, custom tools, and namespaces, which stand
    /// for all their members.
    pub fn client_functions(&self) -> Vec<String> {
        let tools = self.tools.as_ref().and_then(Value::as_array).into_iter().flatten();
        let run = tools.filter(|tool| matches!(tool["type"].as_str(), Some("function" | "custom" | "namespace")));
        run.filter_map(|tool| tool["name"].as_str().map(str::to_owned)).collect()
    }
}

fn null_is_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_keeps_what_it_does_not_know() {
        let request: Request = serde_json::from_value(json!({
            "model": "echo", "metadata": {"a": "b"}, "temperature": 0.5, "truncation": "auto"
        }))
        .unwrap();
        assert_eq!(request.model, "echo");
        assert_eq!(request.metadata["a"], "b");
        assert_eq!(request.temperature, Some(0.5));
        assert_eq!(request.top_p, None);
        assert_eq!(request.rest["truncation"], "auto");
    }

    #[test]
    fn only_what_the_client_sent_becomes_an_option() {
        let sent = json!({"temperature": 0.0, "max_output_tokens": 16, "text": {"format": {"type": "text"}}});
        let mut body = sent.clone();
        body["model"] = "chat".into();
        body["top_p"] = Value::Null;
        body["store"] = false.into();
        let request: Request = serde_json::from_value(body).unwrap();
        assert_eq!(Value::Object(request.model_options()), sent);
    }

    #[test]
    fn every_option_that_a_model_understands_is_passed_on() {
        let sent = json!({
            "temperature": 0.7, "top_p": 0.9, "max_output_tokens": 64,
            "reasoning": {"effort": "low"}, "text": {"format": {"type": "json_object"}},
            "tools": [{"type": "function", "name": "add", "parameters": {}}], "tool_choice": "auto",
            "parallel_tool_calls": false, "user": "ann", "metadata": {"a": "b"}, "presence_penalty": 0.5,
            "frequency_penalty": 0.25, "top_logprobs": 2, "prompt_cache_key": "k", "safety_identifier": "s",
            "service_tier": "flex", "truncation": "auto", "include": []
        });
        let request: Request = serde_json::from_value(sent.clone()).unwrap();
        assert_eq!(Value::Object(request.model_options()), sent);
        assert_eq!(request.client_functions(), ["add"]);
    }

    #[test]
    fn null_is_as_good_as_absent() {
        let request: Request =
            serde_json::from_value(json!({"model": "echo", "metadata": null, "tools": null})).unwrap();
        assert_eq!(request, Request { model: "echo".into(), ..Request::default() });
    }
}
