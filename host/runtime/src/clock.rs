//! The time of day and the ids that are made of it, and where both come from.
//!
//! Whoever asks for the time of day, or waits for one, has a [`Clock`]. It is the system's in a server. A test has one that
//! it sets: what sleeps for a day, or is kept for a month, is tested without waiting.
//!
//! The time is in the units in which rows, events and journals have it. A clock before 1970 says 1970. How long something
//! takes in this process is no time of day, and is measured with `Instant`.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::sync::watch;
use uuid::{NoContext, Timestamp, Uuid};

/// A source of the time of day. Clones are the same source.
#[derive(Clone, Debug, Default)]
pub struct Clock(Option<Arc<watch::Sender<Duration>>>);

impl Clock {
    /// The system's.
    pub fn system() -> Self {
        Self(None)
    }

    /// One that shows this time, since 1970, until it is [moved](Self::advance).
    pub fn standing(time: Duration) -> Self {
        Self(Some(Arc::new(watch::Sender::new(time))))
    }

    /// Moves one that stands, and wakes whoever waits for a time that has come. The system's it leaves alone.
    pub fn advance(&self, by: Duration) {
        if let Some(time) = &self.0 {
            time.send_modify(|time| *time = time.saturating_add(by));
        }
    }

    /// The time, since 1970.
    pub fn since_1970(&self) -> Duration {
        self.0.as_ref().map_or_else(since_1970, |time| *time.borrow())
    }

    /// The time.
    pub fn now(&self) -> SystemTime {
        UNIX_EPOCH + self.since_1970()
    }

    /// Milliseconds since 1970.
    pub fn milliseconds(&self) -> i64 {
        milliseconds(self.now())
    }

    /// Seconds since 1970.
    pub fn seconds(&self) -> i64 {
        seconds(self.now())
    }

    /// Nanoseconds since 1970.
    pub fn nanoseconds(&self) -> u64 {
        nanoseconds(self.since_1970())
    }

    /// Waits until this time, since 1970.
    pub async fn until(&self, time: Duration) {
        match &self.0 {
            None => tokio::time::sleep(time.saturating_sub(since_1970())).await,
            // Its sender is held here: it is not closed.
            Some(now) => drop(now.subscribe().wait_for(|now| *now >= time).await),
        }
    }

    /// Waits for so long.
    pub async fn sleep(&self, length: Duration) {
        match &self.0 {
            None => tokio::time::sleep(length).await,
            Some(_) => self.until(self.since_1970().saturating_add(length)).await,
        }
    }

    /// An id that no other has. A later one is greater.
    pub fn id(&self) -> Uuid {
        match &self.0 {
            None => Uuid::now_v7(),
            Some(_) => {
                let now = self.since_1970();
                Uuid::new_v7(Timestamp::from_unix(NoContext, now.as_secs(), now.subsec_nanos()))
            }
        }
    }
}

/// The time, since 1970.
pub fn since_1970() -> Duration {
    since(SystemTime::now())
}

/// A time since 1970 in nanoseconds.
pub fn nanoseconds(since: Duration) -> u64 {
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// A length of time, or a time since 1970, in milliseconds.
pub fn in_milliseconds(length: Duration) -> i64 {
    i64::try_from(length.as_millis()).unwrap_or(i64::MAX)
}

/// Milliseconds since 1970.
pub fn milliseconds(time: SystemTime) -> i64 {
    in_milliseconds(since(time))
}

/// Seconds since 1970.
pub fn seconds(time: SystemTime) -> i64 {
    milliseconds(time) / 1_000
}

fn since(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn who_waits_for_a_standing_clock_wakes_when_it_is_moved_there() {
        let (clock, day) = (Clock::standing(Duration::from_secs(5)), Duration::from_secs(86_400));
        let (mut sleep, mut until) = (Box::pin(clock.sleep(day)), Box::pin(clock.until(day)));
        assert!(clock.until(Duration::from_secs(5)).now_or_never().is_some());
        assert_eq!((sleep.as_mut().now_or_never(), until.as_mut().now_or_never()), (None, None));
        clock.advance(day - Duration::from_secs(5));
        assert_eq!((sleep.as_mut().now_or_never(), until.as_mut().now_or_never()), (None, Some(())));
        clock.advance(Duration::from_secs(5));
        assert_eq!(sleep.now_or_never(), Some(()));
        assert_eq!((clock.seconds(), clock.milliseconds()), (86_405, 86_405_000));
        let before = clock.id();
        clock.advance(Duration::from_millis(1));
        assert!(before < clock.id());
    }
}
