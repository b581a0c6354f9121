//! From the writer to the subscribers of one run.
//!
//! The writer publishes segments of committed frames; each subscriber reads them at its own pace from its own
//! cursor. Recent segments lie in a ring that is bounded in bytes. A subscriber that needs older ones is told
//! so and reads the log. All subscribers share the same bytes, and publishing costs the same however many
//! there are.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use outlast_protocol::{Segment, TerminalStatus};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// What happens to frames when the ring is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// The oldest go: the log has them.
    Log,
    /// None go until the one reader has taken them, because they are nowhere else. The run waits meanwhile.
    Reader,
    /// All go at once: nobody reads frames.
    Nothing,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The status.
    pub status: TerminalStatus,
    /// The final response object, JSON.
    pub response: Bytes,
}

/// What there is for a subscriber.
#[derive(Debug)]
pub enum Next {
    /// Whole frames, and the cursor behind them.
    Frames(Bytes, u64),
    /// The frames at the cursor are not in the ring any more: read the log.
    Behind,
    /// Nothing yet.
    Wait,
    /// Nothing more, ever.
    End,
    /// Nothing more from this process: the run goes on after the next start.
    Suspended,
}

/// The feed of one run.
#[derive(Debug)]
pub struct Feed {
    ring_bytes: usize,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    retention: Retention,
    ring: VecDeque<Segment>,
    bytes: usize,
    /// The number after the last published event.
    next: u64,
    closed: bool,
    suspended: bool,
    /// Nothing comes for now: the database does not take what the run has to be written.
    broken: bool,
    ended: Option<Arc<Ended>>,
}

impl Feed {
    /// A feed that keeps at most `ring_bytes` of frames, as far as `retention` lets it.
    pub fn new(retention: Retention, ring_bytes: usize) -> Self {
        let state = State {
            retention,
            ring: VecDeque::new(),
            bytes: 0,
            next: 0,
            closed: false,
            suspended: false,
            broken: false,
            ended: None,
        };
        Self { ring_bytes, state: Mutex::new(state), changed: Notify::new() }
    }

    /// The events before `next` are in the log: the run is executed again.
    pub fn begin_at(&self, next: u64) {
        self.state.lock().next = next;
    }

    /// Shows committed frames to the subscribers.
    pub fn publish(&self, segment: Segment) {
        let mut state = self.state.lock();
        state.next = segment.last + 1;
        if state.retention != Retention::Nothing {
            state.bytes += segment.frames.len();
            state.ring.push_back(segment);
        }
        while state.retention == Retention::Log && state.bytes > self.ring_bytes && state.ring.len() > 1 {
            state.drop_oldest();
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// No more frames will come. `ended` is how the run ended; none when this process lost the run, whose truth
    /// is then in the database.
    pub fn close(&self, ended: Option<Ended>) {
        let mut state = self.state.lock();
        state.closed = true;
        state.ended = ended.map(Arc::new);
        drop(state);
        self.changed.notify_waiters();
    }

    /// No more frames will come from this process: the run goes on after the next start.
    pub fn suspend(&self) {
        self.state.lock().suspended = true;
        self.close(None);
    }

    /// The database does not take what the run has to be written: its task has to end it otherwise.
    pub fn break_off(&self) {
        self.state.lock().broken = true;
        self.changed.notify_waiters();
    }

    /// The run goes on from what is committed.
    pub fn mend(&self) {
        self.state.lock().broken = false;
    }

    /// Whether the run was [broken off](Self::break_off).
    pub fn is_broken(&self) -> bool {
        self.state.lock().broken
    }

    /// Drops what is in the log: nothing new will come for long.
    pub fn forget(&self) {
        let mut state = self.state.lock();
        if state.retention == Retention::Log {
            state.ring = VecDeque::new();
            state.bytes = 0;
        }
    }

    /// What there is at `cursor`.
    pub fn next(&self, cursor: u64) -> Next {
        let mut state = self.state.lock();
        if state.retention == Retention::Reader {
            while state.ring.front().is_some_and(|segment| segment.last < cursor) {
                state.drop_oldest();
            }
        }
        if cursor >= state.next {
            return match state.closed {
                true if state.suspended => Next::Suspended,
                true => Next::End,
                false => Next::Wait,
            };
        }
        match state.ring.iter().find(|segment| segment.last >= cursor) {
            Some(segment) if segment.first <= cursor => Next::Frames(segment.from(cursor), segment.last + 1),
            _ => Next::Behind,
        }
    }

    /// Waits until `ready` gives something.
    pub async fn wait<T>(&self, mut ready: impl FnMut(&Self) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before looking, so that nothing that happens in between is missed.
            changed.as_mut().enable();
            if let Some(value) = ready(self) {
                return value;
            }
            changed.await;
        }
    }

    /// Whether no more frames will come.
    pub fn closed(&self) -> bool {
        self.state.lock().closed
    }

    /// Whether the run goes on after the next start.
    pub fn suspended(&self) -> bool {
        self.state.lock().suspended
    }

    /// How the run ended, once it has.
    pub fn ended(&self) -> Option<Arc<Ended>> {
        self.state.lock().ended.clone()
    }

    /// How many bytes wait for the one reader of frames that are nowhere else; 0 where the log has them.
    pub fn unread(&self) -> usize {
        let state = self.state.lock();
        if state.retention == Retention::Reader { state.bytes } else { 0 }
    }

    /// The one reader is gone: nothing needs to be kept for it.
    pub fn abandon(&self) {
        let mut state = self.state.lock();
        if state.retention == Retention::Reader {
            state.retention = Retention::Nothing;
            state.ring = VecDeque::new();
            state.bytes = 0;
        }
    }
}

impl State {
    fn drop_oldest(&mut self) {
        if let Some(segment) = self.ring.pop_front() {
            self.bytes -= segment.frames.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(first: u64, last: u64) -> Segment {
        let frames: String = (first..=last).map(|number| format!("event: x\ndata: {number}\n\n")).collect();
        Segment { first, last, frames: frames.into() }
    }

    fn read(feed: &Feed, mut cursor: u64) -> (String, u64) {
        let mut text = String::new();
        while let Next::Frames(bytes, next) = feed.next(cursor) {
            text.push_str(std::str::from_utf8(&bytes).unwrap());
            cursor = next;
        }
        (text.replace("event: x\ndata: ", "").replace("\n\n", " "), cursor)
    }

    #[test]
    fn a_subscriber_reads_from_any_cursor() {
        let feed = Feed::new(Retention::Log, 10_000);
        feed.publish(segment(0, 2));
        feed.publish(segment(3, 3));
        assert_eq!(read(&feed, 0), ("0 1 2 3 ".to_owned(), 4));
        assert_eq!(read(&feed, 1), ("1 2 3 ".to_owned(), 4));
        assert!(matches!(feed.next(4), Next::Wait));
        feed.close(None);
        assert!(matches!(feed.next(4), Next::End));
    }

    #[test]
    fn what_left_the_ring_is_in_the_log() {
        let feed = Feed::new(Retention::Log, 50);
        for number in 0..10 {
            feed.publish(segment(number, number));
        }
        assert!(matches!(feed.next(0), Next::Behind));
        assert_eq!(read(&feed, 9).0, "9 ");
    }

    #[test]
    fn frames_that_are_nowhere_else_are_kept_until_they_are_read() {
        let feed = Feed::new(Retention::Reader, 50);
        for number in 0..10 {
            feed.publish(segment(number, number));
        }
        let unread = feed.unread();
        assert_eq!(read(&feed, 0).1, 10);
        assert!(feed.unread() < unread);
    }

    #[tokio::test]
    async fn a_waiting_subscriber_is_woken() {
        let feed = Arc::new(Feed::new(Retention::Log, 1_000));
        let waiting = tokio::spawn({
            let feed = feed.clone();
            async move {
                feed.wait(|feed| match feed.next(0) {
                    Next::Wait => None,
                    other => Some(matches!(other, Next::Frames(_, 1))),
                })
                .await
            }
        });
        tokio::task::yield_now().await;
        feed.publish(segment(0, 0));
        assert!(waiting.await.unwrap());
    }
}
