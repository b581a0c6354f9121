//! What every room of the server has from its process.
//!
//! - [`lease`]: whether this server may still act for its runs. Known to whoever acts.
//! - [`aside`]: work that takes longer than a moment, beside the threads that serve.
//! - [`clock`]: the time of day.
//! - [`limits`](mod@limits): limits that the configuration can change.
//! - [`private`]: files that are the server's own.
//! - [`text`]: what somebody else wrote, where people read it.
//! - [`units`]: sizes of the configuration as numbers.

#![deny(unsafe_code)]
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod aside;
pub mod clock;
pub mod lease;
pub mod limits;
pub mod private;
pub mod text;
pub mod units;
