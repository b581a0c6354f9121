use std::error::Error;
use std::fmt;
use std::time::Duration;

use crate::FailureKind;
use crate::bindings;

/// Why something did not work: the error of every call in this crate, and of [`Agent::run`].
///
/// `?` makes a failure of JSON errors, of the standard library's parse and format errors, and of
/// `Box<dyn Error>`, in which a failure survives unchanged. For every other error there is
/// [`from_error`](Self::from_error):
///
/// ```
/// use outlast_guest::Failure;
/// use std::net::IpAddr;
///
/// fn seconds(text: &str) -> Result<u64, Failure> {
///     Ok(text.parse()?)
/// }
///
/// fn address(text: &str) -> Result<IpAddr, Failure> {
///     text.parse().map_err(Failure::from_error)
/// }
/// ```
///
/// [`Agent::run`]: crate::Agent::run
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What the caller can do about it.
    pub kind: FailureKind,
    /// A stable word for programs: lower case with underscores, at most 64 characters, for example
    /// `model_not_found`.
    pub code: String,
    /// A sentence for people. A failure returned from `run` is shown to the client: no secrets.
    pub message: String,
    /// When the call may be repeated, from now, where that is known.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure of any kind. The constructors below name the kind.
    pub fn new(kind: FailureKind, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind, code: code.into(), message: message.into(), retry_after: None }
    }

    /// A failure of kind `other`, code `agent_error`, with the text of an error as its message.
    pub fn from_error(error: impl Error) -> Self {
        Self::other("agent_error", error.to_string())
    }

    /// Says when the call may be repeated.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }
}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $kind:ident;)*) => {
        impl Failure {
            $(
                $(#[$doc])*
                pub fn $name(code: impl Into<String>, message: impl Into<String>) -> Self {
                    Self::new(FailureKind::$kind, code, message)
                }
            )*
        }
    };
}

constructors! {
    /// The request or its arguments are wrong. Repeating it fails again.
    invalid => Invalid;
    /// It is not permitted.
    denied => Denied;
    /// There is no such thing.
    not_found => NotFound;
    /// A limit was reached: size, count, quota.
    limit => Limit;
    /// The other side asked to slow down; see [`retry_after`](Self::retry_after).
    rate_limited => RateLimited;
    /// It took too long.
    timeout => Timeout;
    /// The other side failed or cannot be reached. Repeating later may work.
    unavailable => Unavailable;
    /// The run is being cancelled.
    cancelled => Cancelled;
    /// It was broken off, and whether it took effect is unknown.
    interrupted => Interrupted;
    /// Anything else.
    other => Other;
}

impl FailureKind {
    /// The contract's word for it, for example `not-found`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Denied => "denied",
            Self::NotFound => "not-found",
            Self::Limit => "limit",
            Self::RateLimited => "rate-limited",
            Self::Timeout => "timeout",
            Self::Unavailable => "unavailable",
            Self::Cancelled => "cancelled",
            Self::Interrupted => "interrupted",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}

impl Error for Failure {}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::invalid("invalid_json", error.to_string())
    }
}

impl From<Box<dyn Error + Send + Sync>> for Failure {
    fn from(error: Box<dyn Error + Send + Sync>) -> Self {
        Self::from(error as Box<dyn Error>)
    }
}

impl From<Box<dyn Error>> for Failure {
    fn from(error: Box<dyn Error>) -> Self {
        match error.downcast::<Self>() {
            Ok(failure) => *failure,
            Err(error) => Self::other("agent_error", error.to_string()),
        }
    }
}

macro_rules! from_errors {
    ($($error:ty),* $(,)?) => {
        $(
            impl From<$error> for Failure {
                fn from(error: $error) -> Self {
                    Self::from_error(error)
                }
            }
        )*
    };
}

from_errors! {
    fmt::Error,
    std::char::ParseCharError,
    std::num::ParseFloatError,
    std::num::ParseIntError,
    std::num::TryFromIntError,
    std::str::ParseBoolError,
    std::str::Utf8Error,
    std::string::FromUtf8Error,
}

impl From<bindings::Failure> for Failure {
    fn from(failure: bindings::Failure) -> Self {
        Self {
            kind: failure.kind,
            code: failure.code,
            message: failure.message,
            retry_after: failure.retry_after_ms.map(Duration::from_millis),
        }
    }
}

impl From<Failure> for bindings::Failure {
    fn from(failure: Failure) -> Self {
        Self {
            kind: failure.kind,
            code: failure.code,
            message: failure.message,
            retry_after_ms: failure.retry_after.map(crate::tasks::milliseconds),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_mark_takes_common_errors() {
        fn number(json: &str) -> Result<i64, Failure> {
            let text: String = serde_json::from_str(json)?;
            Ok(text.parse()?)
        }
        assert_eq!(number(r#""7""#), Ok(7));
        assert_eq!(number("7").unwrap_err().code, "invalid_json");
        assert_eq!(number(r#""x""#).unwrap_err().code, "agent_error");
    }

    #[test]
    fn a_failure_survives_a_boxed_error() {
        fn boxed() -> Result<(), Box<dyn Error + Send + Sync>> {
            Err(Failure::denied("no_entry", "not here"))?
        }
        fn run() -> Result<(), Failure> {
            Ok(boxed()?)
        }
        assert_eq!(run(), Err(Failure::denied("no_entry", "not here")));
    }

    #[test]
    fn the_time_to_wait_survives_the_contract() {
        let failure = Failure::rate_limited("slow_down", "wait").retry_after(Duration::from_millis(1500));
        assert_eq!(Failure::from(bindings::Failure::from(failure.clone())), failure);
    }
}
