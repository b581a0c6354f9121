//! A request as a component asks for it, read and checked before anything is sent.

use std::time::Duration;

use bytes::Bytes;
use reqwest::{
    Method, Url,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use serde::Deserialize;

use super::HttpLimits;
use crate::{
    bindings::{
        http::Request,
        types::{Failure, FailureKind},
    },
    failure::{failure, shorten},
    grants,
};

/// What belongs to the connection, and to the host alone.
const FORBIDDEN: [&str; 10] = [
    "host",
    "content-length",
    "connection",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "keep-alive",
    "expect",
    "http2-settings",
];
/// The most redirects that are followed.
const REDIRECTS: u8 = 10;
/// How long a request may take that does not say so.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A request that can be sent.
#[derive(Debug)]
pub(crate) struct CheckedRequest {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) timeout: Duration,
    /// How many redirects are followed.
    pub(crate) redirects: u8,
    idempotent: Option<bool>,
}

/// The options that are understood.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Options {
    timeout_ms: Option<u64>,
    redirects: Option<u8>,
    idempotent: Option<bool>,
}

impl CheckedRequest {
    /// Reads a request.
    pub(crate) fn read(request: Request, limits: &HttpLimits) -> Result<Self, Failure> {
        // Lengths first: what is read below is little.
        let size = request.headers.iter().map(|header| header.name.len() + header.value.len()).sum::<usize>();
        let options = request.options.as_deref();
        let size = size + request.url.len() + options.map_or(0, str::len);
        within("The URL, the headers and the options have", size, limits.header_bytes, "http_header_bytes")?;
        within("The request has so many headers:", request.headers.len(), limits.headers, "http_headers")?;
        within("The body has", request.body.len(), limits.request_bytes, "http_request_bytes")?;
        let options = self::options(options)?;
        let method = method(&request.method)?;
        let url = url(&request.url)?;
        let mut headers = HeaderMap::new();
        for header in request.headers {
            let (name, value) = self::header(&header.name, &header.value)?;
            headers.append(name, value);
        }
        Ok(Self {
            method,
            url,
            headers,
            body: request.body.into(),
            timeout: options.timeout_ms.map_or(TIMEOUT, Duration::from_millis).min(limits.timeout),
            redirects: options.redirects.unwrap_or(REDIRECTS),
            idempotent: options.idempotent,
        })
    }

    /// Whether it only asks, by its method: it then needs no key and no entry before it is sent.
    pub(crate) fn only_asks(&self) -> bool {
        self.method.is_safe()
    }

    /// Whether it may be sent again when nobody knows what became of it.
    pub(crate) fn is_repeatable(&self) -> bool {
        self.idempotent.unwrap_or_else(|| self.only_asks())
    }
}

fn options(text: Option<&str>) -> Result<Options, Failure> {
    let Some(text) = text else { return Ok(Options::default()) };
    let wrong = |what: String| invalid("invalid_options", format!("`options`: {what}"));
    // A list would be taken for the fields in their order.
    if !text.trim_start().starts_with('{') {
        return Err(wrong("it is not a JSON object".to_owned()));
    }
    let options: Options = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
    if options.timeout_ms == Some(0) {
        return Err(wrong("`timeout_ms` is 0; it must be at least 1".to_owned()));
    }
    if options.redirects.is_some_and(|redirects| redirects > REDIRECTS) {
        return Err(wrong(format!("`redirects` must be 0 to {REDIRECTS}")));
    }
    Ok(options)
}

fn method(text: &str) -> Result<Method, Failure> {
    grants::method(text).map_err(|why| invalid("invalid_method", why))
}

fn url(text: &str) -> Result<Url, Failure> {
    let wrong = |what: &str| invalid("invalid_url", format!("`{}` {what}.", shorten(text, 200)));
    let mut url = Url::parse(text).map_err(|error| wrong(&format!("is not an absolute URL: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(wrong("does not begin with `http://` or `https://`"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        // Not shown: it may be a secret of the component's.
        let message = "The URL has a user or a password: send a header `authorization` instead.";
        return Err(invalid("invalid_url", message));
    }
    url.set_fragment(None);
    Ok(url)
}

fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), Failure> {
    let shown = shorten(name, 80);
    let wrong = |what: &str| invalid("invalid_header", format!("The header `{shown}` {what}."));
    let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong("has a name that is not valid"))?;
    if FORBIDDEN.contains(&parsed.as_str()) || parsed.as_str().starts_with("proxy-") {
        let message = format!("The header `{shown}` belongs to the connection; the host sends it.");
        return Err(invalid("forbidden_header", message));
    }
    let value = HeaderValue::from_bytes(value.as_bytes())
        .map_err(|_| wrong("has a value with a line break or another control character"))?;
    Ok((parsed, value))
}

fn within(what: &str, got: usize, limit: usize, key: &str) -> Result<(), Failure> {
    if got <= limit {
        return Ok(());
    }
    let unit = if key == "http_headers" { "" } else { " bytes" };
    let message = format!("{what} {got}{unit}, and at most {limit} are allowed (limits.{key}).");
    Err(failure(FailureKind::Limit, "request_too_large", message))
}

pub(crate) fn invalid(code: &str, message: impl Into<String>) -> Failure {
    failure(FailureKind::Invalid, code, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bindings::http::Header;

    fn request() -> Request {
        Request {
            method: "GET".to_owned(),
            url: "https://a.test/x#y".to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
            options: None,
        }
    }

    fn read(request: Request) -> Result<CheckedRequest, Failure> {
        CheckedRequest::read(
            request,
            &HttpLimits { header_bytes: 200, headers: 2, request_bytes: 10, ..HttpLimits::default() },
        )
    }

    #[test]
    fn a_request_is_read() {
        let header = Header { name: "X-One".to_owned(), value: "Größe".to_owned() };
        let options = Some(r#"{"timeout_ms": 7, "redirects": 0, "new": 1}"#.to_owned());
        let checked = read(Request { headers: vec![header], options, ..request() }).unwrap();
        assert_eq!(checked.url.as_str(), "https://a.test/x");
        assert_eq!(checked.headers["x-one"].as_bytes(), "Größe".as_bytes());
        assert_eq!((checked.timeout, checked.redirects), (Duration::from_millis(7), 0));
        let longest = Some(r#"{"timeout_ms": 18446744073709551615}"#.to_owned());
        let checked = read(Request { options: longest, ..request() }).unwrap();
        assert_eq!(checked.timeout, HttpLimits::default().timeout);
    }

    #[test]
    fn what_is_repeated_follows_from_the_method_unless_it_is_said() {
        for (method, options, only_asks, repeatable) in [
            ("GET", None, true, true),
            ("HEAD", None, true, true),
            ("OPTIONS", None, true, true),
            ("POST", None, false, false),
            ("PUT", None, false, false),
            ("DELETE", None, false, false),
            ("POST", Some(r#"{"idempotent": true}"#), false, true),
            ("GET", Some(r#"{"idempotent": false}"#), true, false),
        ] {
            let options = options.map(str::to_owned);
            let checked = read(Request { method: method.to_owned(), options, ..request() }).unwrap();
            assert_eq!((checked.only_asks(), checked.is_repeatable()), (only_asks, repeatable), "{method}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let header = |name: &str, value: &str| Request {
            headers: vec![Header { name: name.to_owned(), value: value.to_owned() }],
            ..request()
        };
        let options = |text: &str| Request { options: Some(text.to_owned()), ..request() };
        let url = |text: &str| Request { url: text.to_owned(), ..request() };
        let method = |text: &str| Request { method: text.to_owned(), ..request() };
        let too_many = ["a", "b", "c"].map(|name| Header { name: name.to_owned(), value: String::new() });
        for (request, code) in [
            (method(""), "invalid_method"),
            (method("get"), "invalid_method"),
            (method("GET / HTTP/1.1\r\nx:"), "invalid_method"),
            (method("TRACE"), "invalid_method"),
            (method("CONNECT"), "invalid_method"),
            (url("a.test"), "invalid_url"),
            (url("/x"), "invalid_url"),
            (url("file:///etc/passwd"), "invalid_url"),
            (url("ftp://a.test/"), "invalid_url"),
            (url("https://user:pass@a.test/"), "invalid_url"),
            (url(&format!("https://a.test/{}", "x".repeat(200))), "request_too_large"),
            (header("Host", "b.test"), "forbidden_header"),
            (header("Content-Length", "5"), "forbidden_header"),
            (header("TRANSFER-ENCODING", "chunked"), "forbidden_header"),
            (header("connection", "close"), "forbidden_header"),
            (header("Proxy-Authorization", "x"), "forbidden_header"),
            (header("a b", "x"), "invalid_header"),
            (header("", "x"), "invalid_header"),
            (header("x", "a\r\nhost: b.test"), "invalid_header"),
            (header("x\r\nhost", "b.test"), "invalid_header"),
            (header("x", "a\0b"), "invalid_header"),
            (header("x", &"x".repeat(300)), "request_too_large"),
            (Request { headers: too_many.into(), ..request() }, "request_too_large"),
            (Request { body: vec![0; 11], ..request() }, "request_too_large"),
            (options("[]"), "invalid_options"),
            (options("{\"timeout_ms\": 0}"), "invalid_options"),
            (options("{\"timeout_ms\": -1}"), "invalid_options"),
            (options("{\"redirects\": 11}"), "invalid_options"),
            (options("{\"idempotent\": 1}"), "invalid_options"),
        ] {
            let shown = format!("{request:?}");
            assert_eq!(read(request).unwrap_err().code, code, "{shown}");
        }
    }
}
