//! The events of a response, read from the database.

use bytes::{Bytes, BytesMut};
use outlast_protocol::{Fold, ResponseId};
use outlast_store::{MOST_SEGMENTS, Store, StoreError};

/// Folds the log of a response.
pub(super) async fn fold(store: &Store, id: &ResponseId) -> Result<Fold, StoreError> {
    let mut fold = Fold::new();
    loop {
        let page = store.events(id, fold.next()).await?;
        let last = page.len() < MOST_SEGMENTS;
        for segment in page {
            fold.extend(&segment.frames).map_err(|error| StoreError::Damaged(format!("{id}: {error}")))?;
        }
        if last {
            return Ok(fold);
        }
    }
}

/// The frames of a response's events, and how many they are.
pub(super) async fn log(store: &Store, id: &ResponseId) -> Result<(Bytes, u64), StoreError> {
    let (mut bytes, mut next) = (BytesMut::new(), 0);
    loop {
        let page = store.events(id, next).await?;
        let last = page.len() < MOST_SEGMENTS;
        for segment in page {
            if segment.first != next {
                return Err(StoreError::Damaged(format!("{id}: event {next} is missing")));
            }
            bytes.extend_from_slice(&segment.frames);
            next = segment.last + 1;
        }
        if last {
            return Ok((bytes.freeze(), next));
        }
    }
}
