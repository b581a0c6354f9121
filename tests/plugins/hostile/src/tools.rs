//! Calls of tools, also such that are none, are not granted or are too many. The bindings are called, so that nothing
//! stands between the test and the contract.
//!
//! What comes of a call is said as one line of JSON: `{"answer": "…"}`, or the failure.

use outlast_guest::bindings::outlast::agent::{tasks, tools, types};
use outlast_guest::{Failure, respond};
use serde_json::{Value, json};

/// Says what it is granted.
pub fn names() {
    let names: Vec<_> = tools::available().into_iter().map(|tool| tool.name).collect();
    respond::text(&json!(names).to_string());
}

/// Calls a tool.
pub fn call(call: &str) -> Result<(), Failure> {
    let (name, arguments) = call.split_once(' ').unwrap_or((call, ""));
    respond::text(&shown(tools::call(name, arguments)));
    Ok(())
}

/// Begins all calls, and says what comes of them as it comes, each with its place.
pub fn race(calls: &str) -> Result<(), Failure> {
    let calls: Vec<(String, Value)> = serde_json::from_str(calls)?;
    let mut open = Vec::new();
    for (place, (name, arguments)) in calls.iter().enumerate() {
        let pending = tools::start(name, &arguments.to_string())?;
        open.push((place, pending.task(), pending));
    }
    let mut message = respond::Message::open();
    while !open.is_empty() {
        let handles: Vec<_> = open.iter().map(|(_, task, _)| task).collect();
        for place in tasks::wait_any(&handles)?.into_iter().rev() {
            let (call, _, pending) = open.remove(place as usize);
            message.write(&format!("{call} {}\n", shown(pending.get())));
        }
    }
    message.finish();
    Ok(())
}

/// Begins a call again and again, and keeps all of them.
pub fn flood(count: usize, call: &str) -> Result<(), Failure> {
    let (name, arguments) = call.split_once(' ').unwrap_or((call, ""));
    let (mut open, mut last) = (Vec::new(), None);
    for _ in 0..count {
        match tools::start(name, arguments) {
            Ok(pending) => open.push(pending),
            Err(failure) => last = Some(failure),
        }
    }
    let last = last.map(|failure| shown(Err(failure))).unwrap_or_default();
    respond::text(&format!("{} {last}", open.len()));
    Ok(())
}

/// Gives a call up, and takes the answer of another one twice.
pub fn misuse(call: &str) -> Result<(), Failure> {
    let (name, arguments) = call.split_once(' ').unwrap_or((call, ""));
    let given_up = tools::start(name, arguments)?;
    let task = given_up.task();
    drop(given_up);
    let pending = tools::start(name, arguments)?;
    pending.get()?;
    let again = shown(pending.get());
    let ended = tasks::wait_any(&[&task, &pending.task()])?;
    respond::text(&format!("{again}\n{ended:?}"));
    Ok(())
}

/// Calls a tool with large arguments.
pub fn large(bytes: usize, name: &str) -> Result<(), Failure> {
    let arguments = json!({"text": "x".repeat(bytes)}).to_string();
    respond::text(&shown(tools::call(name, &arguments)));
    Ok(())
}

fn shown(result: Result<String, types::Failure>) -> String {
    match result {
        Ok(answer) => json!({ "answer": answer }),
        Err(failure) => {
            let failure = Failure::from(failure);
            json!({"kind": failure.kind.as_str(), "code": failure.code, "message": failure.message})
        }
    }
    .to_string()
}
