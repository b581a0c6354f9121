//! Reading the log of events.

use sqlx::Row as _;

use super::{Store, StoreError};
use crate::protocol::{ResponseId, Segment};

/// The most segments of one page. A segment is at most what one run may have uncommitted, so a page is bounded.
const PAGE: i64 = 16;

impl Store {
    /// The next segments of a response's log that hold events from `from` on, in order; empty at the end. The
    /// first segment may begin before `from`.
    pub async fn events(&self, id: &ResponseId, from: u64) -> Result<Vec<Segment>, StoreError> {
        let rows = sqlx::query(
            "SELECT first_sequence, last_sequence, frames FROM events \
             WHERE response_id = $1 AND last_sequence >= $2 ORDER BY first_sequence LIMIT $3",
        )
        .bind(id.as_str().to_owned())
        .bind(i64::try_from(from).unwrap_or(i64::MAX))
        .bind(PAGE)
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|row| {
                Ok(Segment {
                    first: row.try_get::<i64, _>("first_sequence")?.cast_unsigned(),
                    last: row.try_get::<i64, _>("last_sequence")?.cast_unsigned(),
                    frames: row.try_get::<Vec<u8>, _>("frames")?.into(),
                })
            })
            .collect()
    }
}
