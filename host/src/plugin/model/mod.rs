//! The interface `model`: upstream language models.
//!
//! A call is in the journal: that it began, and how it ended. Of a call that was forwarded, the text stands in the
//! events and nowhere else. A call that was in flight when the server stopped goes on as its provider's `on_interrupt`
//! says.

mod forward;
mod generate;

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use wasmtime::component::Resource;

pub use generate::OpenGeneration;

use super::{
    bindings::{
        model::{Completion, Delta, Host, Request},
        types::{Failure, FailureKind, Usage},
    },
    journal::digest,
    state::RunState,
    tasks::cancelled,
};
use crate::model::{self, Call, CallDelta, Generation, ModelError, ModelErrorKind, Models, OnInterrupt};

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

    /// Calls a model, if the operator allows it. One that may not be asked again is not asked before it is in the journal that it is.
    async fn start(&mut self, import: &str, call: Call) -> wasmtime::Result<Result<Generation, Failure>> {
        let models = self.models_of(import)?;
        let run = self.active(import)?;
        let granted = run.granted()?;
        if let Ok(target) = models.resolve(call.model.as_deref())
            && !granted.models.allows(&target)
        {
            let (what, line) = (format!("call the model {target}"), format!("`models = [\"{target}\"]`"));
            let denied = granted.section.denied("model_not_granted", &what, &line, "");
            self.log.note(tracing::Level::WARN, "model", &denied.message);
            return Ok(Err(denied));
        }
        let once = run.journaled && models.on_interrupt(call.model.as_deref()) == OnInterrupt::Fail;
        let committed = once.then(|| run.port.committed());
        let lease = run.lease.clone();
        let started = async {
            if let Some(committed) = committed {
                committed.await;
            }
            // With all its attempts.
            lease.gate(models.start(call)).await
        };
        Ok(match self.unless_stopped(started).await? {
            Ok(started) => started.map_err(Failure::from),
            Err(failure) => Err(failure),
        })
    }

    /// Counts what a call took that has ended.
    fn count(&self, usage: &model::Usage) {
        if let Some(run) = &self.run {
            run.meter.tokens(usage.input_tokens, usage.output_tokens);
        }
    }

    /// What happens to a call that was in flight when the server stopped.
    fn on_interrupt(&mut self, import: &str, call: &Call) -> wasmtime::Result<OnInterrupt> {
        Ok(self.models_of(import)?.on_interrupt(call.model.as_deref()))
    }

    /// Waits for the upstream, and gives up when the run is asked to stop.
    async fn unless_stopped<T>(&mut self, wait: impl Future<Output = T>) -> wasmtime::Result<Result<T, Failure>> {
        let stop = self.active("model")?.stop.clone();
        let result = stop.run_until_cancelled(wait).await.ok_or_else(cancelled);
        self.clock.advance();
        Ok(result)
    }
}

/// The digest of a call's arguments.
fn digest_of(request: &Request) -> String {
    let Request { model, instructions, input, options } = request;
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    digest(&[text(model).as_bytes(), text(instructions).as_bytes(), input.as_bytes(), text(options).as_bytes()])
}

/// What a component reads of a call that the server's stop has ended.
fn interrupted() -> Failure {
    Failure {
        kind: FailureKind::Interrupted,
        code: "interrupted".to_owned(),
        message: "The server was stopped while the model answered.".to_owned(),
        retry_after_ms: None,
    }
}

/// The functions whose calls go to the client: the option `client_functions`, a list of names.
fn client_functions(request: &Request) -> Result<Vec<String>, Failure> {
    #[derive(Deserialize)]
    struct Options {
        #[serde(default)]
        client_functions: Vec<String>,
    }
    let Some(options) = request.options.as_deref() else { return Ok(Vec::new()) };
    let read: Result<Options, _> = serde_json::from_str(options);
    let wrong = |error| invalid("invalid_options", &format!("`options.client_functions`: {error}"));
    read.map(|options| options.client_functions).map_err(wrong)
}

fn read(request: Request) -> Result<Call, Failure> {
    let input: Vec<Value> = serde_json::from_str(&request.input)
        .map_err(|error| invalid("invalid_input", &format!("`input` is not a JSON array: {error}")))?;
    let options: Map<String, Value> = match request.options.as_deref() {
        None => Map::new(),
        Some(text) => serde_json::from_str(text)
            .map_err(|error| invalid("invalid_options", &format!("`options` is not a JSON object: {error}")))?,
    };
    Ok(Call { model: request.model, instructions: request.instructions, input, options, partial: None })
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

impl From<&model::Usage> for Usage {
    fn from(usage: &model::Usage) -> Self {
        Self {
            input_tokens: usage.input_tokens,
            cached_tokens: usage.cached_tokens,
            cache_write_tokens: usage.cache_write_tokens,
            output_tokens: usage.output_tokens,
            reasoning_tokens: usage.reasoning_tokens,
        }
    }
}

impl From<model::Completion> for Completion {
    fn from(completion: model::Completion) -> Self {
        Self {
            items: Value::Array(completion.items).to_string(),
            finish_reason: completion.finish_reason,
            usage: (&completion.usage).into(),
            model: completion.model,
        }
    }
}

impl From<model::Delta> for Delta {
    fn from(delta: model::Delta) -> Self {
        match delta {
            model::Delta::Text(text) => Self::Text(text),
            model::Delta::Reasoning(text) => Self::Reasoning(text),
            model::Delta::Call(CallDelta { place, name, arguments }) => Self::Other(
                json!({"type": "function_call", "index": place, "name": name, "arguments": arguments}).to_string(),
            ),
        }
    }
}
