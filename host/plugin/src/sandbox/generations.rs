//! What a run holds of calls of models.
//!
//! A call that a component holds may have to be asked for again after a stop of the server, and its answer is kept until
//! it is taken. So there are at most so many of them, and their inputs have one limit together.

use super::limits::CallLimits;
use crate::{
    bindings::types::{Failure, FailureKind},
    failure::failure,
};

/// The calls that are held.
#[derive(Debug)]
pub(crate) struct Generations {
    limits: CallLimits,
    calls: usize,
    bytes: usize,
}

impl Generations {
    pub(crate) fn new(limits: CallLimits) -> Self {
        Self { limits, calls: 0, bytes: 0 }
    }

    /// Whether a call with so many bytes of input may be made beside those that are held.
    pub(crate) fn check(&self, bytes: usize) -> Result<(), Failure> {
        let CallLimits { input_bytes, calls } = self.limits;
        let limit = |code, message| Err(failure(FailureKind::Limit, code, message));
        if bytes > input_bytes {
            let message = format!(
                "The input, the instructions and the options have {bytes} bytes, limit {input_bytes} \
                 (limits.model_input_bytes)."
            );
            return limit("input_too_large", message);
        }
        let all = self.bytes.saturating_add(bytes);
        if all > input_bytes {
            let message = format!(
                "The inputs of the {} open calls and of this one have {all} bytes together, limit {input_bytes} \
                 (limits.model_input_bytes).",
                self.calls
            );
            return limit("input_too_large", message);
        }
        if self.calls >= calls {
            let message = format!("There are {calls} open model calls, the limit (limits.model_calls).");
            return limit("too_many_calls", message);
        }
        Ok(())
    }

    /// A call is held.
    pub(crate) fn add(&mut self, bytes: usize) {
        self.calls += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// A call is held no more.
    pub(crate) fn remove(&mut self, bytes: usize) {
        self.calls = self.calls.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_that_are_held_are_few_and_their_inputs_have_one_limit() {
        let mut held = Generations::new(CallLimits { input_bytes: 10, calls: 2 });
        assert_eq!(held.check(11).unwrap_err().code, "input_too_large");
        held.add(6);
        assert!(held.check(4).is_ok());
        let message = held.check(5).unwrap_err().message;
        assert!(message.contains("11 bytes together"), "{message}");
        held.add(4);
        assert_eq!(held.check(0).unwrap_err().code, "too_many_calls");
        held.remove(6);
        assert!(held.check(6).is_ok());
    }
}
