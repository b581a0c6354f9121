//! Group commit: commit, then publish.
//!
//! One task takes the outboxes of all runs that have something to write, writes them in one transaction, and
//! shows the events to the subscribers after the commit. What comes in while a commit runs is the next batch,
//! so batches grow by themselves under load and a lone event is committed at once.
//!
//! While the database does not take writes, admissions are refused at once and everything else waits: nothing is
//! published that is not kept, runs are suspended when their outboxes are full, and all goes on when the
//! database does.
//!
//! Runs of which nothing is kept take the same way through a second writer that has no database.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;
use tracing::{debug, error, info, warn};

use super::{Refusal, Run, StopReason, Write};
use crate::{
    metrics::{CommitMetrics, Published, WriterKind},
    protocol::ResponseId,
    store::{Batch, Committed, StoreError, WriteConnection},
};

/// The most runs in one transaction.
const BATCH: usize = 1_000;
/// The pause before a failed transaction is repeated: from the first to the second, doubling.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Where runs queue to be written.
///
/// Unbounded, and yet bounded: a run stands in it at most once, and the number of runs has a limit.
#[derive(Clone, Debug)]
pub struct WriterQueue(mpsc::UnboundedSender<Arc<Run>>);

impl WriterQueue {
    pub(super) fn push(&self, run: Arc<Run>) {
        // Fails when the writer is gone, which is when the process ends.
        let _ = self.0.send(run);
    }
}

/// Writes runs.
#[derive(Debug)]
pub struct Writer {
    queue: mpsc::UnboundedReceiver<Arc<Run>>,
    /// None: nothing is kept.
    connection: Option<WriteConnection>,
    /// Admissions that were refused although the transaction's fate was unknown: removed with the next one.
    abandoned: Vec<ResponseId>,
    /// Runs that came while the database did not take writes.
    deferred: Vec<Arc<Run>>,
    metrics: CommitMetrics,
    published: Published,
}

impl Writer {
    /// A writer, and the queue in front of it. It ends when the last clone of the queue is gone.
    pub fn new(connection: Option<WriteConnection>, metrics: &CommitMetrics) -> (Self, WriterQueue) {
        let (sender, queue) = mpsc::unbounded_channel();
        let kind = if connection.is_some() { WriterKind::Durable } else { WriterKind::Ephemeral };
        let (metrics, published) = (metrics.clone(), metrics.published(kind));
        let writer = Self { queue, connection, abandoned: Vec::new(), deferred: Vec::new(), metrics, published };
        (writer, WriterQueue(sender))
    }

    /// Writes until the queue is closed. In silence, keeps the database this server's every `keep`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Replaced`]: another server has the database, and its runs.
    pub async fn run(mut self, keep: Duration) -> Result<(), StoreError> {
        let mut runs = Vec::new();
        loop {
            runs.append(&mut self.deferred);
            if runs.is_empty() {
                match tokio::time::timeout(keep, self.queue.recv_many(&mut runs, BATCH)).await {
                    Ok(0) => return Ok(()),
                    Ok(_) => {}
                    Err(_) => self.keep().await?,
                }
            }
            let writes = runs.drain(..).map(Run::take).collect();
            self.write(writes).await?;
        }
    }

    async fn keep(&mut self) -> Result<(), StoreError> {
        let Some(connection) = &mut self.connection else { return Ok(()) };
        match connection.keep().await {
            Err(error @ StoreError::Replaced(_)) => Err(error),
            Err(error) => {
                debug!(%error, "cannot renew the lease of the database");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    async fn write(&mut self, mut writes: Vec<Write>) -> Result<(), StoreError> {
        if writes.is_empty() {
            return Ok(());
        }
        let mut pause = PAUSE.0;
        loop {
            match self.commit(&writes).await {
                Ok(committed) => {
                    if pause > PAUSE.0 {
                        info!(runs = writes.len(), "the database takes writes again");
                    }
                    self.abandoned.clear();
                    publish(writes, &committed, &self.published);
                    return Ok(());
                }
                Err(error) => {
                    self.refuse_admissions(&mut writes, &error);
                    if matches!(error, StoreError::Replaced(_)) {
                        return Err(error);
                    }
                    if matches!(error, StoreError::Rejected(_)) {
                        return self.write_one_by_one(writes, &error).await;
                    }
                    if writes.is_empty() {
                        return Ok(());
                    }
                    if pause == PAUSE.0 {
                        warn!(%error, runs = writes.len(), "cannot write; runs wait until the database takes writes");
                    }
                    self.defer_for(pause).await;
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
        }
    }

    async fn commit(&mut self, writes: &[Write]) -> Result<Committed, StoreError> {
        let Some(connection) = &mut self.connection else { return Ok(Committed::default()) };
        let batch = Batch {
            abandoned: self.abandoned.iter().collect(),
            admitted: writes.iter().filter_map(|write| write.admission.as_ref().map(|(row, _)| row)).collect(),
            segments: writes
                .iter()
                .filter_map(|write| write.segment.as_ref().map(|segment| (&write.run.id, segment)))
                .collect(),
            entries: writes
                .iter()
                .filter_map(|write| write.entries.as_ref().map(|entries| (&write.run.id, entries)))
                .collect(),
            logs: writes.iter().filter_map(|write| write.logs.as_ref().map(|logs| (&write.run.id, logs))).collect(),
            usage: writes.iter().filter_map(|write| write.usage.map(|usage| (&write.run.id, usage))).collect(),
            state: writes.iter().flat_map(|write| write.state.iter().map(|state| state.of(&write.run.id))).collect(),
            ended: writes.iter().filter_map(|write| write.ended.as_ref().map(|(row, _)| row)).collect(),
        };
        let (runs, events) = (writes.len(), batch.segments.iter().map(|(_, segment)| segment.events()).sum());
        let start = Instant::now();
        let committed = connection.commit(&batch).await;
        match &committed {
            Ok(_) => self.metrics.committed(runs, events, start.elapsed()),
            Err(error) => self.metrics.failed(error),
        }
        committed
    }

    /// A run whose admission failed has not begun: it is told, and forgotten.
    fn refuse_admissions(&mut self, writes: &mut Vec<Write>, error: &StoreError) {
        for write in writes.extract_if(.., |write| write.admission.is_some()) {
            self.abandoned.push(write.run.id.clone());
            if let Some((_, waiting)) = write.admission {
                let _ = waiting.send(Err(match error {
                    StoreError::Rejected(_) => Refusal::Defect,
                    _ => Refusal::Unavailable,
                }));
            }
        }
    }

    /// Finds the write that the database does not take, and stops its run: the others must not suffer.
    async fn write_one_by_one(&mut self, writes: Vec<Write>, error: &StoreError) -> Result<(), StoreError> {
        if let [write] = writes.as_slice() {
            error!(response = %write.run.id, %error, "the database refuses this run's events; the run is stopped");
            write.run.stop(StopReason::Unwritable);
            write.state.iter().for_each(|state| state.settle(true));
            write.run.feed.close(None);
            return Ok(());
        }
        for write in writes {
            Box::pin(self.write(vec![write])).await?;
        }
        Ok(())
    }

    /// Waits, refusing the admissions that come meanwhile.
    async fn defer_for(&mut self, pause: Duration) {
        let end = tokio::time::sleep(pause);
        tokio::pin!(end);
        loop {
            tokio::select! {
                () = &mut end => return,
                run = self.queue.recv() => match run {
                    Some(run) => match run.take_admission() {
                        Some(waiting) => {
                            let _ = waiting.send(Err(Refusal::Unavailable));
                        }
                        None => self.deferred.push(run),
                    },
                    None => return end.await,
                },
            }
        }
    }
}

fn publish(writes: Vec<Write>, committed: &Committed, published: &Published) {
    let (mut events, mut bytes) = (0, 0);
    for Write { run, admission, segment, entries, state, ended, suspended, .. } in writes {
        let refusal = if committed.taken.contains(&run.id) {
            Some(Refusal::KeyTaken)
        } else {
            committed.guarded.contains(&run.id).then_some(Refusal::ConversationMoved)
        };
        if let Some(refusal) = refusal {
            if let Some((_, waiting)) = admission {
                let _ = waiting.send(Err(refusal));
            }
            continue;
        }
        let homeless = committed.homeless.contains(&run.id);
        state.iter().for_each(|state| state.settle(homeless));
        let lost = committed.late.contains(&run.id);
        if let Some(entries) = entries.filter(|_| !lost) {
            run.has_committed(entries.last);
        }
        if let Some(segment) = segment.filter(|_| !lost) {
            events += segment.events();
            bytes += segment.frames.len() as u64;
            run.feed.publish(segment);
        }
        if let Some((_, waiting)) = admission {
            let _ = waiting.send(Ok(()));
        }
        if let Some((_, ended)) = ended {
            if lost {
                error!(response = %run.id, "this run was ended elsewhere; its own end came too late");
            }
            run.feed.close((!lost).then_some(ended));
        } else if suspended {
            run.feed.suspend();
        }
    }
    published.add(events, bytes);
}
