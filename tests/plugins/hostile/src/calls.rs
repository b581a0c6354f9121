//! Calls of the host that are large, or much work for little. The bindings are called, so that nothing stands between the
//! test and the host.

use std::hint::black_box;

use outlast_guest::bindings::outlast::agent::{http, model};
use outlast_guest::{Failure, respond};
use wasip2::{cli::stdout::get_stdout, random::random::get_random_bytes};

/// What a stream takes at once, in bytes.
const WRITE: usize = 4_096;

pub fn write_at_once(bytes: usize) {
    let _ = get_stdout().write(&vec![b'\n'; bytes]);
    respond::text("ok");
}

pub fn write_breaks(times: usize) {
    let (out, breaks) = (get_stdout(), [b'\n'; WRITE]);
    for _ in 0..times {
        let _ = out.write(&breaks);
    }
    respond::text("ok");
}

pub fn random(bytes: usize) {
    black_box(get_random_bytes(bytes as u64));
    respond::text("ok");
}

pub fn options(bytes: usize) {
    let options = format!("{{\"a\":[0{}]}}", ",0".repeat(bytes / 2));
    let (method, url) = ("GET".to_owned(), "http://127.0.0.1:1/".to_owned());
    let request = http::Request { method, url, headers: Vec::new(), body: Vec::new(), options: Some(options) };
    respond::text(&shown(http::send(&request).err().map(Failure::from)));
}

pub fn values(bytes: usize, times: usize, name: &str) {
    let request = request(name, format!("[0{}]", ",0".repeat(bytes / 2)));
    let mut last = None;
    for _ in 0..times {
        last = model::generate(&request).err().map(Failure::from);
    }
    respond::text(&shown(last));
}

pub fn hold(bytes: usize, count: usize, name: &str) {
    const MESSAGE: &str = r#"{"role":"user","content":"x"}"#;
    let messages = vec![MESSAGE; (bytes / MESSAGE.len()).max(1)].join(",");
    let request = request(name, format!("[{messages}]"));
    let (mut held, mut last) = (Vec::new(), None);
    for _ in 0..count {
        match model::generate(&request) {
            Ok(generation) => held.push(generation),
            Err(failure) => last = Some(failure.into()),
        }
    }
    respond::text(&format!("{} {}", held.len(), shown(last)));
}

fn request(name: &str, input: String) -> model::Request {
    model::Request { model: Some(name.to_owned()), instructions: None, input, options: None }
}

fn shown(failure: Option<Failure>) -> String {
    failure.map_or_else(String::new, |failure| format!("{} {} {}", failure.kind, failure.code, failure.message))
}
