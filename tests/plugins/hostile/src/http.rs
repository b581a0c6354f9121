//! HTTP requests, also such that are none, are not allowed or are too many. The bindings are called, so that nothing
//! stands between the test and the contract.
//!
//! A request is JSON: `method`, `url`, `headers` (a list of pairs), `body` (a text), `options`. What comes of it is said
//! as one line of JSON: the answer, or the failure.

use std::time::Duration;

use outlast_guest::bindings::outlast::agent::{http, tasks as raw_tasks, types};
use outlast_guest::{Failure, respond, tasks};
use serde_json::{Value, json};

/// Sends a request.
pub fn send(request: &str) -> Result<(), Failure> {
    let request = read(&serde_json::from_str(request)?);
    respond::text(&shown(http::send(&request)));
    Ok(())
}

/// Begins a request, sleeps, and takes the answer.
pub fn sleep_beside(ms: u64, request: &str) -> Result<(), Failure> {
    let pending = http::start(&read(&serde_json::from_str(request)?))?;
    tasks::sleep(Duration::from_millis(ms))?;
    respond::text(&shown(pending.get()));
    Ok(())
}

/// Sleeps, begins all requests, and says what comes of them as it comes, each with its place.
pub fn race(ms: u64, requests: &str) -> Result<(), Failure> {
    let requests: Vec<Value> = serde_json::from_str(requests)?;
    tasks::sleep(Duration::from_millis(ms))?;
    let mut open = Vec::new();
    for (place, request) in requests.iter().enumerate() {
        let pending = http::start(&read(request))?;
        open.push((place, pending.task(), pending));
    }
    let mut message = respond::Message::open();
    while !open.is_empty() {
        let handles: Vec<_> = open.iter().map(|(_, task, _)| task).collect();
        let ended = raw_tasks::wait_any(&handles)?;
        for place in ended.into_iter().rev() {
            let (request, _, pending) = open.remove(place as usize);
            message.write(&format!("{request} {}\n", shown(pending.get())));
        }
    }
    message.finish();
    Ok(())
}

/// Sends a request for each path below a URL, all at the same time, and says their bodies in order.
pub fn all(count: usize, url: &str) -> Result<(), Failure> {
    let requests = (0..count).map(|number| outlast_guest::http::get(format!("{url}/{number}")));
    let mut message = respond::Message::open();
    for answer in outlast_guest::http::send_all(requests) {
        message.write(&format!("{} ", answer?.ok()?.text()?));
    }
    message.finish();
    Ok(())
}

/// Begins a request and gives it up, then says how a second wait and an empty one end.
pub fn misuse(request: &str) -> Result<(), Failure> {
    let request = read(&serde_json::from_str(request)?);
    drop(http::start(&request)?);
    let pending = http::start(&request)?;
    let task = pending.task();
    let _ = pending.get();
    let again = shown(pending.get());
    let ended = raw_tasks::wait_any(&[&task])?;
    drop(pending);
    let late = raw_tasks::wait_any(&[&task])?;
    let nothing = match raw_tasks::wait_any(&[]) {
        Ok(_) => "nothing".to_owned(),
        Err(failure) => failed(failure).to_string(),
    };
    respond::text(&format!("{again}\n{ended:?} {late:?}\n{nothing}"));
    Ok(())
}

/// Begins a request so many times, and says what came of the last one.
pub fn flood(count: usize, request: &str) -> Result<(), Failure> {
    let request = read(&serde_json::from_str(request)?);
    let mut open = Vec::new();
    let mut last = Value::Null;
    for _ in 0..count {
        match http::start(&request) {
            Ok(pending) => open.push(pending),
            Err(failure) => last = failed(failure),
        }
    }
    respond::text(&format!("{} {last}", open.len()));
    Ok(())
}

/// Sends a header and then a body of so many bytes.
pub fn large(bytes: usize, request: &str) -> Result<(), Failure> {
    let mut request = read(&serde_json::from_str(request)?);
    request.headers.push(http::Header { name: "x-large".into(), value: "x".repeat(bytes) });
    let header = shown(http::send(&request));
    request.headers.clear();
    request.body = vec![b'x'; bytes];
    respond::text(&format!("{header}\n{}", shown(http::send(&request))));
    Ok(())
}

/// Waits for a request, but not longer than so many milliseconds, and says which of them ended.
pub fn at_most(ms: u64, request: &str) -> Result<(), Failure> {
    let pending = http::start(&read(&serde_json::from_str(request)?))?;
    let enough = raw_tasks::after(ms);
    let ended = raw_tasks::wait_any(&[&pending.task(), &enough])?;
    respond::text(&format!("{ended:?}"));
    Ok(())
}

fn read(request: &Value) -> http::Request {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let headers = request["headers"].as_array().into_iter().flatten();
    http::Request {
        method: request["method"].as_str().unwrap_or("GET").to_owned(),
        url: text(&request["url"]),
        headers: headers.map(|pair| http::Header { name: text(&pair[0]), value: text(&pair[1]) }).collect(),
        body: text(&request["body"]).into_bytes(),
        options: request.get("options").map(Value::to_string),
    }
}

fn shown(result: Result<http::Response, types::Failure>) -> String {
    match result {
        Ok(response) => json!({
            "status": response.status,
            "url": response.url,
            "headers": response.headers.iter().map(|header| json!([header.name, header.value])).collect::<Vec<_>>(),
            "body": String::from_utf8_lossy(&response.body),
        }),
        Err(failure) => failed(failure),
    }
    .to_string()
}

fn failed(failure: types::Failure) -> Value {
    let Failure { kind, code, message, .. } = failure.into();
    json!({"kind": kind.as_str(), "code": code, "message": message})
}
