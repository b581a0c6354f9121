//! Which hosts an operator means.
//!
//! | pattern | means |
//! |---|---|
//! | `api.example.com` | this host, at the scheme's own port |
//! | `*.example.org` | every host below `example.org`, but not `example.org` itself |
//! | `*` | every host |
//! | `127.0.0.1:8080`, `[::1]:8080`, `*.example.org:8443` | only at this port |
//! | `https://api.example.com` | only over this scheme |

use std::{fmt, str::FromStr};

use outlast_runtime::text::is_hidden;
use reqwest::Url;
use serde::{Deserialize, Deserializer, de};

/// Hosts, as the operator writes them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPattern {
    scheme: Option<String>,
    hosts: Hosts,
    port: Option<u16>,
    /// As it was written.
    text: String,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Hosts {
    One(String),
    /// All below this one.
    Below(String),
    All,
}

impl HostPattern {
    /// Whether a URL leads to one of the hosts.
    pub(crate) fn matches(&self, url: &Url) -> bool {
        self.scheme.as_deref().is_none_or(|scheme| scheme == url.scheme())
            && match self.port {
                Some(port) => url.port_or_known_default() == Some(port),
                // A port that is the scheme's own is none.
                None => url.port().is_none(),
            }
            && match (&self.hosts, host(url)) {
                (_, None) => false,
                (Hosts::One(one), Some(host)) => one == host,
                (Hosts::Below(above), Some(host)) => {
                    host.strip_suffix(above.as_str()).is_some_and(|below| below.len() > 1 && below.ends_with('.'))
                }
                (Hosts::All, Some(_)) => true,
            }
    }

    /// Whether all URLs of `other` lead to one of the hosts.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let below = |host: &str, above: &str| host.strip_suffix(above).is_some_and(|below| below.ends_with('.'));
        (self.scheme.is_none() || self.scheme == other.scheme)
            && self.port == other.port
            && match (&self.hosts, &other.hosts) {
                (Hosts::All, _) => true,
                (Hosts::Below(above), Hosts::One(host)) => below(host, above),
                (Hosts::Below(above), Hosts::Below(other)) => above == other || below(other, above),
                (one, other) => one == other,
            }
    }

    /// The same, for what must not be read on its way: over `http` only where the pattern says so.
    pub(crate) fn matches_secretly(&self, url: &Url) -> bool {
        self.matches(url) && (url.scheme() == "https" || self.scheme.is_some())
    }
}

/// The host of a URL. A name with a dot at its end is the same without it.
fn host(url: &Url) -> Option<&str> {
    let host = url.host_str()?;
    Some(host.strip_suffix('.').unwrap_or(host))
}

/// How a pattern names the host of a URL, for the line that would allow it.
pub(crate) fn pattern_of(url: &Url) -> String {
    let host = host(url).unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

impl FromStr for HostPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "\"{text}\" is not a host: write `api.example.com`, `*.example.org` or `*`, with a port as in \
                 `127.0.0.1:8080` and, if need be, `http://` or `https://` before it"
            )
        };
        // A URL leaves some of them out without a word.
        if text.chars().any(|character| is_hidden(character) || character.is_whitespace()) {
            return Err(wrong());
        }
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme @ ("http" | "https"), rest)) => (Some(scheme.to_owned()), rest),
            Some(_) => return Err(wrong()),
            None => (None, text),
        };
        let (name, port) = match rest.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => {
                let number = port.bytes().all(|byte| byte.is_ascii_digit());
                (name, Some(port.parse().ok().filter(|port| number && *port > 0).ok_or_else(wrong)?))
            }
            _ => (rest, None),
        };
        // As a URL would name it: in lower case, without Unicode, addresses in their usual form.
        let named = |name: &str| {
            let url = Url::parse(&format!("https://{name}/")).ok();
            let plain = url.filter(|url| {
                let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
                bare && url.username().is_empty() && url.password().is_none() && url.port().is_none()
            });
            let host = plain.as_ref().and_then(host).filter(|host| !host.contains('*')).map(str::to_owned);
            host.filter(|host| !host.is_empty() && !name.contains(['/', '?', '#', '@', '\\'])).ok_or_else(wrong)
        };
        let hosts = match name.strip_prefix("*.") {
            _ if name == "*" => Hosts::All,
            Some(above) => Hosts::Below(named(above)?),
            None => Hosts::One(named(name)?),
        };
        Ok(Self { scheme, hosts, port, text: text.to_owned() })
    }
}

impl<'de> Deserialize<'de> for HostPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, url: &str) -> bool {
        pattern.parse::<HostPattern>().unwrap().matches(&url.parse().unwrap())
    }

    #[test]
    fn a_pattern_means_what_it_says() {
        for (pattern, url, expected) in [
            ("api.example.com", "https://api.example.com/a?b", true),
            ("api.example.com", "http://API.example.com./", true),
            ("API.Example.com", "https://api.example.com/", true),
            ("api.example.com", "https://api.example.com:443/", true),
            ("api.example.com", "https://api.example.com:80/", false),
            ("api.example.com", "https://api.example.com.evil.org/", false),
            ("api.example.com", "https://x.api.example.com/", false),
            ("api.example.com", "https://api.example.com@evil.org/", false),
            ("*.example.org", "https://a.example.org/", true),
            ("*.example.org", "https://a.b.example.org/", true),
            ("*.example.org", "https://example.org/", false),
            ("*.example.org", "https://.example.org/", false),
            ("*.example.org", "https://evilexample.org/", false),
            ("*", "https://anything.test/", true),
            ("*", "https://anything.test:8443/", false),
            ("*:8443", "https://anything.test:8443/", true),
            ("127.0.0.1:8080", "http://127.0.0.1:8080/", true),
            ("127.0.0.1:8080", "http://127.1:8080/", true),
            ("127.0.0.1:8080", "http://2130706433:8080/", true),
            ("127.0.0.1:8080", "http://127.0.0.1/", false),
            ("[::1]:8080", "http://[::1]:8080/", true),
            ("[::1]", "http://[0:0::1]/", true),
            ("bücher.example", "https://xn--bcher-kva.example/", true),
            ("https://api.example.com", "http://api.example.com/", false),
            ("https://api.example.com", "https://api.example.com/", true),
            ("http://api.example.com:81", "http://api.example.com:81/", true),
        ] {
            assert_eq!(matches(pattern, url), expected, "{pattern} {url}");
        }
    }

    #[test]
    fn a_secret_goes_over_http_only_where_that_is_said() {
        let secretly =
            |pattern: &str, url: &str| pattern.parse::<HostPattern>().unwrap().matches_secretly(&url.parse().unwrap());
        assert!(secretly("a.test", "https://a.test/"));
        assert!(!secretly("a.test", "http://a.test/"));
        assert!(secretly("http://a.test", "http://a.test/"));
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for wrong in [
            "",
            "*.",
            "a b",
            "a.\ntest",
            "a.test\t",
            "a\u{200b}.test",
            "a\u{202e}.test",
            "ftp://a.test",
            "a.test/",
            "a.test/path",
            "a.test?x",
            "user@a.test",
            "a.*.test",
            "a.test:",
            "a.test:0",
            "a.test:70000",
            "a.test:+80",
            "[::1",
            "https://",
            "a.test:80:81",
        ] {
            let error = wrong.parse::<HostPattern>().unwrap_err();
            assert!(error.contains("is not a host"), "{wrong}: {error}");
        }
    }
}
