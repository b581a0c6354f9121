//! How a run fails inside its component, in words for two readers: the client and the operator.

use wasmtime::{Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use crate::bindings::types::{Failure, FailureKind};

/// How the engine's error begins when a component hands over more than `host_call` of its limits. Its type is private.
const TOO_MUCH: &str = "too much data is being copied between the host and the guest";
/// What a component may hand over in one call of the host.
const LARGEST: &str = "4 MiB, or the largest of limits.event_bytes, limits.tool_result_bytes and, as far as it is granted \
                       them, limits.http_request_bytes, limits.state_value_bytes, limits.tool_argument_bytes and \
                       limits.model_input_bytes";

/// The codes of failures that clients are told: they can do something about them.
const TOLD: [&str; 5] = [
    "rate_limit_exceeded",
    "insufficient_quota",
    "context_length_exceeded",
    "content_policy_violation",
    "model_not_found",
];

/// The longest wait that a client is told, in seconds.
const LONGEST_WAIT: u64 = 24 * 3_600;

/// A plugin did what it may not. Ends its run.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Violation(pub String);

/// A run that is executed again did something else than before. Ends it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Diverged(pub String);

/// Not a failure: a component sleeps until this time, since 1970, and leaves memory meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("asleep")]
pub(crate) struct Asleep(pub std::time::Duration);

/// Why a component did not finish its run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{operator}")]
pub struct RunFailure {
    /// The response's `error.code`.
    pub code: &'static str,
    /// What the client reads: short, and nothing of the inside.
    pub client: String,
    /// What the operator reads in the log.
    pub operator: String,
    /// When the request may be repeated, in seconds, where that is known.
    pub retry_after: Option<u64>,
    /// Whether something took too long.
    pub timed_out: bool,
}

impl RunFailure {
    /// A failure for which the two readers read the same.
    pub fn plain(message: impl Into<String>) -> Self {
        let message = message.into();
        Self::of_server(message.clone(), message)
    }

    fn of_server(client: String, operator: String) -> Self {
        Self { code: "server_error", client, operator, retry_after: None, timed_out: false }
    }

    /// The agent's own `err`.
    pub(crate) fn from_agent(failure: Failure) -> Self {
        let told = TOLD.into_iter().find(|told| *told == failure.code);
        let code = told.unwrap_or(match failure.kind {
            FailureKind::RateLimited => "rate_limit_exceeded",
            _ => "server_error",
        });
        let retry_after = failure.retry_after_ms.map(|wait| wait.div_ceil(1_000).min(LONGEST_WAIT));
        let message = shorten(&failure.message, 1_000);
        let word = shorten(&failure.code, 64);
        let operator = format!("the agent returned failure `{word}`: {message}");
        let client = if message.is_empty() { word } else { message };
        Self { code, client, operator, retry_after, timed_out: failure.kind == FailureKind::Timeout }
    }

    /// A trap of `whose` component: `The agent`. `stderr` is the end of what it wrote there: Rust and Python put their
    /// panics into it.
    pub(crate) fn from_trap(whose: &str, error: &wasmtime::Error, stderr: &str) -> Self {
        let (client, cause) = if let Some(Violation(message)) = error.downcast_ref() {
            (format!("{whose} was stopped: it {message}."), message.clone())
        } else if let Some(Diverged(message)) = error.downcast_ref() {
            (format!("The run could not be resumed: it {message}."), message.clone())
        } else if let Some(I32Exit(status)) = error.downcast_ref() {
            (format!("{whose} exited before it finished."), format!("the component called exit({status})"))
        } else {
            match error.downcast_ref::<Trap>() {
                Some(Trap::StackOverflow) => {
                    let client = format!("{whose} was stopped: it exceeded the limit of its stack.");
                    (client, "stack overflow".to_owned())
                }
                Some(trap) => {
                    let panic = stderr.lines().rev().find(|line| line.contains("panicked at"));
                    // The message of a panic stands in the lines after its place.
                    let cause = match panic {
                        Some(line) => stderr[stderr.find(line).unwrap_or(0)..].trim().replace('\n', " "),
                        None => trap.to_string(),
                    };
                    (format!("{whose} crashed."), cause)
                }
                None if error.root_cause().to_string().starts_with(TOO_MUCH) => {
                    let client = format!("{whose} was stopped: it passed too much data in one call ({LARGEST}).");
                    (client, format!("passed too much data in one call: {LARGEST}"))
                }
                None => (format!("{whose} failed."), format!("{error:#}")),
            }
        };
        let mut operator = shorten(&cause, 2_000);
        if let Some(trace) = error.downcast_ref::<WasmBacktrace>() {
            for frame in trace.frames().iter().take(8) {
                operator.push_str("\n    at ");
                operator.push_str(&frame.func_name().map_or("?".into(), demangle));
            }
        }
        Self::of_server(client, operator)
    }
}

fn demangle(name: &str) -> String {
    format!("{:#}", rustc_demangle::demangle(name))
}

/// What a component is told.
pub(crate) fn failure(kind: FailureKind, code: &str, message: impl Into<String>) -> Failure {
    Failure { kind, code: code.to_owned(), message: message.into(), retry_after_ms: None }
}

/// What a waiting call answers when the run is being stopped.
pub(crate) fn cancelled() -> Failure {
    failure(FailureKind::Cancelled, "cancelled", "The run is being cancelled.")
}

/// At most `most` characters of `text`, without control characters.
pub(crate) fn shorten(text: &str, most: usize) -> String {
    text.chars().filter(|character| !character.is_control() || *character == '\n').take(most).collect()
}

/// An error of the engine, shortly.
pub(crate) fn first_line(error: &wasmtime::Error) -> String {
    let text = format!("{error:#}");
    shorten(text.lines().next().unwrap_or_default(), 500)
}
