//! What a response goes on from: the turns behind its `previous_response_id`, or the items of its conversation; and
//! the stored items that its input refers to.

use std::collections::HashMap;

use outlast_protocol::{
    ApiError, ConversationId, CreateRequest, ErrorKind, ResponseId, Status, TerminalStatus, check_calls,
    conversation_busy, conversation_not_found, is_half_call, previous_not_found, references, shown_id,
};
use outlast_runtime::limits::{Count, MOST_BYTES, MOST_ITEMS, Size};
use outlast_store::{ActiveRun, ConversationItem, PastResponse, Store, StoreError};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::OwnedRwLockReadGuard;

use super::{Refusal, request::StoredRequest};

/// What a new run is told of the past.
#[derive(Debug, Default)]
pub(super) struct History {
    /// The items, oldest first.
    pub items: Vec<Value>,
    /// How many responses they are from, where it is a chain of responses.
    pub turns: usize,
    /// Nothing is removed that they are from, as long as this is held.
    pub kept: Option<OwnedRwLockReadGuard<()>>,
    /// The version of the conversation that the items are.
    pub position: i64,
}

outlast_runtime::limits! {
    /// How much a request may continue.
    pub struct HistoryLimits {
        /// Items.
        history_items => items: Count = 10_000, 1 => MOST_ITEMS;
        /// Bytes of what is read for it, as it is stored.
        history_bytes => bytes: Size = 32 << 20, 0 => MOST_BYTES;
    }
}

impl HistoryLimits {
    /// Twice as much.
    pub(super) fn doubled(self) -> Self {
        Self { items: self.items.saturating_mul(2), bytes: self.bytes.saturating_mul(2) }
    }
}

/// Finds what `request` goes on from, puts stored items where its input refers to them, and checks that the calls
/// and outputs of functions in all of it belong together.
///
/// # Errors
///
/// Something that the request names is not there, is another principal's, or is not finished; the past is longer than
/// `most`. What is larger than that is not read.
pub(super) async fn history(
    store: &Store,
    principal: &str,
    request: &mut CreateRequest,
    most: HistoryLimits,
) -> Result<History, Refusal> {
    let mut size = 0;
    let mut history = match (&request.conversation, &request.previous) {
        (Some(conversation), _) => {
            size = store.conversation_bytes(principal, conversation, limit(most.items)).await?;
            within(size, most, "conversation")?;
            of_conversation(store, principal, conversation, most.items).await?
        }
        (None, Some(previous)) => {
            size = store.turns_bytes(principal, previous, limit(most.items)).await?;
            within(size, most, "previous_response_id")?;
            let (items, turns) = of_previous(store, principal, previous, most.items).await?;
            History { items, turns, ..History::default() }
        }
        (None, None) => History::default(),
    };
    history.items.extend_from_slice(&request.earlier);
    if history.items.len() > most.items {
        return Err(too_long("previous_response_id", most.items).into());
    }
    let mut known = HashMap::new();
    for (index, item, id) in references(&mut request.input) {
        if known.is_empty() {
            known.extend(history.items.iter().filter_map(by_id));
        }
        if !known.contains_key(&id) {
            if let Some(response) = ResponseId::of_child(&id) {
                size = size.saturating_add(store.turns_bytes(principal, &response, 1).await?);
                within(size, most, &format!("input[{index}].id"))?;
            }
            known.extend(beside(store, principal, &id).await?.iter().filter_map(by_id));
        }
        *item = known.get(&id).cloned().ok_or_else(|| {
            let shown = shown_id(&id);
            ApiError::new(ErrorKind::NotFound, "item_not_found", format!("Item with id '{shown}' not found."))
                .with_param(format!("input[{index}].id"))
        })?;
    }
    check_calls(&history.items, &request.input)?;
    Ok(history)
}

async fn of_conversation(store: &Store, principal: &str, id: &ConversationId, most: usize) -> Result<History, Refusal> {
    let Some(head) = store.conversation_head(principal, id).await? else {
        return if id.is_name() {
            Ok(History::default())
        } else {
            Err(conversation_not_found(id.as_str()).with_param("conversation").into())
        };
    };
    if let Some(active) = head.active {
        return Err(conversation_busy(id, &active).into());
    }
    let items = conversation_items(store, principal, id, limit(most)).await?;
    if items.len() > most {
        return Err(too_long("conversation", most).into());
    }
    Ok(History { items, position: head.position, ..History::default() })
}

async fn conversation_items(
    store: &Store,
    principal: &str,
    id: &ConversationId,
    limit: i64,
) -> Result<Vec<Value>, StoreError> {
    let items = store.history(principal, id, limit).await?;
    items.iter().map(|item| serde_json::from_str(item).map_err(damaged)).collect()
}

/// The items of the turns that `previous` ends with: each one's input, then its output. Instructions are not
/// inherited.
async fn of_previous(
    store: &Store,
    principal: &str,
    previous: &ResponseId,
    most: usize,
) -> Result<(Vec<Value>, usize), Refusal> {
    let turns = store.turns(principal, previous, limit(most)).await?;
    let last = turns.last().ok_or_else(|| previous_not_found(previous.as_str()))?;
    if !matches!(last.status, Status::Terminal(TerminalStatus::Completed | TerminalStatus::Incomplete)) {
        let message = format!(
            "Previous response '{previous}' is {}; only a response that is completed or incomplete can be continued.",
            last.status
        );
        return Err(ApiError::new(ErrorKind::Conflict, "previous_response_not_completed", message)
            .with_param("previous_response_id")
            .never_retry()
            .into());
    }
    let items = items_of(&turns)?;
    if items.len() > most {
        return Err(too_long("previous_response_id", most).into());
    }
    Ok((items, turns.len()))
}

fn items_of(turns: &[PastResponse]) -> Result<Vec<Value>, StoreError> {
    let mut items = Vec::new();
    for turn in turns {
        let request = StoredRequest::read(&turn.request)?;
        items.extend(request.earlier.into_owned());
        items.extend(request.input.into_owned());
        items.extend(output(turn)?);
    }
    Ok(items)
}

/// What a run that was accepted goes on from, read again; none when some of it is gone.
pub(super) async fn again(
    store: &Store,
    row: &ActiveRun,
    request: &CreateRequest,
) -> Result<Option<Vec<Value>>, StoreError> {
    let mut items = match (&row.history, &row.conversation, &row.previous) {
        // The conversation was deleted meanwhile.
        (Some(history), ..) => serde_json::from_str(history).map_err(damaged)?,
        (None, Some(conversation), _) => conversation_items(store, &row.principal, conversation, i64::MAX).await?,
        (None, None, Some(previous)) => {
            let turns = store.turns_of_run(&row.principal, previous, row.turns).await?;
            if row.turns.is_some_and(|expected| turns.len() as u64 != expected.cast_unsigned()) {
                return Ok(None);
            }
            items_of(&turns)?
        }
        (None, None, None) => Vec::new(),
    };
    items.extend_from_slice(&request.earlier);
    Ok(Some(items))
}

/// The input of a run, as items of a turn.
pub(super) fn input_items(input: &[Value]) -> Vec<ConversationItem> {
    let id = |item: &Value| item["id"].as_str().unwrap_or_default().to_owned();
    input.iter().map(|item| ConversationItem { id: id(item), item: super::to_json(item) }).collect()
}

/// The items of the stored response that has the item `id`.
async fn beside(store: &Store, principal: &str, id: &str) -> Result<Vec<Value>, StoreError> {
    let Some(response) = ResponseId::of_child(id) else { return Ok(Vec::new()) };
    let Some(turn) = store.turns(principal, &response, 1).await?.pop() else { return Ok(Vec::new()) };
    let mut items = input(&turn.request)?;
    items.extend(output(&turn)?);
    Ok(items)
}

fn by_id(item: &Value) -> Option<(String, Value)> {
    Some((item["id"].as_str()?.to_owned(), item.clone()))
}

/// The input items of a request as it was stored.
pub(super) fn input(request: &str) -> Result<Vec<Value>, StoreError> {
    Ok(StoredRequest::read(request)?.input.into_owned())
}

fn output(turn: &PastResponse) -> Result<Vec<Value>, StoreError> {
    #[derive(Deserialize)]
    struct Stored {
        output: Vec<Value>,
    }
    let Some(response) = &turn.response else { return Ok(Vec::new()) };
    let mut stored: Stored = serde_json::from_str(response).map_err(damaged)?;
    stored.output.retain(|item| !is_half_call(item));
    Ok(stored.output)
}

/// One more than allowed, to see that there are more.
fn limit(most: usize) -> i64 {
    i64::try_from(most).unwrap_or(i64::MAX).saturating_add(1)
}

/// Refuses what is larger than it may be.
fn within(size: u64, most: HistoryLimits, param: &str) -> Result<(), ApiError> {
    if size <= most.bytes as u64 {
        return Ok(());
    }
    let message = format!(
        "The history of this request has {size} bytes, more than {} (limits.history_bytes). Start a new conversation, \
         or compact this one.",
        most.bytes
    );
    Err(ApiError::invalid(param, "history_too_long", message))
}

fn too_long(param: &str, most: usize) -> ApiError {
    let message = format!(
        "The history of this request has more than {most} items (limits.history_items). Start a new conversation, or \
         compact this one."
    );
    ApiError::invalid(param, "history_too_long", message)
}

fn damaged(error: serde_json::Error) -> StoreError {
    StoreError::Damaged(format!("a stored response or item is not what it should be: {error}"))
}
