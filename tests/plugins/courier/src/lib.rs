//! The agent `courier` posts letters, one after the other, and says what became of each: the tests of the host count
//! whether they arrived.
//!
//! The user's text is `NAME URL COUNT once` or `NAME URL COUNT idempotent`: letters go to `URL/NAME/0`, `URL/NAME/1` and
//! so on. The answer is `0:200 1:interrupted …`: a status, or that nobody knows whether it arrived, which only happens
//! to those that are not marked idempotent.

use outlast_guest::{Agent, Failure, FailureKind, Outcome, Turn, agent, http, respond::Message};

struct Courier;

agent!(Courier);

impl Agent for Courier {
    const NAME: &'static str = "courier";
    const ABOUT: &'static str = "Posts letters, for tests.";

    fn run(turn: Turn) -> Result<Outcome, Failure> {
        let text = turn.user_text();
        let [name, url, count, mode] = text.split(' ').collect::<Vec<_>>()[..] else {
            return Err(Failure::invalid("invalid_input", format!("not `NAME URL COUNT MODE`: {text:?}")));
        };
        let count: u64 = count.parse().map_err(|_| Failure::invalid("invalid_input", "COUNT is not a number"))?;
        let mut message = Message::open();
        for letter in 0..count {
            let request =
                http::post(format!("{url}/{name}/{letter}")).body("Dear all").idempotent(mode == "idempotent");
            let became = match request.send() {
                Ok(response) => response.status.to_string(),
                Err(failure) if failure.kind == FailureKind::Interrupted => "interrupted".to_owned(),
                Err(failure) => return Err(failure),
            };
            message.write(&format!("{letter}:{became} "));
        }
        message.finish();
        Ok(Outcome::Completed)
    }
}
