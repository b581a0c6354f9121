//! What time it is.
//!
//! The server's clock is logical: it shows the time at which the last call was answered, so that an agent that is
//! executed again reads what it read before. It does not advance while the agent computes.

use std::time::SystemTime;

/// The time of the run. `SystemTime::now()` is the same in a component; this one is scripted in a
/// [`mock`](crate::mock) too.
pub fn now() -> SystemTime {
    #[cfg(target_arch = "wasm32")]
    return SystemTime::now();
    #[cfg(not(target_arch = "wasm32"))]
    return crate::mock::clock::now();
}
