//! One reader of one run.
//!
//! It reads from its own cursor: from the log what is old, from the feed what is new. Both know events by their
//! numbers, so the way from one to the other has no gap and no double. It never holds up the run, except where
//! the frames are nowhere else because nothing is kept.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use outlast_protocol::{Event, Frame, Response, ResponseId, Segment, frames};
use outlast_store::{MOST_SEGMENTS, Store, StoreError};
use tracing::{error, warn};

use super::{Ended, Next, Run, StopReason};

/// About how much of the log a reader holds, in bytes: a page has more segments after one that was small, and fewer after
/// one that was large. Between the two, one segment alone may be larger.
const PAGE_BYTES: usize = 64 << 10;

/// The pause before the log is asked again when the database does not answer.
const PAUSE: Duration = Duration::from_millis(500);

/// Why a reader gets no more, although the run has not ended.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] StoreError),
    /// The server stops, and the run goes on after the next start.
    #[error("the server is shutting down; the run resumes after the next start")]
    Suspended,
}

/// A reader of a run's frames.
#[derive(Debug)]
pub struct Subscription {
    id: ResponseId,
    cursor: u64,
    /// None when the run has ended long ago: the log has everything.
    run: Option<Arc<Run>>,
    /// None when nothing is kept.
    store: Option<Store>,
    /// What was read of the log and not given out.
    page: VecDeque<Segment>,
    /// The most segments of the next page.
    segments: usize,
    /// Whether the run is this reader's: it ends when the reader goes.
    owner: bool,
}

impl Subscription {
    /// A reader of a run that is going on, or ended a moment ago.
    ///
    /// An `owner` takes the run with it when it goes.
    pub(super) fn live(run: Arc<Run>, cursor: u64, store: Option<Store>, owner: bool) -> Self {
        Self { id: run.id.clone(), cursor, run: Some(run), store, page: VecDeque::new(), segments: 1, owner }
    }

    /// A reader of the log of a run that has ended.
    pub(super) fn stored(id: ResponseId, cursor: u64, store: Store) -> Self {
        Self { id, cursor, run: None, store: Some(store), page: VecDeque::new(), segments: 1, owner: false }
    }

    /// The id of the response.
    pub fn id(&self) -> &ResponseId {
        &self.id
    }

    /// The response as it was accepted, which its first event shows; none when it was read already.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next).
    pub async fn accepted(&mut self) -> Result<Option<Response>, Broken> {
        let Some(first) = self.next().await? else { return Ok(None) };
        Ok(match frames(&first).next() {
            Some(Ok(Frame { event: Event::Created { response }, .. })) => Some(response.into_owned()),
            _ => None,
        })
    }

    /// The next frames, whole ones, as many as lie in one piece; none after the terminal event.
    ///
    /// # Errors
    ///
    /// The log is damaged, or the run is suspended. A database that does not answer is waited for.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        loop {
            if let Some(segment) = self.page.pop_front() {
                let frames = segment.from(self.cursor);
                self.cursor = self.cursor.max(segment.last + 1);
                if !frames.is_empty() {
                    return Ok(Some(frames));
                }
                continue;
            }
            let Some(run) = &self.run else {
                if self.read_log().await? {
                    continue;
                }
                return Ok(None);
            };
            let (cursor, owner) = (self.cursor, self.owner);
            let next = run
                .feed
                .wait(|feed| match feed.next(cursor) {
                    Next::Wait => {
                        // What was read leaves the feed only when more is asked for: now there is room.
                        if owner {
                            run.has_read();
                        }
                        None
                    }
                    next => Some(next),
                })
                .await;
            match next {
                Next::Frames(frames, cursor) => {
                    self.cursor = cursor;
                    if self.owner {
                        run.has_read();
                    }
                    return Ok(Some(frames));
                }
                // Without a log nothing leaves the ring unread, so there is always one here.
                Next::Behind => {
                    if !self.read_log().await? {
                        let message = format!("{}: event {cursor} is not in the log", self.id);
                        return Err(StoreError::Damaged(message).into());
                    }
                }
                Next::Suspended => return Err(Broken::Suspended),
                Next::End if run.feed.ended().is_none() => self.run = None,
                Next::End | Next::Wait => return Ok(None),
            }
        }
    }

    /// Waits for the end of the run; none when this process lost the run.
    ///
    /// # Errors
    ///
    /// The run is suspended.
    pub async fn ended(&mut self) -> Result<Option<Arc<Ended>>, Broken> {
        let Some(run) = &self.run else { return Ok(None) };
        let ended = run.feed.wait(|feed| feed.closed().then(|| (feed.ended(), feed.suspended()))).await;
        if ended.1 { Err(Broken::Suspended) } else { Ok(ended.0) }
    }

    /// Reads the next page of the log; false at its end. Waits while the database does not answer: whoever
    /// does not want to wait drops the subscription.
    async fn read_log(&mut self) -> Result<bool, StoreError> {
        let Some(store) = &self.store else { return Ok(false) };
        let mut warned = false;
        loop {
            match store.some_events(&self.id, self.cursor, self.segments).await {
                Ok(page) => {
                    let bytes: usize = page.iter().map(|segment| segment.frames.len()).sum();
                    self.segments = match bytes {
                        ..PAGE_BYTES => (self.segments * 2).min(MOST_SEGMENTS),
                        PAGE_BYTES.. => (self.segments / 2).max(1),
                    };
                    self.page = page.into();
                    return Ok(!self.page.is_empty());
                }
                Err(error) if error.is_temporary() => {
                    if !std::mem::replace(&mut warned, true) {
                        warn!(response = %self.id, %error, "a subscriber waits for the log");
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => {
                    error!(response = %self.id, %error, "the log cannot be read");
                    return Err(error);
                }
            }
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(run) = self.run.as_ref().filter(|_| self.owner) {
            run.feed.abandon();
            run.stop(StopReason::Disconnected);
            run.has_read();
        }
    }
}

#[cfg(test)]
mod tests {
    use outlast_store::Batch;
    use uuid::Uuid;

    use super::*;

    #[tokio::test]
    async fn a_reader_of_the_log_holds_a_bounded_part_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().join("a.db").to_str().unwrap()).await.unwrap();
        let mut connection = store.writer().await.unwrap();
        let id = ResponseId::new(Uuid::now_v7());
        let frame = Bytes::from(format!("event: x\ndata: {}\n\n", "y".repeat(2 * PAGE_BYTES)));
        for number in 0..20 {
            let segment = Segment { first: number, last: number, frames: frame.clone() };
            connection.commit(&Batch { segments: vec![(&id, &segment)], ..Batch::default() }).await.unwrap();
        }
        let mut reader = Subscription::stored(id, 0, store);
        let mut read = 0;
        while let Some(frames) = reader.next().await.unwrap() {
            read += frames.len();
            let held: usize = reader.page.iter().map(|segment| segment.frames.len()).sum();
            assert!(held <= frame.len(), "{held} bytes are held");
        }
        assert_eq!(read, 20 * frame.len());
    }
}
