//! The interface `model`: upstream language models.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use serde::Deserialize;
use serde_json::{Map, Value, json};
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
    model::{self, Call, CallDelta, Generation, ModelError, ModelErrorKind, Models},
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
        let client_functions = match client_functions(&request) {
            Ok(names) => names,
            Err(failure) => return Ok(Err(failure)),
        };
        let mut call = match self.start("model.forward", request).await? {
            Ok(call) => call,
            Err(failure) => return Ok(Err(failure)),
        };
        let mut shown = Shown { client_functions, ..Shown::default() };
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
                Ok(Some(model::Delta::Call(delta))) => shown.call(self, &delta).await?,
                Ok(None) => break,
                Err(error) => {
                    shown.close(self, false).await?;
                    return Ok(Err(error.into()));
                }
            }
        }
        match call.completion() {
            Ok(mut completion) => {
                let whole = !matches!(completion.finish_reason.as_str(), "length" | "content_filter");
                shown.calls(self, &mut completion.items, whole).await?;
                shown.close(self, whole).await?;
                let usage = protocol::Usage::from(Usage::from(&completion.usage));
                self.emit("model.forward", Emission::Usage(usage)).await?;
                Ok(Ok(completion.into()))
            }
            Err(error) => {
                shown.close(self, false).await?;
                Ok(Err(error.into()))
            }
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
    /// The functions whose calls go to the client.
    client_functions: Vec<String>,
    /// The calls that the client sees, by their places in the answer.
    open_calls: BTreeMap<usize, OpenCall>,
}

/// A call that the client sees.
struct OpenCall {
    item: ItemIndex,
    /// What the client will refer to.
    id: String,
    has_arguments: bool,
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

    /// Shows a piece of a function call, if it is one of the client's functions.
    async fn call(&mut self, state: &mut RunState, delta: &CallDelta) -> wasmtime::Result<()> {
        let call = match self.open_calls.entry(delta.place) {
            Entry::Occupied(call) => call.into_mut(),
            Entry::Vacant(place) if self.client_functions.contains(&delta.name) => {
                // What was said before the call is said.
                for item in [self.reasoning.take(), self.message.take()].into_iter().flatten() {
                    state.emit("model.forward", Emission::Finish(item)).await?;
                }
                let (item, id) = state.open_call("model.forward", &delta.name).await?;
                place.insert(OpenCall { item, id, has_arguments: false })
            }
            Entry::Vacant(_) => return Ok(()),
        };
        call.has_arguments |= !delta.arguments.is_empty();
        state.emit("model.forward", Emission::Arguments(call.item, &delta.arguments)).await?;
        Ok(())
    }

    /// Closes the calls that the client sees, shows those that came in one piece, and gives the items of the answer
    /// the ids that the client knows. In an answer that is not `whole`, a call is not either.
    async fn calls(&mut self, state: &mut RunState, items: &mut [Value], whole: bool) -> wasmtime::Result<()> {
        let calls = items.iter_mut().filter(|item| item["type"] == "function_call");
        for (place, call) in calls.enumerate() {
            let text = |field: &str| call[field].as_str().unwrap_or_default().to_owned();
            // It was not told piece by piece, or it has no arguments, for which `{}` stands.
            if whole && !self.open_calls.get(&place).is_some_and(|call| call.has_arguments) {
                let (name, arguments) = (text("name"), text("arguments"));
                self.call(state, &CallDelta { place, name, arguments }).await?;
            }
            let Some(OpenCall { item, id, .. }) = self.open_calls.remove(&place) else { continue };
            let emission = if whole { Emission::Finish(item) } else { Emission::Abandon(item) };
            state.emit("model.forward", emission).await?;
            call["call_id"] = id.into();
        }
        Ok(())
    }

    async fn close(&mut self, state: &mut RunState, finished: bool) -> wasmtime::Result<()> {
        let calls = std::mem::take(&mut self.open_calls).into_values().map(|call| call.item);
        for item in [self.reasoning.take(), self.message.take()].into_iter().flatten().chain(calls) {
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
            model::Delta::Call(CallDelta { place, name, arguments }) => Self::Other(
                json!({"type": "function_call", "index": place, "name": name, "arguments": arguments}).to_string(),
            ),
        }
    }
}
