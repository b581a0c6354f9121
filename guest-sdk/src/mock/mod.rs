//! A server for tests: an agent runs in it natively, under plain `cargo test`.
//!
//! A [`Mock`] is told what the agent is given (the input, the request, the configuration, what the models answer),
//! runs it on the thread of the test, and hands back everything that it did as a [`Run`].
//!
//! ```
//! use outlast_guest::mock::{Answer, Mock};
//! use outlast_guest::{Agent, Failure, Outcome, Turn, model};
//!
//! struct Poet;
//!
//! impl Agent for Poet {
//!     const NAME: &str = "poet";
//!     const ABOUT: &str = "Answers in rhyme.";
//!
//!     fn run(turn: Turn) -> Result<Outcome, Failure> {
//!         let request = model::Request::of(turn)?.instructions("Answer in rhyme.");
//!         Ok(model::forward(request)?.outcome())
//!     }
//! }
//!
//! let run = Mock::new().input("Hello").answer(Answer::new().text("Well met, ").text("my pet")).run::<Poet>();
//! assert_eq!(run.result, Ok(Outcome::Completed));
//! assert_eq!(run.text(), "Well met, my pet");
//! assert_eq!(run.deltas, ["Well met, ", "my pet"]);
//! assert_eq!(run.model_calls[0].instructions.as_deref(), Some("Answer in rhyme."));
//! ```
//!
//! Time stands still but for [`tasks::sleep`](crate::tasks::sleep), which takes no time of the test's. There is no
//! upstream and no network: a model, an HTTP server or a granted tool that is asked once more than the script has answers
//! fails the test.
//!
//! This module exists everywhere but in components.

pub(crate) mod clock;
pub(crate) mod config;
pub(crate) mod context;
pub(crate) mod http;
pub(crate) mod log;
pub(crate) mod model;
pub(crate) mod respond;
pub(crate) mod state;
pub(crate) mod tasks;
pub(crate) mod tools;

use std::cell::RefCell;
use std::time::Duration;

use crate::item::Item;
use crate::{Agent, Failure, Outcome, Turn, Usage, model as sdk_model};

pub use http::HttpCall;
pub use log::Line;
pub use model::Answer;
pub use tools::ToolCall;

thread_local! {
    /// The server of the agent that runs on this thread.
    static HOST: RefCell<Option<State>> = const { RefCell::new(None) };
}

/// What the interfaces know, each for itself.
#[derive(Debug, Default)]
struct State {
    clock: clock::State,
    context: context::State,
    http: http::State,
    log: log::State,
    model: model::State,
    respond: respond::State,
    state: state::State,
    tools: tools::State,
}

/// A server for one run, made ready step by step. What is not said is as empty as at a server without a
/// configuration.
#[derive(Debug, Default)]
#[must_use = "nothing runs before `run` or `call`"]
pub struct Mock {
    turn: Turn,
    state: State,
}

/// What came of a run.
#[derive(Debug)]
#[non_exhaustive]
pub struct Run<T> {
    /// What the agent returned.
    pub result: T,
    /// The items that the client sees, each with its `status`: `completed` or `incomplete`.
    pub output: Vec<Item>,
    /// The pieces of text in which the client sees them, refusals and reasoning summaries included.
    pub deltas: Vec<String>,
    /// The usage of the response.
    pub usage: Usage,
    /// What the agent wrote to its log.
    pub log: Vec<Line>,
    /// What models were asked, oldest first.
    pub model_calls: Vec<sdk_model::Request>,
    /// What was sent over HTTP, oldest first.
    pub http_calls: Vec<HttpCall>,
    /// Which granted tools were called, oldest first.
    pub tool_calls: Vec<ToolCall>,
    /// How many answers of the models' script were not asked for.
    pub answers_left: usize,
    /// How long the agent slept.
    pub slept: Duration,
}

impl<T> Run<T> {
    /// The text of all messages that the client sees, joined.
    pub fn text(&self) -> String {
        self.output.iter().filter_map(Item::as_message).map(|message| message.text()).collect()
    }

    /// The function calls that the client is asked to make.
    pub fn function_calls(&self) -> impl Iterator<Item = &crate::item::FunctionCall> {
        self.output.iter().filter_map(Item::as_function_call)
    }
}

impl<T> Run<Result<T, Failure>> {
    /// The failure with which it ended.
    ///
    /// # Panics
    ///
    /// It did not fail.
    pub fn failure(&self) -> &Failure {
        match &self.result {
            Err(failure) => failure,
            Ok(_) => panic!("the run did not fail; it said {:?}", self.text()),
        }
    }
}

impl Mock {
    /// A server that has nothing: no input, no configuration, no answers of a model. Its clock shows the first
    /// second of 2026.
    pub fn new() -> Self {
        let turn = Turn { response_id: "resp_mock".to_owned(), ..Turn::default() };
        Self { turn, state: State::default() }
    }

    /// Adds an item to the input; a text is a message of the user.
    pub fn input(mut self, item: impl Into<Item>) -> Self {
        self.turn.input.push(item.into());
        self
    }

    /// What the client wrote after the agent's name: the upstream model that it asks for.
    pub fn upstream_model(mut self, model: impl Into<String>) -> Self {
        self.turn.model = Some(model.into());
        self
    }

    /// Runs an agent.
    ///
    /// # Panics
    ///
    /// The agent does, or it does what a script has nothing for.
    pub fn run<A: Agent>(self) -> Run<Result<Outcome, Failure>> {
        let turn = self.turn.clone();
        self.call(|| A::run(turn))
    }

    /// Runs a piece of an agent, which may call everything that a whole one may call.
    ///
    /// ```
    /// use outlast_guest::{mock::Mock, tasks};
    /// use std::time::Duration;
    ///
    /// let run = Mock::new().call(|| tasks::sleep(Duration::from_secs(3600)));
    /// assert_eq!(run.slept, Duration::from_secs(3600));
    /// ```
    ///
    /// # Panics
    ///
    /// As [`run`](Self::run).
    pub fn call<T>(self, piece: impl FnOnce() -> T) -> Run<T> {
        let guard = Guard(HOST.replace(Some(self.state)));
        let result = piece();
        let Some(state) = HOST.take() else { unreachable!("it was put there, and calls of `call` are nested") };
        drop(guard);
        Run {
            result,
            output: state.respond.output,
            deltas: state.respond.deltas,
            usage: state.respond.usage,
            log: state.log.lines,
            answers_left: state.model.answers_left(),
            model_calls: state.model.calls,
            http_calls: state.http.calls,
            tool_calls: state.tools.calls,
            slept: state.clock.slept,
        }
    }
}

/// Puts back what was there, also when the agent panics.
struct Guard(Option<State>);

impl Drop for Guard {
    fn drop(&mut self) {
        HOST.replace(self.0.take());
    }
}

/// What is done of a call that only a server can answer.
fn with<T>(call: &str, answer: impl FnOnce(&mut State) -> T) -> T {
    match HOST.with_borrow_mut(|host| host.as_mut().map(answer)) {
        Some(answer) => answer,
        None => panic!("{call} was called outside a server: run it in an `outlast_guest::mock::Mock`"),
    }
}

/// As [`with`], for what happens when a handle is dropped: perhaps after the run.
fn with_if_there(answer: impl FnOnce(&mut State)) {
    let _ = HOST.try_with(|host| host.try_borrow_mut().ok().and_then(|mut host| host.as_mut().map(answer)));
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use super::*;
    use crate::respond::{self, Message};
    use crate::tasks;

    #[test]
    fn an_unfinished_message_is_incomplete() {
        let run = Mock::new().call(|| {
            respond::text("whole");
            let mut message = Message::open();
            message.write("ha");
            message.write("lf");
            Err::<(), _>(Failure::other("stop", "stop"))?;
            message.finish();
            Ok::<_, Failure>(())
        });
        let status = |at: usize| run.output[at].as_message().unwrap().rest["status"].as_str().unwrap().to_owned();
        assert_eq!((status(0).as_str(), status(1).as_str()), ("completed", "incomplete"));
        assert_eq!(run.text(), "wholehalf");
        assert_eq!(run.deltas, ["whole", "ha", "lf"]);
    }

    #[test]
    fn outside_a_mock_a_call_says_what_to_do() {
        let panic = catch_unwind(|| tasks::sleep(Duration::ZERO)).unwrap_err();
        assert!(panic.downcast_ref::<String>().unwrap().contains("mock::Mock"));
    }

    #[test]
    fn an_agent_that_panics_leaves_nothing_behind() {
        catch_unwind(|| Mock::new().call(|| panic!("on purpose"))).unwrap_err();
        assert!(HOST.take().is_none());
    }
}
