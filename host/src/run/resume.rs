//! After a stop in the middle: every run that was active goes on.
//!
//! A run whose process was killed is still active in the database. At the next start its ownership is taken over, and it
//! is executed again, by the component that it began with: its imports answer from its journal, and what it says is
//! compared with its events, until both are at their ends; then it is live. Its subscribers find the stream continued
//! from where it was.
//!
//! A run that cannot be executed again ends as `failed`, with a message that says why, and holds up no other.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, stream};
use tracing::{error, info};

use super::{
    Ending, Feed, Manager, Recorder, Retention, Run,
    compaction::opened_past,
    history,
    journal::{Journal, is_cancelled},
    outbox::Ownership,
    request::StoredRequest,
};
use crate::{
    metrics::LiveRun,
    plugin::{Agent, Entry, RunContext},
    protocol::{ApiError, ResponseId},
    store::{ActiveRun, JournalSegment, Store, StoreError},
};

/// How often a run is resumed without getting on before it is given up.
const ATTEMPTS: i64 = 5;
/// How many runs are read at once.
const READS: usize = 8;

/// What is kept of a run.
struct Kept {
    row: ActiveRun,
    /// How often it was resumed since it last got on, this time included.
    attempts: i64,
    /// The frames of its events, and how many they are.
    log: Bytes,
    events: u64,
    journal: Vec<JournalSegment>,
}

/// Why a run is not executed again.
enum Over {
    /// It ends.
    Ended(Ending),
    /// The database does not answer.
    Store(StoreError),
}

/// Makes the runs go on that were taken over, and returns how many there are. When this returns, they can be found and
/// subscribed to; they are replayed behind it.
///
/// # Errors
///
/// The database does not answer.
pub async fn resume(manager: &Arc<Manager>, active: Vec<ActiveRun>) -> Result<usize, StoreError> {
    // Not when they were taken over: a start that fails before this is no attempt.
    let attempts = manager.store().count_attempts().await?;
    let mut all = stream::iter(active)
        .map(async |row| {
            let (id, attempts) = (row.id.clone(), attempts.get(&row.id).copied().unwrap_or_default());
            (id, Kept::read(manager.store(), row, attempts).await)
        })
        .buffered(READS);
    let mut resumed = 0;
    while let Some((id, kept)) = all.next().await {
        let adopted = match kept {
            Ok(kept) => resume_one(manager, kept).await,
            Err(error) => Err(error),
        };
        match adopted {
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

async fn resume_one(manager: &Arc<Manager>, kept: Kept) -> Result<(), StoreError> {
    let Kept { row, attempts, log, events, journal } = kept;
    let id = &row.id;
    let recorder = Recorder::replay(id.clone(), log, events, manager.limits().output)
        .map_err(|error| StoreError::Damaged(error.to_string()))?;
    let feed = Feed::new(Retention::Log, manager.limits().feed_bytes);
    feed.begin_at(events);
    let ownership = Ownership { id: id.clone(), principal: row.principal.clone(), durable: true, epoch: row.epoch };
    let run = manager.adopt(ownership, recorder, Journal::resume(&journal, manager.limits().journal_bytes), feed);
    let live = manager.measure(&row.agent, row.created_at);
    let prepared = match attempts > ATTEMPTS {
        true => Err(Over::unable(format!("it was resumed {ATTEMPTS} times and did not get on"))),
        false => prepare(manager, &row, &run, &live, &journal).await,
    };
    match prepared {
        Ok((agent, context)) => manager.go_on(run, agent, context, live),
        Err(Over::Ended(ending)) => {
            info!(response = %id, ?ending, "this run is not resumed");
            manager.give_up(run, ending, live);
        }
        Err(Over::Store(error)) => return Err(error),
    }
    Ok(())
}

/// What the run needs to be executed again.
async fn prepare(
    manager: &Arc<Manager>,
    row: &ActiveRun,
    run: &Arc<Run>,
    live: &Arc<LiveRun>,
    journal: &[JournalSegment],
) -> Result<(Arc<Agent>, RunContext), Over> {
    let entries = entries(journal).ok_or_else(|| Over::unable("its journal is damaged"))?;
    if is_cancelled(&entries) {
        return Err(Over::Ended(Ending::Cancelled));
    }
    let request = StoredRequest::read(&row.request)?.into_request(row.previous.clone(), row.conversation.clone());
    let agent = agent(manager, row).await?;
    let past = history::again(manager.store(), &row.principal, &request).await?;
    let past = opened_past(manager.seal(), &row.principal, &request, past)?;
    let mut context = manager.context(run, live, &request, &past, row.created_at)?;
    context.entries = entries;
    Ok((agent, context))
}

/// The component that the run began with.
async fn agent(manager: &Arc<Manager>, row: &ActiveRun) -> Result<Arc<Agent>, Over> {
    if let Some(agent) = manager.agents().by_component(&row.component) {
        return Ok(agent);
    }
    let wasm = manager.store().component(&row.component).await?;
    let wasm = wasm.ok_or_else(|| Over::unable("its component is gone"))?;
    let loaded = manager.agents().load_retired(&wasm, row.created_at / 1_000).await;
    loaded.map_err(|why| Over::unable(format!("its component cannot be loaded any more: {why}")))
}

/// The entries of a journal; none when one of them is missing or cannot be read.
fn entries(journal: &[JournalSegment]) -> Option<Vec<Entry>> {
    let mut entries = Vec::new();
    for segment in journal {
        if segment.first != entries.len() as u64 {
            return None;
        }
        for line in segment.lines.split_inclusive(|byte| *byte == b'\n') {
            entries.push(serde_json::from_slice(line).ok()?);
        }
        if segment.last + 1 != entries.len() as u64 {
            return None;
        }
    }
    Some(entries)
}

impl Kept {
    async fn read(store: &Store, row: ActiveRun, attempts: i64) -> Result<Self, StoreError> {
        let (log, events) = log(store, &row.id).await?;
        let journal = store.journal(&row.id).await?;
        Ok(Self { row, attempts, log, events, journal })
    }
}

/// The frames of a response's events, and how many they are.
async fn log(store: &Store, id: &ResponseId) -> Result<(Bytes, u64), StoreError> {
    let (mut bytes, mut next) = (BytesMut::new(), 0);
    loop {
        let page = store.events(id, next).await?;
        if page.is_empty() {
            return Ok((bytes.freeze(), next));
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

impl Over {
    /// The run ends as failed. `why` is in the client's words.
    fn unable(why: impl std::fmt::Display) -> Self {
        Self::Ended(Ending::failed(format!("The run could not be resumed: {why}.")))
    }
}

impl From<StoreError> for Over {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Damaged(why) => {
                error!(why, "a run cannot be resumed");
                Self::unable("what it began with is damaged")
            }
            error => Self::Store(error),
        }
    }
}

impl From<ApiError> for Over {
    fn from(error: ApiError) -> Self {
        Self::unable(error.message.trim_end_matches('.'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(first: u64, last: u64, lines: &str) -> JournalSegment {
        JournalSegment { first, last, lines: lines.as_bytes().to_vec() }
    }

    #[test]
    fn a_journal_is_whole_or_damaged() {
        let line = "{\"name\":\"a\",\"time\":1,\"answer\":null}\n";
        let two = line.repeat(2);
        assert_eq!(entries(&[]).unwrap().len(), 0);
        assert_eq!(entries(&[segment(0, 1, &two), segment(2, 2, line)]).unwrap().len(), 3);
        for damaged in [
            vec![segment(1, 1, line)],
            vec![segment(0, 1, line)],
            vec![segment(0, 0, &two)],
            vec![segment(0, 0, line), segment(2, 2, line)],
            vec![segment(0, 0, "{\"name\":\"a\"}\n")],
            vec![segment(0, 0, &line[..20])],
        ] {
            assert!(entries(&damaged).is_none(), "{damaged:?}");
        }
    }
}
