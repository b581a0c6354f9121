//! Waiting, also for whatever comes first.
//!
//! What is to run beside the agent is started, with [`http::Request::start`](crate::http::Request::start) for example,
//! and has a [`Task`]. [`wait_any`] waits for several of them.
//!
//! ```no_run
//! use outlast_guest::{Failure, http, tasks};
//! use std::time::Duration;
//!
//! /// The quicker of two mirrors, if one of them answers within a second.
//! fn fetch() -> Result<Option<http::Response>, Failure> {
//!     let one = http::get("https://one.example.com/data").start()?;
//!     let other = http::get("https://other.example.com/data").start()?;
//!     let enough = tasks::after(Duration::from_secs(1));
//!     Ok(match tasks::wait_any([one.task(), other.task(), &enough])?[0] {
//!         0 => Some(one.get()?),
//!         1 => Some(other.get()?),
//!         _ => None,
//!     })
//! }
//! ```

use std::time::Duration;

use crate::Failure;
use crate::host::tasks as host;

#[doc(inline)]
pub use host::Task;

/// Waits until at least one of the tasks has ended, and returns the places of all that have, in ascending order: there is
/// at least one. A task that has ended stays so; leave it away the next time.
///
/// # Errors
///
/// `cancelled`, at once, when the run is cancelled; `invalid` without tasks.
pub fn wait_any<'a>(tasks: impl IntoIterator<Item = &'a Task>) -> Result<Vec<usize>, Failure> {
    let tasks: Vec<&Task> = tasks.into_iter().collect();
    Ok(host::wait_any(&tasks)?.into_iter().map(|place| place as usize).collect())
}

/// A task that ends after a while: a time limit for [`wait_any`].
pub fn after(duration: Duration) -> Task {
    host::after(milliseconds(duration))
}

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
