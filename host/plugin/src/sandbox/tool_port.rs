//! What an instance needs from the tools that it may call.

use std::{fmt, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use outlast_runtime::{clock::Clock, lease::Lease};

use super::{limits::ToolLimits, run_log::RunLog, secret::RunSecret};
use crate::{
    bindings::{tools::Tool, types::Failure},
    meter::Meter,
};

/// The tools that an instance may call.
pub(crate) trait ToolPort: fmt::Debug + Send + Sync {
    /// The tools that are granted and there. A server that is being connected to is waited for.
    fn available(&self) -> BoxFuture<'_, Vec<Tool>>;

    /// Waits until it is known what the tool of this name is, as far as that is to be known soon: its server may have just
    /// been begun with.
    fn known<'a>(&'a self, name: &'a str) -> BoxFuture<'a, ()>;

    /// The tool of this name, if it is granted. What is not granted is denied, whether or not it is there.
    fn find(&self, name: &str) -> Result<Box<dyn FoundTool>, Failure>;

    /// The limits of calls.
    fn limits(&self) -> ToolLimits;

    /// Counts a call that is not allowed.
    fn count_denied(&self);
}

/// A tool that can be called.
pub(crate) trait FoundTool: Send + Sync {
    /// Whether a call may be made again when nobody knows whether it took effect.
    fn is_idempotent(&self) -> bool;

    /// Counts a call whose effect is unknown since the server was stopped.
    fn count_interrupted(&self);

    /// Begins a call. It is made when the future is first polled.
    fn begin(self: Box<Self>, arguments: String, caller: Caller) -> BoxFuture<'static, Result<String, Failure>>;
}

/// Who calls a tool.
pub(crate) struct Caller {
    /// What tells this call apart from all others, also when it is made again.
    pub(crate) key: String,
    /// What makes the random numbers and the keys of the requests of a component that answers it.
    pub(crate) secret: RunSecret,
    /// The log of its run.
    pub(crate) log: Arc<RunLog>,
    /// Whether this server may still act for its run.
    pub(crate) lease: Lease,
    /// What its run uses.
    pub(crate) meter: Arc<Meter>,
    /// The clock of the server.
    pub(crate) clock: Clock,
    /// What its clock shows, if that is a script's.
    pub(crate) scripted_time: Option<Duration>,
}
