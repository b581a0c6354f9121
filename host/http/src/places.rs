//! Places for connections, and who gives up one when there are none.
//!
//! A place costs whoever takes it nothing. So nobody keeps one for nothing: when all are taken and somebody new comes, the
//! connection closes that has been idle for longest, and the new one takes its place. Idle is who waits for a request, or
//! never sent a whole one. On a server with keys so is everybody who has not shown a key, whatever they do, and they go
//! first: whoever has shown one loses the place to nobody who has none. A connection that is closed so gets the answer
//! that it is being given, if it takes it within [`LAST_ANSWER`].

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

/// How long a connection that gives up its place may take for what it is being sent.
pub(super) const LAST_ANSWER: Duration = Duration::from_secs(1);
/// How long somebody who waits for a place leaves whoever gives up one alone, before another one is asked for its own.
const PRESSING: Duration = Duration::from_millis(200);

/// All places.
#[derive(Debug)]
pub(super) struct Places {
    free: Arc<Semaphore>,
    /// The most of one address; none: any.
    per_address: Option<usize>,
    /// Whether a connection must have shown a key to be busy.
    keys: bool,
    state: Mutex<State>,
    /// Somebody can be asked to go who could not before.
    idled: Notify,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// Who can be asked to go: first those without a key, then by the time since when.
    idle: BTreeMap<(bool, u64), CancellationToken>,
    addresses: HashMap<IpAddr, usize>,
}

/// The address has as many connections as it may.
#[derive(Debug)]
pub(super) struct Crowded {
    /// The most that it may have.
    pub most: usize,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    address: IpAddr,
    /// Cancelled when it is to be given up.
    pub evicted: CancellationToken,
    now: Mutex<Now>,
    _permit: OwnedSemaphorePermit,
}

/// What a connection does now.
#[derive(Debug, Default)]
struct Now {
    requests: usize,
    key: bool,
    /// Where it is among the idle.
    idle: Option<(bool, u64)>,
}

impl Places {
    /// So many, and so many for each address. With `keys`, who has shown none is idle.
    pub fn new(most: usize, per_address: Option<usize>, keys: bool) -> Arc<Self> {
        Arc::new(Self {
            free: Arc::new(Semaphore::new(most)),
            per_address,
            keys,
            state: Mutex::default(),
            idled: Notify::new(),
        })
    }

    /// A place for a connection from this address, as soon as there is one. Whoever is idle for longest makes room.
    ///
    /// # Errors
    ///
    /// The address has its share.
    pub async fn take(self: &Arc<Self>, address: IpAddr) -> Result<Arc<Place>, Crowded> {
        if let Some(most) = self.per_address
            && self.state.lock().addresses.get(&address).is_some_and(|places| *places >= most)
        {
            return Err(Crowded { most });
        }
        let permit = loop {
            if let Ok(permit) = self.free.clone().try_acquire_owned() {
                break permit;
            }
            // One for one: who is asked to go has a moment before the next one is.
            let asked = self.evict();
            tokio::select! {
                // The semaphore is never closed.
                Ok(permit) = self.free.clone().acquire_owned() => break permit,
                () = sleep(PRESSING), if asked => {}
                () = self.idled.notified(), if !asked => {}
            }
        };
        let place = Place {
            places: self.clone(),
            address,
            evicted: CancellationToken::new(),
            now: Mutex::default(),
            _permit: permit,
        };
        *self.state.lock().addresses.entry(address).or_default() += 1;
        place.review();
        Ok(Arc::new(place))
    }

    /// Asks whoever is idle for longest to go; false when nobody is.
    fn evict(&self) -> bool {
        let oldest = self.state.lock().idle.pop_first();
        oldest.inspect(|(_, evicted)| evicted.cancel()).is_some()
    }
}

impl Place {
    /// A request is answered, until the value is dropped.
    pub fn begin(self: &Arc<Self>) -> Busy {
        self.now.lock().requests += 1;
        self.review();
        Busy(self.clone())
    }

    /// Where it comes from.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// It has shown a key.
    pub fn show_key(&self) {
        self.now.lock().key = true;
        self.review();
    }

    /// Whether a request is being answered that keeps it its place.
    pub fn is_busy(&self) -> bool {
        let now = self.now.lock();
        now.requests > 0 && (!self.places.keys || now.key)
    }

    /// Whether a request is being answered at all.
    pub fn is_answering(&self) -> bool {
        self.now.lock().requests > 0
    }

    /// Puts it among the idle, or takes it from there.
    fn review(&self) {
        let idle = !self.is_busy();
        let mut now = self.now.lock();
        let mut state = self.places.state.lock();
        match now.idle {
            // It is there already, and for as long as it was.
            Some((key, _)) if idle && key == now.key => return,
            Some(at) => drop(state.idle.remove(&at)),
            None => {}
        }
        now.idle = idle.then(|| {
            let at = (now.key, state.next);
            state.next += 1;
            at
        });
        if let (Some(at), false) = (now.idle, self.evicted.is_cancelled()) {
            state.idle.insert(at, self.evicted.clone());
            self.places.idled.notify_one();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.places.state.lock();
        if let Some(at) = self.now.lock().idle {
            state.idle.remove(&at);
        }
        if let Some(places) = state.addresses.get_mut(&self.address) {
            *places -= 1;
            if *places == 0 {
                state.addresses.remove(&self.address);
            }
        }
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub(super) struct Busy(Arc<Place>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.now.lock().requests -= 1;
        self.0.review();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    async fn place(places: &Arc<Places>) -> Arc<Place> {
        places.take(ONE).await.unwrap()
    }

    #[tokio::test]
    async fn who_is_idle_for_longest_goes_when_all_places_are_taken() {
        let places = Places::new(3, None, false);
        let (one, two, three) = (place(&places).await, place(&places).await, place(&places).await);
        // It has been idle for less long than the third, now.
        drop(two.begin());
        let busy = one.begin();
        let mut next = Box::pin(places.take(ONE));
        assert!(next.as_mut().now_or_never().is_none());
        let evicted = |place: &Place| place.evicted.is_cancelled();
        assert!(!evicted(&one) && !evicted(&two) && evicted(&three));
        drop(three);
        let next = next.await.unwrap();
        drop(busy);
        assert!(!evicted(&next) && !evicted(&one) && !evicted(&two));
    }

    #[tokio::test]
    async fn for_one_who_comes_one_goes_and_another_only_when_that_takes_long() {
        let places = Places::new(3, None, false);
        let all = [place(&places).await, place(&places).await, place(&places).await];
        let evicted = || all.iter().filter(|place| place.evicted.is_cancelled()).count();
        let mut next = Box::pin(places.take(ONE));
        for _ in 0..3 {
            assert!(next.as_mut().now_or_never().is_none());
            // Somebody who becomes idle meanwhile is no reason to ask one more.
            drop(all[2].begin());
        }
        assert_eq!(evicted(), 1);
        assert!(tokio::time::timeout(PRESSING * 3 / 2, next).await.is_err());
        assert_eq!(evicted(), 2);
    }

    #[tokio::test]
    async fn who_becomes_idle_while_somebody_waits_goes() {
        let places = Places::new(1, None, false);
        let one = place(&places).await;
        let busy = one.begin();
        let mut next = Box::pin(places.take(ONE));
        assert!(next.as_mut().now_or_never().is_none());
        assert!(!one.evicted.is_cancelled() && one.is_busy());
        drop(busy);
        assert!(next.as_mut().now_or_never().is_none());
        assert!(one.evicted.is_cancelled() && !one.is_busy());
        drop(one);
        next.await.unwrap();
    }

    #[tokio::test]
    async fn with_keys_who_has_shown_none_goes_first_whatever_they_do() {
        let places = Places::new(2, None, true);
        let (ann, eve) = (place(&places).await, place(&places).await);
        ann.show_key();
        let _busy = eve.begin();
        let next = Box::pin(places.take(ONE)).now_or_never();
        assert!(next.is_none());
        assert!(eve.evicted.is_cancelled() && !ann.evicted.is_cancelled());
    }

    #[tokio::test]
    async fn an_address_has_its_share_and_no_more() {
        let places = Places::new(10, Some(2), false);
        let (one, _two) = (place(&places).await, place(&places).await);
        assert!(places.take(ONE).await.is_err());
        let _other = places.take(std::net::Ipv4Addr::new(127, 0, 0, 2).into()).await.unwrap();
        drop(one);
        place(&places).await;
    }
}
