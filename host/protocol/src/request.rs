//! The body of `POST /v1/responses`, checked.
//!
//! A field of the wrong type, out of its range or not one of its words is refused with the field's name; a
//! quoted `"false"` is not a boolean. Fields that the API does not know are ignored, because clients send
//! some; fields that it knows and this server does not serve are refused, because a client that sent one
//! relies on it.

use serde_json::{Map, Value, json};

use super::{
    check::{Checked, RequestLimits, missing, one_of, wrong_type},
    compaction,
    conversation::ConversationId,
    error::{ApiError, shown_id},
    id::ResponseId,
    input,
    response::Response,
    status::Status,
    tools,
};

/// A request that was found to be right.
#[derive(Clone, Debug)]
pub struct CreateRequest {
    /// The model as the client named it: `agent` or `agent/upstream-model`.
    pub model: String,
    /// The input items, in the protocol's full shapes.
    pub input: Vec<Value>,
    /// Whether the response is kept.
    pub store: bool,
    /// Whether the answer is a stream.
    pub stream: bool,
    /// Whether the answer comes before the run has ended.
    pub background: bool,
    /// The response that this one continues.
    pub previous: Option<ResponseId>,
    /// The conversation that it belongs to.
    pub conversation: Option<ConversationId>,
    /// The items between `previous` and the input that are nowhere else: the turns of responses that are not kept.
    pub earlier: Vec<Value>,
    /// Everything else as the client sent it, without `input`: what `context.request` shows the agent.
    pub fields: Map<String, Value>,
}

/// Known parameters that are not served. Sent with a value other than null, they are refused.
const UNSERVED: [&str; 1] = ["prompt"];
/// Known parameters that are accepted and have no effect.
const WITHOUT_EFFECT: [&str; 4] = ["background_options", "moderation", "access_programs", "image"];
/// The most things that [`CreateRequest::ignored`] names.
const MOST_IGNORED: usize = 16;

impl CreateRequest {
    /// Reads and checks a request body.
    pub fn parse(body: &[u8], limits: &RequestLimits) -> Result<Self, ApiError> {
        Self::from_fields(Checked::body(body)?, limits)
    }

    /// Checks the fields of a request.
    pub fn from_fields(mut fields: Map<String, Value>, limits: &RequestLimits) -> Result<Self, ApiError> {
        let input = fields.remove("input");
        let checked = Checked(&fields);
        let model = checked.required_string("model")?;
        if model.is_empty() || model.len() > 256 {
            return Err(ApiError::invalid("model", "invalid_value", "'model' must have 1 to 256 characters."));
        }
        if model.ends_with('/') {
            let message = "'model' ends with '/': name an upstream model after it, or send the agent's name alone.";
            return Err(ApiError::invalid("model", "invalid_value", message));
        }
        let store = checked.boolean("store")?.unwrap_or(true);
        let stream = checked.boolean("stream")?.unwrap_or(false);
        let background = checked.boolean("background")?.unwrap_or(false);
        if background && !store {
            let message = "'background' needs 'store': a response that is not stored cannot be fetched later.";
            return Err(ApiError::invalid("background", "background_requires_store", message));
        }
        let previous = match checked.string("previous_response_id")? {
            Some(id) => Some(ResponseId::parse(id).ok_or_else(|| previous_not_found(id))?),
            None => None,
        };
        let conversation = fields.get("conversation").map(ConversationId::read).transpose()?;
        if conversation.is_some() && previous.is_some() {
            let message = "'conversation' and 'previous_response_id' exclude each other: a conversation knows its last \
                           response.";
            return Err(ApiError::invalid("conversation", "mutually_exclusive_parameters", message));
        }
        for name in UNSERVED {
            if fields.contains_key(name) {
                return Err(unserved(name));
            }
        }
        checked.rest(input.as_ref())?;
        let model = model.to_owned();
        let input = match input {
            Some(input) => input::normalize(input, limits)?,
            // What it continues from may be all that there is to answer.
            None if previous.is_some() || conversation.is_some() => Vec::new(),
            None => return Err(missing("input")),
        };
        Ok(Self { model, input, store, stream, background, previous, conversation, earlier: Vec::new(), fields })
    }

    /// The agent: what stands before the first `/` of the model.
    pub fn agent(&self) -> &str {
        self.model.split_once('/').map_or(&self.model, |(agent, _)| agent)
    }

    /// The upstream model: what stands after the first `/`, if anything does.
    pub fn upstream(&self) -> Option<&str> {
        self.model.split_once('/').map(|(_, upstream)| upstream).filter(|name| !name.is_empty())
    }

    /// What of the request has no effect, as `tools[8].type=web_search`: the answer is a usable one all the same. At most 16
    /// things, and how many more there are.
    pub fn ignored(&self) -> Vec<String> {
        let fields =
            WITHOUT_EFFECT.iter().filter(|name| self.fields.contains_key(**name)).map(|name| (*name).to_owned());
        let management = compaction::ignored(&self.fields);
        let mut ignored =
            fields.chain(management).chain(tools::ignored(self.fields.get("tools"))).chain(input::ignored(&self.input));
        let mut named: Vec<String> = ignored.by_ref().take(MOST_IGNORED).collect();
        let more = ignored.count();
        if more > 0 {
            named.push(format!("and {more} more"));
        }
        named
    }

    /// The response as it is at its first event, accepted at `created_at` (seconds since 1970).
    pub fn response(&self, id: &ResponseId, created_at: i64) -> Response {
        let field = |name: &str| self.fields.get(name).cloned();
        let string = |name: &str| self.fields.get(name).and_then(Value::as_str).map(str::to_owned);
        let count = |name: &str| self.fields.get(name).and_then(Value::as_u64);
        Response {
            id: id.as_str().to_owned(),
            object: "response".to_owned(),
            created_at,
            completed_at: None,
            status: if self.background { Status::QUEUED } else { Status::IN_PROGRESS },
            background: self.background,
            store: self.store,
            model: self.model.clone(),
            output: Vec::new(),
            error: None,
            incomplete_details: None,
            instructions: string("instructions"),
            previous_response_id: string("previous_response_id"),
            conversation: self.conversation.as_ref().map(|id| json!({"id": id.as_str()})),
            metadata: field("metadata").unwrap_or_else(|| json!({})),
            tools: shown_tools(self.fields.get("tools")),
            tool_choice: field("tool_choice").unwrap_or_else(|| json!("auto")),
            parallel_tool_calls: self.fields.get("parallel_tool_calls").and_then(Value::as_bool).unwrap_or(true),
            max_tool_calls: count("max_tool_calls"),
            max_output_tokens: count("max_output_tokens"),
            temperature: field("temperature").unwrap_or_else(|| json!(1)),
            top_p: field("top_p").unwrap_or_else(|| json!(1)),
            presence_penalty: field("presence_penalty").unwrap_or_else(|| json!(0)),
            frequency_penalty: field("frequency_penalty").unwrap_or_else(|| json!(0)),
            top_logprobs: count("top_logprobs").unwrap_or(0),
            text: text(self.fields.get("text")),
            truncation: string("truncation").unwrap_or_else(|| "disabled".to_owned()),
            reasoning: with_defaults(self.fields.get("reasoning"), json!({"effort": null, "summary": null})),
            service_tier: "default".to_owned(),
            safety_identifier: string("safety_identifier"),
            prompt_cache_key: string("prompt_cache_key"),
            usage: None,
            user: string("user"),
        }
    }
}

/// `given` with the keys of `defaults` that it lacks.
fn with_defaults(given: Option<&Value>, defaults: Value) -> Value {
    let (Some(Value::Object(given)), Value::Object(mut whole)) = (given, defaults.clone()) else { return defaults };
    whole.extend(given.iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key.clone(), value.clone())));
    Value::Object(whole)
}

/// The text options with every key that a response shows.
fn text(given: Option<&Value>) -> Value {
    let mut text = with_defaults(given, json!({"format": {"type": "text"}}));
    if text["format"]["type"] == "json_schema" {
        let defaults = json!({"type": "", "name": "", "description": null, "schema": null, "strict": false});
        text["format"] = with_defaults(Some(&text["format"]), defaults);
    }
    text
}

/// The tools, functions among them with every key that a response shows.
fn shown_tools(given: Option<&Value>) -> Value {
    let defaults = json!({"type": "function", "name": "", "description": null, "parameters": null, "strict": null});
    let list = given.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let shown = list.iter().map(|tool| match tool["type"] == "function" {
        true => with_defaults(Some(tool), defaults.clone()),
        false => tool.clone(),
    });
    shown.collect()
}

/// A 400 for a `previous_response_id` that names nothing that this principal can go on from.
pub fn previous_not_found(id: &str) -> ApiError {
    let shown = shown_id(id);
    let message = format!("Previous response with id '{shown}' not found.");
    ApiError::invalid("previous_response_id", "previous_response_not_found", message)
}

fn unserved(name: &str) -> ApiError {
    ApiError::invalid(name, "unsupported_parameter", format!("'{name}' is not supported by this server yet."))
}

impl Checked<'_> {
    /// Checks the fields that the agent reads or the response shows.
    fn rest(&self, input: Option<&Value>) -> Result<(), ApiError> {
        self.string("instructions")?;
        self.number("temperature", 0.0, 2.0)?;
        self.number("top_p", 0.0, 1.0)?;
        self.number("presence_penalty", -2.0, 2.0)?;
        self.number("frequency_penalty", -2.0, 2.0)?;
        self.integer("top_logprobs", 0, 20)?;
        self.integer("max_output_tokens", 1, i64::MAX)?;
        self.integer("max_tool_calls", 1, i64::MAX)?;
        self.boolean("parallel_tool_calls")?;
        self.one_of("truncation", &["disabled", "auto"])?;
        // What the words mean is the provider's business, and new ones come.
        for name in ["service_tier", "user", "safety_identifier", "prompt_cache_key"] {
            self.text(name, 256)?;
        }
        self.object("stream_options")?;
        self.metadata()?;
        tools::check(self.0, input)?;
        self.text_format()?;
        self.reasoning()?;
        self.context_management()?;
        self.include()
    }

    fn context_management(&self) -> Result<(), ApiError> {
        let entries = self.read("context_management", "an array", Value::as_array)?;
        for (index, entry) in entries.into_iter().flatten().enumerate() {
            let param = format!("context_management[{index}]");
            let entry = entry.as_object().ok_or_else(|| wrong_type(&param, "an object", entry))?;
            input::required_string(&param, entry, "type")?;
            if let Some(threshold) = entry.get("compact_threshold").filter(|threshold| !threshold.is_null()) {
                let param = format!("{param}.compact_threshold");
                if !threshold.is_number() {
                    return Err(wrong_type(&param, "an integer", threshold));
                }
                if threshold.as_u64().is_none_or(|threshold| threshold == 0) {
                    let message = format!("'{param}' must be a number of tokens, at least 1.");
                    return Err(ApiError::invalid(param, "invalid_value", message));
                }
            }
        }
        Ok(())
    }

    fn text_format(&self) -> Result<(), ApiError> {
        let Some(text) = self.object("text")? else { return Ok(()) };
        if let Some(word) = text.get("verbosity").filter(|value| !value.is_null()) {
            let word = word.as_str().ok_or_else(|| wrong_type("text.verbosity", "a string", word))?;
            one_of("text.verbosity", word, &["low", "medium", "high"])?;
        }
        let Some(format) = text.get("format").filter(|value| !value.is_null()) else { return Ok(()) };
        let format = format.as_object().ok_or_else(|| wrong_type("text.format", "an object", format))?;
        let kind = format.get("type").and_then(Value::as_str).ok_or_else(|| missing("text.format.type"))?;
        one_of("text.format.type", kind, &["text", "json_object", "json_schema"])?;
        if kind == "json_schema" {
            format.get("name").and_then(Value::as_str).ok_or_else(|| missing("text.format.name"))?;
            format.get("schema").and_then(Value::as_object).ok_or_else(|| missing("text.format.schema"))?;
        }
        Ok(())
    }

    fn reasoning(&self) -> Result<(), ApiError> {
        let Some(reasoning) = self.object("reasoning")? else { return Ok(()) };
        // The words of `effort` are the provider's.
        for (name, words) in [("effort", None), ("summary", Some(&["auto", "concise", "detailed"][..]))] {
            let Some(word) = reasoning.get(name).filter(|value| !value.is_null()) else { continue };
            let param = format!("reasoning.{name}");
            let word = word.as_str().ok_or_else(|| wrong_type(&param, "a string", word))?;
            words.map_or(Ok(()), |words| one_of(&param, word, words))?;
        }
        Ok(())
    }

    fn include(&self) -> Result<(), ApiError> {
        let include = self.read("include", "an array", Value::as_array)?;
        for (index, value) in include.into_iter().flatten().enumerate() {
            let param = format!("include[{index}]");
            value.as_str().ok_or_else(|| wrong_type(&param, "a string", value))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: RequestLimits = RequestLimits { text_bytes: 1 << 20, input_items: 1_000 };

    fn parse(body: Value) -> Result<CreateRequest, ApiError> {
        CreateRequest::parse(body.to_string().as_bytes(), &LIMITS)
    }

    #[test]
    fn model_and_input_are_enough() {
        let request = parse(json!({"model": "chat/gpt/4o", "input": "hi"})).unwrap();
        assert!(request.store);
        assert!(!request.stream);
        assert_eq!((request.agent(), request.upstream()), ("chat", Some("gpt/4o")));
        assert_eq!(request.input.len(), 1);
    }

    #[test]
    fn every_wrong_field_is_named() {
        let cases = [
            (json!({"input": "x"}), "model", "missing_required_parameter"),
            (json!({"model": "echo"}), "input", "missing_required_parameter"),
            (json!({"model": "echo", "input": null}), "input", "missing_required_parameter"),
            (json!({"model": 3, "input": "x"}), "model", "invalid_type"),
            (json!({"model": "", "input": "x"}), "model", "invalid_value"),
            (json!({"model": "chat/", "input": "x"}), "model", "invalid_value"),
            (json!({"model": "echo", "input": "x", "stream": "false"}), "stream", "invalid_type"),
            (json!({"model": "echo", "input": "x", "store": 1}), "store", "invalid_type"),
            (json!({"model": "echo", "input": "x", "temperature": 2.5}), "temperature", "invalid_value"),
            (json!({"model": "echo", "input": "x", "top_p": "1"}), "top_p", "invalid_type"),
            (json!({"model": "echo", "input": "x", "max_output_tokens": 0}), "max_output_tokens", "invalid_value"),
            (json!({"model": "echo", "input": "x", "max_output_tokens": 1.5}), "max_output_tokens", "invalid_type"),
            (json!({"model": "echo", "input": "x", "metadata": {"a": 1}}), "metadata.a", "invalid_type"),
            (json!({"model": "echo", "input": "x", "metadata": []}), "metadata", "invalid_type"),
            (json!({"model": "echo", "input": "x", "truncation": "some"}), "truncation", "invalid_value"),
            (
                json!({"model": "echo", "input": "x", "tools": [{"type": "function"}]}),
                "tools[0].name",
                "missing_required_parameter",
            ),
            (
                json!({"model": "echo", "input": "x", "text": {"format": {"type": "xml"}}}),
                "text.format.type",
                "invalid_value",
            ),
            (json!({"model": "echo", "input": "x", "reasoning": {"effort": 3}}), "reasoning.effort", "invalid_type"),
            (json!({"model": "echo", "input": "x", "service_tier": 3}), "service_tier", "invalid_type"),
            (
                json!({"model": "echo", "input": "x", "context_management": {"type": "compaction"}}),
                "context_management",
                "invalid_type",
            ),
            (
                json!({"model": "echo", "input": "x", "context_management": [{"type": "compaction", "compact_threshold": 0}]}),
                "context_management[0].compact_threshold",
                "invalid_value",
            ),
            (
                json!({"model": "echo", "input": "x", "tool_choice": {"type": "function", "name": "f"}}),
                "tool_choice.name",
                "unknown_tool",
            ),
            (json!({"model": "echo", "input": "x", "prompt": {"id": "p"}}), "prompt", "unsupported_parameter"),
            (json!({"model": "echo", "input": "x", "conversation": ""}), "conversation", "invalid_value"),
            (
                json!({"model": "echo", "input": "x", "conversation": "c", "previous_response_id": format!("resp_{:032}", 7)}),
                "conversation",
                "mutually_exclusive_parameters",
            ),
            (
                json!({"model": "echo", "input": "x", "previous_response_id": "x"}),
                "previous_response_id",
                "previous_response_not_found",
            ),
            (
                json!({"model": "echo", "input": "x", "background": true, "store": false}),
                "background",
                "background_requires_store",
            ),
        ];
        for (body, param, code) in cases {
            let error = parse(body.clone()).unwrap_err();
            assert_eq!((error.param.as_deref(), error.code), (Some(param), code), "{body}");
        }
    }

    #[test]
    fn unknown_fields_are_ignored_and_nulls_are_absent() {
        let request =
            parse(json!({"model": "echo", "input": "x", "client_metadata": {}, "temperature": null})).unwrap();
        assert!(!request.fields.contains_key("temperature"));
    }

    #[test]
    fn words_of_providers_are_not_judged() {
        let body = json!({"model": "echo", "input": "x", "service_tier": "ultrafast", "reasoning": {"effort": "max"}});
        assert_eq!(parse(body).unwrap().fields["service_tier"], "ultrafast");
    }

    #[test]
    fn what_it_continues_from_may_be_all_that_there_is() {
        for body in [
            json!({"model": "echo", "conversation": "c"}),
            json!({"model": "echo", "previous_response_id": format!("resp_{:032}", 7)}),
        ] {
            assert_eq!(parse(body).unwrap().input, Vec::<Value>::new());
        }
    }

    #[test]
    fn what_has_no_effect_is_named() {
        let (function, search) = (json!({"type": "function", "name": "f"}), json!({"type": "web_search"}));
        let body = json!({
            "model": "echo", "tools": [function, search], "moderation": {},
            "input": [{"role": "user", "content": "x"}, {"type": "acme:thing"}],
        });
        let ignored = parse(body).unwrap().ignored();
        assert_eq!(ignored, ["moderation", "tools[1].type=web_search", "input[1].type=acme:thing"]);
        let body = json!({"model": "echo", "input": "x", "tools": vec![search; 20]});
        assert_eq!(parse(body).unwrap().ignored().last().unwrap(), "and 4 more");
    }

    #[test]
    fn json_that_is_none_and_json_that_is_too_deep_are_refused() {
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        for body in ["", "{", "nul", "{\"a\":1,}", "\u{0}", &deep] {
            assert_eq!(CreateRequest::parse(body.as_bytes(), &LIMITS).unwrap_err().code, "invalid_json");
        }
        let nested = |levels: usize| {
            let (open, close) = ("[".repeat(levels - 1), "]".repeat(levels - 1));
            CreateRequest::parse(
                format!("{{\"model\":\"m\",\"input\":\"x\",\"other\":{open}{close}}}").as_bytes(),
                &LIMITS,
            )
        };
        assert!(nested(100).is_ok());
        assert!(nested(101).unwrap_err().message.contains("100 levels"));
        assert_eq!(CreateRequest::parse(b"\xff", &LIMITS).unwrap_err().code, "invalid_json");
        assert_eq!(CreateRequest::parse(b"[]", &LIMITS).unwrap_err().code, "invalid_type");
    }

    #[test]
    fn the_response_shows_the_request_with_every_default() {
        let id = ResponseId::new(uuid::Uuid::from_u128(1));
        let response = parse(json!({"model": "echo", "input": "x"})).unwrap().response(&id, 7);
        insta::assert_snapshot!(serde_json::to_string_pretty(&response).unwrap());
    }
}
