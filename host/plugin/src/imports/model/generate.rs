//! `model.generate`: the component sees every piece, and the client what the component makes of it.

use outlast_model::{Generation, OnInterrupt};
use serde::{Deserialize, Serialize};
use serde_json::json;
use wasmtime::component::Resource;

use super::{digested, interrupted, invalid, size_of};
use crate::{
    bindings::{
        handles::{Generating, OpenGeneration},
        model::{Completion, Delta, HostGeneration, Request},
        types::Failure,
    },
    sandbox::{RunState, digest},
};

const GENERATE: &str = "model.generate";
const STARTED: &str = "model.generate.started";
const NEXT: &str = "model.generation.next";
const FINISH: &str = "model.generation.finish";

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
    let (arguments, request) = digested(run, request).await;
    let bytes = size_of(&request);
    let begun = run.is_next(GENERATE, &arguments);
    let recorded = match begun {
        true => {
            run.replayed::<()>(GENERATE, &arguments)?;
            run.replayed_if_next::<Result<(), Failure>>(STARTED)?
        }
        false => None,
    };
    let (mut asked, mut call) = (None, None);
    match recorded {
        Some(Ok(())) => asked = Some(request),
        Some(Err(failure)) => return Ok(Err(failure)),
        None => {
            // Length and grant come before what it says: to read that takes time.
            let refusal = if begun && run.on_interrupt(GENERATE, request.model.as_deref())? == OnInterrupt::Fail {
                Some(interrupted())
            } else if run.replay.is_over() {
                run.refusal(GENERATE, &request)?
            } else {
                None
            };
            if refusal.is_none() {
                match run.read(request, false).await {
                    Ok((read, _)) => call = Some(read),
                    Err(failure) => return Ok(Err(failure)),
                }
            }
            if !begun {
                // An error when something else comes next.
                run.replayed::<()>(GENERATE, &arguments)?;
                run.record(GENERATE, arguments, &()).await?;
            }
            if let Some(failure) = refusal {
                return failed(run, failure).await;
            }
        }
    }
    let state = match call {
        None => Generating::Recorded,
        Some(call) => match run.start(GENERATE, call).await? {
            Ok(generation) => {
                run.record(STARTED, String::new(), &Ok::<(), Failure>(())).await?;
                Generating::Open(Box::new(generation))
            }
            Err(failure) => return failed(run, failure).await,
        },
    };
    run.generations.add(bytes);
    let held = run.active(GENERATE)?.meter.hold(bytes);
    let open = OpenGeneration { state, asked, bytes, _held: held, partial: None, text: String::new(), more: false };
    run.hold(open).map(Ok)
}

/// Keeps that a call did not begin, and why.
async fn failed(run: &mut RunState, failure: Failure) -> wasmtime::Result<Result<Resource<OpenGeneration>, Failure>> {
    run.record(STARTED, String::new(), &Err::<(), _>(&failure)).await?;
    Ok(Err(failure))
}

impl HostGeneration for RunState {
    async fn next(&mut self, handle: Resource<OpenGeneration>) -> wasmtime::Result<Option<Delta>> {
        if let Generating::Ended(_) | Generating::Finished = self.table.get(&handle)?.state {
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
                    // A model that is answering is not asked again.
                    _ if matches!(open.state, Generating::Open(_)) => {}
                    Delta::Text(text) => open.text.push_str(text),
                    Delta::Reasoning(_) | Delta::Other(_) => open.more = true,
                }
                Some(delta)
            }
            Next::End(result) => {
                open.state = Generating::Ended(result);
                None
            }
        })
    }

    async fn finish(&mut self, handle: Resource<OpenGeneration>) -> wasmtime::Result<Result<Completion, Failure>> {
        let open = self.table.get_mut(&handle)?;
        match std::mem::replace(&mut open.state, Generating::Finished) {
            Generating::Ended(result) => return Ok(result),
            Generating::Finished => {
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
        self.table.get_mut(&handle)?.state = Generating::Finished;
        Ok(result)
    }

    async fn drop(&mut self, handle: Resource<OpenGeneration>) -> wasmtime::Result<()> {
        let OpenGeneration { bytes, .. } = self.table.delete(handle)?;
        self.generations.remove(bytes);
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
            open.state = Generating::Open(generation);
            Next::Piece(delta.into())
        }
        Ok(Ok(None)) => {
            let completion = generation.completion();
            if let Ok(completion) = &completion {
                run.count(&completion.usage);
            }
            let open = run.table.get_mut(handle)?;
            let completion = completion.map(|completion| whole(completion, open.partial.as_deref()));
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
    if let Generating::Open(generation) = std::mem::replace(&mut open.state, Generating::Finished) {
        return Ok(Ok(generation));
    }
    let (Some(asked), text, more) = (open.asked.take(), std::mem::take(&mut open.text), open.more) else {
        return Ok(Err(interrupted()));
    };
    let partial = match run.on_interrupt(GENERATE, asked.model.as_deref())? {
        OnInterrupt::Continue if !more => Some(text).filter(|text| !text.is_empty()),
        OnInterrupt::Restart if text.is_empty() && !more => None,
        _ => return Ok(Err(interrupted())),
    };
    let mut call = match run.read(asked, false).await {
        Ok((call, _)) => call,
        Err(failure) => return Ok(Err(failure)),
    };
    run.table.get_mut(handle)?.partial.clone_from(&partial);
    call.partial = partial;
    Ok(run.start(GENERATE, call).await?.map(Box::new))
}

/// The completion with the part of the text that came before the server's stop.
fn whole(mut completion: outlast_model::Completion, partial: Option<&str>) -> outlast_model::Completion {
    let Some(partial) = partial else { return completion };
    match completion.items.iter_mut().find(|item| item["type"] == "message") {
        Some(message) => {
            let rest = message["content"][0]["text"].as_str().unwrap_or_default();
            message["content"][0]["text"] = json!(format!("{partial}{rest}"));
        }
        None => completion.items.insert(0, outlast_model::message_item(partial)),
    }
    completion
}
