//! Reading the log of events.

use outlast_protocol::{ResponseId, Segment};

use super::{Store, StoreError, commit_log::Kind, segments::Part};

/// The most segments of one page. A segment is at most what one run may have uncommitted, so a page is bounded.
pub const MOST_SEGMENTS: usize = 16;

impl Store {
    /// The events of a response from the number `from` on, in order: the next segments; empty at the end.
    ///
    /// # Errors
    ///
    /// [`StoreError::Damaged`]: a row does not have the frames that its numbers say.
    pub async fn events(&self, id: &ResponseId, from: u64) -> Result<Vec<Segment>, StoreError> {
        self.some_events(id, from, MOST_SEGMENTS).await
    }

    /// The same, of at most so many segments: for whoever keeps them while somebody reads them.
    ///
    /// # Errors
    ///
    /// As [`events`](Self::events).
    pub async fn some_events(&self, id: &ResponseId, from: u64, most: usize) -> Result<Vec<Segment>, StoreError> {
        let parts = self.parts(Kind::Events, id, from, most).await?.into_iter();
        parts
            .map(|Part { first, last, bytes }| Segment { first, last, frames: bytes.into() })
            .map(|segment| {
                let Segment { first, last, .. } = segment;
                let damaged = || StoreError::Damaged(format!("{id}: its events {first} to {last} are not whole"));
                segment.is_whole().then_some(segment).ok_or_else(damaged)
            })
            .collect()
    }
}
