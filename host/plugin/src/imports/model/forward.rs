//! `model.forward`: what the model says goes straight to the client.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use outlast_model::{CallDelta, OnInterrupt, message_item, reasoning_item, restored, tool_call_item};
use outlast_protocol::{
    ClientTool, ClientTools, Content, Emission, Emitted, Item, ItemIndex, ItemStatus, SummaryPart, ToolKind,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ClientFunctions, digested, interrupted};
use crate::{
    bindings::{
        model::{Completion, Request},
        types::{Failure, Usage},
    },
    failure::Diverged,
    sandbox::RunState,
};

const FORWARD: &str = "model.forward";
const END: &str = "model.forward.end";

/// The entry of a call that ended.
#[derive(Debug, Serialize, Deserialize)]
struct End {
    /// The number of the event after those that the call led to.
    event: u64,
    answer: Result<Said, Failure>,
}

/// What a model said, as far as it does not stand in the output of the response.
#[derive(Debug, Serialize, Deserialize)]
struct Said {
    reasoning: Vec<ItemIndex>,
    message: Vec<ItemIndex>,
    calls: Vec<SaidCall>,
    finish_reason: String,
    usage: Usage,
    model: String,
}

/// A function call of a model.
#[derive(Debug, Serialize, Deserialize)]
enum SaidCall {
    /// The client sees it.
    Shown(ItemIndex),
    /// Only the component does.
    Hidden(Value),
}

pub(super) async fn forward(run: &mut RunState, request: Request) -> wasmtime::Result<Result<Completion, Failure>> {
    let (arguments, request) = digested(run, request).await;
    let begun = match run.is_next(FORWARD, &arguments) {
        true => run.replayed::<ItemIndex>(FORWARD, &arguments)?,
        false => None,
    };
    if begun.is_some() {
        if let Some(End { event, answer }) = run.replayed_if_next(END)? {
            skip(run, Some(event))?;
            return ended(run, answer).await;
        }
        // It was in flight when the server stopped. What it had said is said.
        skip(run, None)?;
    }
    // Length and grant come before what it says: to read that takes time.
    if run.replay.is_over()
        && let Some(failure) = run.refusal(FORWARD, &request)?
    {
        if begun.is_none() {
            begin(run, arguments).await?;
        }
        return end(run, Err(failure)).await;
    }
    let model = request.model.clone();
    let (mut call, client_functions) = match run.read(request, true).await {
        Ok(read) => read,
        Err(failure) => return Ok(Err(failure)),
    };
    let mut shown = Shown { client_functions, ..Shown::default() };
    if let Some(first) = begun {
        let policy = run.on_interrupt(FORWARD, model.as_deref())?;
        call.partial = shown.resume(run, first, policy).await?;
        if policy == OnInterrupt::Fail {
            return end(run, Err(interrupted())).await;
        }
    } else {
        begin(run, arguments).await?;
    }
    let answer = shown.all(run, call).await?;
    if shown.together.is_none() {
        shown.together = Some(run.active(FORWARD)?.port.together());
    }
    shown.close(run, matches!(&answer, Ok(said) if whole(said))).await?;
    end(run, answer).await
}

/// Keeps that a call begins.
async fn begin(run: &mut RunState, arguments: String) -> wasmtime::Result<()> {
    // An error when something else comes next.
    run.replayed::<ItemIndex>(FORWARD, &arguments)?;
    let first = run.active(FORWARD)?.port.position().1;
    run.record(FORWARD, arguments, &first).await
}

/// Keeps how a call ended.
async fn end(run: &mut RunState, answer: Result<Said, Failure>) -> wasmtime::Result<Result<Completion, Failure>> {
    let event = run.active(FORWARD)?.port.position().0;
    let entry = End { event, answer };
    run.record(END, String::new(), &entry).await?;
    ended(run, entry.answer).await
}

/// The answer to the component. The same comes out of a call and of its replay.
async fn ended(run: &mut RunState, answer: Result<Said, Failure>) -> wasmtime::Result<Result<Completion, Failure>> {
    let said = match answer {
        Ok(said) => said,
        Err(failure) => return Ok(Err(failure)),
    };
    run.emit(FORWARD, Emission::Usage(outlast_protocol::Usage::from(said.usage))).await?;
    let output = run.active(FORWARD)?.port.output();
    let part = |items: &[ItemIndex], read: fn(&Item) -> String| -> String {
        items.iter().filter_map(|item| output.get(*item)).map(read).collect()
    };
    let (reasoning, message) = (part(&said.reasoning, text_of), part(&said.message, text_of));
    let refusal = part(&said.message, refusal_of);
    let mut items = Vec::new();
    if !reasoning.is_empty() {
        items.push(reasoning_item(&reasoning));
    }
    if !message.is_empty() || !refusal.is_empty() {
        items.push(message_item(&message, &refusal));
    }
    items.extend(said.calls.into_iter().filter_map(|call| match call {
        SaidCall::Hidden(item) => Some(item),
        SaidCall::Shown(item) => output.get(item).and_then(call_of),
    }));
    Ok(Ok(Completion {
        items: Value::Array(items).to_string(),
        finish_reason: said.finish_reason,
        usage: said.usage,
        model: said.model,
    }))
}

/// A call of the output, as an item of a completion.
fn call_of(item: &Item) -> Option<Value> {
    let tool = |name: &str, namespace: &Option<String>| ClientTool {
        namespace: namespace.clone(),
        ..ClientTool::function(name)
    };
    match item {
        Item::FunctionCall { call_id, name, namespace, arguments, .. } => {
            Some(tool_call_item(call_id, &tool(name, namespace), arguments))
        }
        Item::CustomToolCall { call_id, name, namespace, input, .. } => {
            let custom = ClientTool { kind: ToolKind::Custom, ..tool(name, namespace) };
            let mut item = tool_call_item(call_id, &custom, "");
            item["input"] = input.as_str().into();
            Some(item)
        }
        call if call.is_call() => {
            let mut item = serde_json::to_value(call).ok()?;
            item.as_object_mut()?.remove("id");
            Some(item)
        }
        _ => None,
    }
}

fn skip(run: &mut RunState, to: Option<u64>) -> wasmtime::Result<()> {
    let skipped = run.active(FORWARD)?.port.skip(to);
    Ok(skipped.map_err(|error| Diverged(format!("has events that cannot be read: {error}")))?)
}

/// Whether the model has said all it wanted to.
fn whole(said: &Said) -> bool {
    !matches!(said.finish_reason.as_str(), "length" | "content_filter")
}

fn text_of(item: &Item) -> String {
    match item {
        Item::Message { content, .. } => content
            .iter()
            .map(|part| match part {
                Content::OutputText { text, .. } => text.as_str(),
                Content::Refusal { .. } => "",
            })
            .collect(),
        Item::Reasoning { summary, .. } => {
            summary.iter().map(|SummaryPart::SummaryText { text }| text.as_str()).collect()
        }
        _ => String::new(),
    }
}

fn refusal_of(item: &Item) -> String {
    let Item::Message { content, .. } = item else { return String::new() };
    let refusals = content.iter().filter_map(|part| match part {
        Content::Refusal { refusal } => Some(refusal.as_str()),
        Content::OutputText { .. } => None,
    });
    refusals.collect()
}

/// The items of a call that the client sees.
#[derive(Default)]
struct Shown {
    /// Open for writing.
    message: Option<ItemIndex>,
    reasoning: Option<ItemIndex>,
    /// All of them so far.
    messages: Vec<ItemIndex>,
    reasonings: Vec<ItemIndex>,
    /// How likely the tokens of the next text are.
    logprobs: Vec<Value>,
    /// The functions whose calls go to the client, as the request declares them.
    client_functions: ClientFunctions,
    /// The tools that the model was offered.
    tools: Arc<ClientTools>,
    /// The calls that the client sees, by their places in the answer.
    calls: BTreeMap<usize, OpenCall>,
    /// Held from the end of the answer until it is in the journal.
    together: Option<Box<dyn Send + Sync>>,
}

/// A call that the client sees.
struct OpenCall {
    item: ItemIndex,
    has_arguments: bool,
}

impl Shown {
    /// Shows all that the model says.
    async fn all(&mut self, run: &mut RunState, call: outlast_model::Call) -> wasmtime::Result<Result<Said, Failure>> {
        let mut call = match run.start(FORWARD, call).await? {
            Ok(call) => call,
            Err(failure) => return Ok(Err(failure)),
        };
        self.tools = call.tools();
        loop {
            match run.unless_stopped(call.next()).await? {
                Ok(Ok(Some(outlast_model::Delta::Logprobs(likely)))) => self.logprobs = likely,
                Ok(Ok(Some(outlast_model::Delta::Text(text)))) => self.message(run, &text, Emission::Text).await?,
                Ok(Ok(Some(outlast_model::Delta::Refusal(text)))) => {
                    self.message(run, &text, Emission::Refusal).await?
                }
                Ok(Ok(Some(outlast_model::Delta::Reasoning(text)))) => self.reasoning(run, &text).await?,
                Ok(Ok(Some(outlast_model::Delta::Call(delta)))) => self.call(run, &delta).await?,
                Ok(Ok(None)) => break,
                Ok(Err(error)) => return Ok(Err(run.failed(error))),
                Err(failure) => return Ok(Err(failure)),
            }
        }
        // How it ended is committed with what it says last: else a start would find an answer that is whole, and a call
        // that is in flight.
        self.together = Some(run.active(FORWARD)?.port.together());
        let completion = match call.completion() {
            Ok(completion) => completion,
            Err(error) => return Ok(Err(run.failed(error))),
        };
        run.count(&completion.usage);
        let mut said = Said {
            reasoning: Vec::new(),
            message: Vec::new(),
            calls: Vec::new(),
            finish_reason: completion.finish_reason,
            usage: (&completion.usage).into(),
            model: completion.model,
        };
        said.calls = self.whole_calls(run, completion.items, whole(&said)).await?;
        said.reasoning.clone_from(&self.reasonings);
        said.message.clone_from(&self.messages);
        Ok(Ok(said))
    }

    /// Takes up what a call had said, from the item `first` on, when the server stopped. Where the model is to go on
    /// from its text, the text is returned and its item stays open.
    async fn resume(
        &mut self,
        run: &mut RunState,
        first: ItemIndex,
        policy: OnInterrupt,
    ) -> wasmtime::Result<Option<String>> {
        let output = run.active(FORWARD)?.port.output();
        let called = output.iter().skip(first).any(Item::is_call);
        // What is incomplete was given up at an earlier stop.
        let said = || output.iter().enumerate().skip(first).filter(|(_, item)| item.status() != ItemStatus::Incomplete);
        let text: String =
            said().filter(|(_, item)| matches!(item, Item::Message { .. })).map(|(_, item)| text_of(item)).collect();
        // Half a call, half a thought and half a refusal cannot be gone on from.
        let refused = said().any(|(_, item)| !refusal_of(item).is_empty());
        let goes_on = policy == OnInterrupt::Continue && !called && !refused && !text.is_empty();
        for (index, item) in said() {
            let open = item.status() == ItemStatus::InProgress;
            match item {
                Item::Message { .. } if goes_on => {
                    self.messages.push(index);
                    self.message = open.then_some(index);
                }
                Item::Reasoning { .. } if goes_on => {
                    self.reasonings.push(index);
                    self.reasoning = open.then_some(index);
                }
                _ if open => {
                    run.emit(FORWARD, Emission::Abandon(index)).await?;
                }
                _ => {}
            }
        }
        Ok(goes_on.then_some(text))
    }

    /// Shows more of the message: text, or a refusal.
    async fn message<'a>(
        &mut self,
        run: &mut RunState,
        text: &'a str,
        more: fn(ItemIndex, &'a str) -> Emission<'a>,
    ) -> wasmtime::Result<()> {
        if let Some(item) = self.reasoning.take() {
            run.emit(FORWARD, Emission::Finish(item)).await?;
        }
        let item = open(&mut self.message, &mut self.messages, run, Emission::OpenMessage).await?;
        let likely = std::mem::take(&mut self.logprobs);
        if !likely.is_empty() {
            run.emit(FORWARD, Emission::Logprobs(item, &likely)).await?;
        }
        run.emit(FORWARD, more(item, text)).await?;
        Ok(())
    }

    async fn reasoning(&mut self, run: &mut RunState, text: &str) -> wasmtime::Result<()> {
        let item = open(&mut self.reasoning, &mut self.reasonings, run, Emission::OpenReasoning).await?;
        run.emit(FORWARD, Emission::Summary(item, text)).await?;
        Ok(())
    }

    /// Shows a piece of a function call, if it is one of the client's functions.
    async fn call(&mut self, run: &mut RunState, delta: &CallDelta) -> wasmtime::Result<()> {
        let tool = self.tools.named(&delta.name);
        // Those that are built in are the client's, whoever has declared others.
        let is_client = |tool: &ClientTool| {
            let known = |name: &str| self.client_functions.have(name);
            matches!(tool.kind, ToolKind::BuiltIn(_)) || known(&delta.name) || known(tool.declared())
        };
        let call = match self.calls.entry(delta.place) {
            Entry::Occupied(call) => call.into_mut(),
            Entry::Vacant(place) if is_client(&tool) => {
                // What was said before the call is said.
                for item in [self.reasoning.take(), self.message.take()].into_iter().flatten() {
                    run.emit(FORWARD, Emission::Finish(item)).await?;
                }
                let (item, _) = run.open_call(FORWARD, &tool).await?;
                place.insert(OpenCall { item, has_arguments: false })
            }
            Entry::Vacant(_) => return Ok(()),
        };
        call.has_arguments |= !delta.arguments.is_empty();
        run.emit(FORWARD, Emission::Arguments(call.item, &delta.arguments)).await?;
        Ok(())
    }

    /// Closes the calls that the client sees, and shows those that came in one piece. In an answer that is not `whole`,
    /// a call is not either.
    async fn whole_calls(
        &mut self,
        run: &mut RunState,
        items: Vec<Value>,
        whole: bool,
    ) -> wasmtime::Result<Vec<SaidCall>> {
        let mut calls = Vec::new();
        for (place, call) in items.into_iter().filter(|item| item["type"] == "function_call").enumerate() {
            // It was not told piece by piece, or it has no arguments, for which `{}` stands.
            if whole && !self.calls.get(&place).is_some_and(|call| call.has_arguments) {
                let text = |field: &str| call[field].as_str().unwrap_or_default().to_owned();
                let (name, arguments) = (text("name"), text("arguments"));
                self.call(run, &CallDelta { place, name, arguments }).await?;
            }
            calls.push(match self.calls.remove(&place) {
                Some(OpenCall { item, .. }) => {
                    let emission = if whole { Emission::Finish(item) } else { Emission::Abandon(item) };
                    run.emit(FORWARD, emission).await?;
                    SaidCall::Shown(item)
                }
                None => SaidCall::Hidden(restored(call, &self.tools)),
            });
        }
        Ok(calls)
    }

    async fn close(&mut self, run: &mut RunState, finished: bool) -> wasmtime::Result<()> {
        let calls = std::mem::take(&mut self.calls).into_values().map(|call| call.item);
        for item in [self.reasoning.take(), self.message.take()].into_iter().flatten().chain(calls) {
            let emission = if finished { Emission::Finish(item) } else { Emission::Abandon(item) };
            run.emit(FORWARD, emission).await?;
        }
        Ok(())
    }
}

/// The item that is open, or a new one.
async fn open(
    place: &mut Option<ItemIndex>,
    all: &mut Vec<ItemIndex>,
    run: &mut RunState,
    emission: Emission<'_>,
) -> wasmtime::Result<ItemIndex> {
    if let Some(item) = *place {
        return Ok(item);
    }
    match run.emit(FORWARD, emission).await? {
        Emitted::Item(item) => {
            all.push(item);
            Ok(*place.insert(item))
        }
        other => Err(wasmtime::Error::msg(format!("opening an item gave {other:?}"))),
    }
}
