//! Who is calling.
//!
//! A key is known only by its sha256. The digest of what the caller sends is compared in constant time with every
//! key, so that an answer's time tells nothing. Without keys there is one local principal, and the configuration
//! makes sure that only loopback is served then.

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};

use super::Api;
use crate::protocol::{ApiError, ErrorKind};

/// The principal of a server without keys.
pub const LOCAL: &str = "local";

/// Whose request it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal(pub String);

/// The keys of a server.
#[derive(Clone, Debug, Default)]
pub struct Keys(Vec<(String, [u8; 32])>);

impl Keys {
    /// Keys by principal and sha256.
    pub fn new(keys: impl IntoIterator<Item = (String, [u8; 32])>) -> Self {
        Self(keys.into_iter().collect())
    }

    /// The principal of a request with these headers; none when its key is missing or wrong.
    pub fn principal(&self, headers: &HeaderMap) -> Option<Principal> {
        if self.0.is_empty() {
            return Some(Principal(LOCAL.to_owned()));
        }
        let value = headers.get(header::AUTHORIZATION)?.as_bytes();
        let (scheme, key) = value.split_at_checked(7)?;
        if !scheme.eq_ignore_ascii_case(b"bearer ") {
            return None;
        }
        let digest: [u8; 32] = Sha256::digest(key.trim_ascii()).into();
        let mut found = u64::MAX;
        for (index, (_, known)) in (0_u64..).zip(&self.0) {
            let same: Choice = digest.ct_eq(known);
            found.conditional_assign(&index, same);
        }
        self.0.get(usize::try_from(found).ok()?).map(|(name, _)| Principal(name.clone()))
    }
}

/// Lets a request through with its [`Principal`], or answers 401.
pub(super) async fn authenticate(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    match api.keys.principal(request.headers()) {
        Some(principal) => {
            request.extensions_mut().insert(principal);
            next.run(request).await
        }
        None => {
            let message = "The API key is missing or not valid. Send it as `Authorization: Bearer KEY`.";
            let mut response = ApiError::new(ErrorKind::Authentication, "invalid_api_key", message).into_response();
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            response
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static(value))])
    }

    #[test]
    fn a_key_is_known_by_its_digest() {
        let keys = Keys::new([
            ("ann".to_owned(), Sha256::digest(b"ol-1").into()),
            ("bob".to_owned(), Sha256::digest(b"ol-2").into()),
        ]);
        assert_eq!(keys.principal(&with("Bearer ol-2")), Some(Principal("bob".to_owned())));
        assert_eq!(keys.principal(&with("bearer ol-1")), Some(Principal("ann".to_owned())));
        for wrong in ["Bearer ol-3", "Bearer ", "Bearer", "Basic ol-1", "ol-1", ""] {
            assert_eq!(keys.principal(&with(wrong)), None, "{wrong}");
        }
        assert_eq!(keys.principal(&HeaderMap::new()), None);
    }

    #[test]
    fn without_keys_everybody_is_local() {
        assert_eq!(Keys::default().principal(&HeaderMap::new()), Some(Principal(LOCAL.to_owned())));
    }
}
