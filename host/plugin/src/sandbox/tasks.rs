//! What goes on beside a component: begun by one of its calls, answered later.
//!
//! Beginnings are entries of the journal in the order of the calls, as all entries are. Answers come when they come:
//! each is an entry that stands by itself, with the number of its task in place of a digest, and is written the moment
//! that it is there, whatever the component does meanwhile. At a replay they are found by their numbers. When a
//! component hears of an answer is again an entry of that call.

use std::{
    collections::{BTreeMap, HashMap},
    panic::AssertUnwindSafe,
    sync::Arc,
};

use futures::FutureExt as _;
use outlast_runtime::clock::Clock;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::Value;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    port::RunPort,
    replay::{ANSWER, line},
};
use crate::{
    bindings::handles::OpenTask,
    json,
    meter::{Held, Meter},
};

/// The tasks of a run.
pub(crate) struct Tasks {
    /// The number of the next task. It counts what the component begins, so that it is the same at a replay.
    next: u64,
    /// Those whose answers were not taken.
    open: BTreeMap<u64, Open>,
    /// The answers of those that are to be begun again by the replay.
    recorded: HashMap<u64, HeldAnswer>,
    journal: Arc<AnswerJournal>,
    meter: Arc<Meter>,
}

/// What goes on in a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TaskKind {
    /// A request of the interface `http`.
    Request,
    /// A call of the interface `tools`.
    Call,
}

/// A task whose answer was not taken.
struct Open {
    kind: TaskKind,
    answer: Arc<Answer>,
    /// Ends what goes on when the task is dropped.
    _work: Option<AbortOnDropHandle<()>>,
}

/// An answer, and what it takes.
struct HeldAnswer {
    answer: Value,
    _held: Held,
}

impl HeldAnswer {
    fn new(answer: Value, meter: &Arc<Meter>) -> Self {
        let _held = meter.hold(json::size(&answer));
        Self { answer, _held }
    }
}

/// The place of an answer. An error is why the run has to end.
#[derive(Default)]
struct Answer {
    answer: Mutex<Option<Result<HeldAnswer, String>>>,
    /// Is cancelled when the answer is there.
    there: CancellationToken,
}

/// Where answers are kept, as long as the instance lives.
struct AnswerJournal {
    port: Mutex<Option<Arc<dyn RunPort>>>,
    clock: Clock,
}

impl Tasks {
    /// No tasks. Answers go to `port`, if they are kept; `recorded` are those of an earlier life.
    pub(crate) fn new(
        port: Option<Arc<dyn RunPort>>,
        clock: Clock,
        recorded: HashMap<u64, Value>,
        meter: Arc<Meter>,
    ) -> Self {
        let recorded = recorded.into_iter().map(|(number, answer)| (number, HeldAnswer::new(answer, &meter))).collect();
        let journal = Arc::new(AnswerJournal { port: Mutex::new(port), clock });
        Self { next: 0, open: BTreeMap::new(), recorded, journal, meter }
    }

    /// The number of a task that is to be begun.
    pub(crate) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// How many tasks of this kind there are whose answers were not taken. At a replay it is what it was.
    pub(crate) fn open(&self, kind: TaskKind) -> usize {
        self.open.values().filter(|open| open.kind == kind).count()
    }

    /// Begins a task.
    pub(crate) fn begin<T: Serialize>(
        &mut self,
        number: u64,
        kind: TaskKind,
        work: impl Future<Output = T> + Send + 'static,
    ) {
        let (answer, journal) = (Arc::<Answer>::default(), self.journal.clone());
        let (place, meter) = (answer.clone(), self.meter.clone());
        let work = tokio::spawn(async move {
            let given = match AssertUnwindSafe(work).catch_unwind().await {
                Ok(given) => journal.keep(number, &given),
                Err(_) => Err("made a host call that panicked".to_owned()),
            };
            place.give(given.map(|answer| HeldAnswer::new(answer, &meter)));
        });
        self.open.insert(number, Open { kind, answer, _work: Some(AbortOnDropHandle::new(work)) });
    }

    /// A task that has ended before it began.
    pub(crate) fn settle(&mut self, number: u64, kind: TaskKind, answer: &impl Serialize) {
        let given = self.journal.keep(number, answer).map(|answer| HeldAnswer::new(answer, &self.meter));
        self.ended(number, kind, given);
    }

    /// A task whose answer is in the journal, at a replay; false when there is none.
    pub(crate) fn recall(&mut self, number: u64, kind: TaskKind) -> bool {
        let recorded = self.recorded.remove(&number);
        let found = recorded.is_some();
        if let Some(answer) = recorded {
            self.ended(number, kind, Ok(answer));
        }
        found
    }

    fn ended(&mut self, number: u64, kind: TaskKind, given: Result<HeldAnswer, String>) {
        let answer = Arc::<Answer>::default();
        answer.give(given);
        self.open.insert(number, Open { kind, answer, _work: None });
    }

    /// Ends a task whose answer the component does not want. `answer` stands in the journal for the one that did not
    /// come, so that a replay does not begin the task again.
    pub(crate) fn give_up(&mut self, number: u64, answer: &impl Serialize) {
        let Some(open) = self.open.remove(&number) else { return };
        if !open.answer.there.is_cancelled() {
            // A journal that is full ends the run at its next entry.
            let _ = self.journal.keep(number, answer);
            open.answer.there.cancel();
        }
    }

    /// What to wait for. A task that was taken or given up has ended.
    pub(crate) fn handle(&self, number: u64) -> OpenTask {
        let there = self.there(number);
        OpenTask::Answer(
            number,
            there.unwrap_or_else(|| {
                let ended = CancellationToken::new();
                ended.cancel();
                ended
            }),
        )
    }

    /// What is cancelled when the answer of a task is there; none when it was taken.
    pub(super) fn there(&self, number: u64) -> Option<CancellationToken> {
        self.open.get(&number).map(|open| open.answer.there.clone())
    }

    /// Takes the answer of a task; none when it is not there. An error is why the run has to end.
    pub(super) fn take(&mut self, number: u64) -> Option<Result<Value, String>> {
        let open = self.open.remove(&number)?;
        let given = open.answer.answer.lock().take();
        given.map(|given| given.map(|HeldAnswer { answer, .. }| answer))
    }

    /// Waits until every task has its answer; none when that is so.
    pub(crate) fn settled(&self) -> Option<impl Future<Output = ()> + use<>> {
        let there = self.open.values().map(|open| open.answer.there.clone());
        let waiting: Vec<_> = there.filter(|there| !there.is_cancelled()).collect();
        (!waiting.is_empty()).then_some(async move {
            for there in waiting {
                there.cancelled().await;
            }
        })
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        // What still goes on ends soon, and must write nothing into the journal of the next instance.
        self.journal.port.lock().take();
    }
}

impl Answer {
    fn give(&self, given: Result<HeldAnswer, String>) {
        *self.answer.lock() = Some(given);
        self.there.cancel();
    }
}

impl AnswerJournal {
    /// Keeps an answer. An error is why the run has to end.
    fn keep(&self, number: u64, answer: &impl Serialize) -> Result<Value, String> {
        let answer = serde_json::to_value(answer)
            .map_err(|error| format!("received an answer that cannot be stored: {error}"))?;
        if let Some(port) = &*self.port.lock() {
            let entry = line(ANSWER, &number.to_string(), self.clock.nanoseconds(), &answer)
                .map_err(|error| error.to_string())?;
            port.journal(&entry).map_err(|error| error.to_string())?;
        }
        Ok(answer)
    }
}
