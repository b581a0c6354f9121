//! Reading the log of events.

use super::{
    Store, StoreError,
    segments::{self, EVENTS},
};
use crate::protocol::{ResponseId, Segment};

/// The most segments of one page. A segment is at most what one run may have uncommitted, so a page is bounded.
const PAGE: i64 = 16;

impl Store {
    /// The next segments of a response's log that hold events from `from` on, in order; empty at the end. The
    /// first segment may begin before `from`.
    pub async fn events(&self, id: &ResponseId, from: u64) -> Result<Vec<Segment>, StoreError> {
        let rows = segments::read(&self.pool, &EVENTS, id, from, PAGE).await?;
        Ok(rows.into_iter().map(|(first, last, frames)| Segment { first, last, frames: frames.into() }).collect())
    }
}
