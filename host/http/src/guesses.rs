//! Wrong keys, counted by the address that they come from.
//!
//! A key has 244 bits, and nobody guesses one. What wrong keys cost is lines in the log and work, and what they tell is
//! that somebody tries: so each is a line, and an address that sends many is told to wait. Whoever has a right key comes in
//! all the same, also from behind a proxy that others try wrong ones from.

use std::{
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    time::{Duration, Instant},
};

use governor::{
    DefaultKeyedRateLimiter, Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
};
use parking_lot::Mutex;

/// The most wrong keys of an address in a minute.
const A_MINUTE: NonZeroU32 = NonZeroU32::MIN.saturating_add(59);
/// The most addresses that are counted. Beyond it, those that are new are counted together.
const ADDRESSES: usize = 10_000;
/// Of an IPv6 address, the part that a network is given.
const NETWORK: u128 = !0 << 64;

/// The pause between two looks for addresses that need not be counted any more, while there are too many.
const LOOK: Duration = Duration::from_secs(1);

/// Who has sent wrong keys.
#[derive(Debug)]
pub(super) struct Guesses {
    counted: DefaultKeyedRateLimiter<IpAddr>,
    looked: Mutex<Instant>,
}

/// How long an address has to wait, in whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooMany {
    pub seconds: u64,
}

impl Default for Guesses {
    fn default() -> Self {
        Self { counted: RateLimiter::hashmap(Quota::per_minute(A_MINUTE)), looked: Mutex::new(Instant::now()) }
    }
}

impl Guesses {
    /// Counts a wrong key.
    ///
    /// # Errors
    ///
    /// The address has sent too many.
    pub(super) fn count(&self, address: IpAddr) -> Result<(), TooMany> {
        if self.counted.len() >= ADDRESSES {
            self.forget();
        }
        let counted = match address.to_canonical() {
            _ if self.counted.len() >= ADDRESSES => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            IpAddr::V6(address) => IpAddr::V6((u128::from(address) & NETWORK).into()),
            address => address,
        };
        self.counted.check_key(&counted).map_err(|until| {
            let wait = until.wait_time_from(DefaultClock::default().now());
            TooMany { seconds: wait.as_secs() + u64::from(wait.subsec_nanos() > 0) }
        })
    }

    /// Forgets addresses that have waited long enough, now and then: it is a look at all of them.
    fn forget(&self) {
        let mut looked = self.looked.lock();
        if looked.elapsed() >= LOOK {
            *looked = Instant::now();
            self.counted.retain_recent();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> IpAddr {
        IpAddr::V4(number.into())
    }

    #[test]
    fn an_address_has_its_own_number() {
        let guesses = Guesses::default();
        for _ in 0..A_MINUTE.get() {
            guesses.count(address(1)).unwrap();
        }
        assert_eq!(guesses.count(address(1)), Err(TooMany { seconds: 1 }));
        guesses.count(address(2)).unwrap();
        // A network of IPv6 is one, however many addresses it has.
        let in_network = |number: u128| guesses.count(IpAddr::V6((0xfd00 << 112 | number).into()));
        assert!((0..u128::from(A_MINUTE.get())).all(|number| in_network(number).is_ok()));
        assert!(in_network(1_000).is_err());
    }

    #[test]
    fn the_table_has_an_end() {
        let guesses = Guesses::default();
        let refused = (0..50_000).filter(|number| guesses.count(address(*number)).is_err()).count();
        assert!(refused > 0, "nobody is counted with others");
        assert!(guesses.counted.len() <= ADDRESSES + 1);
    }
}
