//! After a stop in the middle: every run that was active ends.
//!
//! A run whose process was killed is still `in_progress` in the database. At the next start its log is read, what
//! was open is closed as incomplete, and it ends as `failed` with a message that says why. Its subscribers find
//! the stream continued from where it was, up to its terminal event.
//!
//! This is also the place where runs will be resumed from their journals.

use std::time::SystemTime;

use tracing::{error, info};

use super::{Ending, OutputLimits, Recorder, manager::fold, milliseconds, seconds};
use crate::{
    protocol::ResponseId,
    store::{Batch, EndedResponse, Store, StoreError, StoredResponse, WriteConnection},
};

/// What a client reads of a run that was cut off.
const MESSAGE: &str = "The server was stopped while this response was in progress, and the run could not be resumed.";

/// Ends every run that the last stop cut off, and returns how many there were. One that cannot be ended, because
/// its rows are damaged, is reported in the log and does not hold up the others.
pub async fn recover(store: &Store, writer: &mut WriteConnection, limits: OutputLimits) -> Result<usize, StoreError> {
    let rows = store.active_responses().await?;
    let mut recovered = 0;
    for row in &rows {
        match end(store, writer, row, limits).await {
            Ok(()) => recovered += 1,
            Err(StoreError::Damaged(why)) => error!(response = %row.id, why, "this run cannot be ended"),
            Err(error) => return Err(error),
        }
    }
    if recovered > 0 {
        info!(runs = recovered, "ended the runs that the last stop cut off");
    }
    Ok(recovered)
}

async fn end(
    store: &Store,
    writer: &mut WriteConnection,
    row: &StoredResponse,
    limits: OutputLimits,
) -> Result<(), StoreError> {
    let id: &ResponseId = &row.id;
    let (response, next) = fold(store, id).await?.into_parts();
    let response = response.ok_or_else(|| StoreError::Damaged("it has no events".to_owned()))?;
    let mut recorder = Recorder::resume(id.clone(), response, next, limits);
    let now = SystemTime::now();
    let status = recorder.end(Ending::failed(MESSAGE), seconds(now));
    let status = status.ok_or_else(|| StoreError::Damaged("it has ended".to_owned()))?;
    let segment = recorder.take();
    let ended = EndedResponse {
        id: id.clone(),
        epoch: row.epoch,
        status,
        ended_at: milliseconds(now),
        response: serde_json::to_string(recorder.response()).unwrap_or_default(),
        journaled: true,
    };
    let batch = Batch {
        segments: segment.iter().map(|segment| (id, segment)).collect(),
        ended: vec![&ended],
        ..Batch::default()
    };
    writer.commit(&batch).await?;
    Ok(())
}
