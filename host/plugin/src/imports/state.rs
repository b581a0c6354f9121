//! The interface `state`: what a component keeps beyond its run.
//!
//! Every answer is in the journal. What is written for longer than the run is committed together with its entry: a run
//! that is executed again has both or neither.

use std::sync::Arc;

use base64::{Engine as _, prelude::BASE64_STANDARD as BASE64};

use crate::{
    bindings::{
        state::{Host, Scope},
        types::{Failure, FailureKind},
    },
    failure::{Violation, cancelled, failure},
    sandbox::{PAGE, RunState, StateChange, StateError, StateGrant, StatePort, StateSpot, digest},
};

/// What is to be written.
struct Change {
    scope: Scope,
    key: String,
    expected: Option<Option<Vec<u8>>>,
    value: Option<Vec<u8>>,
}

impl Host for RunState {
    async fn get(&mut self, scope: Scope, key: String) -> wasmtime::Result<Result<Option<Vec<u8>>, Failure>> {
        const IMPORT: &str = "state.get";
        let (arguments, key) = self.aside(key.len(), move || (digest(&[&[scope as u8], key.as_bytes()]), key)).await;
        let text = match self.replayed::<Result<Option<String>, Failure>>(IMPORT, &arguments)? {
            Some(answer) => answer,
            None => {
                let answer = match self.granted(IMPORT, &key, None)? {
                    Err(failure) => Err(failure),
                    Ok(_) if scope == Scope::Run => Ok(self.scratch.values.get(&key).cloned()),
                    Ok(_) => {
                        let read = self.state_port(IMPORT)?.get(spot(scope, &key)).await;
                        self.clock.advance();
                        match failed(read)? {
                            Err(Failure { kind: FailureKind::Cancelled, .. }) => return Ok(Err(cancelled())),
                            answer => answer,
                        }
                    }
                };
                let answer = answer.map(|value| value.map(|value| BASE64.encode(value)));
                self.record(IMPORT, arguments, &answer).await?;
                answer
            }
        };
        let decode = |text: String| BASE64.decode(text).map_err(wasmtime::Error::new);
        Ok(match text {
            Ok(value) => Ok(value.map(decode).transpose()?),
            Err(failure) => Err(failure),
        })
    }

    async fn set(&mut self, scope: Scope, key: String, value: Vec<u8>) -> wasmtime::Result<Result<(), Failure>> {
        let bytes = key.len() + value.len();
        let work = move || (digest(&[&[scope as u8], key.as_bytes(), &value]), key, value);
        let (arguments, key, value) = self.aside(bytes, work).await;
        let change = Change { scope, key, expected: None, value: Some(value) };
        Ok(self.change("state.set", arguments, change).await?.map(drop))
    }

    async fn delete(&mut self, scope: Scope, key: String) -> wasmtime::Result<Result<(), Failure>> {
        let (arguments, key) = self.aside(key.len(), move || (digest(&[&[scope as u8], key.as_bytes()]), key)).await;
        let change = Change { scope, key, expected: None, value: None };
        Ok(self.change("state.delete", arguments, change).await?.map(drop))
    }

    async fn replace(
        &mut self,
        scope: Scope,
        key: String,
        expected: Option<Vec<u8>>,
        value: Option<Vec<u8>>,
    ) -> wasmtime::Result<Result<bool, Failure>> {
        let there = [u8::from(expected.is_some()), u8::from(value.is_some())];
        let length = |value: &Option<Vec<u8>>| value.as_ref().map_or(0, Vec::len);
        let bytes = key.len() + length(&expected) + length(&value);
        let work = move || {
            let bytes = |value: &'_ Option<Vec<u8>>| value.clone().unwrap_or_default();
            let arguments = digest(&[&[scope as u8], key.as_bytes(), &there, &bytes(&expected), &bytes(&value)]);
            (arguments, key, expected, value)
        };
        let (arguments, key, expected, value) = self.aside(bytes, work).await;
        self.change("state.replace", arguments, Change { scope, key, expected: Some(expected), value }).await
    }

    async fn list_keys(
        &mut self,
        scope: Scope,
        prefix: String,
        after: Option<String>,
    ) -> wasmtime::Result<Result<Vec<String>, Failure>> {
        const IMPORT: &str = "state.list-keys";
        let after = after.unwrap_or_default();
        let prefix_bytes = prefix.len() + after.len();
        let work = move || (digest(&[&[scope as u8], prefix.as_bytes(), after.as_bytes()]), prefix, after);
        let (arguments, prefix, after) = self.aside(prefix_bytes, work).await;
        if let Some(answer) = self.replayed(IMPORT, &arguments)? {
            return Ok(answer);
        }
        let answer = match self.granted(IMPORT, "-", None)? {
            Err(failure) => Err(failure),
            Ok(_) if scope == Scope::Run => Ok(self.scratch.keys(&prefix, &after)),
            Ok(_) => {
                let read = self.state_port(IMPORT)?.keys(spot(scope, &prefix), &after, PAGE).await;
                self.clock.advance();
                match failed(read)? {
                    Err(Failure { kind: FailureKind::Cancelled, .. }) => return Ok(Err(cancelled())),
                    answer => answer,
                }
            }
        };
        self.record(IMPORT, arguments, &answer).await?;
        Ok(answer)
    }
}

impl RunState {
    /// Writes, and answers whether the value was the expected one.
    async fn change(
        &mut self,
        import: &str,
        arguments: String,
        change: Change,
    ) -> wasmtime::Result<Result<bool, Failure>> {
        let Change { scope, key, expected, value } = change;
        if let Some(answer) = self.replayed::<Result<bool, Failure>>(import, &arguments)? {
            // What lives in the instance lives anew.
            if scope == Scope::Run && matches!(answer, Ok(true)) {
                self.scratch.apply(key, value);
            }
            return Ok(answer);
        }
        let (is, will) = (expected.as_ref().map(Option::as_deref), value.as_deref());
        let answer = match self.granted(import, &key, will)? {
            Err(failure) => Err(failure),
            Ok(most) if scope == Scope::Run => failed(self.scratch.change(&key, is, will, most))?,
            Ok(most) => {
                let entry = self.entry(import, &arguments, &Ok::<_, Failure>(true))?;
                let port = self.state_port(import)?;
                let change = StateChange { spot: spot(scope, &key), expected: is, value: will, most, entry: &entry };
                match failed(port.change(change).await)? {
                    Ok(true) => {
                        // The entry lies with what it is about.
                        self.listen();
                        self.wait_for_room(import).await?;
                        return Ok(Ok(true));
                    }
                    Err(Failure { kind: FailureKind::Cancelled, .. }) => return Ok(Err(cancelled())),
                    answer => answer,
                }
            }
        };
        self.record(import, arguments, &answer).await?;
        Ok(answer)
    }

    /// How much this agent may keep, if it may keep anything, and this key and value are right.
    fn granted(&mut self, import: &str, key: &str, value: Option<&[u8]>) -> wasmtime::Result<Result<usize, Failure>> {
        let run = self.active(import)?;
        let granted = run.granted()?;
        let StateGrant { bytes, key_bytes, value_bytes } = granted.state;
        let Some(bytes) = bytes else {
            let denied = granted.section.denied("state_not_granted", "keep anything", "`state = \"1MiB\"`", "");
            self.log.note(tracing::Level::WARN, "state", &denied.message);
            return Ok(Err(denied));
        };
        if key.is_empty() || key.len() > key_bytes {
            let message =
                format!("A key has {} bytes; it must have 1 to {key_bytes} (limits.state_key_bytes).", key.len());
            return Ok(Err(failure(FailureKind::Invalid, "invalid_key", message)));
        }
        if let Some(length) = value.map(<[u8]>::len).filter(|length| *length > value_bytes) {
            let message = format!("A value has {length} bytes, limit {value_bytes} (limits.state_value_bytes).");
            return Ok(Err(failure(FailureKind::Limit, "value_too_large", message)));
        }
        Ok(Ok(bytes))
    }

    fn state_port(&mut self, import: &str) -> wasmtime::Result<Arc<dyn StatePort>> {
        let port = self.active(import)?.state.clone();
        port.ok_or_else(|| wasmtime::Error::msg("a run without state"))
    }
}

/// The place of a key, in a scope that is wider than the run.
fn spot(scope: Scope, key: &str) -> StateSpot<'_> {
    StateSpot { of_conversation: scope == Scope::Conversation, key }
}

/// What a component reads of an error; an error where its run has to end.
fn failed<T>(result: Result<T, StateError>) -> wasmtime::Result<Result<T, Failure>> {
    let error = match result {
        Ok(value) => return Ok(Ok(value)),
        Err(error) => error,
    };
    let message = error.to_string();
    Ok(Err(match error {
        StateError::NoConversation => failure(FailureKind::NotFound, "no_conversation", message),
        StateError::Full { .. } => failure(FailureKind::Limit, "state_full", message),
        StateError::Stopped => cancelled(),
        StateError::Unreadable => failure(FailureKind::Unavailable, "state_unreadable", message),
        StateError::Refused(_) => return Err(Violation(message).into()),
    }))
}
