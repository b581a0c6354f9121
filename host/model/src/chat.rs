//! The Chat Completions API, spoken by OpenAI and by most providers, gateways and local servers.
//!
//! Guarantees: bytes of text and of function arguments arrive as the model wrote them; an answer that ends without a
//! finish reason is `upstream_cut`. Memory: one event at most, of at most `max_response_bytes`.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::StreamExt as _;
use reqwest::{
    Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue},
};
use serde_json::Value;
use sse_stream::SseByteStream;
use tokio::time::timeout;

use super::{
    activity::Activity,
    answer::Answer,
    config::{ProviderConfig, Secret},
    conversation::Message,
    error::ModelError,
    halves::mark,
    incoming::{Incoming, incoming},
    parameter::Parameter,
    piece::Piece,
    request::{Takes, body},
    settings::Settings,
};

/// How long a provider may keep a stream open after the model has said that it is finished: usage may still come.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// How much of the body of an error is read.
const ERROR_BODY: usize = 64 * 1024;

/// A request, ready to be sent more than once.
#[derive(Clone, Debug)]
pub(super) struct ChatRequest {
    body: Bytes,
    /// The functions that it offers.
    functions: Arc<[String]>,
    /// Whether it asks how likely the tokens are.
    logprobs: bool,
}

/// A provider's address and key.
pub(super) struct Chat {
    provider: String,
    http: reqwest::Client,
    url: Url,
    authorization: Option<HeaderValue>,
    limits: Limits,
    takes: Takes,
}

#[derive(Clone, Copy)]
struct Limits {
    bytes: usize,
    last_words: Duration,
}

impl Chat {
    /// Makes the client ready. `base_url` is what the operator wrote, version included; the path is appended to it.
    pub(super) fn new(
        provider: &str,
        http: reqwest::Client,
        mut base_url: Url,
        key: Option<&Secret>,
        config: &ProviderConfig,
    ) -> Result<Self, String> {
        base_url
            .path_segments_mut()
            .map_err(|()| "base_url cannot have a path".to_owned())?
            .pop_if_empty()
            .extend(["chat", "completions"]);
        let authorization = key.map(|key| {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", key.reveal()))
                .map_err(|_| "the key holds characters that a header cannot hold".to_owned())?;
            value.set_sensitive(true);
            Ok::<_, String>(value)
        });
        let authorization = authorization.transpose()?;
        let limits = Limits { bytes: config.max_bytes(), last_words: LAST_WORDS.min(config.idle_timeout / 2) };
        let takes = takes(config, base_url.host_str());
        Ok(Self { provider: provider.to_owned(), http, url: base_url, authorization, limits, takes })
    }

    /// A request, made once for all its attempts.
    pub(super) fn request(&self, model: &str, turns: &[Message], settings: &Settings) -> ChatRequest {
        let body = body(model, turns, settings, &self.takes).to_string().into();
        let logprobs = settings.logprobs && self.takes.parameters.contains(&Parameter::TopLogprobs);
        ChatRequest { body, logprobs, functions: settings.tools.iter().map(|tool| tool.name.clone()).collect() }
    }

    /// Sends a request and returns when the provider has accepted it. Not limited in time.
    pub(super) async fn send(&self, request: &ChatRequest, activity: Activity) -> Result<ChatStream, ModelError> {
        let ChatRequest { body, functions, logprobs } = request.clone();
        let mut request = self
            .http
            .post(self.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "text/event-stream, application/json")
            .body(body);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        let response = request.send().await.map_err(|error| ModelError::transport(&self.provider, &error))?;
        let status = response.status();
        if !status.is_success() {
            let headers = response.headers().clone();
            let body = read(response, ERROR_BODY).await;
            return Err(ModelError::answered(&self.provider, status.as_u16(), Some(&headers), &body));
        }
        let is =
            |kind: &[u8]| response.headers().get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(kind));
        if is(b"text/html") {
            return Err(ModelError::unreadable(&self.provider, "an HTML page (is base_url right?)"));
        }
        let json = is(b"application/json");
        // Room for what surrounds the words.
        let (held, most) = (Arc::new(AtomicUsize::new(0)), self.limits.bytes.saturating_add(ERROR_BODY));
        let bytes = incoming(response, most, held.clone(), activity);
        let source = if json { Source::Json(bytes, Vec::new()) } else { Source::Events(SseByteStream::new(bytes)) };
        let answer = Some(Answer::new(functions, logprobs));
        let (provider, limits) = (self.provider.clone(), self.limits);
        Ok(ChatStream { provider, limits, source, held, answer, pieces: VecDeque::new() })
    }
}

/// What a provider takes: as its kind does, unless the operator says otherwise.
fn takes(config: &ProviderConfig, host: Option<&str>) -> Takes {
    let openai = host == Some("api.openai.com");
    let usual = config.kind.reasoning_field(openai);
    let reasoning = match config.send_reasoning {
        None => usual,
        Some(true) => usual.or(Some("reasoning_content")),
        Some(false) => None,
    };
    let parameters = config.parameters.clone();
    let parameters = parameters.unwrap_or_else(|| Parameter::usual(config.kind, openai).to_vec());
    Takes { openai, reasoning, parameters }
}

/// The text of a body as far as `most` bytes, or as far as it comes.
async fn read(mut response: reqwest::Response, most: usize) -> String {
    let mut bytes = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        bytes.extend_from_slice(&chunk[..chunk.len().min(most - bytes.len())]);
        if bytes.len() == most {
            break;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An answer that is coming in.
pub(super) struct ChatStream {
    provider: String,
    limits: Limits,
    source: Source,
    /// Bytes since the last event: what the parser may be holding.
    held: Arc<AtomicUsize>,
    /// None when the end was given out.
    answer: Option<Answer>,
    pieces: VecDeque<Piece>,
}

enum Source {
    Events(SseByteStream<Incoming>),
    /// A server that does not stream, and what it has said so far.
    Json(Incoming, Vec<u8>),
}

impl ChatStream {
    /// The next piece; none after the end. Safe to drop while it waits.
    pub(super) async fn next(&mut self) -> Result<Option<Piece>, ModelError> {
        loop {
            if let Some(piece) = self.pieces.pop_front() {
                return Ok(Some(piece));
            }
            let Some(answer) = &mut self.answer else { return Ok(None) };
            let over = match &mut self.source {
                Source::Events(events) => {
                    match next_event(events, answer.is_finished(), self.limits.last_words).await {
                        Some(Ok(event)) => {
                            self.held.store(0, Ordering::Relaxed);
                            match event.data.as_deref().map(str::trim) {
                                None | Some("") => false,
                                Some(data) if event.event.as_deref() == Some("error") => {
                                    return Err(ModelError::reported(&self.provider, &read_error(data)));
                                }
                                Some(data) if data.trim_matches('"').eq_ignore_ascii_case("[done]") => true,
                                Some(data) => {
                                    if !answer.take_plain(data, &mut self.pieces) {
                                        self.take(data)?;
                                    }
                                    false
                                }
                            }
                        }
                        // What broke after the end of the answer did not break the answer.
                        _ if answer.is_finished() => true,
                        None => return Err(ModelError::cut(&self.provider, "")),
                        Some(Err(sse_stream::Error::Body(error))) => return Err(self.broken(error.as_ref())),
                        Some(Err(error)) => return Err(ModelError::unreadable(&self.provider, &error.to_string())),
                    }
                }
                Source::Json(..) if answer.is_finished() => true,
                Source::Json(bytes, body) => {
                    let failed = loop {
                        match bytes.next().await {
                            Some(Ok(bytes)) => body.extend_from_slice(&bytes),
                            Some(Err(error)) => break Some(error),
                            None => break None,
                        }
                    };
                    let body = std::mem::take(body);
                    if let Some(error) = failed {
                        return Err(self.broken(&error));
                    }
                    self.take(&String::from_utf8_lossy(&body))?;
                    false
                }
            };
            if over && let Some(answer) = self.answer.take() {
                self.pieces.extend(answer.end(&self.provider)?);
            }
        }
    }

    fn take(&mut self, chunk: &str) -> Result<(), ModelError> {
        let json: Value = serde_json::from_str(chunk)
            .or_else(|_| serde_json::from_str(&mark(chunk)))
            .map_err(|error| ModelError::unreadable(&self.provider, &format!("{error}: {chunk}")))?;
        if let Some(answer) = &mut self.answer {
            let pieces = answer.take(&self.provider, json)?;
            if matches!(self.source, Source::Json(..)) && !answer.is_finished() {
                return Err(ModelError::unreadable(&self.provider, "JSON without a finish reason"));
            }
            self.pieces.extend(pieces);
        }
        Ok(())
    }

    fn broken(&self, error: &(dyn std::error::Error + 'static)) -> ModelError {
        match error.downcast_ref::<io::Error>() {
            Some(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                ModelError::too_large(&self.provider, self.limits.bytes)
            }
            _ => ModelError::transport(&self.provider, error),
        }
    }
}

/// What an event `error` says, JSON or not.
fn read_error(data: &str) -> Value {
    serde_json::from_str(data).unwrap_or_else(|_| data.into())
}

/// The next event; none at the end, or when nothing more is worth waiting for.
async fn next_event(
    events: &mut SseByteStream<Incoming>,
    finished: bool,
    last_words: Duration,
) -> Option<Result<sse_stream::Sse, sse_stream::Error>> {
    if finished { timeout(last_words, events.next()).await.ok().flatten() } else { events.next().await }
}
