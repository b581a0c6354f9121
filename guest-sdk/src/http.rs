//! HTTP requests, to where the operator allows.
//!
//! ```no_run
//! use outlast_guest::{Failure, http};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize)]
//! struct Order<'a> {
//!     item: &'a str,
//! }
//!
//! #[derive(Deserialize)]
//! struct Receipt {
//!     number: u64,
//! }
//!
//! fn order(item: &str) -> Result<u64, Failure> {
//!     let receipt: Receipt =
//!         http::post("https://api.example.com/orders").json(&Order { item })?.send()?.ok()?.json()?;
//!     Ok(receipt.number)
//! }
//! ```
//!
//! The operator says which hosts and methods an agent may use, and puts credentials into the requests; what is not
//! allowed is failure `denied`, whose message names the line of the configuration that would allow it.
//!
//! A status like 404 is an answer: [`Response::ok`] makes a failure of it.
//!
//! # When the server stops in the middle
//!
//! A request that was answered is not sent again: the run is given the same answer. One that was in flight is sent again
//! if it only asks (`GET`, `HEAD`, `OPTIONS`) or is marked [`idempotent`](Request::idempotent); any other ends as failure
//! `interrupted`, because nobody knows whether it took effect. Every request that does more than ask carries an
//! `idempotency-key` that stays the same when it is sent again: mark what you send to a server that knows this header.
//!
//! # Several in parallel
//!
//! [`send_all`] sends a list of requests at the same time. [`Request::start`] begins one, and
//! [`tasks::wait_any`](crate::tasks::wait_any) waits for whatever comes first.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::host::http as host;
use crate::tasks::{Task, milliseconds, wait_any};
use crate::{Failure, FailureKind};

macro_rules! methods {
    ($($name:ident => $method:literal;)*) => {
        $(
            #[doc = concat!("A `", $method, "` request.")]
            pub fn $name(url: impl Into<String>) -> Request {
                Request::new($method, url)
            }
        )*
    };
}

methods! {
    get => "GET";
    head => "HEAD";
    post => "POST";
    put => "PUT";
    patch => "PATCH";
    delete => "DELETE";
}

/// Sends all requests at the same time, as many in parallel as a run may, and waits for all of them. The answers are in
/// the order of the requests.
pub fn send_all(requests: impl IntoIterator<Item = Request>) -> Vec<Result<Response, Failure>> {
    let mut answers: Vec<Option<Result<Response, Failure>>> = Vec::new();
    let mut open: Vec<(usize, Pending)> = Vec::new();
    for request in requests {
        let (place, request) = (answers.len(), host::Request::from(request));
        answers.push(None);
        loop {
            match Pending::start(&request) {
                Ok(pending) => open.push((place, pending)),
                // There is room again when one of these has ended.
                Err(failure) if failure.code == "too_many_requests" && !open.is_empty() => {
                    take_first(&mut open, &mut answers);
                    continue;
                }
                Err(failure) => answers[place] = Some(Err(failure)),
            }
            break;
        }
    }
    while !open.is_empty() {
        take_first(&mut open, &mut answers);
    }
    answers.into_iter().flatten().collect()
}

/// Waits until at least one has ended, and takes the answers of those that have.
fn take_first(open: &mut Vec<(usize, Pending)>, answers: &mut [Option<Result<Response, Failure>>]) {
    // What a wait that fails leaves, `get` tells.
    let ended = wait_any(open.iter().map(|(_, pending)| pending.task()));
    let ended = ended.unwrap_or_else(|_| (0..open.len()).collect());
    for place in ended.into_iter().rev() {
        let (request, pending) = open.remove(place);
        answers[request] = Some(pending.get());
    }
}

/// A request. Begin with [`get`], [`post`] and so on, say what it has, and [`send`](Self::send) it.
#[derive(Clone, Debug, PartialEq)]
#[must_use = "a request does nothing until it is sent"]
pub struct Request {
    /// The method, in upper case.
    pub method: String,
    /// Where to: `http://…` or `https://…`.
    pub url: String,
    /// The headers, in this order.
    pub headers: Vec<(String, String)>,
    /// The body; empty for none.
    pub body: Vec<u8>,
    /// How long it may take, redirects and the whole answer included. None: 30 seconds.
    pub timeout: Option<Duration>,
    /// How many redirects are followed, at most 10. None: 10.
    pub redirects: Option<u8>,
    /// Whether it may be sent again when the server was stopped in the middle. None: as the method says.
    pub idempotent: Option<bool>,
}

impl Request {
    /// A request of any method.
    pub fn new(method: impl Into<String>, url: impl Into<String>) -> Self {
        Self {
            method: method.into(),
            url: url.into(),
            headers: Vec::new(),
            body: Vec::new(),
            timeout: None,
            redirects: None,
            idempotent: None,
        }
    }

    /// Adds a header.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Adds parameters to the query of the URL.
    pub fn query<N: AsRef<str>, V: AsRef<str>>(mut self, parameters: impl IntoIterator<Item = (N, V)>) -> Self {
        let fragment = self.url.find('#').map(|at| self.url.split_off(at));
        for (name, value) in parameters {
            self.url.push(if self.url.contains('?') { '&' } else { '?' });
            escape(name.as_ref(), &mut self.url);
            self.url.push('=');
            escape(value.as_ref(), &mut self.url);
        }
        self.url.extend(fragment);
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Sets the body to a value as JSON, and says so in `content-type`.
    ///
    /// # Errors
    ///
    /// `invalid_json` when the value cannot be JSON.
    pub fn json(self, value: &(impl Serialize + ?Sized)) -> Result<Self, Failure> {
        Ok(self.header("content-type", "application/json").body(serde_json::to_vec(value)?))
    }

    /// Sets how long it may take.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sets how many redirects are followed. With 0, a redirect is the answer.
    pub fn redirects(mut self, most: u8) -> Self {
        self.redirects = Some(most);
        self
    }

    /// Says whether it may be sent again when the server was stopped in the middle: that it does no more when it comes
    /// twice.
    pub fn idempotent(mut self, idempotent: bool) -> Self {
        self.idempotent = Some(idempotent);
        self
    }

    /// Sends it and waits for the answer.
    ///
    /// # Errors
    ///
    /// `invalid` when it is not a valid request, `denied` when the operator does not allow it, `limit` when it or its
    /// answer is too large, `timeout`, `unavailable` when the other side was not reached or broke off, `interrupted`
    /// when the server was stopped meanwhile, `cancelled` when the run is.
    pub fn send(self) -> Result<Response, Failure> {
        Ok(host::send(&self.into())?.into())
    }

    /// Begins it and returns at once. The agent continues meanwhile.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send), for what is known at once; `limit` also when too many are open.
    pub fn start(self) -> Result<Pending, Failure> {
        Pending::start(&self.into())
    }
}

impl From<Request> for host::Request {
    fn from(request: Request) -> Self {
        let mut options = Map::new();
        if let Some(timeout) = request.timeout {
            options.insert("timeout_ms".to_owned(), milliseconds(timeout).max(1).into());
        }
        if let Some(redirects) = request.redirects {
            options.insert("redirects".to_owned(), redirects.into());
        }
        if let Some(idempotent) = request.idempotent {
            options.insert("idempotent".to_owned(), idempotent.into());
        }
        Self {
            method: request.method,
            url: request.url,
            headers: request.headers.into_iter().map(|(name, value)| host::Header { name, value }).collect(),
            body: request.body,
            options: (!options.is_empty()).then(|| Value::Object(options).to_string()),
        }
    }
}

/// What a query takes as it is; everything else by its bytes.
fn escape(text: &str, into: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            into.push(byte.into());
        } else {
            into.push('%');
            into.extend([byte >> 4, byte & 15].map(|digit| char::from(DIGITS[usize::from(digit)])));
        }
    }
}

/// A request under way. Dropping it gives it up.
#[derive(Debug)]
pub struct Pending {
    task: Task,
    pending: host::Pending,
}

impl Pending {
    fn start(request: &host::Request) -> Result<Self, Failure> {
        let pending = host::start(request)?;
        Ok(Self { task: pending.task(), pending })
    }

    /// What to wait for with [`wait_any`].
    pub fn task(&self) -> &Task {
        &self.task
    }

    /// Waits for the answer.
    ///
    /// # Errors
    ///
    /// As [`Request::send`].
    pub fn get(self) -> Result<Response, Failure> {
        Ok(self.pending.get()?.into())
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status: 200 and so on.
    pub status: u16,
    /// Where it comes from: the URL of the request, or where the last redirect led.
    pub url: String,
    /// The headers; their names are in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// The answer, if its status is one of success (200 to 299).
    ///
    /// # Errors
    ///
    /// Any other status, as the failure that fits it: `not-found` for 404 and 410, `denied` for 401 and 403,
    /// `rate-limited` for 429, `timeout` for 408 and 504, `unavailable` for the rest from 500 on, `invalid` for the other
    /// ones from 400 on. Its code is `http_404` and so on, and the time of `retry-after` is kept.
    pub fn ok(self) -> Result<Self, Failure> {
        let kind = match self.status {
            200..=299 => return Ok(self),
            401 | 403 => FailureKind::Denied,
            404 | 410 => FailureKind::NotFound,
            408 | 504 => FailureKind::Timeout,
            429 => FailureKind::RateLimited,
            400..=499 => FailureKind::Invalid,
            500.. => FailureKind::Unavailable,
            _ => FailureKind::Other,
        };
        let status = self.status;
        let host = self.url.split('/').nth(2).unwrap_or_default();
        let failure = Failure::new(kind, format!("http_{status}"), format!("{host} answered with status {status}."));
        let seconds = self.header("retry-after").and_then(|seconds| seconds.parse().ok());
        Err(match seconds {
            Some(seconds) => failure.retry_after(Duration::from_secs(seconds)),
            None => failure,
        })
    }

    /// The first header of this name, in upper or lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    ///
    /// # Errors
    ///
    /// It is not UTF-8.
    pub fn text(self) -> Result<String, Failure> {
        Ok(String::from_utf8(self.body)?)
    }

    /// The body as JSON.
    ///
    /// # Errors
    ///
    /// `invalid_json` when it is not, or not what is wanted.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        Ok(serde_json::from_slice(&self.body)?)
    }
}

impl From<host::Response> for Response {
    fn from(response: host::Response) -> Self {
        Self {
            status: response.status,
            url: response.url,
            headers: response.headers.into_iter().map(|header| (header.name, header.value)).collect(),
            body: response.body,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn response(status: u16) -> Response {
        let headers = vec![("retry-after".to_owned(), "3".to_owned())];
        Response { status, url: "https://a.test:81/x".into(), headers, body: b"{\"n\":7}".into() }
    }

    #[test]
    fn a_request_becomes_what_the_contract_says() {
        let request = post("https://a.test/x?a=1#f")
            .query([("q", "a b&c=ü"), ("z", "")])
            .header("x", "y")
            .json(&json!({"n": 1}))
            .unwrap()
            .timeout(Duration::from_secs(2))
            .redirects(0)
            .idempotent(true);
        let request = host::Request::from(request);
        assert_eq!((&*request.method, &*request.url), ("POST", "https://a.test/x?a=1&q=a%20b%26c%3D%C3%BC&z=#f"));
        let headers: Vec<_> = request.headers.iter().map(|header| (&*header.name, &*header.value)).collect();
        assert_eq!(headers, [("x", "y"), ("content-type", "application/json")]);
        assert_eq!(request.body, br#"{"n":1}"#);
        let options: Value = serde_json::from_str(&request.options.unwrap()).unwrap();
        assert_eq!(options, json!({"timeout_ms": 2000, "redirects": 0, "idempotent": true}));
        assert_eq!(host::Request::from(get("https://a.test/")).options, None);
    }

    #[test]
    fn a_status_becomes_the_failure_that_fits_it() {
        assert_eq!(response(204).ok(), Ok(response(204)));
        for (status, kind) in [
            (304, FailureKind::Other),
            (400, FailureKind::Invalid),
            (403, FailureKind::Denied),
            (404, FailureKind::NotFound),
            (429, FailureKind::RateLimited),
            (503, FailureKind::Unavailable),
            (504, FailureKind::Timeout),
        ] {
            let failure = response(status).ok().unwrap_err();
            assert_eq!((failure.kind, failure.code), (kind, format!("http_{status}")));
            assert_eq!(failure.message, format!("a.test:81 answered with status {status}."));
            assert_eq!(failure.retry_after, Some(Duration::from_secs(3)));
        }
    }

    #[test]
    fn a_body_is_read_as_it_is_wanted() {
        assert_eq!(response(200).json::<Value>().unwrap(), json!({"n": 7}));
        assert_eq!(response(200).text().unwrap(), "{\"n\":7}");
        assert_eq!(response(200).json::<Vec<u8>>().unwrap_err().code, "invalid_json");
        assert_eq!(response(200).header("Retry-After"), Some("3"));
    }
}
