//! After a stop in the middle: every run that was active goes on.
//!
//! A run whose process was killed is still active in the database. At the next start its ownership is taken over, and it
//! is executed again, by the component that it began with: its imports answer from its journal, and what it says is
//! compared with its events, until both are at their ends; then it is live. Its subscribers find the stream continued
//! from where it was.
//!
//! A run that cannot be executed again ends as `failed`, with a message that says why, and holds up no other.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, stream};
use tracing::{error, info};

use super::{
    Ending, Feed, Manager, Recorder, Retention, Run,
    compaction::opened_past,
    history,
    journal::{Journal, is_cancelled},
    logs::KeptLog,
    outbox::Ownership,
    request::StoredRequest,
};
use crate::{
    plugin::{Agent, Entry, RunContext, Used},
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
    /// The frames of its events, and how many they are.
    log: Bytes,
    events: u64,
    journal: Vec<JournalSegment>,
    used: Used,
    logged: KeptLog,
}

/// Why a run is not executed again.
pub(super) enum Over {
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
    let attempts = &manager.store().count_attempts().await?;
    // Each is read and taken up in one future: one that is not polled may hold a connection that another waits for.
    let mut all = stream::iter(active)
        .map(async |row| {
            let id = row.id.clone();
            let attempts = attempts.get(&id).copied().unwrap_or_default();
            let adopted = match Kept::read(manager.store(), row).await {
                Ok(kept) => resume_one(manager, kept, attempts).await,
                Err(error) => Err(error),
            };
            (id, adopted)
        })
        .buffered(READS);
    let mut resumed = 0;
    while let Some((id, adopted)) = all.next().await {
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

/// `attempts`: how often it was resumed since it last got on, this time included.
async fn resume_one(manager: &Arc<Manager>, kept: Kept, attempts: i64) -> Result<(), StoreError> {
    let Kept { row, log, events, journal, used, logged } = kept;
    let id = &row.id;
    let recorder = Recorder::replay(id.clone(), log, events, manager.limits().output)
        .map_err(|error| StoreError::Damaged(error.to_string()))?;
    let feed = Feed::new(Retention::Log, manager.limits().feed_bytes);
    feed.begin_at(events);
    let ownership = Ownership { id: id.clone(), principal: row.principal.clone(), durable: true, epoch: row.epoch };
    let run = manager.adopt(
        (&row.agent, row.created_at),
        ownership,
        recorder,
        Journal::resume(&journal, manager.limits().journal_bytes),
        feed,
    );
    run.recall(used, logged);
    let prepared = match attempts > ATTEMPTS {
        true => Err(Over::unable(format!("it was resumed {ATTEMPTS} times and did not get on"))),
        false => prepare(manager, &row, &run, &journal).await,
    };
    match prepared {
        Ok((agent, context)) => manager.go_on(run, agent, context),
        Err(Over::Ended(ending)) => {
            info!(response = %id, ?ending, "this run is not resumed");
            manager.give_up(run, ending);
        }
        Err(Over::Store(error)) => return Err(error),
    }
    Ok(())
}

/// What a run of this server needs to be executed again from its beginning; none while some of it is not committed. The
/// run is at its beginning after this.
pub(super) async fn again(manager: &Manager, run: &Arc<Run>) -> Result<Option<(Arc<Agent>, RunContext)>, Over> {
    let row = manager.store().active_run(&run.id).await?;
    let row = row.ok_or_else(|| Over::unable("it was removed"))?;
    let Kept { row, log, events, journal, .. } = Kept::read(manager.store(), row).await?;
    let limits = manager.limits();
    let again = Journal::resume(&journal, limits.journal_bytes);
    if (events, again.next()) != run.reached() {
        return Ok(None);
    }
    let recorder = Recorder::replay(run.id.clone(), log, events, limits.output)
        .map_err(|error| StoreError::Damaged(error.to_string()))?;
    let found = prepare(manager, &row, run, &journal).await?;
    run.rewind(recorder, again);
    Ok(Some(found))
}

/// What the run needs to be executed again.
async fn prepare(
    manager: &Manager,
    row: &ActiveRun,
    run: &Arc<Run>,
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
    let mut context = manager.context(run, &request, &past, row.created_at)?;
    context.entries = entries;
    Ok((agent, context))
}

/// The component that the run began with.
async fn agent(manager: &Manager, row: &ActiveRun) -> Result<Arc<Agent>, Over> {
    if let Some(agent) = manager.agents().by_component(&row.component) {
        return Ok(agent);
    }
    let wasm = manager.store().component(&row.component).await?;
    let wasm = wasm.ok_or_else(|| Over::unable("its component is gone"))?;
    let loaded = manager.agents().load_retired(&row.component, wasm, row.created_at / 1_000).await;
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
    async fn read(store: &Store, row: ActiveRun) -> Result<Self, StoreError> {
        let (log, events) = log(store, &row.id).await?;
        let journal = store.journal(&row.id).await?;
        let shown = store.run(&row.id).await?;
        let whole = |number: i64| number.unsigned_abs();
        let (used, logged) = match shown {
            None => (Used::default(), KeptLog::default()),
            Some(shown) => {
                let usage = shown.usage;
                let used = Used {
                    cpu: Duration::from_micros(whole(usage.cpu)),
                    memory: whole(usage.memory),
                    input_tokens: whole(usage.input_tokens),
                    output_tokens: whole(usage.output_tokens),
                };
                let bytes = usize::try_from(store.log_bytes(&row.id).await?).unwrap_or_default();
                (used, KeptLog { next: whole(shown.log_lines), heard: whole(usage.heard), bytes })
            }
        };
        Ok(Self { row, log, events, journal, used, logged })
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
