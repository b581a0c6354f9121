//! What an instance is given for its run.

use std::{sync::Arc, time::Duration};

use outlast_model::Models;
use outlast_runtime::{clock::Clock, lease::Lease};
use tokio_util::sync::CancellationToken;

use super::{
    granted::Granted,
    port::{LogPort, RunPort, StatePort},
    replay::Entry,
    secret::RunSecret,
};
use crate::meter::Meter;

/// What an instance is given for its run.
pub struct RunContext {
    /// The id of the response.
    pub response_id: String,
    /// What the client wrote after the `/` of the model.
    pub upstream: Option<String>,
    /// The items of this turn, a JSON array.
    pub input: String,
    /// The request without its input, a JSON object.
    pub request: String,
    /// The items of earlier turns, a JSON array.
    pub history: String,
    /// How many calls of granted tools the request allows; none: any number.
    pub max_tool_calls: Option<u64>,
    /// What makes its random numbers and the keys of its requests.
    pub secret: RunSecret,
    /// Where its words go.
    pub port: Arc<dyn RunPort>,
    /// Is cancelled when the run is being cancelled.
    pub stop: CancellationToken,
    /// Whether the run is kept, and with it what its imports answer.
    pub journaled: bool,
    /// Whether this server may still act for the run: whatever leaves the process for it waits while it does not hold.
    pub lease: Lease,
    /// How long it must want to sleep to leave memory meanwhile; none when it must stay.
    pub idle_after: Option<Duration>,
    /// What its imports have answered before, if it is executed again.
    pub entries: Vec<Entry>,
    /// The clock of the server.
    pub clock: Clock,
    /// When it began, in nanoseconds since 1970: the time that its clock begins with.
    pub began: u64,
    /// Where it keeps what outlives it; none when it cannot.
    pub state: Option<Arc<dyn StatePort>>,
    /// Where its log is kept; none when it is not.
    pub log: Option<Arc<dyn LogPort>>,
    /// Counts what it uses.
    pub meter: Arc<Meter>,
    /// Filled in by the agent: what it is granted.
    pub(crate) granted: Option<Arc<Granted>>,
    /// Filled in by the agent.
    pub(crate) models: Option<Arc<Models>>,
    /// Filled in by the agent: what its clock begins with, since 1970, if that is a script's.
    pub(crate) scripted_time: Option<Duration>,
}

impl RunContext {
    /// What an instance is given for the run of `response_id`.
    pub fn new(response_id: String, secret: RunSecret, port: Arc<dyn RunPort>, stop: CancellationToken) -> Self {
        Self {
            response_id,
            secret,
            upstream: None,
            input: "[]".to_owned(),
            request: "{}".to_owned(),
            history: "[]".to_owned(),
            max_tool_calls: None,
            journaled: false,
            lease: Lease::endless(),
            idle_after: None,
            entries: Vec::new(),
            clock: Clock::default(),
            began: 0,
            state: None,
            log: None,
            meter: Arc::default(),
            port,
            stop,
            granted: None,
            models: None,
            scripted_time: None,
        }
    }

    /// What the agent is granted.
    pub(crate) fn granted(&self) -> wasmtime::Result<&Granted> {
        self.granted.as_deref().ok_or_else(|| wasmtime::Error::msg("a run without grants"))
    }
}
