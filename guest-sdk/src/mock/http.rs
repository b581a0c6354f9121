//! HTTP that answers what the test says.

use std::collections::VecDeque;

use super::{Mock, tasks, with};
use crate::bindings::Failure as HostFailure;
use crate::{Failure, http as sdk};

pub(crate) use crate::bindings::outlast::agent::http::{Header, Request, Response};

#[derive(Debug, Default)]
pub(super) struct State {
    answers: VecDeque<Result<sdk::Response, Failure>>,
    pub(super) calls: Vec<HttpCall>,
}

/// A request that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpCall {
    /// The method.
    pub method: String,
    /// Where to.
    pub url: String,
    /// The headers, as they were given.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// The options, a JSON object.
    pub options: Option<String>,
}

impl HttpCall {
    /// The body as a text; what is not UTF-8 is replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Mock {
    /// Answers the next HTTP request that has no answer yet with this status and this body.
    pub fn http(self, status: u16, body: impl Into<Vec<u8>>) -> Self {
        let (url, headers) = (String::new(), Vec::new());
        self.http_answer(Ok(sdk::Response { status, url, headers, body: body.into() }))
    }

    /// Answers the next HTTP request that has no answer yet; with an empty `url`, from where it went.
    pub fn http_answer(mut self, answer: Result<sdk::Response, Failure>) -> Self {
        self.state.http.answers.push_back(answer);
        self
    }
}

/// A request under way: its answer is there at once.
#[derive(Debug)]
pub(crate) struct Pending(Result<Response, HostFailure>);

impl Pending {
    #[allow(clippy::unused_self, reason = "as the server's")]
    pub(crate) fn task(&self) -> tasks::Task {
        tasks::Task::ended()
    }

    pub(crate) fn get(&self) -> Result<Response, HostFailure> {
        self.0.clone()
    }
}

pub(crate) fn send(request: &Request) -> Result<Response, HostFailure> {
    with("http::send", |host| {
        if host.clock.cancelled() {
            return Err(tasks::cancelled());
        }
        let url = request.url.clone();
        host.http.calls.push(HttpCall {
            method: request.method.clone(),
            url: url.clone(),
            headers: request.headers.iter().map(|header| (header.name.clone(), header.value.clone())).collect(),
            body: request.body.clone(),
            options: request.options.clone(),
        });
        let answer = host.http.answers.pop_front();
        let answer = answer.unwrap_or_else(|| panic!("{} {url}: the script has no answer left", request.method));
        let answer = answer.map_err(HostFailure::from)?;
        Ok(Response {
            status: answer.status,
            url: if answer.url.is_empty() { url } else { answer.url },
            headers: answer.headers.into_iter().map(|(name, value)| Header { name, value }).collect(),
            body: answer.body,
        })
    })
}

pub(crate) fn start(request: &Request) -> Result<Pending, HostFailure> {
    Ok(Pending(send(request)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http;

    #[test]
    fn requests_are_answered_in_the_order_of_the_script() {
        let run =
            Mock::new().http(200, "one").http_answer(Err(Failure::unavailable("gone", "it is gone"))).call(|| {
                let answers = http::send_all([http::get("https://a.test/1"), http::post("https://a.test/2").body("x")]);
                answers.into_iter().map(|answer| answer.and_then(http::Response::text)).collect::<Vec<_>>()
            });
        assert_eq!(run.result[0].as_deref(), Ok("one"));
        assert_eq!(run.result[1].as_ref().unwrap_err().code, "gone");
        assert_eq!((run.http_calls[1].method.as_str(), run.http_calls[1].text().as_str()), ("POST", "x"));
    }
}
