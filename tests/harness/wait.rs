//! Waiting for conditions, with deadlines. Nothing here waits longer than it must.

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

/// How long anything may take that has no limit of its own. Far more than it takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The pause between two looks at something that cannot be waited for.
const PAUSE: Duration = Duration::from_millis(10);

/// Looks until there is something to see.
pub async fn eventually<T>(what: impl Display, probe: impl AsyncFnMut() -> Option<T>) -> T {
    eventually_within(PATIENCE, what, probe).await
}

/// Looks until there is something to see, at most for `limit`.
pub async fn eventually_within<T>(limit: Duration, what: impl Display, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(seen) = probe().await {
            return seen;
        }
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Looks until there is something to see, where nothing is asynchronous.
pub fn eventually_blocking<T>(what: impl Display, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(seen) = probe() {
            return seen;
        }
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(PAUSE);
    }
}

/// Waits for a future, at most for `limit`.
pub async fn within<T>(limit: Duration, what: impl Display, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(limit, future).await {
        Ok(value) => value,
        Err(_) => panic!("not within {limit:?}: {what}"),
    }
}
