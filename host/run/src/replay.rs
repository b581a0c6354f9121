//! What a run needs to be executed again, read from the database.

use std::{sync::Arc, time::Duration};

use outlast_plugin::{Agent, Entry, RunContext, Used};
use outlast_protocol::{ApiError, ResponseId, Usage};
use outlast_store::{ActiveRun, JournalSegment, Store, StoreError};
use tracing::error;

use super::{
    Ending, Manager, ReasoningSeal, Recorder, Run,
    compaction::opened_past,
    events::log,
    history::{self, input_items},
    journal::{Journal, is_cancelled},
    logs::KeptLog,
    request::StoredRequest,
};

/// The pause before the database is asked again for what a run needs.
pub(super) const PAUSE: Duration = Duration::from_millis(500);
/// The pause before it is looked again whether all of a run has been written.
const SETTLE: Duration = Duration::from_millis(20);

/// Why a run is not executed again.
pub(super) enum NotResumed {
    /// It ends.
    Ended(Ending),
    /// The database does not answer.
    Store(StoreError),
}

/// What is kept of a run is not what it should be.
pub(super) struct Unreadable(pub String);

/// What is kept of a run.
struct StoredRun {
    row: ActiveRun,
    journal: Vec<JournalSegment>,
}

impl StoredRun {
    /// Reads it, and puts the run back to what is committed; none while some of it is not. Only a few are read at once.
    async fn read(manager: &Manager, run: &Arc<Run>) -> Result<Option<Self>, StoreError> {
        let (_turn, store, limits) = (manager.reading().await, manager.store(), manager.limits());
        let row = store.active_run(&run.id).await?;
        let row = row.ok_or_else(|| StoreError::Damaged(format!("{}: it is not active", run.id)))?;
        let (log, events) = log(store, &run.id).await?;
        let journal = store.journal(&run.id).await?;
        let again = Journal::resume(&journal, limits.journal_bytes);
        if !run.feed.is_broken() && (events, again.next()) != run.reached() {
            return Ok(None);
        }
        let recorder = Recorder::replay(run.id.clone(), log, events, limits.output)
            .map_err(|error| StoreError::Damaged(format!("{}: {error}", run.id)))?;
        let (used, reported, logged) = used(store, &run.id).await?;
        run.recall(used, reported, logged);
        let seal = ReasoningSeal::stored(manager.seal(), &row.principal, &row.request);
        run.rewind(recorder.having_used(reported).sealing(seal), again);
        Ok(Some(Self { row, journal }))
    }
}

/// Puts the run back to what is committed, for its end. Waits for a database that does not answer.
pub(super) async fn reread(manager: &Manager, run: &Arc<Run>) -> Result<(), Unreadable> {
    loop {
        match StoredRun::read(manager, run).await {
            Ok(Some(_)) => return Ok(()),
            Ok(None) => tokio::time::sleep(SETTLE).await,
            Err(error) if error.is_temporary() => tokio::time::sleep(PAUSE).await,
            Err(error) => return Err(Unreadable(error.to_string())),
        }
    }
}

/// What a run needs to be executed again from its beginning; none while some of it is not committed. The run is at its
/// beginning after this.
pub(super) async fn again(manager: &Manager, run: &Arc<Run>) -> Result<Option<(Arc<Agent>, RunContext)>, NotResumed> {
    match StoredRun::read(manager, run).await? {
        Some(kept) => prepare(manager, kept, run).await.map(Some),
        None => Ok(None),
    }
}

/// What the run needs to be executed again.
async fn prepare(
    manager: &Manager,
    StoredRun { row, journal }: StoredRun,
    run: &Arc<Run>,
) -> Result<(Arc<Agent>, RunContext), NotResumed> {
    let entries = entries(&journal).ok_or_else(|| NotResumed::failed("its journal is damaged"))?;
    if is_cancelled(&entries) {
        return Err(NotResumed::Ended(Ending::Cancelled));
    }
    let request = StoredRequest::read(&row.request)?.into_request(row.previous.clone(), row.conversation.clone());
    let agent = agent(manager, &row).await?;
    let past = history::again(manager.store(), &row, &request).await?;
    let past = past.ok_or_else(|| NotResumed::failed("the history that it continues is gone"))?;
    let past = opened_past(manager.seal(), &row.principal, &request, past)?;
    if request.conversation.is_some() {
        run.set_input(input_items(&request.input));
    }
    let mut context = manager.context(run, &request, &past, row.created_at)?;
    context.entries = entries;
    Ok((agent, context))
}

/// The component that the run began with.
async fn agent(manager: &Manager, row: &ActiveRun) -> Result<Arc<Agent>, NotResumed> {
    if let Some(agent) = manager.agents().by_component(&row.component) {
        return Ok(agent);
    }
    let wasm = manager.store().component(&row.component).await?;
    let wasm = wasm.ok_or_else(|| NotResumed::failed("its component is gone"))?;
    let loaded = manager.agents().load_retired(&row.component, wasm, row.created_at / 1_000).await;
    loaded.map_err(|why| NotResumed::failed(format!("its component can no longer be loaded: {why}")))
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

/// What earlier lives of the run have used, what its agent has reported, and how far its log is.
async fn used(store: &Store, id: &ResponseId) -> Result<(Used, Usage, KeptLog), StoreError> {
    let Some(shown) = store.run(id).await? else { return Ok(Default::default()) };
    let (usage, whole) = (shown.usage, |number: i64| number.unsigned_abs());
    let used = Used {
        cpu: Duration::from_micros(whole(usage.cpu)),
        memory: whole(usage.memory),
        input_tokens: whole(usage.input_tokens),
        output_tokens: whole(usage.output_tokens),
    };
    let bytes = usize::try_from(store.log_bytes(id).await?).unwrap_or_default();
    Ok((used, usage.reported, KeptLog { next: whole(shown.log_lines), heard: whole(usage.heard), bytes }))
}

impl NotResumed {
    fn failed(why: impl std::fmt::Display) -> Self {
        Self::Ended(not_resumed(why))
    }
}

impl From<StoreError> for NotResumed {
    fn from(error: StoreError) -> Self {
        match error {
            error if error.is_temporary() => Self::Store(error),
            error => {
                error!(%error, "a run cannot be resumed");
                Self::failed("what is stored of it is damaged")
            }
        }
    }
}

impl From<ApiError> for NotResumed {
    fn from(error: ApiError) -> Self {
        Self::failed(error.message.trim_end_matches('.'))
    }
}

/// The end of a run that is not resumed. `why` is in the client's words.
pub(super) fn not_resumed(why: impl std::fmt::Display) -> Ending {
    Ending::failed(format!("The run could not be resumed: {why}."))
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
