//! The interface `tools`: functions that the operator lets an agent call.
//!
//! A call is in the journal: that it began, and what was answered, as soon as it is there. It is not made before its
//! beginning is committed, unless its tool says that it may be made again, so that there is no effect that the journal
//! does not know. Of a call that was in flight when the server stopped, nobody knows the effect: it is made again if that
//! is safe, and ends as failure `interrupted` if it is not.

use std::{fmt, sync::Arc};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{IgnoredAny, MapAccess, Visitor},
};
use wasmtime::component::Resource;

use crate::{
    bindings::{
        handles::{OpenCall, OpenTask},
        tools::{Host, HostPending, Tool},
        types::{Failure, FailureKind},
    },
    failure::{cancelled, failure},
    sandbox::{Caller, FoundTool, RunState, TaskKind, ToolPort, digest},
};

const AVAILABLE: &str = "tools.available";
const CALL: &str = "tools.call";
const CALLED: &str = "tools.call.end";
const START: &str = "tools.start";
const GET: &str = "tools.pending.get";

/// What the journal knows of a call that has begun.
#[derive(Serialize, Deserialize)]
struct Begun {
    /// Whether it may be made again.
    idempotent: bool,
}

impl Host for RunState {
    async fn available(&mut self) -> wasmtime::Result<Vec<Tool>> {
        if let Some(tools) = self.replayed(AVAILABLE, "")? {
            return Ok(tools);
        }
        let tools = self.granted_tools(AVAILABLE)?.available().await;
        self.clock.advance();
        self.record(AVAILABLE, String::new(), &tools).await?;
        Ok(tools)
    }

    async fn call(&mut self, name: String, arguments: String) -> wasmtime::Result<Result<String, Failure>> {
        match self.begin_call(CALL, name, arguments).await? {
            Ok(number) => self.called(CALLED, number).await,
            Err(failure) => Ok(Err(failure)),
        }
    }

    async fn start(
        &mut self,
        name: String,
        arguments: String,
    ) -> wasmtime::Result<Result<Resource<OpenCall>, Failure>> {
        match self.begin_call(START, name, arguments).await? {
            Ok(number) => self.hold(OpenCall { number, taken: false }).map(Ok),
            Err(failure) => Ok(Err(failure)),
        }
    }
}

impl HostPending for RunState {
    async fn task(&mut self, handle: Resource<OpenCall>) -> wasmtime::Result<Resource<OpenTask>> {
        let number = self.table.get(&handle)?.number;
        let task = self.tasks.handle(number);
        self.hold(task)
    }

    async fn get(&mut self, handle: Resource<OpenCall>) -> wasmtime::Result<Result<String, Failure>> {
        let open = self.table.get_mut(&handle)?;
        if open.taken {
            let message = "The answer of this call was already received.";
            return Ok(Err(failure(FailureKind::Invalid, "already_taken", message)));
        }
        open.taken = true;
        let number = open.number;
        self.called(GET, number).await
    }

    async fn drop(&mut self, handle: Resource<OpenCall>) -> wasmtime::Result<()> {
        let OpenCall { number, taken } = self.table.delete(handle)?;
        if !taken {
            self.tasks.give_up(number, &Err::<String, _>(given_up()));
        }
        Ok(())
    }
}

impl RunState {
    /// The tools of the run's agent.
    fn granted_tools(&mut self, import: &str) -> wasmtime::Result<Arc<dyn ToolPort>> {
        let tools = self.active(import)?.granted()?.tools.clone();
        tools.ok_or_else(|| wasmtime::Error::msg("a run without tools"))
    }

    /// Begins a call, if there is such a tool and it is allowed. Returns its number among the tasks of the run.
    async fn begin_call(
        &mut self,
        import: &str,
        name: String,
        arguments: String,
    ) -> wasmtime::Result<Result<u64, Failure>> {
        let bytes = name.len() + arguments.len();
        let work = move || (digest(&[name.as_bytes(), arguments.as_bytes()]), name, arguments);
        let (which, name, arguments) = self.aside(bytes, work).await;
        let number = self.tasks.number();
        let tools = self.granted_tools(import)?;
        if let Some(begun) = self.replayed::<Result<Begun, Failure>>(import, &which)? {
            let idempotent = match begun {
                Ok(Begun { idempotent }) => idempotent,
                Err(failure) => return Ok(Err(failure)),
            };
            self.tools_called += 1;
            if !self.tasks.recall(number, TaskKind::Call) {
                // It was in flight when the server stopped. Another version of the tool may be there now.
                match (idempotent, tools.find(&name)) {
                    (true, Ok(found)) => self.call_beside(import, number, found, arguments)?,
                    (true, Err(failure)) => self.tasks.settle(number, TaskKind::Call, &Err::<String, _>(failure)),
                    (false, found) => {
                        if let Ok(found) = found {
                            found.count_interrupted();
                        }
                        self.tasks.settle(number, TaskKind::Call, &Err::<String, _>(interrupted()));
                    }
                }
            }
            return Ok(Ok(number));
        }
        let stop = self.active(import)?.stop.clone();
        // Whether it may be made again has to be known before it is made.
        if stop.run_until_cancelled(tools.known(&name)).await.is_none() {
            return Ok(Err(cancelled()));
        }
        let most = self.active(import)?.max_tool_calls;
        let found = checked(&*tools, &name, &arguments, self.tasks.open(TaskKind::Call));
        let found = found.and_then(|found| match most {
            Some(most) if self.tools_called >= most => Err(all_made(most)),
            _ => Ok(found),
        });
        if let Err(failure) = &found
            && failure.kind == FailureKind::Denied
        {
            tools.count_denied();
            self.log.note(tracing::Level::WARN, "tools", &failure.message);
        }
        let begun = found.as_ref().map(|found| Begun { idempotent: found.is_idempotent() });
        self.record(import, which, &begun).await?;
        match found {
            Ok(found) => {
                self.tools_called += 1;
                self.call_beside(import, number, found, arguments)?;
                Ok(Ok(number))
            }
            Err(failure) => Ok(Err(failure)),
        }
    }

    /// Calls a tool beside the component.
    fn call_beside(
        &mut self,
        import: &str,
        number: u64,
        found: Box<dyn FoundTool>,
        arguments: String,
    ) -> wasmtime::Result<()> {
        let log = self.log.clone();
        let run = self.active(import)?;
        let lease = run.lease.clone();
        let caller = Caller {
            key: run.secret.key(number),
            secret: run.secret.of_call(number),
            log,
            lease: lease.clone(),
            meter: run.meter.clone(),
            clock: run.clock.clone(),
            scripted_time: run.scripted_time,
        };
        let committed = (run.journaled && !found.is_idempotent()).then(|| run.port.committed());
        let arguments = if arguments.trim().is_empty() { "{}".to_owned() } else { arguments };
        let call = found.begin(arguments, caller);
        self.tasks.begin(number, TaskKind::Call, async move {
            if let Some(committed) = committed {
                committed.await;
            }
            lease.gate(call).await
        });
        Ok(())
    }

    /// Waits for the answer of a call.
    async fn called(&mut self, import: &str, number: u64) -> wasmtime::Result<Result<String, Failure>> {
        let answer = self.take_answer::<Result<String, Failure>>(import, number).await?;
        Ok(answer.and_then(|answer| answer))
    }
}

/// A tool that may be called with these arguments, beside so many calls that are open.
fn checked(tools: &dyn ToolPort, name: &str, arguments: &str, open: usize) -> Result<Box<dyn FoundTool>, Failure> {
    let found = tools.find(name)?;
    let limits = tools.limits();
    let (bytes, most) = (arguments.len(), limits.argument_bytes);
    if bytes > most {
        let message = format!("The arguments have {bytes} bytes, limit {most} (limits.tool_argument_bytes).");
        return Err(failure(FailureKind::Limit, "arguments_too_large", message));
    }
    if !arguments.trim().is_empty() {
        // Not kept: only whether they are.
        serde_json::from_str::<Fields>(arguments).map_err(|error| {
            let message = format!("The arguments are not a JSON object: {error}.");
            failure(FailureKind::Invalid, "invalid_arguments", message)
        })?;
    }
    let most = limits.calls;
    if open >= most {
        let message = format!("There are {open} calls whose answers were not received, the limit (limits.tool_calls).");
        return Err(failure(FailureKind::Limit, "too_many_calls", message));
    }
    Ok(found)
}

/// A JSON object whose fields are read and not kept.
struct Fields;

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Self)
    }
}

impl<'de> Visitor<'de> for Fields {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(self)
    }
}

/// What a component reads, and mostly a model after it, of a call beyond those that the request allows.
fn all_made(most: u64) -> Failure {
    let message = format!("The request allows {most} calls of tools (max_tool_calls), and all of them were made.");
    failure(FailureKind::Limit, "max_tool_calls", message)
}

/// What a component reads of a call that the server's stop has ended.
fn interrupted() -> Failure {
    let message = "The server was stopped while the tool was running. Whether the call took effect is unknown.";
    failure(FailureKind::Interrupted, "interrupted", message)
}

/// The answer of a call that the component gave up.
fn given_up() -> Failure {
    failure(FailureKind::Other, "given_up", "The component abandoned the call.")
}
