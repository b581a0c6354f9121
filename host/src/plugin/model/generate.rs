//! `model.generate`: the component sees every piece, and the client what the component makes of it.

use serde::{Deserialize, Serialize};
use serde_json::json;
use wasmtime::component::Resource;

use super::{digest_of, interrupted, invalid, read};
use crate::{
    model::{self, Call, Generation, OnInterrupt},
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
    Open(Box<Generation>),
    /// What comes next stands in the journal, or was cut off.
    Recorded,
    /// The model has finished, or the call has failed: what `finish` will return.
    Ended(Result<Completion, Failure>),
    /// `finish` has been called.
    Finished,
}

/// What comes next of a model. The end is one entry with its completion: behind it, nobody has to be asked again.
#[derive(Debug, Serialize, Deserialize)]
enum Next {
    Piece(Delta),
    End(Result<Completion, Failure>),
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
    let state = match run.replayed_if_next::<Result<(), Failure>>(STARTED)? {
        Some(Ok(())) => State::Recorded,
        Some(Err(failure)) => return Ok(Err(failure)),
        None => {
            if !begun {
                run.record(GENERATE, arguments, &()).await?;
            }
            let started = match begun && run.on_interrupt(GENERATE, &call)? == OnInterrupt::Fail {
                true => Err(interrupted()),
                false => run.start(GENERATE, call.clone()).await?,
            };
            run.record(STARTED, String::new(), &started.as_ref().map(drop)).await?;
            match started {
                Ok(generation) => State::Open(Box::new(generation)),
                Err(failure) => return Ok(Err(failure)),
            }
        }
    };
    let open = OpenGeneration { state, call, text: String::new(), more: false };
    run.hold(open).map(Ok)
}

impl HostGeneration for RunState {
    async fn next(&mut self, handle: Resource<OpenGeneration>) -> wasmtime::Result<Option<Delta>> {
        if let State::Ended(_) | State::Finished = self.table.get(&handle)?.state {
            return Ok(None);
        }
        let which = digest(&[&handle.rep().to_le_bytes()]);
        let next = match self.replayed(NEXT, &which)? {
            Some(next) => next,
            None => {
                let next = read_next(self, &handle).await?;
                self.record(NEXT, which, &next).await?;
                next
            }
        };
        let open = self.table.get_mut(&handle)?;
        Ok(match next {
            Next::Piece(delta) => {
                match &delta {
                    Delta::Text(text) => open.text.push_str(text),
                    Delta::Reasoning(_) | Delta::Other(_) => open.more = true,
                }
                Some(delta)
            }
            Next::End(result) => {
                open.state = State::Ended(result);
                None
            }
        })
    }

    async fn finish(&mut self, handle: Resource<OpenGeneration>) -> wasmtime::Result<Result<Completion, Failure>> {
        let open = self.table.get_mut(&handle)?;
        match std::mem::replace(&mut open.state, State::Finished) {
            State::Ended(result) => return Ok(result),
            State::Finished => {
                return Ok(Err(invalid("already_finished", "This generation has been finished already.")));
            }
            state => open.state = state,
        }
        let which = digest(&[&handle.rep().to_le_bytes()]);
        let result = match self.replayed(FINISH, &which)? {
            Some(result) => result,
            None => {
                let result = loop {
                    if let Next::End(result) = read_next(self, &handle).await? {
                        break result;
                    }
                };
                self.record(FINISH, which, &result).await?;
                result
            }
        };
        self.table.get_mut(&handle)?.state = State::Finished;
        Ok(result)
    }

    async fn drop(&mut self, handle: Resource<OpenGeneration>) -> wasmtime::Result<()> {
        self.table.delete(handle)?;
        Ok(())
    }
}

/// Waits for what comes next of the model.
async fn read_next(run: &mut RunState, handle: &Resource<OpenGeneration>) -> wasmtime::Result<Next> {
    let mut generation = match take(run, handle).await? {
        Ok(generation) => generation,
        Err(failure) => return Ok(Next::End(Err(failure))),
    };
    let next = run.unless_stopped(generation.next()).await?;
    let open = run.table.get_mut(handle)?;
    Ok(match next {
        Ok(Ok(Some(delta))) => {
            open.state = State::Open(generation);
            Next::Piece(delta.into())
        }
        Ok(Ok(None)) => {
            let completion = generation.completion();
            if let Ok(completion) = &completion {
                run.count(&completion.usage);
            }
            let open = run.table.get_mut(handle)?;
            let completion = completion.map(|completion| whole(completion, open.call.partial.as_deref()));
            Next::End(completion.map(Completion::from).map_err(Failure::from))
        }
        Ok(Err(error)) => Next::End(Err(error.into())),
        Err(failure) => Next::End(Err(failure)),
    })
}

/// Takes the answering model out of a handle that has not ended. A call that was cut off by the server's stop is asked for
/// again, as far as that is possible: what the component has been given cannot be taken back.
async fn take(
    run: &mut RunState,
    handle: &Resource<OpenGeneration>,
) -> wasmtime::Result<Result<Box<Generation>, Failure>> {
    let open = run.table.get_mut(handle)?;
    if let State::Open(generation) = std::mem::replace(&mut open.state, State::Finished) {
        return Ok(Ok(generation));
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
    Ok(run.start(GENERATE, call).await?.map(Box::new))
}

/// The completion with the part of the text that came before the server's stop.
fn whole(mut completion: model::Completion, partial: Option<&str>) -> model::Completion {
    let Some(partial) = partial else { return completion };
    match completion.items.iter_mut().find(|item| item["type"] == "message") {
        Some(message) => {
            let rest = message["content"][0]["text"].as_str().unwrap_or_default();
            message["content"][0]["text"] = json!(format!("{partial}{rest}"));
        }
        None => completion.items.insert(0, model::message_item(partial)),
    }
    completion
}
