//! Whether this server may still act for the runs that are kept.
//!
//! A server that is stopped, cut off or suspended for longer than its lease is replaced, and its runs with it. What it
//! still writes then, the database refuses. What leaves the process it cannot refuse: a call of a model, a request, a
//! call of a tool would be made by both servers. So each of them passes the [gate](Lease::gate) of the lease, and waits
//! there when the lease does not hold: until it is renewed, or until the server has heard that it was replaced, and ends.
//!
//! The lease of the process ends before the lease in the database does:
//!
//! - It is counted from when its renewal was *sent*; the database counts from when it came.
//! - It is counted by a clock that goes on while the process is stopped and while the machine is suspended.
//! - It is a tenth shorter (`MARGIN`). That is for clocks that differ, and for the way from the look to the wire: one
//!   hand-over to the task that writes the connection, which waits for nothing outside of the process.
//!
//! What remains is a process that is suspended exactly in that hand-over, for longer than the rest of its lease. Only the
//! other side can tell that: by the idempotency key of a request, which both servers send alike.
//!
//! The cost is one look at the clock each time a call that has begun is polled. While the lease does not hold, answers to
//! what was sent before it ended are not read either: a run could not keep them.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::Notify;
use tracing::{info, warn};

/// The part of a lease that is not used: one in so many.
const MARGIN: u32 = 10;
/// The clock that goes on while the machine is suspended.
#[cfg(any(target_os = "linux", target_os = "android"))]
const CLOCK: ClockId = ClockId::Boottime;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const CLOCK: ClockId = ClockId::Monotonic;
/// No lease, and one without an end, in place of the end of one.
const NONE: u64 = 0;
const ENDLESS: u64 = u64::MAX;

/// The lease of a database, as those see it who act on it. Clones are the same lease.
#[derive(Clone, Debug)]
pub struct Lease(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// When it ends, in nanoseconds by [`CLOCK`].
    end: AtomicU64,
    /// Wakes those who wait for it.
    renewed: Notify,
    /// Whether the log has been told that somebody waits.
    told: AtomicBool,
}

/// A moment, by the clock of the leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

impl Moment {
    /// Now.
    pub fn now() -> Self {
        let now = clock_gettime(CLOCK);
        let part = |number: i64| u64::try_from(number).unwrap_or_default();
        Self(part(now.tv_sec).saturating_mul(1_000_000_000).saturating_add(part(now.tv_nsec)))
    }

    /// So much later; never later than the clock can say.
    fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)).min(ENDLESS - 1))
    }
}

impl Lease {
    /// One that holds for ever: nobody else can have the runs.
    pub fn endless() -> Self {
        Self::until(ENDLESS)
    }

    /// One that does not hold until it is [renewed](Self::renew).
    pub fn none() -> Self {
        Self::until(NONE)
    }

    fn until(end: u64) -> Self {
        Self(Arc::new(Shared { end: AtomicU64::new(end), renewed: Notify::new(), told: AtomicBool::new(false) }))
    }

    /// The database has taken a renewal for `length`, which was sent at the moment `sent`.
    pub fn renew(&self, sent: Moment, length: Duration) {
        self.0.end.store(sent.after(length - length / MARGIN).0, Ordering::Release);
        if self.0.told.swap(false, Ordering::Relaxed) && self.holds() {
            info!("the lease of the database is renewed: calls of models, tools and other servers continue");
        }
        self.0.renewed.notify_waiters();
    }

    /// Ends it before its time: another server may have the database now.
    pub fn end(&self) {
        self.0.end.store(NONE, Ordering::Release);
    }

    /// Whether it holds now.
    pub fn holds(&self) -> bool {
        match self.0.end.load(Ordering::Acquire) {
            ENDLESS => true,
            end => Moment::now().0 < end,
        }
    }

    /// Waits until it holds.
    pub async fn held(&self) {
        loop {
            let mut renewed = pin!(self.0.renewed.notified());
            // A renewal between the look and the wait is not missed.
            renewed.as_mut().enable();
            if self.holds() {
                return;
            }
            if !self.0.told.swap(true, Ordering::Relaxed) {
                warn!("calls of models, tools and other servers wait: the lease of the database is not renewed");
            }
            renewed.await;
        }
    }

    /// Lets `call` get on while the lease holds: it is looked at each time before `call` is polled. A call that was begun
    /// waits in the middle, for example between the connection and the request, when the lease does not hold any more.
    pub async fn gate<T>(&self, call: impl Future<Output = T>) -> T {
        let mut call = pin!(call);
        loop {
            self.held().await;
            let polled = std::future::poll_fn(|context| match self.holds() {
                true => call.as_mut().poll(context).map(Some),
                false => Poll::Ready(None),
            });
            if let Some(done) = polled.await {
                return done;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use futures::{FutureExt as _, poll};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn a_lease_is_counted_from_when_its_renewal_was_sent_and_ends_early() {
        let lease = Lease::none();
        assert!(!lease.holds());
        lease.renew(Moment::now(), HOUR);
        assert!(lease.holds());
        let end = |sent: u64, length| {
            lease.renew(Moment(sent), Duration::from_nanos(length));
            lease.0.end.load(Ordering::Relaxed)
        };
        assert_eq!(end(1_000, 100), 1_090);
        assert_eq!(end(ENDLESS - 5, 100), ENDLESS - 1);
        // Sent an hour before it was answered.
        let sent = Moment(Moment::now().0.saturating_sub(1_000_000));
        lease.renew(sent, Duration::from_millis(1));
        assert!(!lease.holds());
    }

    #[test]
    fn a_lease_that_was_ended_is_renewed_or_does_not_hold() {
        let lease = Lease::endless();
        assert!(lease.holds());
        lease.end();
        assert!(!lease.holds());
        lease.clone().renew(Moment::now(), HOUR);
        assert!(lease.holds());
    }

    #[tokio::test]
    async fn a_call_does_not_begin_before_the_lease_holds() {
        let lease = Lease::none();
        let begun = AtomicBool::new(false);
        let mut call = pin!(lease.gate(async { begun.store(true, Ordering::Relaxed) }));
        assert!(poll!(call.as_mut()).is_pending());
        assert!(!begun.load(Ordering::Relaxed));
        lease.renew(Moment::now(), HOUR);
        call.await;
        assert!(begun.load(Ordering::Relaxed));
    }

    #[tokio::test]
    async fn a_call_that_has_begun_waits_in_the_middle() {
        let lease = Lease::endless();
        let (connected, sent) = (Notify::new(), AtomicBool::new(false));
        let mut call = pin!(lease.gate(async {
            connected.notified().await;
            sent.store(true, Ordering::Relaxed);
        }));
        assert!(poll!(call.as_mut()).is_pending());
        lease.end();
        connected.notify_one();
        assert!(poll!(call.as_mut()).is_pending());
        assert!(!sent.load(Ordering::Relaxed));
        lease.renew(Moment::now(), HOUR);
        call.await;
        assert!(sent.load(Ordering::Relaxed));
    }

    #[tokio::test]
    async fn a_limit_of_time_behind_the_gate_leaves_room_for_an_answer_that_is_there() {
        let lease = Lease::endless();
        let answered = Notify::new();
        let limited = tokio::time::timeout(Duration::from_millis(1), answered.notified());
        let mut call = pin!(lease.gate(limited));
        assert!(poll!(call.as_mut()).is_pending());
        lease.end();
        answered.notify_one();
        // The limit is over for certain.
        assert!(tokio::time::timeout(Duration::from_millis(20), call.as_mut()).await.is_err());
        lease.renew(Moment::now(), HOUR);
        assert!(call.await.is_ok());
    }

    #[test]
    fn a_lease_that_holds_lets_everything_through() {
        assert_eq!(Lease::endless().gate(ready(1)).now_or_never(), Some(1));
        assert_eq!(Lease::endless().gate(pending::<()>()).now_or_never(), None);
    }
}
