//! The agent `assistant` is a model with tools: the example to copy.
//!
//! It gives the model the conversation, three tools of its own, and those that the operator granted it. It runs the tools
//! that the model calls, and continues until the model has an answer. Functions that the client offers work too: their
//! calls are handed to the client.
//!
//! The operator may say, in the agent's configuration, which model is asked when the client names none, how the
//! assistant is to behave, and how often a model may be asked in a turn. The client's own instructions come after.

mod calculator;

use std::time::Duration;

use outlast_guest::tools::NoArguments;
use outlast_guest::{Agent, Failure, Outcome, ToolLoop, Turn, Wants, clock, context, model, schema, serde_json::Value};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

struct Assistant;

outlast_guest::agent!(Assistant);

/// What the operator may configure.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Config {
    /// The model that is asked when the client names none. Without it, the server's default model.
    model: Option<String>,
    /// How the assistant is to behave.
    instructions: String,
    /// How often a model may be asked in one turn.
    #[schemars(range(min = 1, max = 100))]
    max_steps: usize,
}

impl Default for Config {
    fn default() -> Self {
        let instructions = "You are a helpful assistant. Use the tools instead of guessing: `now` for the time, \
                            `calculate` for every calculation. Be brief.";
        Self { model: None, instructions: instructions.to_owned(), max_steps: 8 }
    }
}

/// The arguments of `calculate`. The model reads these comments.
#[derive(Deserialize, JsonSchema)]
struct Calculation {
    /// Numbers, parentheses, and the operators + - * / % ^, for example `(19.99 * 3) / 2^0.5`.
    expression: String,
}

/// The arguments of `wait`.
#[derive(Deserialize, JsonSchema)]
struct Wait {
    /// For how many seconds.
    #[schemars(range(min = 1, max = 86400))]
    seconds: u64,
}

impl Agent for Assistant {
    const NAME: &str = "assistant";
    const ABOUT: &str = "A model that knows the time, calculates, waits when it is asked to, and uses granted tools.";

    fn config_schema() -> Option<Value> {
        Some(schema::<Config>())
    }

    fn wants() -> Wants {
        Wants::new().models()
    }

    fn run(turn: Turn) -> Result<Outcome, Failure> {
        let config: Config = context::config()?;
        let mut request = model::Request::of(turn)?.preamble(config.instructions);
        request.model = request.model.or(config.model);
        ToolLoop::new(request)
            .tool("now", "The date and time, in UTC.", now)
            .tool("calculate", "Calculates, with 15 digits.", calculate)
            .tool("wait", "Waits before continuing. Use it only when the user asks for that.", wait)
            .granted()?
            .max_steps(config.max_steps)
            .run()
    }
}

fn now(_: NoArguments) -> Result<String, Failure> {
    Ok(humantime::format_rfc3339_seconds(clock::now()).to_string())
}

fn calculate(calculation: Calculation) -> Result<f64, Failure> {
    calculator::evaluate(&calculation.expression).map_err(|why| Failure::invalid("wrong_expression", why))
}

/// The run survives a stop of the server meanwhile, and continues when it was meant to.
fn wait(wait: Wait) -> Result<String, Failure> {
    let seconds = wait.seconds.clamp(1, 86_400);
    outlast_guest::tasks::sleep(Duration::from_secs(seconds))?;
    Ok(format!("{seconds} seconds have passed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use outlast_guest::Item;
    use outlast_guest::mock::{Answer, Mock};
    use serde_json::json;

    /// What the tools told the model before this call.
    fn told(request: &model::Request) -> Vec<&str> {
        let outputs = request.input.iter().filter_map(|item| match item {
            Item::FunctionCallOutput(output) => output.output.as_str(),
            _ => None,
        });
        outputs.collect()
    }

    #[test]
    fn it_calculates_until_it_has_an_answer() {
        let run = Mock::new()
            .input("What do three at 19.99 cost, and what time is it?")
            .answer(Answer::new().call("calculate", json!({"expression": "19.99 * 3"})).call("now", json!({})))
            .answer(Answer::new().text("59.97, ").text("and it is midnight."))
            .run::<Assistant>();
        assert_eq!(run.result, Ok(Outcome::Completed));
        assert_eq!(run.text(), "59.97, and it is midnight.");
        assert_eq!(told(&run.model_calls[1]), ["59.97", "2026-01-01T00:00:00Z"]);
    }

    #[test]
    fn it_uses_the_tools_that_it_is_granted() {
        let run = Mock::new()
            .tool("units__convert", Ok("42.16 km"))
            .input("How long is a marathon of 26.2 miles?")
            .answer(Answer::new().call("units__convert", json!({"value": 26.2, "from": "mi", "to": "km"})))
            .answer("42.16 kilometres.")
            .run::<Assistant>();
        assert_eq!(run.text(), "42.16 kilometres.");
        assert_eq!(told(&run.model_calls[1]), ["42.16 km"]);
        assert_eq!(run.tool_calls[0].arguments["from"], "mi");
    }

    #[test]
    fn a_mistake_goes_back_to_the_model() {
        let run = Mock::new()
            .input("1 / nothing?")
            .answer(Answer::new().call("calculate", json!({"expression": "1 / x"})))
            .answer("I cannot.")
            .run::<Assistant>();
        assert_eq!(run.text(), "I cannot.");
        assert_eq!(told(&run.model_calls[1]), ["Error: `x` is not a number (at character 5 of `1 / x`)"]);
    }

    #[test]
    fn the_configuration_speaks_before_the_client() {
        let run = Mock::new()
            .config(json!({"instructions": "Rhyme.", "model": "small"}))
            .request("instructions", "Be brief.")
            .input("Hello")
            .answer("Hello, my fellow")
            .run::<Assistant>();
        assert_eq!(run.model_calls[0].instructions.as_deref(), Some("Rhyme.\n\nBe brief."));
        assert_eq!(run.model_calls[0].model.as_deref(), Some("small"));
    }

    #[test]
    fn a_wrong_configuration_fails_and_says_why() {
        let run = Mock::new().config(json!({"max_step": 3})).run::<Assistant>();
        let failure = run.failure();
        assert_eq!(failure.code, "invalid_config");
        assert!(failure.message.contains("unknown field `max_step`"), "{failure}");
    }

    #[test]
    fn waiting_takes_the_time_that_was_asked_for() {
        let run = Mock::new()
            .input("Remind me in an hour")
            .answer(Answer::new().call("wait", json!({"seconds": 3600})))
            .answer("Now!")
            .run::<Assistant>();
        assert_eq!(run.slept, Duration::from_secs(3600));
        assert_eq!(told(&run.model_calls[1]), ["3600 seconds have passed"]);
    }
}
