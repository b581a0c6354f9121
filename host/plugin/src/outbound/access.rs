//! What one agent or tool component may reach, and the way there.
//!
//! Every hop of a request is checked alone: the method and the host against what the operator allows, the address
//! against what is public, by the agent's own `client`; connections are shared with no other agent.
//!
//! Redirects are followed here, not in the client. What the component sent as its credentials stays at the origin it
//! was sent to, and whatever may be one: to another origin go only headers that say what a request is about. What the operator
//! put in is decided anew for every hop.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use outlast_metrics::{AgentRequests, LiveRequest};
use reqwest::{
    Client, Method, Response, StatusCode, Url,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use tokio::sync::Semaphore;

use super::{
    HttpLimits,
    answer::Answer,
    client::{NotAllowed, Reach, Resolver, client, literal},
    request::CheckedRequest,
    secrets::Secrets,
};
use crate::{
    bindings::types::{Failure, FailureKind},
    failure::{failure, shorten},
    grants::{GrantError, HttpGrant, Section, pattern_of},
};

/// The header that makes a repeated request known to the other side.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Headers by which some servers take another method than the one that was checked.
const METHOD_OVERRIDES: [&str; 3] = ["x-http-method", "x-http-method-override", "x-method-override"];
/// What goes along to another origin: nothing of it is a key.
const HARMLESS: [HeaderName; 16] = [
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::ACCEPT_LANGUAGE,
    header::CACHE_CONTROL,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_TYPE,
    header::IF_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::IF_RANGE,
    header::IF_UNMODIFIED_SINCE,
    header::PRAGMA,
    header::RANGE,
    header::USER_AGENT,
    IDEMPOTENCY_KEY,
];

/// What one agent or tool component may reach.
#[derive(Debug)]
pub(crate) struct Access {
    section: Section,
    grant: HttpGrant,
    secrets: Secrets,
    /// None where nothing may be reached.
    client: Option<Client>,
    pub(crate) limits: HttpLimits,
    /// Permits for its requests.
    permits: Semaphore,
    pub(crate) metrics: Arc<AgentRequests>,
}

/// Permits for the requests of one component.
fn permits(limits: &HttpLimits) -> Semaphore {
    Semaphore::new(limits.connections.min(Semaphore::MAX_PERMITS))
}

impl Access {
    /// What the agent or tool component of this section may reach. `lookup` reads environment variables.
    pub(crate) fn new(
        section: Section,
        grant: &HttpGrant,
        limits: HttpLimits,
        metrics: Arc<AgentRequests>,
        lookup: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, GrantError> {
        let wrong = |what| GrantError { key: format!("{}.http", section.key()), what };
        for method in grant.written_methods() {
            if method.is_empty() || !method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-') {
                return Err(wrong(format!("methods: `{method}` is not a method; write `GET`, `POST` and so on")));
            }
        }
        let secrets = Secrets::new(grant, lookup).map_err(wrong)?;
        let client = match grant.hosts.is_empty() {
            true => None,
            false => {
                let resolver = Resolver::new(Reach::Public(grant.private.clone()));
                Some(client(resolver, limits.headers).map_err(|error| wrong(format!("hosts: {error}")))?)
            }
        };
        let (grant, permits) = (grant.clone(), permits(&limits));
        Ok(Self { section, grant, secrets, client, limits, permits, metrics })
    }

    /// What one may reach of which the operator says nothing.
    pub(crate) fn nothing(section: Section, limits: HttpLimits, metrics: Arc<AgentRequests>) -> Self {
        let (grant, secrets, permits) = (HttpGrant::default(), Secrets::default(), permits(&limits));
        Self { section, grant, secrets, client: None, limits, permits, metrics }
    }

    /// Whether there is a host that may be reached.
    pub(crate) fn reaches_anything(&self) -> bool {
        !self.grant.hosts.is_empty()
    }

    /// Whether the operator allows a request of this method, with these headers, to this URL.
    pub(crate) fn permit(&self, method: &Method, url: &Url, headers: &HeaderMap) -> Result<(), Failure> {
        let entries: Vec<_> = self.grant.hosts.iter().filter(|entry| entry.host.matches(url)).collect();
        if entries.is_empty() {
            let host = shorten(&pattern_of(url), 300);
            let what = format!("reach {host} over {}", url.scheme());
            return Err(self.denied("host_not_granted", &what, &format!("`hosts = [\"{host}\"]`")));
        }
        let takes = |methods: &[String]| methods.iter().any(|granted| granted == method.as_str());
        let granted = entries.iter().any(|entry| self.grant.methods_at(entry).is_none_or(takes));
        let limited = entries.iter().all(|entry| self.grant.methods_at(entry).is_some());
        if !granted {
            let what = format!("use the method {method}");
            let line = match entries.iter().any(|entry| entry.methods.is_some()) {
                // `methods` would not widen what the entry says of itself.
                true => {
                    let host = shorten(&pattern_of(url), 300);
                    format!("`hosts = [{{ host = \"{host}\", methods = [\"{method}\"] }}]`")
                }
                false => format!("`methods = [\"{method}\"]`"),
            };
            return Err(self.denied("method_not_granted", &what, &line));
        }
        if limited && let Some(name) = METHOD_OVERRIDES.into_iter().find(|name| headers.contains_key(*name)) {
            let message =
                format!("The header `{name}` would override the method {method}, and only some methods are allowed.");
            return Err(failure(FailureKind::Denied, "method_not_granted", message));
        }
        match literal(url).is_none_or(|address| self.grant.private.allow(address)) {
            true => Ok(()),
            false => Err(self.not_public(url)),
        }
    }

    fn not_public(&self, url: &Url) -> Failure {
        let host = shorten(url.host_str().unwrap_or_default(), 300);
        let what = format!("reach {host}, whose address is not public");
        self.denied("address_not_granted", &what, "`private = true`, or a list with its network,")
    }

    /// The operator does not allow `what`; `line` would.
    fn denied(&self, code: &str, what: &str, line: &str) -> Failure {
        self.section.denied(code, what, line, ".http")
    }

    /// Sends a request and reads its answer, within its time. `key` makes it known to the other side, should it be sent
    /// again.
    pub(crate) async fn send(&self, request: CheckedRequest, key: &str) -> Result<Answer, Failure> {
        let live = LiveRequest::new(self.metrics.clone());
        let timeout = request.timeout;
        let answer = tokio::time::timeout(timeout, self.follow(request, key)).await.unwrap_or_else(|_| {
            let message = format!("The request took longer than {} ms.", timeout.as_millis());
            Err(failure(FailureKind::Timeout, "timeout", message))
        });
        live.end(|agent| match &answer {
            Ok(_) => &agent.answered,
            Err(failure) if failure.kind == FailureKind::Denied => &agent.denied,
            Err(_) => &agent.failed,
        });
        let answer = answer.map(|answer| self.secrets.hide(answer));
        answer.map_err(|failure| Failure { message: self.secrets.hide_text(failure.message), ..failure })
    }

    async fn follow(&self, request: CheckedRequest, key: &str) -> Result<Answer, Failure> {
        let _permit = self.permits.acquire().await;
        let only_asks = request.only_asks();
        let CheckedRequest { mut method, mut url, mut headers, mut body, redirects, .. } = request;
        if !only_asks && !headers.contains_key(&IDEMPOTENCY_KEY) {
            // It is made of letters, digits and `-`, `_`.
            headers.extend(HeaderValue::from_str(key).ok().map(|key| (IDEMPOTENCY_KEY, key)));
        }
        let mut followed = 0;
        loop {
            self.permit(&method, &url, &headers)?;
            let response = self.hop(&method, &url, &headers, &body).await?;
            self.check_head(&response)?;
            let Some(next) = location(&response, &url).filter(|_| redirects > 0) else {
                return self.read(response, url).await;
            };
            if followed == redirects {
                let message = format!("The answer is a redirect after {followed} others, the limit.");
                return Err(failure(FailureKind::Limit, "too_many_redirects", message));
            }
            followed += 1;
            let next = next?;
            let status = response.status();
            if status == StatusCode::SEE_OTHER && method != Method::HEAD
                || method == Method::POST && matches!(status, StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND)
            {
                method = Method::GET;
                body = Bytes::new();
                for name in [header::CONTENT_TYPE, header::CONTENT_ENCODING, header::CONTENT_LANGUAGE] {
                    headers.remove(name);
                }
                headers.remove(IDEMPOTENCY_KEY);
            }
            if next.origin() != url.origin() {
                let private: Vec<_> = headers.keys().filter(|name| !HARMLESS.contains(name)).cloned().collect();
                for name in private {
                    headers.remove(name);
                }
            }
            url = next;
        }
    }

    /// Sends one request, to one place.
    async fn hop(&self, method: &Method, url: &Url, headers: &HeaderMap, body: &Bytes) -> Result<Response, Failure> {
        let mut headers = headers.clone();
        let secret = self.secrets.put(url, &mut headers);
        let Some(client) = &self.client else {
            return Err(failure(FailureKind::Denied, "host_not_granted", "No host may be reached."));
        };
        let mut request = client.request(method.clone(), url.clone()).headers(headers);
        if !body.is_empty() {
            request = request.body(body.clone());
        } else if matches!(*method, Method::POST | Method::PUT | Method::PATCH) {
            // Where a body is usual, some servers want to be told that there is none.
            request = request.header(header::CONTENT_LENGTH, 0);
        }
        match request.send().await {
            Ok(response) if secret && is_encoded(&response) => {
                let host = shorten(&pattern_of(url), 300);
                let message = format!(
                    "{host} answered with a `content-encoding` that was not asked for; where the operator puts a header in, \
                     an answer must be plain."
                );
                Err(failure(FailureKind::Unavailable, "encoded_answer", message))
            }
            Ok(response) => Ok(response),
            Err(error) => self.failed(url, &error),
        }
    }

    /// Why there is no answer.
    fn failed(&self, url: &Url, error: &reqwest::Error) -> Result<Response, Failure> {
        let mut cause: &dyn std::error::Error = error;
        while let Some(source) = cause.source() {
            cause = source;
            if cause.is::<NotAllowed>() {
                return Err(self.not_public(url));
            }
            if cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse_too_large) {
                return Err(self.headers_too_large());
            }
        }
        let host = shorten(&pattern_of(url), 300);
        let cause = shorten(&cause.to_string(), 200);
        Err(match error.is_connect() {
            true => failure(FailureKind::Unavailable, "unreachable", format!("{host} could not be reached: {cause}.")),
            false => failure(
                FailureKind::Unavailable,
                "broken_off",
                format!("{host} did not send a complete answer: {cause}."),
            ),
        })
    }

    fn check_head(&self, response: &Response) -> Result<(), Failure> {
        let headers = response.headers();
        let size = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>();
        match size > self.limits.header_bytes || headers.len() > self.limits.headers {
            true => Err(self.headers_too_large()),
            false => Ok(()),
        }
    }

    fn headers_too_large(&self) -> Failure {
        let HttpLimits { header_bytes, headers, .. } = self.limits;
        let message = format!(
            "The answer has headers of more than {header_bytes} bytes (limits.http_header_bytes), or more than {headers} \
             (limits.http_headers)."
        );
        failure(FailureKind::Limit, "response_too_large", message)
    }

    async fn read(&self, response: Response, url: Url) -> Result<Answer, Failure> {
        let limit = self.limits.response_bytes;
        let too_large = || {
            let message = format!("The answer has more than {limit} bytes (limits.http_response_bytes).");
            failure(FailureKind::Limit, "response_too_large", message)
        };
        if response.content_length().is_some_and(|length| length > limit as u64) {
            return Err(too_large());
        }
        let status = response.status().as_u16();
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = response.headers().iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
        let mut body = Vec::new();
        let mut pieces = response.bytes_stream();
        while let Some(piece) = pieces.next().await {
            match piece {
                Ok(piece) if body.len() + piece.len() > limit => return Err(too_large()),
                Ok(piece) => body.extend_from_slice(&piece),
                Err(error) => drop(self.failed(&url, &error)?),
            }
        }
        Ok(Answer { status, url: url.into(), headers, body })
    }
}

/// Whether the body of an answer is in another form than it was made in.
fn is_encoded(response: &Response) -> bool {
    let plain = |value: &HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity");
    response.headers().get_all(header::CONTENT_ENCODING).iter().any(|value| !plain(value))
}

/// Where a redirect leads; none when the answer is no redirect.
fn location(response: &Response, url: &Url) -> Option<Result<Url, Failure>> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let location = response.headers().get(header::LOCATION)?;
    let next = location.to_str().ok().and_then(|location| url.join(location).ok());
    let next = next.filter(|next| matches!(next.scheme(), "http" | "https") && next.has_host());
    Some(match next {
        Some(mut next) => {
            next.set_fragment(None);
            // They would become credentials. A URL with a host takes both.
            let _ = (next.set_username(""), next.set_password(None));
            Ok(next)
        }
        None => {
            let message = "The answer is a redirect that does not lead to an `http` or `https` URL.";
            Err(failure(FailureKind::Unavailable, "invalid_redirect", message))
        }
    })
}
