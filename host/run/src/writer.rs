//! Group commit: commit, then publish.
//!
//! One task takes the outboxes of all runs that have something to write, writes them in one transaction, and
//! shows the events to the subscribers after the commit. What comes in while a commit runs is the next batch,
//! so batches grow by themselves under load and a lone event is committed at once.
//!
//! While the database does not take writes, admissions are refused at once, but for those that it may have made already:
//! it is found out first whether it has. Everything else waits: nothing is
//! published that is not kept, runs are suspended when their outboxes are full, and all goes on when the
//! database does.
//!
//! What one run has to be written must not hold up the others. A batch that the database refuses is divided until the run
//! is found that is to blame, and so is one that fails again and again while the database takes other writes; that run is
//! ended, and all others go on. A batch that takes too long is divided as well.
//!
//! Runs of which nothing is kept take the same way through a second writer that has no database.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use outlast_metrics::{CommitFailure, CommitMetrics, Published, WriterKind};
use outlast_protocol::ResponseId;
use outlast_runtime::clock::Clock;
use outlast_store::{Batch, Committed, StoreError, Uncommitted, WriteConnection};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::{Refusal, Run, Write, health::Health, stored::Stored};

/// The most runs in one transaction.
const BATCH: usize = 1_000;
/// The most bytes in one transaction, unless one run has more.
const BATCH_BYTES: usize = 16 << 20;
/// The pause before a failed transaction is repeated: from the first to the second, doubling.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How long a client waits to hear whether its request was admitted, when the database did not answer the commit.
const ADMISSION_PATIENCE: Duration = Duration::from_secs(30);
/// How often a transaction fails in the same way before it is asked whether one of its runs is to blame.
const EQUAL: usize = 5;

/// Where runs queue to be written.
///
/// Unbounded, and yet bounded: a run stands in it at most once, and the number of runs has a limit.
#[derive(Clone, Debug)]
pub struct WriterQueue {
    runs: mpsc::UnboundedSender<Arc<Run>>,
    abandoned: Arc<Abandoned>,
    health: Health,
    clock: Clock,
    /// How much principals keep.
    pub(super) stored: Stored,
    deliveries: Arc<Notify>,
}

impl WriterQueue {
    pub(super) fn push(&self, run: Arc<Run>) {
        // Fails when the writer is gone, which is when the process ends.
        let _ = self.runs.send(run);
    }

    /// Whether the admission of this response was given up although it may be in the database. It will be removed.
    pub(super) fn has_abandoned(&self, id: &ResponseId) -> bool {
        self.abandoned.0.lock().contains(id)
    }

    /// The clock of the server.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Whether the database takes writes.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Is notified when webhooks are to be told of the ends of responses.
    pub fn deliveries(&self) -> Arc<Notify> {
        self.deliveries.clone()
    }
}

/// Admissions that were given up when it was not known whether they were made: removed with the next transaction.
#[derive(Debug, Default)]
struct Abandoned(Mutex<HashSet<ResponseId>>);

/// Writes runs.
#[derive(Debug)]
pub struct Writer {
    queue: mpsc::UnboundedReceiver<Arc<Run>>,
    /// None: nothing is kept.
    connection: Option<WriteConnection>,
    abandoned: Arc<Abandoned>,
    /// Runs that came while the database did not take writes.
    deferred: Vec<Arc<Run>>,
    health: Health,
    clock: Clock,
    stored: Stored,
    deliveries: Arc<Notify>,
    metrics: CommitMetrics,
    published: Published,
}

impl Writer {
    /// A writer, and the queue in front of it. It ends when the last clone of the queue is gone.
    pub fn new(connection: Option<WriteConnection>, clock: Clock, metrics: &CommitMetrics) -> (Self, WriterQueue) {
        let (sender, queue) = mpsc::unbounded_channel();
        let kind = if connection.is_some() { WriterKind::Durable } else { WriterKind::Ephemeral };
        let (metrics, published) = (metrics.clone(), metrics.published(kind));
        let (abandoned, health, stored) = (Arc::<Abandoned>::default(), Health::default(), Stored::default());
        let deliveries = Arc::<Notify>::default();
        let front = WriterQueue {
            runs: sender,
            abandoned: abandoned.clone(),
            health: health.clone(),
            clock: clock.clone(),
            stored: stored.clone(),
            deliveries: deliveries.clone(),
        };
        let deferred = Vec::new();
        (Self { queue, connection, abandoned, deferred, health, clock, stored, deliveries, metrics, published }, front)
    }

    /// Writes until `stop`, and then what is left in the queue; closes its connection. In silence, keeps the database this
    /// server's every `keep`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Replaced`]: another server has the database, and its runs.
    pub async fn run(mut self, keep: Duration, stop: CancellationToken) -> Result<(), StoreError> {
        let mut runs = Vec::new();
        loop {
            let deferred = self.deferred.len().min(BATCH);
            runs.extend(self.deferred.drain(..deferred));
            if runs.is_empty() {
                let health = self.health.clone();
                tokio::select! {
                    biased;
                    received = self.queue.recv_many(&mut runs, BATCH) => if received == 0 {
                        return Ok(());
                    },
                    () = stop.cancelled() => {
                        if let Some(connection) = self.connection {
                            connection.close().await;
                        }
                        return Ok(());
                    }
                    () = health.asked() => self.probe().await?,
                    () = tokio::time::sleep(keep) => self.keep().await?,
                }
            }
            let mut writes = runs.drain(..).map(Run::take).peekable();
            while let Some(first) = writes.next() {
                let mut bytes = first.bytes();
                let mut batch = vec![first];
                while let Some(write) = writes.next_if(|write| bytes + write.bytes() <= BATCH_BYTES) {
                    bytes += write.bytes();
                    batch.push(write);
                }
                self.write(batch).await?;
            }
        }
    }

    async fn keep(&mut self) -> Result<(), StoreError> {
        let Some(connection) = &mut self.connection else { return Ok(()) };
        let kept = connection.keep().await;
        self.heard(kept)
    }

    /// Sees whether the database takes writes.
    async fn probe(&mut self) -> Result<(), StoreError> {
        let Some(connection) = &mut self.connection else { return Ok(()) };
        let written = connection.probe(self.clock.milliseconds()).await;
        self.heard(written)
    }

    fn heard(&self, result: Result<(), StoreError>) -> Result<(), StoreError> {
        match result {
            Err(error @ StoreError::Replaced(_)) => return Err(error),
            Err(error) => self.health.failed(&error),
            Ok(()) => self.health.succeeded(),
        }
        Ok(())
    }

    async fn write(&mut self, mut writes: Vec<Write>) -> Result<(), StoreError> {
        let (mut pause, mut failures) = (PAUSE.0, Failures::default());
        while !writes.is_empty() {
            let Uncommitted { error, unknown } = match self.commit(&writes).await {
                Ok(committed) => {
                    self.health.succeeded();
                    self.stored.wrote(&writes);
                    if committed.deliveries > 0 {
                        self.deliveries.notify_one();
                    }
                    publish(writes, &committed, &self.published);
                    return Ok(());
                }
                Err(uncommitted) => uncommitted,
            };
            if error.blames_the_data() {
                return self.divide(writes, &error).await;
            }
            let replaced = matches!(error, StoreError::Replaced(_));
            self.refuse_admissions(&mut writes, unknown, if replaced { Duration::ZERO } else { ADMISSION_PATIENCE });
            if replaced {
                return Err(error);
            }
            self.health.failed(&error);
            if matches!(error, StoreError::TimedOut(_)) && writes.len() > 1 {
                return self.divide(writes, &error).await;
            }
            if failures.again(&error) >= EQUAL && !error.is_an_outage() {
                // Other writes may pass.
                self.probe().await?;
                if self.health.is_well() {
                    return self.divide(writes, &error).await;
                }
            }
            self.defer_for(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
        Ok(())
    }

    async fn commit(&mut self, writes: &[Write]) -> Result<Committed, Uncommitted> {
        let Some(connection) = &mut self.connection else { return Ok(Committed::default()) };
        let abandoned: Vec<ResponseId> = self.abandoned.0.lock().iter().cloned().collect();
        let batch = Batch {
            abandoned: abandoned.iter().collect(),
            admitted: writes
                .iter()
                .filter_map(|write| write.admission.as_ref().map(|admission| &admission.row))
                .collect(),
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
            phases: writes
                .iter()
                .filter_map(|write| write.phase.as_ref().map(|(phase, _)| (&write.run.id, write.run.epoch, *phase)))
                .collect(),
            ended: writes.iter().filter_map(|write| write.ended.as_ref().map(|(row, _)| row)).collect(),
        };
        let (runs, events) = (writes.len(), batch.segments.iter().map(|(_, segment)| segment.events()).sum());
        let start = Instant::now();
        let committed = connection.commit(&batch).await;
        match &committed {
            Ok(_) => {
                self.metrics.committed(runs, events, start.elapsed());
                let mut all = self.abandoned.0.lock();
                all.retain(|id| !abandoned.contains(id));
            }
            Err(uncommitted) => self.metrics.failed(failure(&uncommitted.error)),
        }
        committed
    }

    /// A run whose admission failed has not begun: its client is told, and it is forgotten. Where the database may have
    /// made the admission all the same, the client waits until that is known, for `patience` at most.
    fn refuse_admissions(&mut self, writes: &mut Vec<Write>, unknown: bool, patience: Duration) {
        let now = Instant::now();
        let over = |write: &mut Write| {
            let Some(admission) = &mut write.admission else { return false };
            if unknown {
                admission.unknown_since.get_or_insert(now);
            }
            admission.unknown_since.is_none_or(|since| now.duration_since(since) >= patience)
        };
        for write in writes.extract_if(.., over) {
            let Some(admission) = write.admission else { continue };
            if admission.unknown_since.is_some() {
                self.abandoned.0.lock().insert(write.run.id.clone());
                admission.answer(Err(Refusal::Unknown));
            } else {
                admission.answer(Err(Refusal::Unavailable));
            }
        }
    }

    /// Writes both halves, each for itself. A run that is alone is to blame for the error.
    async fn divide(&mut self, mut writes: Vec<Write>, error: &StoreError) -> Result<(), StoreError> {
        if writes.len() > 1 {
            let rest = writes.split_off(writes.len() / 2);
            Box::pin(self.write(writes)).await?;
            return Box::pin(self.write(rest)).await;
        }
        for Write { run, admission, state, .. } in writes {
            error!(response = %run.id, %error, "the database refuses the writes of this run; the run ends");
            state.iter().for_each(|state| state.settle(true));
            match admission {
                Some(admission) => admission.answer(Err(Refusal::Defect)),
                None => run.break_off(),
            }
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
                        Some(admission) => admission.answer(Err(Refusal::Unavailable)),
                        None => self.deferred.push(run),
                    },
                    None => return end.await,
                },
            }
        }
    }
}

/// How often something has failed in the same way.
#[derive(Default)]
struct Failures {
    last: String,
    times: usize,
}

impl Failures {
    fn again(&mut self, error: &StoreError) -> usize {
        let error = error.to_string();
        self.times = if error == self.last { self.times + 1 } else { 1 };
        self.last = error;
        self.times
    }
}

fn publish(writes: Vec<Write>, committed: &Committed, published: &Published) {
    let (mut events, mut bytes) = (0, 0);
    for Write { run, admission, segment, entries, state, phase, ended, suspended, shelved, .. } in writes {
        let refusal = if committed.key_conflicts.contains(&run.id) {
            Some(Refusal::KeyTaken)
        } else {
            committed.conversation_conflicts.contains(&run.id).then_some(Refusal::ConversationMoved)
        };
        if let Some(refusal) = refusal {
            if let Some(admission) = admission {
                admission.answer(Err(refusal));
            }
            continue;
        }
        let contradicted = committed.contradicted.contains(&run.id);
        let unwritable = contradicted || committed.without_conversation.contains(&run.id);
        state.iter().for_each(|state| state.settle(unwritable));
        if contradicted {
            error!(response = %run.id, "the database has other events or entries of this run; the run ends");
            run.break_off();
            continue;
        }
        let lost = committed.superseded.contains(&run.id);
        if let Some(entries) = entries.filter(|_| !lost) {
            run.has_committed(entries.last);
        }
        if let Some(segment) = segment.filter(|_| !lost) {
            events += segment.events();
            bytes += segment.frames.len() as u64;
            run.feed.publish(segment);
        }
        if shelved {
            run.feed.forget();
        }
        if let Some(admission) = admission {
            admission.answer(Ok(()));
        }
        if let Some((_, Some(waiting))) = phase {
            let _ = waiting.send(());
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

fn failure(error: &StoreError) -> CommitFailure {
    match error {
        StoreError::Unavailable(_) => CommitFailure::Unavailable,
        StoreError::TimedOut(_) => CommitFailure::TimedOut,
        StoreError::Rejected(_) => CommitFailure::Rejected,
        _ => CommitFailure::Other,
    }
}
