//! Who is calling.
//!
//! A key is known only by its sha256. The digest of what the caller sends is compared in constant time with every
//! key, so that an answer's time tells nothing. Without keys there is one local principal, and the configuration
//! makes sure that only loopback is served then.

use std::{collections::HashMap, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use governor::{
    DefaultDirectRateLimiter, Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};

use super::{Api, connections::Connection};
use crate::{
    config::Key,
    protocol::{ApiError, ErrorKind},
};

/// The principal of a server without keys.
pub const LOCAL: &str = "local";

/// Whose request it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal(pub String);

/// The keys of a server.
#[derive(Clone, Debug, Default)]
pub struct Keys(Vec<Known>);

/// A key, as it is known: by its digest.
#[derive(Clone, Debug)]
struct Known {
    principal: Principal,
    sha256: [u8; 32],
    /// Shared by the keys of one principal.
    rate: Option<Arc<DefaultDirectRateLimiter>>,
    /// Whether it may read the metrics.
    metrics: bool,
    /// Whether it may see and stop all runs.
    admin: bool,
}

impl Keys {
    /// The keys of a configuration.
    pub fn new(keys: &[Key]) -> Self {
        let mut rates = HashMap::new();
        for key in keys {
            if let Some(rate) = key.requests_per_second {
                rates.entry(&key.name).or_insert_with(|| Arc::new(RateLimiter::direct(Quota::per_second(rate))));
            }
        }
        let known = keys.iter().map(|key| Known {
            principal: Principal(key.name.clone()),
            sha256: key.sha256,
            rate: rates.get(&key.name).cloned(),
            metrics: key.metrics,
            admin: key.admin,
        });
        Self(known.collect())
    }

    /// The principal of a request with these headers.
    ///
    /// # Errors
    ///
    /// 401 when the key is missing or wrong, 429 when its principal has made too many requests.
    pub fn admit(&self, headers: &HeaderMap) -> Result<Principal, ApiError> {
        Ok(self.known(headers)?.map_or_else(|| Principal(LOCAL.to_owned()), |known| known.principal.clone()))
    }

    /// Lets a request with these headers read the metrics.
    ///
    /// # Errors
    ///
    /// Those of [`admit`](Self::admit), and 403 when the key has not this right.
    pub fn admit_to_metrics(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        if self.known(headers)?.is_none_or(|known| known.metrics) {
            return Ok(());
        }
        let message = "This key may not read the metrics. `metrics = true` in its entry of [[keys]] allows it.";
        Err(ApiError::new(ErrorKind::Forbidden, "metrics_not_allowed", message))
    }

    /// Lets a request with these headers see and stop the runs of all principals.
    ///
    /// # Errors
    ///
    /// Those of [`admit`](Self::admit), and 403 when the key has not this right.
    pub fn admit_to_admin(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        if self.known(headers)?.is_none_or(|known| known.admin) {
            return Ok(());
        }
        let message = "This key may not see the runs of others. `admin = true` in its entry of [[keys]] allows it.";
        Err(ApiError::new(ErrorKind::Forbidden, "admin_not_allowed", message))
    }

    /// The key of a request; none on a server without keys.
    fn known(&self, headers: &HeaderMap) -> Result<Option<&Known>, ApiError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let known = self.find(headers).ok_or_else(|| {
            let message = "The API key is missing or not valid. Send it as `Authorization: Bearer KEY`.";
            ApiError::new(ErrorKind::Authentication, "invalid_api_key", message)
        })?;
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
        Ok(Some(known))
    }

    fn find(&self, headers: &HeaderMap) -> Option<&Known> {
        let value = headers.get(header::AUTHORIZATION)?.as_bytes();
        let (scheme, key) = value.split_at_checked(7)?;
        if !scheme.eq_ignore_ascii_case(b"bearer ") {
            return None;
        }
        let digest: [u8; 32] = Sha256::digest(key.trim_ascii()).into();
        let mut found = u64::MAX;
        for (index, known) in (0_u64..).zip(&self.0) {
            let same: Choice = digest.ct_eq(&known.sha256);
            found.conditional_assign(&index, same);
        }
        self.0.get(usize::try_from(found).ok()?)
    }
}

/// Lets a request through with its [`Principal`], or answers 401 or 429.
pub(super) async fn authenticate(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    match api.keys.admit(request.headers()) {
        Ok(principal) => {
            if let Some(connection) = request.extensions().get::<Arc<Connection>>() {
                connection.show_key();
            }
            request.extensions_mut().insert(principal);
            next.run(request).await
        }
        Err(error) => turned_away(error),
    }
}

/// The answer to whoever does not come in.
pub(super) fn turned_away(error: ApiError) -> Response {
    let unknown = error.kind == ErrorKind::Authentication;
    let mut response = error.into_response();
    if unknown {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    fn with(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static(value))])
    }

    fn key(name: &str, key: &[u8], rate: Option<u32>) -> Key {
        Key {
            name: name.to_owned(),
            sha256: Sha256::digest(key).into(),
            max_live_runs: None,
            stored_bytes: None,
            requests_per_second: rate.and_then(NonZeroU32::new),
            metrics: false,
            admin: false,
        }
    }

    #[test]
    fn a_key_is_known_by_its_digest() {
        let keys = Keys::new(&[key("ann", b"ol-1", None), key("bob", b"ol-2", None)]);
        assert_eq!(keys.admit(&with("Bearer ol-2")), Ok(Principal("bob".to_owned())));
        assert_eq!(keys.admit(&with("bearer ol-1")), Ok(Principal("ann".to_owned())));
        for wrong in ["Bearer ol-3", "Bearer ", "Bearer", "Basic ol-1", "ol-1", ""] {
            assert_eq!(keys.admit(&with(wrong)).unwrap_err().code, "invalid_api_key", "{wrong}");
        }
        assert!(keys.admit(&HeaderMap::new()).is_err());
    }

    #[test]
    fn the_keys_of_a_principal_share_its_rate() {
        let keys = Keys::new(&[key("ann", b"ol-1", Some(2)), key("ann", b"ol-2", None), key("bob", b"ol-3", None)]);
        keys.admit(&with("Bearer ol-1")).unwrap();
        keys.admit(&with("Bearer ol-2")).unwrap();
        let error = keys.admit(&with("Bearer ol-2")).unwrap_err();
        assert_eq!(
            (error.kind, error.code, error.retry_after),
            (ErrorKind::RateLimited, "rate_limit_exceeded", Some(1))
        );
        assert!(keys.admit(&with("Bearer ol-3")).is_ok());
    }

    #[test]
    fn a_right_is_the_keys_own() {
        let reader = Key { metrics: true, ..key("ann", b"ol-2", None) };
        let admin = Key { admin: true, ..key("ann", b"ol-4", None) };
        let keys = Keys::new(&[key("ann", b"ol-1", None), reader, admin]);
        assert_eq!(keys.admit_to_admin(&with("Bearer ol-4")), Ok(()));
        for other in ["Bearer ol-1", "Bearer ol-2"] {
            assert_eq!(keys.admit_to_admin(&with(other)).unwrap_err().code, "admin_not_allowed");
        }
        assert_eq!(keys.admit_to_metrics(&with("Bearer ol-4")).unwrap_err().code, "metrics_not_allowed");
        assert_eq!(keys.admit_to_metrics(&with("Bearer ol-2")), Ok(()));
        let code = |headers: HeaderMap| keys.admit_to_metrics(&headers).unwrap_err().code;
        assert_eq!(code(with("Bearer ol-1")), "metrics_not_allowed");
        assert_eq!(code(with("Bearer ol-3")), "invalid_api_key");
        assert_eq!(code(HeaderMap::new()), "invalid_api_key");
    }

    #[test]
    fn without_keys_everybody_is_local() {
        assert_eq!(Keys::default().admit(&HeaderMap::new()), Ok(Principal(LOCAL.to_owned())));
        assert_eq!(Keys::default().admit_to_metrics(&HeaderMap::new()), Ok(()));
        assert_eq!(Keys::default().admit_to_admin(&HeaderMap::new()), Ok(()));
    }
}
