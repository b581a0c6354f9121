//! The interface `model`: upstream language models.
//!
//! A call is in the journal: that it began, and how it ended. Of a call that was forwarded, the text stands in the
//! events and nowhere else. A call that was in flight when the server stopped goes on as its provider's `on_interrupt`
//! says.

mod forward;
mod generate;

use std::sync::Arc;

use outlast_model::{Call, CallDelta, Generation, ModelError, ModelErrorKind, Models, OnInterrupt, restored};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use wasmtime::component::Resource;

use crate::{
    bindings::{
        handles::OpenGeneration,
        model::{Completion, Delta, Host, Request},
        types::{Failure, FailureKind, Usage},
    },
    failure::{cancelled, failure},
    json::{self, Unread},
    sandbox::{RunState, digest},
};

/// The most JSON values of an input, and of its options: each of them takes some hundred bytes of memory while the call is
/// written.
const VALUES: usize = 250_000;

impl Host for RunState {
    async fn generate(&mut self, request: Request) -> wasmtime::Result<Result<Resource<OpenGeneration>, Failure>> {
        generate::generate(self, request).await
    }

    async fn forward(&mut self, request: Request) -> wasmtime::Result<Result<Completion, Failure>> {
        forward::forward(self, request).await
    }

    async fn models(&mut self) -> wasmtime::Result<Vec<String>> {
        const IMPORT: &str = "model.models";
        if let Some(names) = self.replayed(IMPORT, "")? {
            return Ok(names);
        }
        let models = self.models_of(IMPORT)?;
        let granted = &self.active(IMPORT)?.granted()?.models;
        let mut names = models.names();
        names.retain(|name| granted.fits(name));
        let named =
            granted.named().filter(|name| models.resolve(Some(name)).is_ok_and(|target| target.to_string() == *name));
        let new: Vec<_> = named.filter(|name| !names.iter().any(|known| known == name)).map(str::to_owned).collect();
        names.extend(new);
        self.record(IMPORT, String::new(), &names).await?;
        Ok(names)
    }
}

impl RunState {
    fn models_of(&mut self, import: &str) -> wasmtime::Result<Arc<Models>> {
        let models = self.active(import)?.models.clone();
        models.ok_or_else(|| wasmtime::Error::msg("a run without models"))
    }

    /// Why a new call is not made, as far as that is clear before its input is read; none when it is.
    fn refusal(&mut self, import: &str, request: &Request) -> wasmtime::Result<Option<Failure>> {
        if let Err(failure) = self.generations.check(size_of(request)) {
            return Ok(Some(failure));
        }
        self.denied(import, request.model.as_deref())
    }

    /// Why the operator does not allow a call of this model; none when they do, and when there is no such model.
    fn denied(&mut self, import: &str, model: Option<&str>) -> wasmtime::Result<Option<Failure>> {
        let models = self.models_of(import)?;
        let granted = self.active(import)?.granted()?;
        let Ok(target) = models.resolve(model) else { return Ok(None) };
        if granted.models.allows(&target) {
            return Ok(None);
        }
        let (what, line) = (format!("call the model {target}"), format!("`models = [\"{target}\"]`"));
        let denied = granted.section.denied("model_not_granted", &what, &line, "");
        self.log.note(tracing::Level::WARN, "model", &denied.message);
        Ok(Some(denied))
    }

    /// Reads what a component asks a model, and with it, if it is asked `to_forward`, which functions are the client's.
    fn read(
        &self,
        request: Request,
        to_forward: bool,
    ) -> impl Future<Output = Result<(Call, ClientFunctions), Failure>> + Send + use<> {
        let bytes = size_of(&request);
        self.aside(bytes, move || {
            let mut functions = if to_forward { client_functions(&request)? } else { ClientFunctions::default() };
            let call = read(request)?;
            functions.names.extend(call.brought_tools());
            Ok::<_, Failure>((call, functions))
        })
    }

    /// Calls a model, if the operator allows it. One that may not be asked again is not asked before it is in the journal that it is.
    async fn start(&mut self, import: &str, call: Call) -> wasmtime::Result<Result<Generation, Failure>> {
        let models = self.models_of(import)?;
        if let Some(denied) = self.denied(import, call.model.as_deref())? {
            return Ok(Err(denied));
        }
        let longest = self.event_bytes;
        let run = self.active(import)?;
        let once = run.journaled && models.on_interrupt(call.model.as_deref()) == OnInterrupt::Fail;
        let committed = once.then(|| run.port.committed());
        let lease = run.lease.clone();
        let started = async {
            if let Some(committed) = committed {
                committed.await;
            }
            // With all its attempts.
            lease.gate(models.start(call)).await.map(|generation| generation.in_pieces_of(longest))
        };
        Ok(match self.unless_stopped(started).await? {
            Ok(Ok(generation)) => {
                if let left_out @ 1.. = generation.left_out() {
                    let line = format!("the first {left_out} items were left out (truncation: auto)");
                    self.log.note(tracing::Level::INFO, "model", &line);
                }
                Ok(generation)
            }
            Ok(Err(error)) => Err(self.failed(error)),
            Err(failure) => Err(failure),
        })
    }

    /// What a component reads of a call that failed. What the provider said is for the operator alone.
    fn failed(&self, error: ModelError) -> Failure {
        self.log.note(tracing::Level::WARN, "model", &format!("{}: {}", error.code, error.in_full()));
        error.into()
    }

    /// Counts what a call took that has ended.
    fn count(&self, usage: &outlast_model::Usage) {
        if let Some(run) = &self.run {
            run.meter.tokens(usage.input_tokens, usage.output_tokens);
        }
    }

    /// What happens to a call that was in flight when the server stopped.
    fn on_interrupt(&mut self, import: &str, model: Option<&str>) -> wasmtime::Result<OnInterrupt> {
        Ok(self.models_of(import)?.on_interrupt(model))
    }

    /// Waits for the upstream, and gives up when the run is asked to stop.
    async fn unless_stopped<T>(&mut self, wait: impl Future<Output = T>) -> wasmtime::Result<Result<T, Failure>> {
        let stop = self.active("model")?.stop.clone();
        let result = stop.run_until_cancelled(wait).await.ok_or_else(cancelled);
        self.clock.advance();
        Ok(result)
    }
}

/// What a request has in all, in bytes.
fn size_of(request: &Request) -> usize {
    let Request { model, instructions, input, options } = request;
    let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    length(model) + length(instructions) + input.len() + length(options)
}

/// The digest of a call's arguments, and the request again.
fn digested(run: &RunState, request: Request) -> impl Future<Output = (String, Request)> + Send + use<> {
    run.aside(size_of(&request), move || (digest_of(&request), request))
}

/// The digest of a call's arguments.
fn digest_of(request: &Request) -> String {
    let Request { model, instructions, input, options } = request;
    fn bytes(text: &Option<String>) -> &[u8] {
        text.as_deref().unwrap_or_default().as_bytes()
    }
    digest(&[bytes(model), bytes(instructions), input.as_bytes(), bytes(options)])
}

/// What a component reads of a call that the server's stop has ended.
fn interrupted() -> Failure {
    Failure {
        kind: FailureKind::Interrupted,
        code: "interrupted".to_owned(),
        message: "The server was stopped while the model was answering.".to_owned(),
        retry_after_ms: None,
    }
}

/// The functions whose calls go to the client.
#[derive(Debug, Default)]
struct ClientFunctions {
    names: Vec<String>,
    /// Whether the calls of all others do so, too: nobody has declared those.
    others: bool,
}

impl ClientFunctions {
    fn have(&self, name: &str) -> bool {
        self.others || self.names.iter().any(|known| known == name)
    }
}

/// Reads the option `client_functions`, a list of names. Where all `tools` are the client's, a call of anything else is no
/// business of the component.
fn client_functions(request: &Request) -> Result<ClientFunctions, Failure> {
    #[derive(Deserialize)]
    struct Options {
        #[serde(default)]
        client_functions: Vec<String>,
        tools: Option<Vec<Named>>,
    }
    #[derive(Deserialize)]
    struct Named {
        name: Option<String>,
    }
    let Some(options) = request.options.as_deref() else {
        return Ok(ClientFunctions { others: true, names: Vec::new() });
    };
    let read: Result<Options, _> = serde_json::from_str(options);
    let wrong = |error| invalid("invalid_options", &format!("`options`: {error}"));
    let Options { client_functions: names, tools } = read.map_err(wrong)?;
    let others = tools.iter().flatten().filter_map(|tool| tool.name.as_ref()).all(|name| names.contains(name));
    Ok(ClientFunctions { names, others })
}

fn read(request: Request) -> Result<Call, Failure> {
    let unread = |unread: Unread, field: &str, what: &str| match unread {
        Unread::TooMany(most) => {
            let message = format!("`{field}` has more than {most} values, the limit.");
            failure(FailureKind::Limit, "too_many_values", message)
        }
        Unread::Wrong(error) => {
            invalid(&format!("invalid_{field}"), &format!("`{field}` is not a JSON {what}: {error}"))
        }
    };
    let input: Vec<Value> = json::read(&request.input, VALUES).map_err(|why| unread(why, "input", "array"))?;
    let options: Map<String, Value> = match request.options.as_deref() {
        None => Map::new(),
        Some(text) => json::read(text, VALUES).map_err(|why| unread(why, "options", "object"))?,
    };
    let bytes = size_of(&request);
    Ok(Call { model: request.model, instructions: request.instructions, input, options, partial: None, bytes })
}

fn invalid(code: &str, message: &str) -> Failure {
    Failure { kind: FailureKind::Invalid, code: code.to_owned(), message: message.to_owned(), retry_after_ms: None }
}

impl From<ModelError> for Failure {
    fn from(error: ModelError) -> Self {
        let kind = match error.kind {
            ModelErrorKind::Invalid => FailureKind::Invalid,
            ModelErrorKind::Denied => FailureKind::Denied,
            ModelErrorKind::NotFound => FailureKind::NotFound,
            ModelErrorKind::Limit => FailureKind::Limit,
            ModelErrorKind::RateLimited => FailureKind::RateLimited,
            ModelErrorKind::Timeout => FailureKind::Timeout,
            ModelErrorKind::Unavailable => FailureKind::Unavailable,
            ModelErrorKind::Cancelled => FailureKind::Cancelled,
            ModelErrorKind::Other => FailureKind::Other,
        };
        let retry_after_ms = error.retry_after.and_then(|wait| u64::try_from(wait.as_millis()).ok());
        Self { kind, code: error.code.to_owned(), message: error.message, retry_after_ms }
    }
}

impl From<&outlast_model::Usage> for Usage {
    fn from(usage: &outlast_model::Usage) -> Self {
        Self {
            input_tokens: usage.input_tokens,
            cached_tokens: usage.cached_tokens,
            cache_write_tokens: usage.cache_write_tokens,
            output_tokens: usage.output_tokens,
            reasoning_tokens: usage.reasoning_tokens,
        }
    }
}

impl From<outlast_model::Completion> for Completion {
    fn from(completion: outlast_model::Completion) -> Self {
        let items = completion.items.into_iter().map(|item| restored(item, &completion.tools)).collect();
        Self {
            items: Value::Array(items).to_string(),
            finish_reason: completion.finish_reason,
            usage: (&completion.usage).into(),
            model: completion.model,
        }
    }
}

impl From<outlast_model::Delta> for Delta {
    fn from(delta: outlast_model::Delta) -> Self {
        match delta {
            outlast_model::Delta::Text(text) => Self::Text(text),
            outlast_model::Delta::Reasoning(text) => Self::Reasoning(text),
            outlast_model::Delta::Logprobs(likely) => {
                Self::Other(json!({"type": "logprobs", "logprobs": likely}).to_string())
            }
            outlast_model::Delta::Refusal(text) => Self::Other(json!({"type": "refusal", "refusal": text}).to_string()),
            outlast_model::Delta::Call(CallDelta { place, name, arguments }) => Self::Other(
                json!({"type": "function_call", "index": place, "name": name, "arguments": arguments}).to_string(),
            ),
        }
    }
}
