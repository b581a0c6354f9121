//! Who is calling.
//!
//! A key is known only by its sha256. The digest of what the caller sends is compared in constant time with every
//! key, so that an answer's time tells nothing. Without keys there is one local principal, and the configuration
//! makes sure that only loopback is served then.
//!
//! The keys can be exchanged while the server serves. A key that stays keeps what goes on for it; of one that is gone, or
//! whose time is over, it [ends](super::access).

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use axum::{
    extract::{Request, State},
    http::{Extensions, HeaderMap, HeaderValue, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use governor::{
    DefaultDirectRateLimiter, Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
};
use outlast_metrics::HttpMetrics;
use outlast_protocol::{ApiError, ErrorKind};
use outlast_runtime::clock::Clock;
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};
use tracing::warn;

use super::{
    Api,
    access::{Access, Rights},
    connections::Connection,
    error::Failure,
    guesses::{Guesses, TooMany},
    key::Key,
};

/// The principal of a server without keys.
pub const LOCAL: &str = "local";

/// Whose request it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal(pub String);

/// The keys of a server.
#[derive(Debug, Default)]
pub struct Keys {
    known: ArcSwap<Vec<Known>>,
    guesses: Guesses,
    clock: Clock,
    metrics: HttpMetrics,
}

/// What an exchange of keys did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchanged {
    /// Keys that are known now.
    pub keys: usize,
    /// Of them, those that were not known before.
    pub new: usize,
    /// Keys that are not known any more.
    pub gone: usize,
}

/// A key, as it is known: by its digest.
#[derive(Clone, Debug)]
struct Known {
    principal: Principal,
    sha256: [u8; 32],
    expires: Option<SystemTime>,
    /// Shared by the keys of one principal.
    rate: Option<Arc<DefaultDirectRateLimiter>>,
    /// Whether it may read the metrics.
    metrics: bool,
    /// Whether it may see and stop all runs.
    admin: bool,
    access: Access,
}

impl Known {
    fn is_over(&self, now: SystemTime) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

/// Who calls: what they sent, and from where.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// The headers of the request.
    headers: &'a HeaderMap,
    /// Where it comes from.
    address: Option<IpAddr>,
}

impl<'a> Caller<'a> {
    /// The caller of a request with these headers and extensions.
    pub(super) fn of(headers: &'a HeaderMap, extensions: &Extensions) -> Self {
        Self { headers, address: extensions.get::<Arc<Connection>>().map(|connection| connection.address()) }
    }
}

impl Keys {
    /// The keys of a configuration.
    pub fn new(keys: &[Key], clock: Clock, metrics: HttpMetrics) -> Self {
        Self { known: ArcSwap::from_pointee(known(keys, &[])), guesses: Guesses::default(), clock, metrics }
    }

    /// Takes these keys from now on. What goes on for those that are not among them ends.
    ///
    /// # Errors
    ///
    /// The server had keys and would have none, or the other way round: more than its keys would have to change. Nothing
    /// has changed then.
    pub fn exchange(&self, keys: &[Key]) -> Result<Exchanged, String> {
        let before = self.known.load_full();
        match (before.is_empty(), keys.is_empty()) {
            (false, true) => {
                return Err("removing all keys would open the server to everybody; that needs a restart".to_owned());
            }
            (true, false) => return Err("adding keys to a server without any needs a restart".to_owned()),
            _ => {}
        }
        let now = known(keys, &before);
        let stays = |known: &&Known, among: &[Known]| among.iter().any(|other| known.sha256 == other.sha256);
        let exchanged = Exchanged {
            keys: now.len(),
            new: now.iter().filter(|key| !stays(key, &before)).count(),
            gone: before.iter().filter(|key| !stays(key, &now)).count(),
        };
        let ended: Vec<_> = before
            .iter()
            .filter(|key| !now.iter().any(|other| other.sha256 == key.sha256 && other.principal == key.principal))
            .collect();
        // First nobody gets in with one, then those go that are in.
        self.known.store(Arc::new(now));
        for key in ended {
            key.access.revoked.cancel();
        }
        Ok(exchanged)
    }

    /// Ends what goes on for keys whose time is over. How long it is until the next one's is.
    pub fn expire(&self) -> Option<Duration> {
        let (now, known) = (self.clock.now(), self.known.load());
        for key in known.iter().filter(|key| key.is_over(now)) {
            key.access.revoked.cancel();
        }
        let left = |key: &Known| key.expires?.duration_since(now).ok().filter(|left| !left.is_zero());
        known.iter().filter_map(left).min()
    }

    /// Whose a request is, and what it may do.
    ///
    /// # Errors
    ///
    /// 401 when the key is missing or wrong or its time is over, 429 when its principal has made too many requests, or its
    /// address has sent too many wrong keys.
    pub fn admit(&self, caller: Caller<'_>) -> Result<(Principal, Access), ApiError> {
        let local = || (Principal(LOCAL.to_owned()), Access::default());
        Ok(self.known(caller)?.map_or_else(local, |known| (known.principal, known.access)))
    }

    /// Lets a request read the metrics.
    ///
    /// # Errors
    ///
    /// Those of [`admit`](Self::admit), and 403 when the key has not this right.
    pub fn admit_to_metrics(&self, caller: Caller<'_>) -> Result<(), ApiError> {
        if self.known(caller)?.is_none_or(|known| known.metrics) {
            return Ok(());
        }
        let message = "This key may not read the metrics. `metrics = true` in its entry of [[keys]] allows it.";
        Err(ApiError::new(ErrorKind::Forbidden, "metrics_not_allowed", message))
    }

    /// Lets a request see and stop the runs of all principals. Whose it is.
    ///
    /// # Errors
    ///
    /// Those of [`admit`](Self::admit), and 403 when the key has not this right.
    pub fn admit_to_admin(&self, caller: Caller<'_>) -> Result<Principal, ApiError> {
        match self.known(caller)? {
            None => Ok(Principal(LOCAL.to_owned())),
            Some(known) if known.admin => Ok(known.principal),
            Some(_) => {
                let message =
                    "This key may not see the runs of others. `admin = true` in its entry of [[keys]] allows it.";
                Err(ApiError::new(ErrorKind::Forbidden, "admin_not_allowed", message))
            }
        }
    }

    /// The key of a request; none on a server without keys.
    fn known(&self, caller: Caller<'_>) -> Result<Option<Known>, ApiError> {
        let keys = self.known.load();
        if keys.is_empty() {
            return Ok(None);
        }
        let Some(known) = find(&keys, caller.headers) else { return Err(self.unknown(caller)) };
        if known.is_over(self.clock.now()) {
            let (principal, address) = (&known.principal.0, shown(caller));
            warn!(principal, address, "an expired key was refused (`expires`)");
            return Err(not_valid());
        }
        if let Some(rate) = &known.rate
            && let Err(until) = rate.check()
        {
            let wait = until.wait_time_from(DefaultClock::default().now());
            let message = format!(
                "You make more requests than your limit of {} in a second (requests_per_second of the key).",
                until.quota().burst_size()
            );
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            return Err(ApiError::new(ErrorKind::RateLimited, "rate_limit_exceeded", message).with_retry_after(seconds));
        }
        Ok(Some(known.clone()))
    }

    /// The error for a request without a right key. A wrong one is told in the log, but not what it is.
    fn unknown(&self, caller: Caller<'_>) -> ApiError {
        if !caller.headers.contains_key(header::AUTHORIZATION) {
            return not_valid();
        }
        self.metrics.wrong_key();
        // Without an address it comes from within.
        match caller.address.map_or(Ok(()), |address| self.guesses.count(address)) {
            Ok(()) => {
                warn!(address = shown(caller), "a wrong key was refused");
                not_valid()
            }
            Err(TooMany { seconds }) => {
                let message = "Too many wrong API keys have come from your address. Retry later with a valid key.";
                ApiError::new(ErrorKind::RateLimited, "too_many_wrong_keys", message).with_retry_after(seconds)
            }
        }
    }
}

/// The keys of a configuration. Those that were known before keep what goes on for them.
fn known(keys: &[Key], before: &[Known]) -> Vec<Known> {
    let mut rates = HashMap::new();
    for key in keys {
        if let Some(rate) = key.requests_per_second {
            rates.entry(&key.name).or_insert_with(|| Arc::new(RateLimiter::direct(Quota::per_second(rate))));
        }
    }
    let known = keys.iter().map(|key| {
        let same = before.iter().find(|known| known.sha256 == key.sha256 && known.principal.0 == key.name);
        let rights = Rights { agents: key.agents.clone(), models: key.models.clone() };
        // One whose time was over may have got more of it.
        let access = match same.filter(|known| !known.access.revoked.is_cancelled()) {
            Some(known) => known.access.clone(),
            None => Access::default(),
        };
        access.rights.store(Arc::new(rights));
        Known {
            principal: Principal(key.name.clone()),
            sha256: key.sha256,
            expires: key.expires,
            rate: rates.get(&key.name).cloned(),
            metrics: key.metrics,
            admin: key.admin,
            access,
        }
    });
    known.collect()
}

fn find<'a>(keys: &'a [Known], headers: &HeaderMap) -> Option<&'a Known> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, key) = value.split_at_checked(7)?;
    if !scheme.eq_ignore_ascii_case(b"bearer ") {
        return None;
    }
    let digest: [u8; 32] = Sha256::digest(key.trim_ascii()).into();
    let mut found = u64::MAX;
    for (index, known) in (0_u64..).zip(keys) {
        let same: Choice = digest.ct_eq(&known.sha256);
        found.conditional_assign(&index, same);
    }
    keys.get(usize::try_from(found).ok()?)
}

fn shown(caller: Caller<'_>) -> String {
    caller.address.map_or_else(|| "?".to_owned(), |address| address.to_string())
}

/// The error for whoever has no key that is one.
pub(super) fn not_valid() -> ApiError {
    let message = "The API key is missing or not valid. Send it as `Authorization: Bearer KEY`.";
    ApiError::new(ErrorKind::Authentication, "invalid_api_key", message)
}

/// Lets a request through with its [`Principal`] and its [`Access`], or answers 401 or 429.
pub(super) async fn authenticate(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    match api.keys.admit(Caller::of(request.headers(), request.extensions())) {
        Ok((principal, access)) => {
            if let Some(connection) = request.extensions().get::<Arc<Connection>>() {
                connection.show_key();
            }
            request.extensions_mut().insert(principal);
            request.extensions_mut().insert(access.clone());
            access.answer(next.run(request)).await
        }
        Err(error) => turned_away(error),
    }
}

/// The answer to whoever does not come in.
pub(super) fn turned_away(error: ApiError) -> Response {
    let unknown = error.kind == ErrorKind::Authentication;
    let mut response = Failure(error).into_response();
    if unknown {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroU32, time::Duration};

    use super::*;

    fn with(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static(value))])
    }

    fn key(name: &str, key: &[u8], rate: Option<u32>) -> Key {
        Key {
            name: name.to_owned(),
            sha256: Sha256::digest(key).into(),
            expires: None,
            agents: None,
            models: None,
            max_live_runs: None,
            stored_bytes: None,
            requests_per_second: rate.and_then(NonZeroU32::new),
            metrics: false,
            admin: false,
        }
    }

    fn keys(keys: &[Key]) -> Keys {
        Keys::new(keys, Clock::system(), HttpMetrics::default())
    }

    fn caller(headers: &HeaderMap) -> Caller<'_> {
        Caller { headers, address: Some(std::net::Ipv4Addr::LOCALHOST.into()) }
    }

    fn admitted(keys: &Keys, headers: HeaderMap) -> Result<String, ApiError> {
        keys.admit(caller(&headers)).map(|(principal, _)| principal.0)
    }

    #[test]
    fn a_key_is_known_by_its_digest() {
        let keys = keys(&[key("ann", b"ol-1", None), key("bob", b"ol-2", None)]);
        assert_eq!(admitted(&keys, with("Bearer ol-2")), Ok("bob".to_owned()));
        assert_eq!(admitted(&keys, with("bearer ol-1")), Ok("ann".to_owned()));
        for wrong in ["Bearer ol-3", "Bearer ", "Bearer", "Basic ol-1", "ol-1", ""] {
            assert_eq!(admitted(&keys, with(wrong)).unwrap_err().code, "invalid_api_key", "{wrong}");
        }
        assert!(admitted(&keys, HeaderMap::new()).is_err());
    }

    #[test]
    fn the_keys_of_a_principal_share_its_rate() {
        let keys = keys(&[key("ann", b"ol-1", Some(2)), key("ann", b"ol-2", None), key("bob", b"ol-3", None)]);
        admitted(&keys, with("Bearer ol-1")).unwrap();
        admitted(&keys, with("Bearer ol-2")).unwrap();
        let error = admitted(&keys, with("Bearer ol-2")).unwrap_err();
        assert_eq!(
            (error.kind, error.code, error.retry_after),
            (ErrorKind::RateLimited, "rate_limit_exceeded", Some(1))
        );
        assert!(admitted(&keys, with("Bearer ol-3")).is_ok());
    }

    #[test]
    fn a_right_is_the_keys_own() {
        let reader = Key { metrics: true, ..key("ann", b"ol-2", None) };
        let admin = Key { admin: true, ..key("ann", b"ol-4", None) };
        let keys = keys(&[key("ann", b"ol-1", None), reader, admin]);
        let to_admin = |value| keys.admit_to_admin(caller(&with(value))).map_err(|error| error.code);
        assert_eq!(to_admin("Bearer ol-4"), Ok(Principal("ann".to_owned())));
        for other in ["Bearer ol-1", "Bearer ol-2"] {
            assert_eq!(to_admin(other), Err("admin_not_allowed"));
        }
        let to_metrics = |headers: HeaderMap| keys.admit_to_metrics(caller(&headers)).map_err(|error| error.code);
        assert_eq!(to_metrics(with("Bearer ol-4")), Err("metrics_not_allowed"));
        assert_eq!(to_metrics(with("Bearer ol-2")), Ok(()));
        assert_eq!(to_metrics(with("Bearer ol-1")), Err("metrics_not_allowed"));
        assert_eq!(to_metrics(with("Bearer ol-3")), Err("invalid_api_key"));
        assert_eq!(to_metrics(HeaderMap::new()), Err("invalid_api_key"));
    }

    #[test]
    fn without_keys_everybody_is_local() {
        let keys = Keys::default();
        assert_eq!(admitted(&keys, HeaderMap::new()), Ok(LOCAL.to_owned()));
        assert_eq!(keys.admit_to_metrics(caller(&HeaderMap::new())), Ok(()));
        assert_eq!(keys.admit_to_admin(caller(&HeaderMap::new())), Ok(Principal(LOCAL.to_owned())));
    }

    #[test]
    fn what_goes_on_for_a_key_ends_with_it_alone() {
        let keys = keys(&[key("ann", b"ol-1", None), key("bob", b"ol-2", None)]);
        let access = |value| keys.admit(caller(&with(value))).unwrap().1;
        let (ann, bob) = (access("Bearer ol-1"), access("Bearer ol-2"));
        let exchanged = keys.exchange(&[key("bob", b"ol-2", None), key("eve", b"ol-3", None)]).unwrap();
        assert_eq!(exchanged, Exchanged { keys: 2, new: 1, gone: 1 });
        assert!(ann.revoked.is_cancelled() && !bob.revoked.is_cancelled());
        assert_eq!(admitted(&keys, with("Bearer ol-1")).unwrap_err().code, "invalid_api_key");
        // Another principal's now.
        keys.exchange(&[key("eve", b"ol-2", None)]).unwrap();
        assert!(bob.revoked.is_cancelled());
        assert!(keys.exchange(&[]).unwrap_err().contains("restart"));
        assert!(Keys::default().exchange(&[key("eve", b"ol-2", None)]).unwrap_err().contains("restart"));
    }

    #[test]
    fn a_key_has_its_time() {
        let hour = Duration::from_secs(3_600);
        let clock = Clock::standing(hour * 1_000);
        let old = Key { expires: Some(clock.now()), ..key("ann", b"ol-1", None) };
        let young = Key { expires: Some(clock.now() + hour), ..key("ann", b"ol-2", None) };
        let keys = Keys::new(&[old, young.clone()], clock.clone(), HttpMetrics::default());
        assert_eq!(admitted(&keys, with("Bearer ol-1")).unwrap_err().code, "invalid_api_key");
        let access = keys.admit(caller(&with("Bearer ol-2"))).unwrap().1;
        assert_eq!(keys.expire(), Some(hour));
        assert!(!access.revoked.is_cancelled());
        clock.advance(hour);
        assert_eq!(admitted(&keys, with("Bearer ol-2")).unwrap_err().code, "invalid_api_key");
        assert_eq!(keys.expire(), None);
        assert!(access.revoked.is_cancelled());
        // More time, for new requests.
        keys.exchange(&[Key { expires: Some(clock.now() + hour), ..young }]).unwrap();
        assert!(!keys.admit(caller(&with("Bearer ol-2"))).unwrap().1.revoked.is_cancelled());
    }
}
