//! The interface `model`: upstream language models.

use std::sync::Arc;

use serde_json::{Map, Value};
use wasmtime::component::Resource;

use super::{
    bindings::{
        model::{Completion, Delta, Host, HostGeneration, Request},
        types::{Failure, FailureKind, Usage},
    },
    state::RunState,
    tasks::cancelled,
};
use crate::{
    model::{self, Call, Generation, ModelError, ModelErrorKind, Models},
    protocol::{self, Emission, Emitted, ItemIndex},
};

/// A model call that a component holds.
pub struct OpenGeneration {
    /// None after `finish`, or when the call has failed.
    call: Option<Generation>,
    /// What `finish` will say.
    failed: Option<ModelError>,
}

impl Host for RunState {
    async fn generate(&mut self, request: Request) -> wasmtime::Result<Result<Resource<OpenGeneration>, Failure>> {
        match self.start("model.generate", request).await? {
            Ok(call) => {
                let open = OpenGeneration { call: Some(call), failed: None };
                Ok(Ok(self.table.push(open)?))
            }
            Err(failure) => Ok(Err(failure)),
        }
    }

    async fn forward(&mut self, request: Request) -> wasmtime::Result<Result<Completion, Failure>> {
        let mut call = match self.start("model.forward", request).await? {
            Ok(call) => call,
            Err(failure) => return Ok(Err(failure)),
        };
        let mut shown = Shown::default();
        loop {
            let next = match self.unless_stopped(call.next()).await? {
                Ok(next) => next,
                Err(failure) => {
                    shown.close(self, false).await?;
                    return Ok(Err(failure));
                }
            };
            match next {
                Ok(Some(model::Delta::Text(text))) => shown.text(self, &text).await?,
                Ok(Some(model::Delta::Reasoning(text))) => shown.reasoning(self, &text).await?,
                Ok(Some(model::Delta::Other(_))) => {}
                Ok(None) => break,
                Err(error) => {
                    shown.close(self, false).await?;
                    return Ok(Err(error.into()));
                }
            }
        }
        shown.close(self, true).await?;
        match call.completion() {
            Ok(completion) => {
                let usage = protocol::Usage::from(Usage::from(&completion.usage));
                self.emit("model.forward", Emission::Usage(usage)).await?;
                Ok(Ok(completion.into()))
            }
            Err(error) => Ok(Err(error.into())),
        }
    }

    async fn models(&mut self) -> wasmtime::Result<Vec<String>> {
        Ok(self.models_of("model.models")?.names())
    }
}

impl HostGeneration for RunState {
    async fn next(&mut self, generation: Resource<OpenGeneration>) -> wasmtime::Result<Option<Delta>> {
        let Some(mut call) = self.table.get_mut(&generation)?.call.take() else { return Ok(None) };
        let (next, failed) = match self.unless_stopped(call.next()).await? {
            Ok(Ok(next)) => (next, None),
            Ok(Err(error)) => (None, Some(error)),
            // `finish` will say that the run is being cancelled.
            Err(_) => (None, None),
        };
        let open = self.table.get_mut(&generation)?;
        open.call = failed.is_none().then_some(call);
        open.failed = failed;
        Ok(next.map(Delta::from))
    }

    async fn finish(&mut self, generation: Resource<OpenGeneration>) -> wasmtime::Result<Result<Completion, Failure>> {
        let open = self.table.get_mut(&generation)?;
        if let Some(error) = open.failed.take() {
            return Ok(Err(error.into()));
        }
        let Some(mut call) = open.call.take() else {
            let message = "This generation has been finished already.";
            return Ok(Err(invalid("already_finished", message)));
        };
        loop {
            match self.unless_stopped(call.next()).await? {
                Ok(Ok(Some(_))) => {}
                Ok(Ok(None)) => break,
                Ok(Err(error)) => return Ok(Err(error.into())),
                Err(failure) => return Ok(Err(failure)),
            }
        }
        Ok(call.completion().map(Completion::from).map_err(Failure::from))
    }

    async fn drop(&mut self, generation: Resource<OpenGeneration>) -> wasmtime::Result<()> {
        self.table.delete(generation)?;
        Ok(())
    }
}

impl RunState {
    fn models_of(&mut self, import: &str) -> wasmtime::Result<Arc<Models>> {
        let models = self.active(import)?.models.clone();
        models.ok_or_else(|| wasmtime::Error::msg("a run without models"))
    }

    async fn start(&mut self, import: &str, request: Request) -> wasmtime::Result<Result<Generation, Failure>> {
        let models = self.models_of(import)?;
        let call = match read(request) {
            Ok(call) => call,
            Err(failure) => return Ok(Err(failure)),
        };
        Ok(match self.unless_stopped(models.start(call)).await? {
            Ok(started) => started.map_err(Failure::from),
            Err(failure) => Err(failure),
        })
    }

    /// Waits for the upstream, and gives up when the run is asked to stop.
    async fn unless_stopped<T>(&mut self, wait: impl Future<Output = T>) -> wasmtime::Result<Result<T, Failure>> {
        let stop = self.active("model")?.stop.clone();
        let result = tokio::select! {
            biased;
            () = stop.cancelled() => Err(cancelled()),
            value = wait => Ok(value),
        };
        self.clock.advance();
        Ok(result)
    }
}

/// The items that `forward` has open.
#[derive(Default)]
struct Shown {
    message: Option<ItemIndex>,
    reasoning: Option<ItemIndex>,
}

impl Shown {
    async fn text(&mut self, state: &mut RunState, text: &str) -> wasmtime::Result<()> {
        if let Some(item) = self.reasoning.take() {
            state.emit("model.forward", Emission::Finish(item)).await?;
        }
        let item = Self::item(&mut self.message, state, Emission::OpenMessage).await?;
        state.emit("model.forward", Emission::Text(item, text)).await?;
        Ok(())
    }

    async fn reasoning(&mut self, state: &mut RunState, text: &str) -> wasmtime::Result<()> {
        let item = Self::item(&mut self.reasoning, state, Emission::OpenReasoning).await?;
        state.emit("model.forward", Emission::Summary(item, text)).await?;
        Ok(())
    }

    async fn close(&mut self, state: &mut RunState, finished: bool) -> wasmtime::Result<()> {
        for item in [self.reasoning.take(), self.message.take()].into_iter().flatten() {
            let emission = if finished { Emission::Finish(item) } else { Emission::Abandon(item) };
            state.emit("model.forward", emission).await?;
        }
        Ok(())
    }

    async fn item(
        place: &mut Option<ItemIndex>,
        state: &mut RunState,
        open: Emission<'_>,
    ) -> wasmtime::Result<ItemIndex> {
        if let Some(item) = *place {
            return Ok(item);
        }
        match state.emit("model.forward", open).await? {
            Emitted::Item(item) => Ok(*place.insert(item)),
            other => Err(wasmtime::Error::msg(format!("opening an item gave {other:?}"))),
        }
    }
}

fn read(request: Request) -> Result<Call, Failure> {
    let input: Vec<Value> = serde_json::from_str(&request.input)
        .map_err(|error| invalid("invalid_input", &format!("`input` is not a JSON array: {error}")))?;
    let options: Map<String, Value> = match request.options.as_deref() {
        None => Map::new(),
        Some(text) => serde_json::from_str(text)
            .map_err(|error| invalid("invalid_options", &format!("`options` is not a JSON object: {error}")))?,
    };
    Ok(Call { model: request.model, instructions: request.instructions, input, options })
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
            model::Delta::Other(value) => Self::Other(value.to_string()),
        }
    }
}
