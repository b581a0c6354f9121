//! The rules of the contract, broken. Where `outlast_guest` makes that impossible, the bindings below it
//! are called.

use std::mem::forget;
use std::time::Duration;

use outlast_guest::bindings::outlast::agent::{model as raw_model, respond as raw_respond};
use outlast_guest::{Failure, Item, http, model, respond, state, tasks};

pub fn refuse(text: &str) {
    let mut message = respond::Message::open();
    message.refuse(text);
    message.finish();
}

pub fn leave_open() {
    let mut written = respond::Message::open();
    written.write("partial");
    let mut reasoning = respond::Reasoning::open();
    reasoning.write("partial thought");
    let empty = respond::Message::open();
    forget((written, reasoning, empty));
}

pub fn write_late() {
    let message = raw_respond::Message::new();
    message.write("in time");
    message.finish();
    message.write("too late");
}

pub fn forward_bad_json() {
    let request = raw_model::Request { model: None, instructions: None, input: "not json".into(), options: None };
    say(raw_model::forward(&request).map(drop).map_err(Failure::from));
}

pub fn forward_to_nobody() {
    say(model::forward(model::Request::new().model("nope/none")).map(drop));
}

pub fn try_everything() {
    let tried = [
        http::get("https://example.com/").send().map(drop),
        http::get("http://169.254.169.254/latest/meta-data/").send().map(drop),
        state::set_bytes(state::Scope::Principal, "key", b"value"),
        state::get_bytes(state::Scope::Run, "key").map(drop),
        model::forward(model::Request::new().model("up/up-1").input([Item::user("?")])).map(drop),
        model::generate(model::Request::new().input([Item::user("?")])).map(drop),
    ];
    let said = tried.map(|tried| match tried {
        Ok(()) => "worked".to_owned(),
        Err(failure) => format!("{} {}", failure.kind, failure.code),
    });
    respond::text(&format!("{}\nmodels {}", said.join("\n"), model::models().len()));
}

pub fn forget_cancel() {
    loop {
        let _ = tasks::sleep(Duration::from_millis(50));
    }
}

fn say(result: Result<(), Failure>) {
    match result {
        Ok(()) => respond::text("worked"),
        Err(failure) => respond::text(&format!("{} {}", failure.kind, failure.code)),
    }
}
