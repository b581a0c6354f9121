//! Calls of models, for tests that stop the server in the middle of them.

use outlast_guest::{Failure, Item, model, respond};

pub fn forward(name: &str) -> Result<(), Failure> {
    model::forward(request(name)).map(drop)
}

pub fn generate(name: &str) -> Result<(), Failure> {
    let mut generation = model::generate(request(name))?;
    let mut message = respond::Message::open();
    for delta in &mut generation {
        if let model::Delta::Text(text) = delta {
            message.write(&text);
        }
    }
    message.write(" | ");
    match generation.finish() {
        Ok(completion) => message.write(&completion.text()),
        Err(failure) => message.write(&format!("{} {}", failure.kind, failure.code)),
    }
    message.finish();
    Ok(())
}

fn request(name: &str) -> model::Request {
    model::Request::new().model(name).input([Item::user("Go on.")])
}
