//! Waiting.

use std::time::Duration;

use crate::Failure;
use crate::host::tasks as host;

/// Waits, holding no thread of the server. Part of a millisecond counts as a whole one. The server's run
/// timeout bounds all waiting of a run.
///
/// # Errors
///
/// `cancelled`, at once, when the run is cancelled.
pub fn sleep(duration: Duration) -> Result<(), Failure> {
    Ok(host::sleep(milliseconds(duration))?)
}

/// The contract's unit of time, rounded up.
pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_never_shorter_than_asked() {
        assert_eq!(milliseconds(Duration::ZERO), 0);
        assert_eq!(milliseconds(Duration::from_micros(1)), 1);
        assert_eq!(milliseconds(Duration::from_millis(7)), 7);
        assert_eq!(milliseconds(Duration::MAX), u64::MAX);
    }
}
