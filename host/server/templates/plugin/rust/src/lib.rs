//! The agent `{{name}}` counts the words that it is told.

use schemars::JsonSchema;
use serde::Deserialize;
use outlast_guest::serde_json::Value;
use outlast_guest::{Agent, Failure, Outcome, Turn, agent, context, respond, schema};

struct Counter;

agent!(Counter);

/// What the operator may configure. The server checks it against the schema of this type.
#[derive(Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Config {
    /// What is counted, for people.
    unit: String,
}

impl Default for Config {
    fn default() -> Self {
        Self { unit: "words".to_owned() }
    }
}

impl Agent for Counter {
    const NAME: &str = "{{name}}";
    const ABOUT: &str = "Counts the words that it is told.";

    fn config_schema() -> Option<Value> {
        Some(schema::<Config>())
    }

    fn run(turn: Turn) -> Result<Outcome, Failure> {
        let Config { unit } = context::config()?;
        let count = turn.user_text().split_whitespace().count();
        if count == 0 {
            return Err(Failure::invalid("nothing_said", "say something to be counted"));
        }
        respond::text(&format!("{count} {unit}"));
        Ok(Outcome::Completed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outlast_guest::mock::Mock;
    use serde_json::json;

    #[test]
    fn words_are_counted() {
        let run = Mock::new().input("three small words").run::<Counter>();
        assert_eq!(run.result, Ok(Outcome::Completed));
        assert_eq!(run.text(), "3 words");
    }

    #[test]
    fn the_operator_names_the_unit() {
        let run = Mock::new().config(json!({"unit": "Wörter"})).input("ja").run::<Counter>();
        assert_eq!(run.text(), "1 Wörter");
    }

    #[test]
    fn nothing_is_an_error() {
        let run = Mock::new().input(" ").run::<Counter>();
        assert_eq!(run.failure().code, "nothing_said");
    }
}
