//! Making a conversation shorter.
//!
//! What is left of a conversation is the messages of the user, as they were, and one item that stands for the rest. Its
//! content is sealed, and opened again when the item comes back as input:
//!
//! - An agent that uses models is asked for a summary, in a run like any other: with a place among the runs, within all
//!   limits, ended when the client goes, and never kept. The content is the summary, as a message of the developer.
//! - An agent without models has nobody who could summarise. The content is the rest of the conversation itself: nothing
//!   is lost, and nothing is made shorter but what the client has to carry in the open.

use std::sync::Arc;

use outlast_plugin::Agent;
use outlast_protocol::{
    ApiError, Compaction, Content, CreateRequest, ErrorKind, Item, Response, ResponseId, Status, TerminalStatus, Usage,
    compaction_item, identify, is_user_message, not_sealed_here, sealed_content, sealed_reasoning, summary_message,
    unfold,
};
use serde_json::{Value, json};

use super::{
    Manager, Refusal, Seal,
    history::{History, history},
};

impl Manager {
    /// Compacts what `request` goes on from, and its input. Of conversations, twice as much as can be gone on from.
    ///
    /// # Errors
    ///
    /// The request is refused as one that begins a run, or the agent did not make a summary. Nothing is kept.
    pub async fn compact(self: &Arc<Self>, principal: &str, mut request: CreateRequest) -> Result<Compaction, Refusal> {
        let agent = self.agents().get(request.agent()).ok_or_else(|| Refusal::UnknownModel(request.model.clone()))?;
        let most = self.limits().history.doubled();
        let past = history(self.store(), principal, &mut request, most).await?.items;
        let mut items = opened_past(self.seal(), principal, &request, past)?;
        let input = opened_input(self.seal(), principal, &request.input)?;
        items.extend(input.unwrap_or_else(|| request.input.clone()));
        if items.is_empty() {
            return Err(ApiError::invalid("input", "invalid_value", "There is nothing to compact.").into());
        }
        let mut output: Vec<Value> = items.iter().filter(|item| is_user_message(item)).cloned().collect();
        let (id, rest, usage) = if agent.uses_models {
            let (id, text, usage) = self.summarise(principal, request.summary(), items, agent).await?;
            (id, vec![summary_message(&text)], usage)
        } else {
            items.retain(|item| !is_user_message(item));
            (ResponseId::new(self.clock().id()), items, Usage::default())
        };
        let sealed = self.seal().seal(principal, &rest).map_err(|_| Refusal::Defect)?;
        identify(&mut output, |prefix, index| id.child(prefix, index));
        output.push(compaction_item(&id.child("cmp", output.len()), sealed));
        Ok(Compaction::new(&id, self.clock().seconds(), output, usage))
    }

    /// Asks the agent for a summary of these items, in a run of its own.
    pub(super) async fn summarise(
        self: &Arc<Self>,
        principal: &str,
        request: CreateRequest,
        items: Vec<Value>,
        agent: Arc<Agent>,
    ) -> Result<(ResponseId, String, Usage), Refusal> {
        let past = History { items, ..History::default() };
        let mut run = self.begin(principal, request, past, None, agent).await?;
        let ended = run.ended().await?.ok_or(Refusal::Defect)?;
        let response: Response = serde_json::from_slice(&ended.response).map_err(|_| Refusal::Defect)?;
        let text = said(&response.output);
        if response.status != Status::Terminal(TerminalStatus::Completed) || text.trim().is_empty() {
            return Err(failed(&response).into());
        }
        Ok((run.id().clone(), text, response.usage.unwrap_or_default()))
    }
}

/// The text of the assistant.
fn said(output: &[Item]) -> String {
    let content = output.iter().filter_map(|item| match item {
        Item::Message { content, .. } => Some(content),
        _ => None,
    });
    let text = content.flatten().filter_map(|part| match part {
        Content::OutputText { text, .. } => Some(text.as_str()),
        Content::Refusal { .. } => None,
    });
    text.collect()
}

fn failed(response: &Response) -> ApiError {
    let (kind, why) = match (&response.error, &response.incomplete_details) {
        (Some(error), _) if error.code == "rate_limit_exceeded" => (ErrorKind::RateLimited, error.message.clone()),
        (Some(error), _) => (ErrorKind::BadGateway, error.message.clone()),
        (None, Some(details)) => (ErrorKind::BadGateway, format!("the summary was cut short ({}).", details.reason)),
        (None, None) => (ErrorKind::BadGateway, format!("the response is {} and has no text.", response.status)),
    };
    ApiError::new(kind, "compaction_failed", format!("The agent did not summarise the conversation: {why}"))
}

/// `items` with the content of each compaction item in its place, and reasoning opened.
///
/// # Errors
///
/// One of them was not sealed here for this principal; `param` is where they come from.
fn opened(seal: &Seal, principal: &str, items: Vec<Value>, param: &str) -> Result<Vec<Value>, ApiError> {
    if !items.iter().any(is_sealed) {
        return Ok(items);
    }
    let mut all = Vec::with_capacity(items.len());
    for item in items {
        match sealed_content(&item) {
            None => all.push(with_reasoning(seal, principal, item)),
            Some(sealed) => unfold(&mut all, seal.open(principal, sealed).ok_or_else(|| not_sealed_here(param))?),
        }
    }
    Ok(all)
}

fn is_sealed(item: &Value) -> bool {
    sealed_content(item).is_some() || sealed_reasoning(item).is_some()
}

/// A reasoning item with what was sealed in it as its content. What was sealed elsewhere is left out: the summary says what
/// can be read.
fn with_reasoning(seal: &Seal, principal: &str, mut item: Value) -> Value {
    let Some(sealed) = sealed_reasoning(&item) else { return item };
    let text = seal.open_reasoning(principal, sealed);
    if let Some(fields) = item.as_object_mut() {
        fields.remove("encrypted_content");
        if let Some(text) = text {
            fields.insert("content".to_owned(), json!([{"type": "reasoning_text", "text": text}]));
        }
    }
    item
}

/// What a request goes on from, opened.
pub(super) fn opened_past(
    seal: &Seal,
    principal: &str,
    request: &CreateRequest,
    items: Vec<Value>,
) -> Result<Vec<Value>, ApiError> {
    let param = if request.conversation.is_some() { "conversation" } else { "previous_response_id" };
    opened(seal, principal, items, param)
}

/// The input of a request, opened; none when there is nothing to open.
pub(super) fn opened_input(seal: &Seal, principal: &str, input: &[Value]) -> Result<Option<Vec<Value>>, ApiError> {
    for (index, item) in input.iter().enumerate() {
        if let Some(sealed) = sealed_content(item)
            && seal.open(principal, sealed).is_none()
        {
            return Err(not_sealed_here(&format!("input[{index}].encrypted_content")));
        }
    }
    if !input.iter().any(is_sealed) {
        return Ok(None);
    }
    opened(seal, principal, input.to_vec(), "input").map(Some)
}
