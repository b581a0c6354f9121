//! What a response goes on from: the turns behind its `previous_response_id`.

use serde::Deserialize;
use serde_json::Value;

use super::Refusal;
use crate::protocol::{ApiError, ErrorKind, ResponseId, Status, TerminalStatus, previous_not_found};
use crate::store::{Store, StoreError, Turn};

/// The most turns that a conversation reaches back.
const TURNS: i64 = 1_000;

/// The items of the turns that `previous` ends with: each one's input, then its output, oldest first. Instructions
/// are not inherited.
///
/// # Errors
///
/// 400 when there is no such response for this principal, 409 when it did not end as `completed`.
pub(super) async fn history(store: &Store, principal: &str, previous: &ResponseId) -> Result<Vec<Value>, Refusal> {
    let turns = store.turns(principal, previous, TURNS).await?;
    let last = turns.last().ok_or_else(|| previous_not_found(previous.as_str()))?;
    if last.status != Status::Terminal(TerminalStatus::Completed) {
        let message = format!(
            "Previous response '{previous}' is {}; only a response that is completed can be gone on from.",
            last.status
        );
        return Err(ApiError::new(ErrorKind::Conflict, "previous_response_not_completed", message)
            .with_param("previous_response_id")
            .never_retry()
            .into());
    }
    let mut items = Vec::new();
    for turn in turns {
        items.extend(earlier(&turn.request)?);
        items.extend(input(&turn.request)?);
        items.extend(output(&turn)?);
    }
    Ok(items)
}

/// The input items of a request as it was stored.
pub(super) fn input(request: &str) -> Result<Vec<Value>, StoreError> {
    #[derive(Deserialize)]
    struct Stored {
        input: Vec<Value>,
    }
    let stored: Stored = serde_json::from_str(request).map_err(damaged)?;
    Ok(stored.input)
}

/// The items of a stored request that stand before its input and are in no other row.
fn earlier(request: &str) -> Result<Vec<Value>, StoreError> {
    #[derive(Deserialize)]
    struct Stored {
        #[serde(default)]
        earlier: Vec<Value>,
    }
    let stored: Stored = serde_json::from_str(request).map_err(damaged)?;
    Ok(stored.earlier)
}

fn output(turn: &Turn) -> Result<Vec<Value>, StoreError> {
    #[derive(Deserialize)]
    struct Stored {
        output: Vec<Value>,
    }
    let Some(response) = &turn.response else { return Ok(Vec::new()) };
    let stored: Stored = serde_json::from_str(response).map_err(damaged)?;
    Ok(stored.output)
}

fn damaged(error: serde_json::Error) -> StoreError {
    StoreError::Damaged(format!("a stored request or response is not what it should be: {error}"))
}
