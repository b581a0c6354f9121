//! The time of day, in the units in which rows, events and journals have it. A clock before 1970 says 1970.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The time, since 1970.
pub fn since_1970() -> Duration {
    since(SystemTime::now())
}

/// A time since 1970 in nanoseconds.
pub fn nanoseconds(since: Duration) -> u64 {
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Milliseconds since 1970.
pub fn milliseconds(time: SystemTime) -> i64 {
    i64::try_from(since(time).as_millis()).unwrap_or(i64::MAX)
}

/// Seconds since 1970.
pub fn seconds(time: SystemTime) -> i64 {
    milliseconds(time) / 1_000
}

fn since(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}
