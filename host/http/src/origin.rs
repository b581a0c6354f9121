//! Which pages may use the server from a browser.
//!
//! A browser lets every page send to every address, this machine's own too, and sends along where the page comes from.
//!
//! - Without keys nothing else tells a page of another origin from the machine's owner. It is refused on whatever changes
//!   something, also where no body is needed, and may not open a WebSocket. What only reads is left to the browser, which
//!   shows the answer to no page of another origin.
//! - With keys it is the key that counts: browsers send none by themselves.
//! - A page of `cors_origins` may do both, and read the answers.

use axum::{
    http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header},
    response::{IntoResponse as _, Response},
};
use outlast_protocol::{ApiError, ErrorKind};
use tower_http::{
    cors::{AllowHeaders, AllowOrigin, CorsLayer},
    csrf::{ConfigError, CsrfLayer, ProtectionError},
};

use super::{error::Failure, host::is_loopback};

/// How long a browser may remember the answer to a preflight.
const PREFLIGHT: std::time::Duration = std::time::Duration::from_secs(600);
/// The headers of answers that a page may read beyond those that it always may.
const EXPOSED: [&str; 5] =
    ["x-request-id", "retry-after", "x-should-retry", "idempotency-replayed", "x-outlast-response-id"];

/// Refuses pages of other origins.
pub(super) type Guard = CsrfLayer<fn(ProtectionError) -> Response>;

/// The pages that may use the server.
#[derive(Clone, Debug)]
pub struct Origins {
    /// `cors_origins`
    allowed: Vec<String>,
    /// Whether a key is needed.
    keys: bool,
}

impl Origins {
    /// Those of a server with or without keys.
    ///
    /// # Errors
    ///
    /// What is not an origin; or, on a server without keys, not one of this machine.
    pub fn new(allowed: Vec<String>, keys: bool) -> Result<Self, String> {
        for origin in &allowed {
            let canonical = canonical(origin);
            if canonical.as_ref() != Some(origin) || HeaderValue::from_str(origin).is_err() {
                return Err(format!(
                    "cors_origins: \"{origin}\" must be an origin as browsers send it, like `https://app.example.com` or \
                     `http://localhost:5173`{}",
                    canonical.map_or_else(String::new, |right| format!(": write `{right}`"))
                ));
            }
            if !keys && !is_local(origin) {
                return Err(format!(
                    "cors_origins: \"{origin}\" would let a page that is not of this machine use a server without keys. \
                     Make a key with `outlast key new NAME`, and let the page send it"
                ));
            }
        }
        Ok(Self { allowed, keys })
    }

    /// What refuses pages of other origins; none where the key counts.
    pub(super) fn guard(&self) -> Option<Guard> {
        if self.keys {
            return None;
        }
        let add = |guard: CsrfLayer, origin: &String| guard.add_trusted_origin(origin);
        let guard: Result<_, ConfigError> = self.allowed.iter().try_fold(CsrfLayer::new(), add);
        // What it does not understand as an origin is no origin that a browser sends.
        Some(guard.unwrap_or_default().with_rejection_response(|_| Failure(refused()).into_response()))
    }

    /// What lets pages read the answers; none where no page may.
    pub(super) fn cors(&self) -> Option<CorsLayer> {
        let origins: Vec<_> = self.allowed.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()).collect();
        let cors = || {
            CorsLayer::new()
                .allow_origin(AllowOrigin::list(origins.clone()))
                .allow_methods([Method::GET, Method::POST, Method::DELETE])
                // The SDKs send many of their own.
                .allow_headers(AllowHeaders::mirror_request())
                .expose_headers(EXPOSED.map(HeaderName::from_static))
                .max_age(PREFLIGHT)
        };
        (!origins.is_empty()).then(cors)
    }

    /// Lets a page open a WebSocket. It is a `GET`, and no preflight goes before it.
    ///
    /// # Errors
    ///
    /// 403 for a page of another origin, on a server without keys.
    pub(super) fn admit_to_socket(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        if self.keys {
            return Ok(());
        }
        let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default());
        let host = text(header::HOST).unwrap_or_default();
        let known = |origin: &str| {
            let uri: Option<Uri> = origin.parse().ok();
            let same = uri.as_ref().and_then(Uri::authority).is_some_and(|authority| authority.as_str() == host);
            same || is_local(origin) || self.allowed.iter().any(|allowed| allowed == origin)
        };
        let foreign = match text(header::ORIGIN) {
            Some(origin) => !known(origin),
            None => headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site"),
        };
        if foreign { Err(refused()) } else { Ok(()) }
    }
}

/// The origin as a browser writes it; none when it is none.
fn canonical(origin: &str) -> Option<String> {
    let url = reqwest::Url::parse(origin).ok()?;
    let web = ["http", "https"].contains(&url.scheme());
    let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
    (web && bare && url.password().is_none()).then(|| url.origin().ascii_serialization())
}

/// Whether a page of this origin comes from this machine.
fn is_local(origin: &str) -> bool {
    origin.parse::<Uri>().is_ok_and(|origin| origin.host().is_some_and(is_loopback))
}

fn refused() -> ApiError {
    let message = "A page of another origin may not use a server without keys. `cors_origins` in the configuration names \
                   the pages of this machine that may; others need a key.";
    ApiError::new(ErrorKind::Forbidden, "origin_not_allowed", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(origins: &Origins, headers: &[(&'static str, &'static str)]) -> bool {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        origins.admit_to_socket(&HeaderMap::from_iter(headers)).is_ok()
    }

    #[test]
    fn only_pages_of_this_machine_are_local() {
        for (origin, local) in [
            ("http://localhost", true),
            ("http://localhost:3000", true),
            ("https://app.localhost", true),
            ("http://127.0.0.1:8642", true),
            ("http://[::1]:8642", true),
            ("https://example.com", false),
            ("http://127.0.0.1.example.com", false),
            ("http://localhost.example.com", false),
            ("http://10.0.0.1", false),
            ("null", false),
            ("", false),
        ] {
            assert_eq!(is_local(origin), local, "{origin}");
        }
    }

    #[test]
    fn a_socket_is_for_pages_of_this_machine_of_this_name_and_of_the_configuration() {
        let origins = Origins::new(vec!["http://localhost:5173".to_owned()], false).unwrap();
        assert!(socket(&origins, &[]));
        assert!(socket(&origins, &[("origin", "http://localhost:5173"), ("sec-fetch-site", "cross-site")]));
        assert!(socket(&origins, &[("origin", "http://outlast.lan:8642"), ("host", "outlast.lan:8642")]));
        assert!(!socket(&origins, &[("origin", "http://evil.example"), ("host", "127.0.0.1:8642")]));
        assert!(!socket(&origins, &[("origin", "null")]));
        assert!(!socket(&origins, &[("sec-fetch-site", "cross-site")]));
        let keys = Origins::new(Vec::new(), true).unwrap();
        assert!(socket(&keys, &[("origin", "https://example.com")]));
    }

    #[test]
    fn an_origin_is_written_as_browsers_send_it() {
        let new = |origin: &str, keys| Origins::new(vec![origin.to_owned()], keys).map(drop);
        assert_eq!(new("https://app.example.com", true), Ok(()));
        assert_eq!(new("http://localhost:5173", false), Ok(()));
        for (wrong, right) in [
            ("https://app.example.com/", "write `https://app.example.com`"),
            ("https://App.example.com:443", "write `https://app.example.com`"),
            ("https://app.example.com/path", "like `https://app.example.com`"),
            ("app.example.com", "must be an origin"),
            ("*", "must be an origin"),
            ("null", "must be an origin"),
        ] {
            let error = new(wrong, true).unwrap_err();
            assert!(error.contains(right), "{error}");
        }
        assert!(new("https://app.example.com", false).unwrap_err().contains("outlast key new"));
    }
}
