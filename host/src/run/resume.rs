//! After a stop in the middle: every run that was active goes on.
//!
//! A run whose process was killed is still active in the database. At the next start its ownership is taken over, and it
//! is executed again, by the component that it began with: its imports answer from its journal, and what it says is
//! compared with its events, until both are at their ends; then it is live. Its subscribers find the stream continued
//! from where it was.
//!
//! A run that cannot be executed again ends as `failed`, with a message that says why, and holds up no other.

use std::sync::Arc;

use bytes::BytesMut;
use serde::Deserialize;
use serde_json::{Map, Value};
use tracing::{error, info};

use super::{Ending, Feed, Manager, Recorder, Retention, Run, history, journal::Journal, outbox::Ownership};
use crate::{
    plugin::{Agent, Entry, RunContext},
    protocol::{ConversationId, FoldError, ResponseId},
    store::{ActiveRun, Store, StoreError},
};

/// How often a run is resumed without getting on before it is given up.
const ATTEMPTS: i64 = 5;

/// A request as it was stored.
#[derive(Debug, Deserialize)]
struct StoredRequest {
    fields: Map<String, Value>,
    input: Vec<Value>,
}

/// Why a run cannot be executed again, in the client's words.
struct Unresumable(String);

/// Makes every run that the last stop cut off go on, and returns how many there are. When this returns, they can be
/// found and subscribed to; they are replayed behind it.
///
/// # Errors
///
/// The database does not answer.
pub async fn resume(manager: &Arc<Manager>) -> Result<usize, StoreError> {
    let rows = manager.store().active_runs().await?;
    let mut resumed = 0;
    for row in rows {
        let id = row.id.clone();
        match resume_one(manager, row).await {
            Ok(()) => resumed += 1,
            Err(StoreError::Damaged(why)) => error!(response = %id, why, "this run can be neither resumed nor ended"),
            Err(error) => return Err(error),
        }
    }
    if resumed > 0 {
        info!(runs = resumed, "resuming the runs that the last stop cut off");
    }
    Ok(resumed)
}

async fn resume_one(manager: &Arc<Manager>, row: ActiveRun) -> Result<(), StoreError> {
    let store = manager.store();
    let id = row.id.clone();
    let (log, events) = log(store, &id).await?;
    let segments = store.journal(&id).await?;
    let entries = segments.last().map_or(0, |segment| segment.last + 1);
    let progress = events.saturating_add(entries).cast_signed();
    let attempts = if progress > row.progress { 1 } else { row.attempts + 1 };
    let epoch = store.take_over(&row, attempts, progress).await?;

    let damaged = |error: FoldError| StoreError::Damaged(format!("{id}: {error}"));
    let recorder = Recorder::replay(id.clone(), log.freeze(), manager.limits().output).map_err(damaged)?;
    let feed = Feed::new(Retention::Log, manager.limits().feed_bytes);
    feed.begin_at(events);
    let ownership = Ownership { id: id.clone(), principal: row.principal.clone(), durable: true, epoch };
    let run = manager.adopt(ownership, recorder, Journal::resume(entries), feed);
    let prepared = if attempts > ATTEMPTS {
        Err(Unresumable(format!("it was resumed {ATTEMPTS} times and did not get on")))
    } else {
        prepare(manager, &row, &run, segments.iter().flat_map(|segment| &segment.lines).copied().collect()).await?
    };
    match prepared {
        Ok((agent, context)) => manager.go_on(run, agent, context),
        Err(Unresumable(why)) => {
            error!(response = %id, "this run cannot be resumed: {why}");
            manager.give_up(run, Ending::failed(format!("The run could not be resumed: {why}.")));
        }
    }
    Ok(())
}

/// What the run needs to be executed again.
async fn prepare(
    manager: &Arc<Manager>,
    row: &ActiveRun,
    run: &Arc<Run>,
    journal: Vec<u8>,
) -> Result<Result<(Arc<Agent>, RunContext), Unresumable>, StoreError> {
    let lines = journal.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let entries: Result<Vec<Entry>, _> = lines.map(serde_json::from_slice).collect();
    let Ok(entries) = entries else { return Ok(Err(Unresumable("its journal is damaged".to_owned()))) };
    let Ok(StoredRequest { fields, input }) = serde_json::from_str(&row.request) else {
        return Ok(Err(Unresumable("its request is damaged".to_owned())));
    };
    let agent = match manager.agents().by_component(&row.component) {
        Some(agent) => agent,
        None => match manager.store().component(&row.component).await? {
            None => return Ok(Err(Unresumable("its component is gone".to_owned()))),
            Some(wasm) => match manager.agents().load_retired(&wasm, row.created_at / 1_000).await {
                Ok(agent) => agent,
                Err(why) => return Ok(Err(Unresumable(format!("its component is not served any more: {why}")))),
            },
        },
    };
    let mut context = manager.context(run, row.created_at);
    let model = fields.get("model").and_then(Value::as_str).unwrap_or_default();
    context.upstream = crate::protocol::upstream_of(model).map(str::to_owned);
    context.history = earlier(manager, &row.principal, &fields).await?;
    context.input = to_json(&input);
    context.request = to_json(&fields);
    context.entries = entries;
    Ok(Ok((agent, context)))
}

/// The items that the run went on from, JSON. Should they be gone, a run that has read them diverges.
async fn earlier(manager: &Arc<Manager>, principal: &str, fields: &Map<String, Value>) -> Result<String, StoreError> {
    let most = manager.limits().history_items;
    let conversation = fields.get("conversation");
    let name = conversation.and_then(|value| value.as_str().or(value["id"].as_str())).and_then(ConversationId::parse);
    let previous = fields.get("previous_response_id").and_then(Value::as_str).and_then(ResponseId::parse);
    let items = history::again(manager.store(), principal, name.as_ref(), previous.as_ref(), most).await?;
    Ok(to_json(&items))
}

/// The frames of a response's events, and how many they are.
async fn log(store: &Store, id: &ResponseId) -> Result<(BytesMut, u64), StoreError> {
    let (mut bytes, mut next) = (BytesMut::new(), 0);
    loop {
        let page = store.events(id, next).await?;
        if page.is_empty() {
            return Ok((bytes, next));
        }
        for segment in page {
            if segment.first != next {
                return Err(StoreError::Damaged(format!("{id}: event {next} is missing")));
            }
            bytes.extend_from_slice(&segment.frames);
            next = segment.last + 1;
        }
    }
}

/// JSON text of strings, numbers and lists, which always serializes.
fn to_json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
