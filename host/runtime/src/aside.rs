//! Work of the host that takes longer than a moment, done beside the threads that serve.
//!
//! A thread that serves must come back within some milliseconds: everybody else on it waits meanwhile. What takes time
//! in proportion to what somebody sent is done where it stands while that is little, and in a thread that may block from
//! 64 KiB on. As many do so at once as there are cores; others wait for their turn, in the order in which they came.

use std::{future::pending, panic::resume_unwind, sync::LazyLock, thread};

use tokio::sync::Semaphore;

/// How much is worked on where it stands, in bytes. Reading so much JSON takes less than a millisecond.
const INLINE: usize = 64 << 10;

static PLACES: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(thread::available_parallelism().map_or(1, usize::from)));

/// Does `work` on so many bytes. It cannot be stopped: it must be bounded by them.
pub async fn aside<T: Send + 'static>(bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> T {
    if bytes <= INLINE {
        return work();
    }
    // It is never closed.
    let _place = PLACES.acquire().await;
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // The runtime ends, and with it whoever waits here.
            Err(_) => pending().await,
        },
    }
}
