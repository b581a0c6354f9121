//! How much of request bodies the server holds at once.
//!
//! A body is held from its first byte until it is parsed, and what is parsed is larger than it; so is a message over a
//! WebSocket. One body has its limit;
//! many together have this one: `limits.bodies_bytes`, and on a server with keys half of it for each principal, so that
//! nobody keeps the others from sending. Small bodies do not count: they always find room. Parsing a large one takes
//! long: it is done by few at once, with half of the processors at most, and by none of the threads that serve everybody.

use std::{collections::HashMap, ops::Deref, sync::Arc, thread::available_parallelism};

use bytes::Bytes;
use outlast_protocol::{ApiError, ErrorKind};
use parking_lot::Mutex;
use tokio::{sync::Semaphore, task::block_in_place};

/// The largest body that does not count, in bytes.
const SMALL: usize = 16 * 1_024;
/// The largest body that is parsed where it is, in bytes.
const QUICK: usize = 256 * 1_024;

/// The bodies that are held.
#[derive(Debug)]
pub struct Bodies {
    most: usize,
    of_one: usize,
    held: Mutex<Held>,
    parsing: Semaphore,
}

#[derive(Debug, Default)]
struct Held {
    bytes: usize,
    principals: HashMap<String, usize>,
}

impl Bodies {
    /// So many bytes together; with `keys`, half of them for a principal. The largest body always fits.
    pub fn new(most: usize, largest: usize, keys: bool) -> Arc<Self> {
        let most = most.max(largest.saturating_mul(2));
        let cores = available_parallelism().map_or(1, usize::from);
        Arc::new(Self {
            most,
            of_one: if keys { most / 2 } else { most },
            held: Mutex::default(),
            parsing: Semaphore::new(cores.div_ceil(2)),
        })
    }

    /// Room for a body of this principal.
    pub(super) fn room(self: &Arc<Self>, principal: &str) -> Room {
        Room { bodies: self.clone(), principal: principal.to_owned(), bytes: 0 }
    }

    /// Parses a body.
    ///
    /// # Errors
    ///
    /// Those of `parse`.
    pub(super) async fn parse<T>(
        &self,
        body: &[u8],
        parse: impl FnOnce(&[u8]) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        if body.len() <= QUICK {
            return parse(body);
        }
        // It is never closed.
        let _turn = self.parsing.acquire().await;
        block_in_place(|| parse(body))
    }
}

/// The room that a body takes, until it is dropped.
#[derive(Debug)]
pub(super) struct Room {
    bodies: Arc<Bodies>,
    principal: String,
    bytes: usize,
}

impl Room {
    /// Makes it so large.
    ///
    /// # Errors
    ///
    /// 429 when the principal has no more room, 503 when the server has none.
    pub fn grow(&mut self, bytes: usize) -> Result<(), ApiError> {
        let more = bytes.saturating_sub(self.bytes);
        if bytes <= SMALL || more == 0 {
            return Ok(());
        }
        let (most, of_one) = (self.bodies.most, self.bodies.of_one);
        let mut held = self.bodies.held.lock();
        if held.bytes + more > most {
            let message = format!(
                "The request bodies that the server holds have reached their limit of {most} bytes \
                 (limits.bodies_bytes). Retry the request."
            );
            return Err(ApiError::new(ErrorKind::Unavailable, "server_busy", message).with_retry_after(1));
        }
        let own = held.principals.get(&self.principal).copied().unwrap_or_default();
        if own + more > of_one {
            let message = format!(
                "The bodies of your concurrent requests have reached their limit of {of_one} bytes (half of \
                 limits.bodies_bytes). Wait until one of the requests is answered."
            );
            return Err(ApiError::new(ErrorKind::RateLimited, "rate_limit_exceeded", message).with_retry_after(1));
        }
        held.bytes += more;
        held.principals.insert(self.principal.clone(), own + more);
        self.bytes = bytes;
        Ok(())
    }

    /// Gives it back. It can be taken again.
    pub fn release(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        if bytes == 0 {
            return;
        }
        let mut held = self.bodies.held.lock();
        held.bytes -= bytes;
        if let Some(own) = held.principals.get_mut(&self.principal) {
            *own -= bytes;
            if *own == 0 {
                held.principals.remove(&self.principal);
            }
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.release();
    }
}

/// A body that was read, and its room.
#[derive(Debug)]
pub(super) struct ReadBody {
    pub bytes: Bytes,
    pub room: Room,
}

impl ReadBody {
    /// Parses it.
    ///
    /// # Errors
    ///
    /// Those of `parse`.
    pub async fn parse<T>(&self, parse: impl FnOnce(&[u8]) -> Result<T, ApiError>) -> Result<T, ApiError> {
        self.room.bodies.parse(&self.bytes, parse).await
    }
}

impl Deref for ReadBody {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_principal_has_half_of_the_room_and_all_together_have_the_whole() {
        let bodies = Bodies::new(200_000, 100_000, true);
        let (mut ann, mut again, mut bob, mut eve) =
            (bodies.room("ann"), bodies.room("ann"), bodies.room("bob"), bodies.room("eve"));
        ann.grow(60_000).unwrap();
        ann.grow(90_000).unwrap();
        again.grow(SMALL).unwrap();
        assert_eq!(again.grow(20_000).unwrap_err().code, "rate_limit_exceeded");
        bob.grow(100_000).unwrap();
        let busy = eve.grow(20_000).unwrap_err();
        assert_eq!((busy.kind, busy.code, busy.retry_after), (ErrorKind::Unavailable, "server_busy", Some(1)));
        drop(ann);
        again.grow(100_000).unwrap();
        drop((again, bob));
        eve.grow(100_000).unwrap();
        drop(eve);
        let held = bodies.held.lock();
        assert_eq!((held.bytes, held.principals.len()), (0, 0));
    }

    #[test]
    fn the_largest_body_always_fits() {
        Bodies::new(1, 1_000_000, true).room("ann").grow(1_000_000).unwrap();
        Bodies::new(2_000_000, 1_000_000, false).room("local").grow(2_000_000).unwrap();
    }
}
