//! The commit log: what was committed and is not yet in the tables of its kind.
//!
//! A thousand chats say a token each in the time of one commit. A row for each of them in `events` and in `journal` lies on
//! a page of its own, and each page is written whole: 8 KiB for 300 bytes. So a transaction adds one row, with what all runs
//! have said, to the table `commit_log`. What of a run is there and not in its own tables is its *tail*; it is kept in
//! memory too, and flushed into one row of each table when
//!
//! - the run ends: then its events go with its end, and its journal goes nowhere;
//! - the run has no instance any more: it sleeps, or waits for its turn;
//! - the tail has grown to [`TAIL_BYTES`];
//! - the commit log has grown to [`COMMIT_LOG_BYTES`]: then the oldest tails are flushed.
//!
//! Readers do not know of it: whoever reads a table through the [`Store`](super::Store) gets its tail with it. A start
//! flushes all tails that the last stop has left: see `recovery`.
//!
//! In memory is what is committed, and nothing else: a plan is made before the transaction and
//! applied after it. Where it is not known whether a transaction was committed, it is not applied, and
//! the same is written again: the log may then hold something twice, with the same numbers.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    fmt::{self, Debug, Formatter},
};

use outlast_protocol::{ResponseId, skip_frames};

use super::segments::{EVENTS, JOURNAL, LOGS, Part, Table};

/// The longest tail of one run, in bytes.
const TAIL_BYTES: usize = 64 << 10;
/// How large the log grows, in bytes: as much is kept in memory, and read by a start after a kill.
const COMMIT_LOG_BYTES: usize = 32 << 20;
/// How many tails one transaction flushes because the log has grown.
const FLUSHED: usize = 128;
/// How many rows are not needed any more before they are deleted together.
const SWEPT: i64 = 32;

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Frames of events.
    Events,
    /// Entries of the journal.
    Journal,
    /// Lines of the log of a run.
    Logs,
}

impl Kind {
    /// All, by their numbers in a record.
    pub const ALL: [Self; 3] = [Self::Events, Self::Journal, Self::Logs];

    /// Where it belongs.
    pub fn table(self) -> &'static Table {
        match self {
            Self::Events => &EVENTS,
            Self::Journal => &JOURNAL,
            Self::Logs => &LOGS,
        }
    }

    /// Where the event, entry or line number `count` of `bytes` begins, counted from 0.
    fn skip(self, bytes: &[u8], count: u64) -> usize {
        match (self, count.checked_sub(1)) {
            (Self::Events, _) => skip_frames(bytes, count),
            (_, None) => 0,
            (_, Some(last)) => {
                let end = memchr::memchr_iter(b'\n', bytes).nth(usize::try_from(last).unwrap_or(usize::MAX));
                end.map_or(bytes.len(), |end| end + 1)
            }
        }
    }
}

/// Consecutive events, entries or lines of a run, of which others are the owners.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece<'a> {
    pub id: &'a ResponseId,
    pub kind: Kind,
    pub first: u64,
    pub last: u64,
    pub bytes: &'a [u8],
}

/// What of a run is in the log and not in its own tables, by [`Kind`].
pub(super) type Parts = [Option<Part>; 3];

#[derive(Debug)]
struct Tail {
    /// The first row of the log that has some of it.
    row: i64,
    parts: Parts,
}

/// What is in the log.
#[derive(Default)]
pub(super) struct CommitLog {
    tails: HashMap<ResponseId, Tail>,
    /// Their first rows.
    oldest: BTreeSet<(i64, ResponseId)>,
    /// The rows from the oldest tail's first one on, and how large they are.
    rows: VecDeque<(i64, usize)>,
    bytes: usize,
    /// The last row that was tried.
    last: i64,
    /// The rows before this one are deleted.
    swept: i64,
}

/// What a transaction has to be told of runs.
#[derive(Debug, Default)]
pub(super) struct Wanted<'a> {
    /// What they say.
    pub pieces: Vec<Piece<'a>>,
    /// Those that end.
    pub ended: HashSet<&'a ResponseId>,
    /// Those that have no instance any more.
    pub passive: HashSet<&'a ResponseId>,
}

/// What a transaction does with the log.
#[derive(Debug, Default)]
pub(super) struct Plan<'a> {
    /// The id of its row.
    pub row: i64,
    /// What its row has, until that is written; empty: it adds none.
    pub records: Vec<u8>,
    /// How much that is.
    bytes: usize,
    /// The tails that move to their tables, with what is new of them.
    pub flush: HashMap<ResponseId, Parts>,
    /// The rows before this one are not needed any more.
    pub sweep: Option<i64>,
    /// The runs that say something else than they have said.
    pub contradicted: HashSet<ResponseId>,
    /// The runs that end, and of whose journals nothing is in the table.
    pub unjournaled: HashSet<ResponseId>,
    /// What the row has.
    grown: Vec<Piece<'a>>,
}

impl Debug for CommitLog {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommitLog").field("tails", &self.tails.len()).field("bytes", &self.bytes).finish()
    }
}

impl CommitLog {
    /// What of a run is not in its table.
    pub fn tail(&self, id: &ResponseId, kind: Kind) -> Option<Part> {
        self.tails.get(id)?.parts[kind as usize].clone()
    }

    /// The table has rows up to this one.
    pub fn begin_after(&mut self, last: i64) {
        self.last = self.last.max(last);
    }

    /// Forgets everything: the tables have it.
    pub fn clear(&mut self) {
        *self = Self { last: self.last, swept: self.last, ..Self::default() };
    }

    /// Plans a transaction. Another call for the same, after an error, plans another row.
    pub fn plan<'a>(&mut self, wanted: &Wanted<'a>) -> Plan<'a> {
        self.last += 1;
        let mut plan = Plan { row: self.last, ..Plan::default() };
        let mut said: HashMap<&ResponseId, Vec<Piece<'a>>> = HashMap::new();
        for piece in &wanted.pieces {
            let before = said.entry(piece.id).or_default();
            match self.unheard(before, piece) {
                Some(new) if !new.bytes.is_empty() => before.push(new),
                Some(_) => {}
                None => _ = plan.contradicted.insert(piece.id.clone()),
            }
        }
        let flushed = self.to_flush(&said, wanted);
        for (id, pieces) in said {
            if flushed.contains(id) {
                let parts = plan.flush.entry(id.clone()).or_default();
                for piece in pieces {
                    Part::extend(&mut parts[piece.kind as usize], &piece);
                }
            } else {
                for piece in pieces {
                    piece.record(&mut plan.records);
                    plan.grown.push(piece);
                }
            }
        }
        for id in flushed {
            let Some(tail) = self.tails.get(id) else { continue };
            let parts = plan.flush.entry(id.clone()).or_default();
            for (part, held) in parts.iter_mut().zip(&tail.parts) {
                *part = match (held, part.take()) {
                    (Some(held), Some(new)) => Some(held.clone().with(&new.bytes, new.last)),
                    (held, new) => new.or_else(|| held.clone()),
                };
            }
        }
        for (id, parts) in &mut plan.flush {
            if wanted.ended.contains(id) && parts[Kind::Journal as usize].take().is_some_and(|part| part.first == 0) {
                plan.unjournaled.insert(id.clone());
            }
        }
        plan.bytes = plan.records.len();
        plan.sweep = self.sweep(&plan);
        plan
    }

    /// What of a piece is new, after what the run has said in this transaction `before`; none when it contradicts what it
    /// has said.
    fn unheard<'a>(&self, before: &[Piece<'a>], piece: &Piece<'a>) -> Option<Piece<'a>> {
        if let Some(last) = before.iter().rev().find(|before| before.kind == piece.kind) {
            return (piece.first == last.last + 1).then_some(*piece);
        }
        let held = self.tails.get(piece.id).and_then(|tail| tail.parts[piece.kind as usize].as_ref());
        held.map_or(Some(*piece), |held| held.unheard(piece))
    }

    fn to_flush<'a>(
        &'a self,
        said: &HashMap<&'a ResponseId, Vec<Piece<'a>>>,
        wanted: &Wanted<'a>,
    ) -> HashSet<&'a ResponseId> {
        let mut flushed: HashSet<_> = wanted.ended.union(&wanted.passive).copied().collect();
        flushed.extend(said.iter().filter_map(|(id, new)| {
            let held = self.tails.get(*id).map_or(0, |tail| tail.bytes());
            let new: usize = new.iter().map(|piece| piece.bytes.len()).sum();
            (held + new >= TAIL_BYTES).then_some(*id)
        }));
        if self.bytes > COMMIT_LOG_BYTES {
            flushed.extend(self.oldest.iter().take(FLUSHED).map(|(_, id)| id));
        }
        flushed
    }

    /// Before which row none is needed after this plan, if there are enough of them.
    fn sweep(&self, plan: &Plan<'_>) -> Option<i64> {
        let oldest = self.oldest.iter().find(|(_, id)| !plan.flush.contains_key(id)).map(|(row, _)| *row);
        let needed = oldest.unwrap_or(if plan.records.is_empty() { plan.row + 1 } else { plan.row });
        (needed - self.swept >= SWEPT).then_some(needed)
    }

    /// The transaction is committed. Of those that are `over`, nothing is to be kept any more.
    pub fn apply<'a>(&mut self, plan: Plan<'_>, over: impl IntoIterator<Item = &'a ResponseId>) {
        for id in plan.flush.keys() {
            self.forget(id);
        }
        if plan.bytes > 0 {
            self.rows.push_back((plan.row, plan.bytes));
            self.bytes += plan.bytes;
        }
        for piece in plan.grown {
            if !self.tails.contains_key(piece.id) {
                self.oldest.insert((plan.row, piece.id.clone()));
                self.tails.insert(piece.id.clone(), Tail { row: plan.row, parts: Parts::default() });
            }
            if let Some(tail) = self.tails.get_mut(piece.id) {
                Part::extend(&mut tail.parts[piece.kind as usize], &piece);
            }
        }
        for id in over {
            self.forget(id);
        }
        if let Some(needed) = plan.sweep {
            self.swept = needed;
        }
        let needed = self.oldest.first().map_or(i64::MAX, |(row, _)| *row);
        while let Some((_, bytes)) = self.rows.pop_front_if(|(row, _)| *row < needed) {
            self.bytes -= bytes;
        }
    }

    /// Forgets the tail of a run.
    pub fn forget(&mut self, id: &ResponseId) {
        if let Some(tail) = self.tails.remove(id) {
            self.oldest.remove(&(tail.row, id.clone()));
        }
    }
}

impl Tail {
    fn bytes(&self) -> usize {
        self.parts.iter().flatten().map(|part| part.bytes.len()).sum()
    }
}

impl Piece<'_> {
    /// Adds it to the records of a row.
    fn record(&self, records: &mut Vec<u8>) {
        let id = self.id.as_str().as_bytes();
        // An id has 37 characters.
        records.extend([self.kind as u8, u8::try_from(id.len()).unwrap_or(u8::MAX)]);
        records.extend_from_slice(id);
        records.extend(self.first.to_le_bytes());
        records.extend(self.last.to_le_bytes());
        records.extend(u32::try_from(self.bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
        records.extend_from_slice(self.bytes);
    }
}

/// Reads the records of a row: each with its run. Ends early where they are damaged.
pub(super) fn records(mut bytes: &[u8]) -> impl Iterator<Item = Result<(ResponseId, Kind, Part), Damaged>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let read = next_record(&mut bytes).ok_or(Damaged);
        if read.is_err() {
            bytes = &[];
        }
        Some(read)
    })
}

/// A row of the log does not have what it should.
#[derive(Debug)]
pub(super) struct Damaged;

fn next_record(bytes: &mut &[u8]) -> Option<(ResponseId, Kind, Part)> {
    let kind = *Kind::ALL.get(usize::from(*bytes.split_off_first()?))?;
    let length = usize::from(*bytes.split_off_first()?);
    let id = ResponseId::parse(std::str::from_utf8(bytes.split_off(..length)?).ok()?)?;
    let mut number = || Some(u64::from_le_bytes(bytes.split_off(..8)?.try_into().ok()?));
    let (first, last) = (number()?, number()?);
    let length = u32::from_le_bytes(bytes.split_off(..4)?.try_into().ok()?);
    let bytes = bytes.split_off(..usize::try_from(length).ok()?)?.to_vec();
    (first <= last).then_some((id, kind, Part { first, last, bytes }))
}

impl Part {
    /// What of a piece comes after this part; none when the piece says something else than this part does.
    fn unheard<'a>(&self, piece: &Piece<'a>) -> Option<Piece<'a>> {
        if piece.first > self.last {
            return (piece.first == self.last + 1).then_some(*piece);
        }
        let held = &self.bytes[piece.kind.skip(&self.bytes, piece.first.checked_sub(self.first)?)..];
        let both = held.len().min(piece.bytes.len());
        let first = (self.last + 1).min(piece.last + 1);
        (held[..both] == piece.bytes[..both]).then_some(Piece { first, bytes: &piece.bytes[both..], ..*piece })
    }

    /// Adds a piece that begins where this ends.
    pub fn extend(part: &mut Option<Self>, piece: &Piece<'_>) {
        let Piece { first, last, bytes, .. } = *piece;
        match part {
            Some(part) => {
                part.last = last;
                part.bytes.extend_from_slice(bytes);
            }
            None => *part = Some(Self { first, last, bytes: bytes.to_vec() }),
        }
    }

    /// With what comes after it.
    pub fn with(mut self, bytes: &[u8], last: u64) -> Self {
        self.last = last;
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// What of it comes after this number.
    pub fn after(mut self, kind: Kind, last: u64) -> Option<Self> {
        if last < self.first {
            return Some(self);
        }
        if last >= self.last {
            return None;
        }
        self.bytes.drain(..kind.skip(&self.bytes, last + 1 - self.first));
        self.first = last + 1;
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> ResponseId {
        ResponseId::new(uuid::Uuid::from_u128(u128::from(number)))
    }

    fn wanted<'a>(id: &'a ResponseId, kind: Kind, first: u64, last: u64, text: &'a str) -> Wanted<'a> {
        let pieces = vec![Piece { id, kind, first, last, bytes: text.as_bytes() }];
        Wanted { pieces, ..Wanted::default() }
    }

    fn part(first: u64, last: u64, text: &str) -> Part {
        Part { first, last, bytes: text.as_bytes().to_vec() }
    }

    #[test]
    fn what_is_said_is_recorded_and_is_the_tail_of_its_run() {
        let (mut log, one) = (CommitLog::default(), id(1));
        for (first, text) in [(0, "a\n"), (1, "b\n")] {
            let plan = log.plan(&wanted(&one, Kind::Journal, first, first, text));
            let read: Vec<_> = records(&plan.records).map(Result::unwrap).collect();
            assert_eq!(read, [(one.clone(), Kind::Journal, part(first, first, text))]);
            assert!(plan.flush.is_empty());
            log.apply(plan, []);
        }
        assert_eq!(log.tail(&one, Kind::Journal), Some(part(0, 1, "a\nb\n")));
        assert_eq!(log.tail(&one, Kind::Events), None);
    }

    #[test]
    fn a_plan_that_is_not_applied_changes_nothing() {
        let (mut log, one) = (CommitLog::default(), id(1));
        let first = log.plan(&wanted(&one, Kind::Events, 0, 0, "a\n\n")).row;
        let plan = log.plan(&wanted(&one, Kind::Events, 0, 0, "a\n\n"));
        assert_eq!(plan.row, first + 1, "the row of the other may be there");
        log.apply(plan, []);
        assert_eq!(log.tail(&one, Kind::Events), Some(part(0, 0, "a\n\n")));
    }

    #[test]
    fn what_is_said_again_is_not_said_twice_and_what_contradicts_is_found() {
        let (mut log, one) = (CommitLog::default(), id(1));
        let plan = log.plan(&wanted(&one, Kind::Events, 3, 4, "a\n\nb\n\n"));
        log.apply(plan, []);
        let plan = log.plan(&wanted(&one, Kind::Events, 4, 5, "b\n\nc\n\n"));
        log.apply(plan, []);
        assert_eq!(log.tail(&one, Kind::Events), Some(part(3, 5, "a\n\nb\n\nc\n\n")));
        for (first, text) in [(5, "x\n\n"), (2, "x\n\n"), (7, "x\n\n")] {
            let plan = log.plan(&wanted(&one, Kind::Events, first, first, text));
            assert!(plan.contradicted.contains(&one) && plan.records.is_empty(), "{first}");
        }
    }

    #[test]
    fn a_tail_is_flushed_when_its_run_ends_or_has_no_instance() {
        let (mut log, one, two) = (CommitLog::default(), id(1), id(2));
        for id in [&one, &two] {
            let plan = log.plan(&wanted(id, Kind::Journal, 0, 0, "a\n"));
            log.apply(plan, []);
            let plan = log.plan(&wanted(id, Kind::Events, 0, 0, "a\n\n"));
            log.apply(plan, []);
        }
        let mut end = wanted(&one, Kind::Events, 1, 1, "b\n\n");
        end.ended.insert(&one);
        let plan = log.plan(&end);
        assert!(plan.records.is_empty() && plan.unjournaled.contains(&one));
        assert_eq!(plan.flush[&one], [Some(part(0, 1, "a\n\nb\n\n")), None, None]);
        log.apply(plan, []);
        assert_eq!(log.tail(&one, Kind::Events), None);
        let plan = log.plan(&Wanted { passive: HashSet::from([&two]), ..Wanted::default() });
        assert_eq!(plan.flush[&two], [Some(part(0, 0, "a\n\n")), Some(part(0, 0, "a\n")), None]);
        log.apply(plan, []);
        assert!(log.tails.is_empty() && log.oldest.is_empty() && log.bytes == 0 && log.rows.is_empty());
    }

    #[test]
    fn the_log_is_bounded_by_runs_and_as_a_whole() {
        let (mut log, ids) = (CommitLog::default(), (0..1_000).map(id).collect::<Vec<_>>());
        let words = "x".repeat(4_094) + "\n\n";
        let mut most = 0;
        for number in 0..20 {
            for ids in ids.chunks(100) {
                let pieces = ids.iter().map(|id| Piece {
                    id,
                    kind: Kind::Events,
                    first: number,
                    last: number,
                    bytes: words.as_bytes(),
                });
                let plan = log.plan(&Wanted { pieces: pieces.collect(), ..Wanted::default() });
                assert!(plan.flush.len() <= 100 + FLUSHED);
                log.apply(plan, []);
                most = most.max(log.bytes);
                assert!(log.tails.values().all(|tail| tail.bytes() <= TAIL_BYTES));
            }
        }
        assert!(most > COMMIT_LOG_BYTES && most < 2 * COMMIT_LOG_BYTES, "{most}");
        let plan = log.plan(&Wanted { ended: ids.iter().collect(), ..Wanted::default() });
        log.apply(plan, []);
        assert_eq!((log.bytes, log.rows.len()), (0, 0), "nothing of the log is needed any more");
    }

    #[test]
    fn a_record_that_is_not_whole_ends_the_row() {
        let (mut log, one) = (CommitLog::default(), id(1));
        let records_of = |log: &mut CommitLog, first| log.plan(&wanted(&one, Kind::Logs, first, first, "a\n")).records;
        let row = [records_of(&mut log, 0), records_of(&mut log, 1)].concat();
        for length in row.len() / 2 + 1..row.len() {
            let read: Vec<_> = records(&row[..length]).collect();
            assert!(matches!(&read[..], [Ok(_), Err(Damaged)]), "{length}");
        }
    }
}
