//! `model.generate`: the component sees every piece, and the client what the component makes of it.

use serde_json::json;
use wasmtime::component::Resource;

use super::{digest_of, interrupted, invalid, read};
use crate::{
    model::{self, Call, Generation, ModelError, OnInterrupt},
    plugin::{
        bindings::{
            model::{Completion, Delta, HostGeneration, Request},
            types::Failure,
        },
        journal::digest,
        state::RunState,
    },
};

const GENERATE: &str = "model.generate";
const STARTED: &str = "model.generate.started";
const NEXT: &str = "model.generation.next";
const FINISH: &str = "model.generation.finish";

/// A model call that a component holds.
pub struct OpenGeneration {
    state: State,
    /// What was asked, until it is clear that nobody has to ask again.
    call: Call,
    /// The text that the component has been given.
    text: String,
    /// Whether it has been given anything else.
    more: bool,
}

enum State {
    /// The model is answering.
    Open(Generation),
    /// What comes next stands in the journal, or was cut off.
    Recorded,
    /// The call has failed; `finish` will say so.
    Failed(Failure),
    /// `finish` has been called.
    Finished,
}

pub(super) async fn generate(
    run: &mut RunState,
    request: Request,
) -> wasmtime::Result<Result<Resource<OpenGeneration>, Failure>> {
    let arguments = digest_of(&request);
    let call = match read(request) {
        Ok(call) => call,
        Err(failure) => return Ok(Err(failure)),
    };
    let begun = run.replayed::<()>(GENERATE, &arguments)?.is_some();
    let state = if begun && run.replays(STARTED) {
        match run.replayed::<Result<(), Failure>>(STARTED, "")? {
            Some(Err(failure)) => return Ok(Err(failure)),
            _ => State::Recorded,
        }
    } else {
        if begun {
            if run.on_interrupt(GENERATE, &call)? == OnInterrupt::Fail {
                run.record(STARTED, String::new(), &Err::<(), _>(interrupted())).await?;
                return Ok(Err(interrupted()));
            }
        } else {
            run.record(GENERATE, arguments, &()).await?;
        }
        let started = run.start(GENERATE, call.clone()).await?;
        run.record(STARTED, String::new(), &started.as_ref().map(drop)).await?;
        match started {
            Ok(generation) => State::Open(generation),
            Err(failure) => return Ok(Err(failure)),
        }
    };
    let open = OpenGeneration { state, call, text: String::new(), more: false };
    Ok(Ok(run.table.push(open)?))
}

impl HostGeneration for RunState {
    async fn next(&mut self, handle: Resource<OpenGeneration>) -> wasmtime::Result<Option<Delta>> {
        let which = digest(&[&handle.rep().to_le_bytes()]);
        let next = match self.replayed::<Option<Delta>>(NEXT, &which)? {
            Some(next) => next,
            None => {
                let next = read_next(self, &handle).await?;
                self.record(NEXT, which, &next).await?;
                next
            }
        };
        let open = self.table.get_mut(&handle)?;
        match &next {
            Some(Delta::Text(text)) => open.text.push_str(text),
            Some(_) => open.more = true,
            None => {}
        }
        Ok(next)
    }

    async fn finish(&mut self, handle: Resource<OpenGeneration>) -> wasmtime::Result<Result<Completion, Failure>> {
        let which = digest(&[&handle.rep().to_le_bytes()]);
        if let Some(finished) = self.replayed(FINISH, &which)? {
            self.table.get_mut(&handle)?.state = State::Finished;
            return Ok(finished);
        }
        let finished = read_to_end(self, &handle).await?;
        self.record(FINISH, which, &finished).await?;
        Ok(finished)
    }

    async fn drop(&mut self, handle: Resource<OpenGeneration>) -> wasmtime::Result<()> {
        self.table.delete(handle)?;
        Ok(())
    }
}

/// The next piece of the model; none when it has finished or failed.
async fn read_next(run: &mut RunState, handle: &Resource<OpenGeneration>) -> wasmtime::Result<Option<Delta>> {
    let mut generation = match take(run, handle).await? {
        Ok(generation) => generation,
        Err(failure) => {
            run.table.get_mut(handle)?.state = State::Failed(failure);
            return Ok(None);
        }
    };
    let next = run.unless_stopped(generation.next()).await?;
    let open = run.table.get_mut(handle)?;
    Ok(match next {
        Ok(Ok(next)) => {
            open.state = State::Open(generation);
            next.map(Delta::from)
        }
        Ok(Err(error)) => {
            open.state = State::Failed(error.into());
            None
        }
        Err(failure) => {
            open.state = State::Failed(failure);
            None
        }
    })
}

async fn read_to_end(
    run: &mut RunState,
    handle: &Resource<OpenGeneration>,
) -> wasmtime::Result<Result<Completion, Failure>> {
    let mut generation = match take(run, handle).await? {
        Ok(generation) => generation,
        Err(failure) => return Ok(Err(failure)),
    };
    let partial = run.table.get(handle)?.call.partial.clone();
    loop {
        match run.unless_stopped(generation.next()).await? {
            Ok(Ok(Some(_))) => {}
            Ok(Ok(None)) => break,
            Ok(Err(error)) => return Ok(Err(error.into())),
            Err(failure) => return Ok(Err(failure)),
        }
    }
    let completion = generation.completion().map(|completion| whole(completion, partial));
    Ok(completion.map(Completion::from).map_err(|error: ModelError| error.into()))
}

/// Takes the answering model out of a handle. A call that was cut off by the server's stop is asked for again, as far
/// as that is possible: what the component has been given cannot be taken back.
async fn take(run: &mut RunState, handle: &Resource<OpenGeneration>) -> wasmtime::Result<Result<Generation, Failure>> {
    let open = run.table.get_mut(handle)?;
    match std::mem::replace(&mut open.state, State::Finished) {
        State::Open(generation) => return Ok(Ok(generation)),
        State::Failed(failure) => return Ok(Err(failure)),
        State::Finished => {
            let message = "This generation has been finished already, or has failed.";
            return Ok(Err(invalid("already_finished", message)));
        }
        State::Recorded => {}
    }
    let (mut call, text, more) = (open.call.clone(), open.text.clone(), open.more);
    match run.on_interrupt(GENERATE, &call)? {
        OnInterrupt::Continue if !more => {
            call.partial = Some(text).filter(|text| !text.is_empty());
            run.table.get_mut(handle)?.call.partial.clone_from(&call.partial);
        }
        OnInterrupt::Restart if text.is_empty() && !more => {}
        _ => return Ok(Err(interrupted())),
    }
    run.start(GENERATE, call).await
}

/// The completion with the part of the text that came before the server's stop.
fn whole(mut completion: model::Completion, partial: Option<String>) -> model::Completion {
    let Some(partial) = partial else { return completion };
    match completion.items.iter_mut().find(|item| item["type"] == "message") {
        Some(message) => {
            let rest = message["content"][0]["text"].as_str().unwrap_or_default();
            message["content"][0]["text"] = json!(format!("{partial}{rest}"));
        }
        None => completion.items.insert(0, model::message_item(&partial)),
    }
    completion
}
