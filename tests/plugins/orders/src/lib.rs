//! The agent `orders` orders things over HTTP, one after the other: the tests of the host count what arrives.
//!
//! The first word of the user's text is the customer's, every other one is ordered with a `POST` to the `url` of the
//! agent's configuration. A word that begins with `!` may be ordered again, which the request says. The agent says each
//! word when its order was taken, and with a `?` behind it when nobody knows.

use std::time::Duration;

use outlast_guest::{Agent, Failure, FailureKind, Outcome, Turn, context, http, respond};
use serde::Deserialize;

struct Orders;

outlast_guest::agent!(Orders);

#[derive(Default, Deserialize)]
#[serde(default)]
struct Config {
    url: String,
}

impl Agent for Orders {
    const NAME: &'static str = "orders";
    const ABOUT: &'static str = "Orders things over HTTP, for tests.";

    fn run(turn: Turn) -> Result<Outcome, Failure> {
        let Config { url } = context::config()?;
        let text = turn.user_text();
        let (customer, words) = text.split_once(' ').unwrap_or((&text, ""));
        let mut message = respond::Message::open();
        for word in words.split_whitespace() {
            let order = http::post(&url)
                .body(format!("{customer} {word}"))
                .idempotent(word.starts_with('!'))
                .timeout(Duration::from_secs(120));
            match order.send() {
                Ok(answer) => {
                    answer.ok()?;
                    message.write(&format!("{word} "));
                }
                Err(failure) if failure.kind == FailureKind::Interrupted => message.write(&format!("{word}? ")),
                Err(failure) => return Err(failure),
            }
        }
        message.finish();
        Ok(Outcome::Completed)
    }
}
