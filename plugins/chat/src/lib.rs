//! The agent `chat` is a conversation with an upstream model.
//!
//! `chat/gpt-4o` asks the model `gpt-4o`; `chat` asks the operator's default model. The model is given the
//! client's instructions, the earlier turns, the input of this turn, and those sampling parameters and
//! functions that the client sent. What it says goes straight to the client.

use outlast_guest::{Agent, Failure, Outcome, Turn, model};

struct Chat;

outlast_guest::agent!(Chat);

impl Agent for Chat {
    const NAME: &'static str = "chat";
    const ABOUT: &'static str = "A conversation with an upstream model: chat/gpt-4o asks gpt-4o, \
        chat alone asks the default model.";

    fn run(turn: Turn) -> Result<Outcome, Failure> {
        Ok(model::forward(model::Request::of(turn)?)?.outcome())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outlast_guest::mock::{Answer, Mock};
    use outlast_guest::{FailureKind, IncompleteReason, Item};
    use serde_json::json;

    #[test]
    fn the_model_is_asked_what_the_client_asked_and_answers_the_client() {
        let run = Mock::new()
            .upstream_model("gpt-4o")
            .request("instructions", "Be brief.")
            .history("my name is Ada")
            .history(Item::assistant("hello Ada"))
            .input("and yours?")
            .answer(Answer::new().reasoning("hm").text("I have ").text("none."))
            .run::<Chat>();
        assert_eq!(run.result, Ok(Outcome::Completed));
        assert_eq!(run.deltas, ["hm", "I have ", "none."]);
        let asked = &run.model_calls[0];
        assert_eq!((asked.model.as_deref(), asked.instructions.as_deref()), (Some("gpt-4o"), Some("Be brief.")));
        assert_eq!(asked.input.last(), Some(&Item::user("and yours?")));
        assert_eq!(asked.input.len(), 3);
    }

    #[test]
    fn a_function_of_the_client_is_called_by_the_client() {
        let run = Mock::new()
            .request("tools", json!([{"type": "function", "name": "add", "parameters": {}}]))
            .answer(Answer::new().call("add", json!([1, 2])))
            .run::<Chat>();
        assert_eq!(run.result, Ok(Outcome::Completed));
        assert_eq!(run.function_calls().next().unwrap().arguments, "[1,2]");
    }

    #[test]
    fn an_answer_cut_short_is_incomplete_and_a_failure_fails() {
        let run = Mock::new().answer(Answer::new().text("It goes o").finish_reason("length")).run::<Chat>();
        assert_eq!(run.result, Ok(Outcome::Incomplete(IncompleteReason::MaxOutputTokens)));
        let run = Mock::new().answer(Failure::unavailable("upstream_error", "down")).run::<Chat>();
        assert_eq!(run.failure().kind, FailureKind::Unavailable);
    }
}
