//! By which names the server is called.
//!
//! A server without keys answers whoever reaches it, and listens on loopback only. A browser reaches it there too: a page
//! whose name is pointed to 127.0.0.1 after it was loaded (DNS rebinding) is, for the browser, of one origin with the
//! server, and may read and begin everything. What tells such a request is its `Host`: it is the page's name. So without
//! keys only these are answered, with any port:
//!
//! | name | why |
//! |---|---|
//! | `localhost`, `*.localhost` | reserved for loopback (RFC 6761) |
//! | `127.0.0.0/8`, `[::1]` | what `listen` can be without keys; no name, so nobody can point it elsewhere |
//! | those of `allowed_hosts` | the operator says so |
//!
//! With keys a page has none, and every name is answered.

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, Uri, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use outlast_protocol::{ApiError, ErrorKind};

use super::error::Failure;

/// How much of a client's text a message shows, in characters.
const SHOWN: usize = 100;

/// Whether this is a name or an address as `allowed_hosts` has them: without a port.
pub fn is_host_name(name: &str) -> bool {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-._:[]".contains(letter);
    name.chars().all(plain) && name.parse::<Authority>().is_ok_and(|given| given.host() == name)
}

/// The names that a server is called by.
#[derive(Clone, Debug)]
pub struct Hosts {
    /// None: any.
    allowed: Option<Arc<[String]>>,
}

impl Hosts {
    /// Any name: for a server with keys.
    pub fn any() -> Self {
        Self { allowed: None }
    }

    /// Loopback's names and these: for a server without keys.
    pub fn local(allowed: &[String]) -> Self {
        Self { allowed: Some(allowed.iter().map(|name| plain(name)).collect()) }
    }

    /// Lets a request with this target and these headers in.
    ///
    /// # Errors
    ///
    /// 421 when the request is for another name, or for none.
    fn admit(&self, target: &Uri, headers: &HeaderMap) -> Result<(), ApiError> {
        let Some(allowed) = &self.allowed else { return Ok(()) };
        let host = headers.get(header::HOST).map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned());
        // `GET http://name/ HTTP/1.1` says it in the target. Both count, where both are said.
        let named: Vec<_> = target.authority().map(|name| name.as_str().to_owned()).into_iter().chain(host).collect();
        if named.is_empty() {
            return Err(misdirected("a request without a `Host` header"));
        }
        match named.iter().find(|name| !is_allowed(name, allowed)) {
            None => Ok(()),
            Some(name) => {
                let shown: String = name.chars().take(SHOWN).collect();
                Err(misdirected(&format!("{shown:?}")))
            }
        }
    }
}

/// Lets a request through that is for this server.
pub(super) async fn check(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    match hosts.admit(request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(error) => Failure(error).into_response(),
    }
}

/// Whether a name, without its port, always leads to this machine.
pub(super) fn is_loopback(name: &str) -> bool {
    let name = plain(name);
    let address = name.trim_matches(['[', ']']).parse::<IpAddr>();
    name == "localhost" || name.ends_with(".localhost") || address.is_ok_and(|address| address.is_loopback())
}

fn is_allowed(authority: &str, allowed: &[String]) -> bool {
    let Ok(authority) = authority.parse::<Authority>() else { return false };
    // A name with a user before it is none of a `Host` header.
    if authority.as_str().contains('@') {
        return false;
    }
    let name = authority.host();
    is_loopback(name) || allowed.contains(&plain(name))
}

/// A name in lower case, without the dot that may end it.
fn plain(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

fn misdirected(what: &str) -> ApiError {
    let message = format!(
        "A server without keys answers to localhost, 127.0.0.1, [::1] and the names in `allowed_hosts` of its \
         configuration, not to {what}."
    );
    ApiError::new(ErrorKind::Misdirected, "host_not_allowed", message)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn code(hosts: &Hosts, target: &str, names: &[&str]) -> Option<&'static str> {
        let names = names.iter().map(|name| (header::HOST, HeaderValue::from_str(name).unwrap()));
        hosts.admit(&target.parse().unwrap(), &HeaderMap::from_iter(names)).err().map(|error| error.code)
    }

    #[test]
    fn without_keys_only_loopback_and_what_is_allowed_are_answered() {
        let hosts = Hosts::local(&["Outlast.lan".to_owned(), "[fd00::1]".to_owned()]);
        for right in [
            "localhost",
            "LOCALHOST:1",
            "localhost.",
            "app.localhost:8642",
            "127.0.0.1",
            "127.9.9.9:80",
            "[::1]:8642",
            "[::1]",
            "outlast.LAN:8642",
            "[fd00::1]:1",
        ] {
            assert_eq!(code(&hosts, "/v1/models", &[right]), None, "{right}");
        }
        for wrong in [
            "evil.example:8642",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "notlocalhost",
            "10.0.0.1",
            "0.0.0.0",
            "2130706433",
            "[::]",
            "localhost@evil.example",
            "evil.example@localhost",
            "localhost, evil.example",
            "",
        ] {
            assert_eq!(code(&hosts, "/v1/models", &[wrong]), Some("host_not_allowed"), "{wrong}");
        }
        assert_eq!(code(&hosts, "/v1/models", &[]), Some("host_not_allowed"));
    }

    #[test]
    fn a_target_with_a_name_counts_too() {
        let hosts = Hosts::local(&[]);
        assert_eq!(code(&hosts, "http://localhost/healthz", &["127.0.0.1"]), None);
        assert_eq!(code(&hosts, "http://evil.example/healthz", &["127.0.0.1"]), Some("host_not_allowed"));
        assert_eq!(code(&hosts, "http://127.0.0.1/healthz", &["evil.example"]), Some("host_not_allowed"));
    }

    #[test]
    fn with_keys_every_name_is_answered() {
        assert_eq!(code(&Hosts::any(), "/", &["evil.example"]), None);
        assert_eq!(code(&Hosts::any(), "/", &[]), None);
    }
}
