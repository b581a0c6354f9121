//! Lines for the operator. Clients never see them.
//!
//! ```
//! use outlast_guest::log;
//!
//! let run = outlast_guest::mock::Mock::new().call(|| {
//!     let (found, wanted) = (2, 3);
//!     log::warn!("found {found} of {wanted}");
//! });
//! assert_eq!(run.log[0].message, "found 2 of 3");
//! ```

use crate::host::log as host;

#[doc(inline)]
pub use crate::bindings::outlast::agent::log::Level;

#[doc(inline)]
pub use crate::{__debug as debug, __error as error, __info as info, __trace as trace, __warn as warn};

/// Writes one line to the log of the run. Lines longer than 8 KiB are cut. The macros of this module say it
/// shorter.
pub fn log(level: Level, message: &str) {
    host::log(level, message);
}

/// Writes a line that matters only to someone following every step.
#[doc(hidden)]
#[macro_export]
macro_rules! __trace {
    ($($message:tt)+) => { $crate::log::log($crate::log::Level::Trace, &::std::format!($($message)+)) };
}

/// Writes a line that helps to find a mistake.
#[doc(hidden)]
#[macro_export]
macro_rules! __debug {
    ($($message:tt)+) => { $crate::log::log($crate::log::Level::Debug, &::std::format!($($message)+)) };
}

/// Writes a line about the normal course of things.
#[doc(hidden)]
#[macro_export]
macro_rules! __info {
    ($($message:tt)+) => { $crate::log::log($crate::log::Level::Info, &::std::format!($($message)+)) };
}

/// Writes a line about something that should not be so, but can be lived with.
#[doc(hidden)]
#[macro_export]
macro_rules! __warn {
    ($($message:tt)+) => { $crate::log::log($crate::log::Level::Warn, &::std::format!($($message)+)) };
}

/// Writes a line about something that went wrong.
#[doc(hidden)]
#[macro_export]
macro_rules! __error {
    ($($message:tt)+) => { $crate::log::log($crate::log::Level::Error, &::std::format!($($message)+)) };
}
