//! HTTP requests and their answers.
//!
//! Every answer is checked for what holds for all of them: a request id, and the one error envelope when it is not
//! 2xx.

use reqwest::{
    Body, Method,
    header::{CONTENT_TYPE, HeaderMap},
};
use serde_json::{Value, json};

use super::{description::Description, events::Events, schema, wait};

/// A client of one server.
#[derive(Clone, Debug)]
pub struct Client {
    url: String,
    key: Option<String>,
    http: reqwest::Client,
    /// Whether a proxy is between, which keeps what is for it.
    proxied: bool,
}

/// An answer with a body of JSON.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Value,
}

/// What sends requests.
pub fn http() -> reqwest::Client {
    // The TLS library wants to know its cryptography, even where there is no TLS.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().unwrap()
}

impl Client {
    /// A client for the server at `url`.
    pub fn new(url: &str) -> Self {
        Self { url: url.to_owned(), key: None, http: http(), proxied: false }
    }

    /// The same, with an API key.
    pub fn with_key(mut self, key: &str) -> Self {
        self.key = Some(key.to_owned());
        self
    }

    /// The same, through a proxy.
    pub fn proxied(self) -> Self {
        Self { proxied: true, ..self }
    }

    /// A request to `path`, to be completed and sent.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.url));
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    /// Sends a request and reads the answer.
    pub async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        wait::within(wait::PATIENCE, "an answer", async {
            let request = request.build().unwrap();
            let (method, path) = (request.method().clone(), request.url().path().to_owned());
            let sent = request.body().and_then(Body::as_bytes).and_then(|body| serde_json::from_slice(body).ok());
            let answer = self.http.execute(request).await.unwrap();
            let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
            let text = answer.text().await.unwrap();
            let body = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{status} without JSON: {text:?}"));
            let answer = Answer::checked(status, headers, body);
            if let Some(description) = self.description().await {
                description.check_answer(&method, &path, status, &answer.headers, &answer.body);
                if let (true, Some(sent)) = (status == 200, sent) {
                    description.check_request(&method, &path, &sent);
                }
            }
            answer
        })
        .await
    }

    /// What the server says of itself; none when it is gone.
    pub async fn description(&self) -> Option<&'static Description> {
        Description::of(&self.http, &self.url).await
    }

    /// `POST /v1/responses`
    pub async fn post(&self, body: Value) -> Answer {
        self.send(self.request(Method::POST, "/v1/responses").json(&body)).await
    }

    /// `POST /v1/responses`, which waits for the end of the run: its response, however it ended.
    pub async fn run(&self, body: Value) -> Value {
        let answer = self.post(body).await;
        if answer.status == 200 {
            return answer.response();
        }
        let id = answer.body["error"]["response_id"].as_str().unwrap_or_else(|| panic!("{}", answer.body));
        assert_eq!(answer.headers["x-outlast-response-id"], id);
        let response = self.response(id).await;
        assert_eq!(response["status"], "failed", "{response}");
        for field in ["code", "message"] {
            assert_eq!(answer.body["error"][field], response["error"][field]);
        }
        response
    }

    /// `POST /v1/responses` with any bytes, as JSON.
    pub async fn post_bytes(&self, body: impl Into<reqwest::Body>) -> Answer {
        let request = self.request(Method::POST, "/v1/responses").header(CONTENT_TYPE, "application/json");
        self.send(request.body(body)).await
    }

    /// `POST /v1/responses` with `stream: true`.
    pub async fn stream(&self, mut body: Value) -> Events {
        body["stream"] = json!(true);
        let request = self.request(Method::POST, "/v1/responses").json(&body);
        self.events(request, 0).await
    }

    /// Sends a request whose answer is a stream that begins with event `first`.
    pub async fn events(&self, request: reqwest::RequestBuilder, first: u64) -> Events {
        let answer = wait::within(wait::PATIENCE, "the head of a stream", request.send()).await.unwrap();
        let status = answer.status();
        if status != 200 {
            panic!("{status} instead of a stream: {}", answer.text().await.unwrap());
        }
        let headers = answer.headers();
        assert_eq!(headers["content-type"], "text/event-stream");
        assert_eq!(headers["cache-control"], "no-cache");
        assert_eq!(headers.get("x-accel-buffering").is_none(), self.proxied);
        assert!(self.proxied || headers["x-accel-buffering"] == "no");
        assert!(headers.contains_key("x-request-id"));
        Events::new(answer, first)
    }

    /// `GET` any path.
    pub async fn get_path(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    /// `GET /v1/responses/{id}`
    pub async fn get(&self, id: &str) -> Answer {
        self.get_path(&format!("/v1/responses/{id}")).await
    }

    /// The stored response, which must be there.
    pub async fn response(&self, id: &str) -> Value {
        let response = self.get(id).await.ok();
        schema::check_response(&response);
        response
    }

    /// Waits until the stored response has ended, and returns it.
    pub async fn ended(&self, id: &str) -> Value {
        wait::eventually(format!("{id} ends"), async || {
            let response = self.response(id).await;
            let active = response["status"] == "in_progress" || response["status"] == "queued";
            (!active).then_some(response)
        })
        .await
    }

    /// `GET /v1/responses/{id}?stream=true[&starting_after=N]`
    pub async fn get_stream(&self, id: &str, starting_after: Option<u64>) -> Events {
        let mut path = format!("/v1/responses/{id}?stream=true");
        if let Some(number) = starting_after {
            path.push_str(&format!("&starting_after={number}"));
        }
        self.events(self.request(Method::GET, &path), starting_after.map_or(0, |number| number + 1)).await
    }

    /// `POST /v1/responses/{id}/cancel`
    pub async fn cancel(&self, id: &str) -> Answer {
        self.send(self.request(Method::POST, &format!("/v1/responses/{id}/cancel"))).await
    }

    /// `GET /v1/models`: the ids.
    pub async fn models(&self) -> Vec<String> {
        let body = self.get_path("/v1/models").await.ok();
        body["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap().to_owned()).collect()
    }
}

impl Answer {
    fn checked(status: u16, headers: HeaderMap, body: Value) -> Self {
        assert!(headers.contains_key("x-request-id"), "no x-request-id: {headers:?}");
        assert!(headers[CONTENT_TYPE].as_bytes().starts_with(b"application/json"), "{headers:?}");
        if !(200..300).contains(&status) {
            let error = body["error"].as_object().unwrap_or_else(|| panic!("{status} without an envelope: {body}"));
            assert_eq!(body.as_object().unwrap().len(), 1, "{body}");
            for key in ["message", "type", "param", "code"] {
                assert!(error.contains_key(key), "no {key}: {body}");
            }
            assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{body}");
        }
        Self { status, headers, body }
    }

    /// The body of an answer that must be 200.
    pub fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        self.body
    }

    /// The response of an answer that must be 200.
    pub fn response(self) -> Value {
        let response = self.ok();
        schema::check_response(&response);
        response
    }

    /// Checks that this is an error with this status and this code, and gives its `param`.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) -> Option<&str> {
        assert_eq!((self.status, self.body["error"]["code"].as_str()), (status, Some(code)), "{}", self.body);
        self.body["error"]["param"].as_str()
    }

    /// The message of an error.
    pub fn message(&self) -> &str {
        self.body["error"]["message"].as_str().unwrap()
    }

    /// The `retry-after` header, in seconds.
    pub fn retry_after(&self) -> Option<u64> {
        self.headers.get("retry-after")?.to_str().ok()?.parse().ok()
    }
}
