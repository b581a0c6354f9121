//! When a delivery is tried again.

use std::time::{Duration, SystemTime};

use outlast_runtime::clock::in_milliseconds;
use outlast_store::TryOutcome;

/// The pauses after the first tries that failed; behind them, the last one again and again.
const PAUSES: [Duration; 7] = [
    Duration::from_secs(5),
    Duration::from_secs(60),
    Duration::from_secs(5 * 60),
    Duration::from_secs(30 * 60),
    Duration::from_secs(2 * 3_600),
    Duration::from_secs(6 * 3_600),
    Duration::from_secs(12 * 3_600),
];
/// How much longer a pause may be than that, as a part of it: so that what failed together is not tried again together.
const JITTER: u32 = 10;

/// A try that failed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failed {
    /// When, in milliseconds since 1970.
    pub at: i64,
    /// How many were before it.
    pub attempts: i64,
    /// From when the time counts after which the delivery is given up, in milliseconds since 1970.
    pub queued_at: i64,
    /// How long the endpoint wants to be left alone.
    pub retry_after: Option<Duration>,
    /// A random number.
    pub random: u32,
}

impl Failed {
    /// What becomes of the delivery, which is tried for so long.
    pub fn outcome(self, retry_for: Duration) -> TryOutcome {
        let step = usize::try_from(self.attempts).unwrap_or(usize::MAX).min(PAUSES.len() - 1);
        let pause = PAUSES[step];
        let jitter = (pause / JITTER).mul_f64(f64::from(self.random) / f64::from(u32::MAX));
        let pause = (pause + jitter).max(self.retry_after.unwrap_or_default());
        let next = self.at.saturating_add(in_milliseconds(pause));
        match next > self.queued_at.saturating_add(in_milliseconds(retry_for)) {
            true => TryOutcome::Dead,
            false => TryOutcome::Again(next),
        }
    }
}

/// What `retry-after` says: seconds, or a date.
pub(super) fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETRY_FOR: Duration = Duration::from_secs(72 * 3_600);

    fn failed(at: i64, attempts: i64) -> Failed {
        Failed { at, attempts, queued_at: 0, retry_after: None, random: 0 }
    }

    #[test]
    fn a_delivery_is_tried_less_and_less_often_and_then_given_up() {
        let (mut at, mut pauses) = (0, Vec::new());
        for attempts in 0.. {
            match failed(at, attempts).outcome(RETRY_FOR) {
                TryOutcome::Again(next) => {
                    pauses.push((next - at) / 1_000);
                    at = next;
                }
                outcome => {
                    assert_eq!(outcome, TryOutcome::Dead);
                    break;
                }
            }
        }
        let half_a_day = 12 * 3_600;
        let expected =
            [5, 60, 300, 1_800, 7_200, 6 * 3_600, half_a_day, half_a_day, half_a_day, half_a_day, half_a_day];
        assert_eq!(pauses, expected);
    }

    #[test]
    fn a_pause_is_never_shorter_than_the_endpoint_wants_nor_the_same_for_all() {
        let wanted = Failed { retry_after: Some(Duration::from_secs(30)), ..failed(0, 0) };
        assert_eq!(wanted.outcome(RETRY_FOR), TryOutcome::Again(30_000));
        let soon = Failed { retry_after: Some(Duration::from_secs(1)), ..failed(0, 1) };
        assert_eq!(soon.outcome(RETRY_FOR), TryOutcome::Again(60_000));
        let later = Failed { random: u32::MAX, ..failed(0, 0) };
        assert_eq!(later.outcome(RETRY_FOR), TryOutcome::Again(5_500));
        let never = Failed { retry_after: Some(Duration::from_secs(u64::MAX)), ..failed(0, 0) };
        assert_eq!(never.outcome(RETRY_FOR), TryOutcome::Dead);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH;
        assert_eq!(retry_after(" 7 ", now), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Thu, 01 Jan 1970 00:01:00 GMT", now), Some(Duration::from_secs(60)));
        for wrong in ["", "soon", "-1", "1.5"] {
            assert_eq!(retry_after(wrong, now), None, "{wrong}");
        }
    }
}
