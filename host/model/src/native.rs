//! Anthropic and Gemini in their own words, through `genai`.
//!
//! `genai` knows their requests and events; this module keeps its promises to those of the other client: an end
//! without a reason is `upstream_cut`, errors are told by status, a key is always given by us (`genai` would look
//! into the environment by itself). Not kept: `genai` holds one event and the body of an error without a limit.

use std::collections::BTreeMap;

use futures::StreamExt as _;
use genai::{
    Client, Error, ModelIden,
    adapter::AdapterKind,
    chat::{
        ChatMessage, ChatOptions, ChatRequest, ChatResponseFormat, ChatStream, ChatStreamEvent, ContentPart, JsonSpec,
        MessageContent, ReasoningEffort, StopReason, StreamEnd, Tool, ToolCall, ToolChoice, ToolResponse,
    },
    resolver::{AuthData, Endpoint, ProviderConfig},
    webc,
};
use reqwest::Url;
use serde_json::{Map, Value};

use super::{
    config::Secret,
    conversation::{FunctionCall, Message, Part, data_url},
    error::ModelError,
    finish,
    piece::{End, Piece, Usage},
    settings::{self, Format, Settings},
};

/// A provider that `genai` knows.
pub(super) struct Native {
    provider: String,
    adapter: AdapterKind,
    client: Client,
}

/// A request in `genai`'s words.
#[derive(Clone)]
pub(super) struct NativeRequest {
    model: ModelIden,
    chat: ChatRequest,
    options: ChatOptions,
}

/// An answer that is coming in.
pub(super) struct NativeStream {
    provider: String,
    stream: ChatStream,
    /// How much of each function call has been counted.
    calls: BTreeMap<String, usize>,
    ended: bool,
}

impl Native {
    /// Makes the client ready.
    pub(super) fn new(
        provider: &str,
        http: reqwest::Client,
        adapter: AdapterKind,
        base_url: Option<Url>,
        key: Option<&Secret>,
    ) -> Result<Self, String> {
        let target = ProviderConfig {
            // genai appends paths to it, and that needs the slash.
            endpoint: base_url.map(|url| Endpoint::from_owned(format!("{}/", url.as_str().trim_end_matches('/')))),
            auth: Some(AuthData::from_single(key.map_or("none", Secret::reveal))),
        };
        let client = Client::builder().with_reqwest(http).append_provider_config(adapter, target).build();
        let client = client.map_err(|error| format!(": {error}"))?;
        Ok(Self { provider: provider.to_owned(), adapter, client })
    }

    /// Puts a call into `genai`'s words.
    pub(super) fn request(
        &self,
        model: &str,
        turns: &[Message],
        settings: &Settings,
    ) -> Result<NativeRequest, ModelError> {
        let chat = ChatRequest { tools: tools(&settings.tools), ..ChatRequest::from_messages(messages(turns)) };
        let options = options(settings).map_err(ModelError::invalid)?;
        Ok(NativeRequest { model: ModelIden::new(self.adapter, model), chat, options })
    }

    /// Begins a call. What the provider says of it comes with the first piece.
    pub(super) async fn send(&self, request: NativeRequest) -> Result<NativeStream, ModelError> {
        let NativeRequest { model, chat, options } = request;
        let response = self.client.exec_chat_stream(model, chat, Some(&options)).await;
        let stream = response.map_err(|error| translate(&self.provider, &error))?.stream;
        Ok(NativeStream { provider: self.provider.clone(), stream, calls: BTreeMap::new(), ended: false })
    }
}

impl NativeStream {
    /// The next piece; none after the end.
    pub(super) async fn next(&mut self) -> Result<Option<Piece>, ModelError> {
        while !self.ended {
            let event = match self.stream.next().await {
                Some(event) => event.map_err(|error| translate(&self.provider, &error))?,
                None => return Err(ModelError::cut(&self.provider, "")),
            };
            return Ok(Some(match event {
                ChatStreamEvent::Chunk(chunk) if !chunk.content.is_empty() => Piece::Text(chunk.content),
                ChatStreamEvent::ReasoningChunk(chunk) if !chunk.content.is_empty() => Piece::Reasoning(chunk.content),
                ChatStreamEvent::ToolCallChunk(chunk) => {
                    let call = chunk.tool_call;
                    let size = call.fn_name.len() + arguments(&call.fn_arguments).len();
                    // It holds all of the call so far.
                    let before = self.calls.insert(call.call_id, size).unwrap_or_default();
                    Piece::Call(size.saturating_sub(before), None)
                }
                ChatStreamEvent::End(end) => {
                    self.ended = true;
                    Piece::End(self.end(end)?)
                }
                _ => continue,
            }));
        }
        Ok(None)
    }

    fn end(&self, mut end: StreamEnd) -> Result<End, ModelError> {
        let usage = usage(&end);
        let stop_reason = end.captured_stop_reason.take();
        let calls = end.captured_into_tool_calls();
        let word = match stop_reason {
            // genai ends a broken stream of Gemini as if it were whole, but cannot say why it ended.
            None => return Err(ModelError::cut(&self.provider, "")),
            Some(StopReason::Completed(_) | StopReason::StopSequence(_)) => "stop".to_owned(),
            Some(StopReason::MaxTokens(_)) => "length".to_owned(),
            Some(StopReason::ToolCall(_)) => "tool_calls".to_owned(),
            Some(StopReason::ContentFilter(_)) => "content_filter".to_owned(),
            Some(StopReason::Other(word)) => word,
        };
        let calls: Vec<FunctionCall> = calls.into_iter().flatten().map(function_call).collect();
        let reason =
            finish::reason(&word, !calls.is_empty()).ok_or_else(|| ModelError::ended(&self.provider, &word))?;
        let finish_reason = reason.to_owned();
        Ok(End { finish_reason, usage, model: None, calls })
    }
}

fn function_call(call: ToolCall) -> FunctionCall {
    // Gemini's calls have no id, and what genai makes up (`call#NAME#0`) comes again in the next turn.
    let call_id = if call.call_id.starts_with("call#") { String::new() } else { call.call_id };
    FunctionCall { call_id, name: call.fn_name, arguments: arguments(&call.fn_arguments) }
}

fn arguments(arguments: &Value) -> String {
    match arguments {
        Value::String(text) => text.clone(),
        Value::Null => "{}".to_owned(),
        other => other.to_string(),
    }
}

fn usage(end: &StreamEnd) -> Usage {
    let count = |tokens: Option<i32>| u64::try_from(tokens.unwrap_or_default()).unwrap_or_default();
    let Some(usage) = &end.captured_usage else { return Usage::default() };
    let input = usage.prompt_tokens_details.as_ref();
    let output = usage.completion_tokens_details.as_ref();
    Usage {
        input_tokens: count(usage.prompt_tokens),
        cached_tokens: count(input.and_then(|details| details.cached_tokens)),
        cache_write_tokens: count(input.and_then(|details| details.cache_creation_tokens)),
        output_tokens: count(usage.completion_tokens),
        reasoning_tokens: count(output.and_then(|details| details.reasoning_tokens)),
    }
}

fn messages(turns: &[Message]) -> Vec<ChatMessage> {
    // Gemini's outputs carry the name of the function.
    let mut names: BTreeMap<&str, &str> = BTreeMap::new();
    let mut messages = Vec::new();
    for turn in turns {
        messages.push(match turn {
            Message::System(text) => ChatMessage::system(text.as_str()),
            Message::User(parts) => {
                ChatMessage::user(MessageContent::from_parts(parts.iter().map(part).collect::<Vec<_>>()))
            }
            Message::Assistant { text, calls, .. } => {
                let text = Some(text).filter(|text| !text.is_empty() || calls.is_empty());
                let mut parts: Vec<ContentPart> = text.map(ContentPart::from_text).into_iter().collect();
                for call in calls {
                    names.insert(&call.call_id, &call.name);
                    parts.push(ContentPart::ToolCall(ToolCall {
                        call_id: call.call_id.clone(),
                        fn_name: call.name.clone(),
                        fn_arguments: match call.arguments.trim() {
                            "" => Value::Object(Map::new()),
                            text => serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned())),
                        },
                        thought_signatures: None,
                    }));
                }
                ChatMessage::assistant(MessageContent::from_parts(parts))
            }
            Message::Output { call_id, text, .. } => {
                let mut response = ToolResponse::new(call_id, text);
                response.fn_name = names.get(call_id.as_str()).map(|name| (*name).to_owned());
                ChatMessage::from(response)
            }
        });
    }
    messages
}

fn part(part: &Part) -> ContentPart {
    let binary = |url: &str, name: Option<String>, kind: &str| match data_url(url) {
        Some((media_type, data)) => ContentPart::from_binary_base64(media_type, data, name),
        None => ContentPart::from_binary_url(kind, url, name),
    };
    match part {
        Part::Text(text) => ContentPart::from_text(text),
        Part::Image { url, .. } => binary(url, None, "image/*"),
        Part::File { name, data } => binary(data, name.clone(), "application/octet-stream"),
        Part::Audio { data, format } => ContentPart::from_binary_base64(format!("audio/{format}"), data.as_str(), None),
    }
}

fn tools(tools: &[settings::Tool]) -> Option<Vec<Tool>> {
    let tools: Vec<Tool> = tools
        .iter()
        .map(|tool| {
            let mut made = Tool::new(tool.name.as_str());
            made.description = tool.description.clone();
            made.schema = tool.parameters.clone();
            made.strict = tool.strict;
            made
        })
        .collect();
    Some(tools).filter(|tools| !tools.is_empty())
}

fn options(settings: &Settings) -> Result<ChatOptions, String> {
    let effort = settings.effort.as_deref().map(|word| {
        let known = "none, minimal, low, medium, high, xhigh, max";
        ReasoningEffort::from_keyword(word).ok_or_else(|| format!("options.reasoning.effort is not one of {known}"))
    });
    let mut options = ChatOptions::default().with_capture_usage(true).with_capture_tool_calls(true);
    options.temperature = settings.temperature;
    options.top_p = settings.top_p;
    options.max_tokens = settings.max_output_tokens.map(|count| u32::try_from(count).unwrap_or(u32::MAX));
    options.reasoning_effort = effort.transpose()?;
    options.response_format = settings.format.as_ref().map(|format| match format {
        Format::JsonObject => ChatResponseFormat::JsonMode,
        Format::JsonSchema { name, schema, .. } => {
            ChatResponseFormat::JsonSpec(JsonSpec::new(name.as_str(), schema.clone()))
        }
    });
    options.tool_choice = settings.tool_choice.as_ref().map(|choice| match choice {
        settings::ToolChoice::Auto => ToolChoice::Auto,
        settings::ToolChoice::None => ToolChoice::None,
        settings::ToolChoice::Required => ToolChoice::Required,
        settings::ToolChoice::Function(name) => ToolChoice::tool(name.as_str()),
    });
    Ok(options)
}

fn translate(provider: &str, error: &Error) -> ModelError {
    match error {
        Error::HttpError { status, body, headers, .. } => {
            ModelError::answered(provider, status.as_u16(), Some(headers.as_ref()), body)
        }
        Error::WebModelCall { webc_error: webc::Error::ResponseFailedStatus { status, body, headers }, .. } => {
            ModelError::answered(provider, status.as_u16(), Some(headers.as_ref()), body)
        }
        Error::WebModelCall { webc_error: webc::Error::Reqwest(error), .. } => ModelError::transport(provider, error),
        Error::WebStream { error, .. } => match error.downcast_ref::<Error>() {
            Some(inner) => translate(provider, inner),
            None => ModelError::transport(provider, error.as_ref()),
        },
        Error::ChatResponse { body, .. } => ModelError::reported(provider, body),
        Error::StreamParse { serde_error, .. } => ModelError::unreadable(provider, &serde_error.to_string()),
        Error::MessageContentTypeNotSupported { cause, .. } => {
            ModelError::invalid(format!("The model provider {provider} cannot take this input: {cause}"))
        }
        other => ModelError::other(provider, &other.to_string()),
    }
}
