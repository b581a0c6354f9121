//! The agent `keeper` keeps what it is told to: the tests of the host see the interface `state` through it.
//!
//! The user's text is a list of steps, separated by `;`. Each one that has something to say says it in a line. A scope is
//! `run`, `conversation` or `principal`.
//!
//! | step | what it does |
//! |---|---|
//! | `get SCOPE KEY` | says the value, or `-` |
//! | `set SCOPE KEY VALUE` | sets it |
//! | `fill SCOPE KEY BYTES` | sets a value of so many bytes |
//! | `delete SCOPE KEY` | removes it |
//! | `replace SCOPE KEY EXPECTED VALUE` | replaces it and says whether it did; `-` is no value |
//! | `keys SCOPE [PREFIX]` | says the keys |
//! | `count SCOPE KEY` | adds one and says the sum |
//! | `many SCOPE N` | sets so many keys, `many-0000` and so on |
//! | `say TEXT` | says it |
//! | `log TEXT` | writes it to the log of the run |
//! | `wait MS` | sleeps |
//! | `used N` | reports so many input and output tokens |
//! | `history` | says what was said in the earlier turns |
//! | `config` | says its configuration |
//! | `models` | says the models that it may call |
//! | `ask MODEL` | lets a model answer, and says what it was told |
//!
//! A step that fails says `KIND CODE: MESSAGE`, and the next one follows.

use std::time::Duration;

use outlast_guest::serde_json::{self, Value, json};
use outlast_guest::state::{self, Scope};
use outlast_guest::{Agent, Failure, Item, Outcome, Turn, Usage, Wants, context, log, model, respond, tasks};

struct Keeper;

outlast_guest::agent!(Keeper);

impl Agent for Keeper {
    const NAME: &'static str = "keeper";
    const ABOUT: &'static str = "Keeps what it is told to, for tests.";

    fn config_schema() -> Option<Value> {
        Some(json!({
            "type": "object",
            "properties": {
                "greeting": {"type": "string", "maxLength": 20},
                "limits": {"type": "object", "properties": {"max": {"type": "integer", "maximum": 10}}},
            },
            "additionalProperties": false,
        }))
    }

    fn wants() -> Wants {
        Wants::new()
            .why("For tests.")
            .these_models(["up/up-1"])
            .http("api.example.com", ["GET"])
            .secret("api.example.com", "authorization")
            .state("64KiB")
    }

    fn run(turn: Turn) -> Result<Outcome, Failure> {
        let mut message = respond::Message::open();
        for text in turn.user_text().split(';') {
            match step(text.trim()) {
                Ok(Some(line)) => message.write(&format!("{line}\n")),
                Ok(None) => {}
                Err(failure) => message.write(&format!("{} {}: {}\n", failure.kind, failure.code, failure.message)),
            }
        }
        message.finish();
        Ok(Outcome::Completed)
    }
}

fn step(text: &str) -> Result<Option<String>, Failure> {
    let words: Vec<&str> = text.split(' ').collect();
    Ok(match words.as_slice() {
        ["get", name, key] => {
            let value = state::get_bytes(scope(name)?, key)?;
            Some(value.map_or("-".into(), |value| String::from_utf8_lossy(&value).into_owned()))
        }
        ["set", name, key, value] => {
            state::set_bytes(scope(name)?, key, value.as_bytes())?;
            None
        }
        ["fill", name, key, bytes] => {
            state::set_bytes(scope(name)?, key, &vec![b'x'; bytes.parse()?])?;
            None
        }
        ["delete", name, key] => {
            state::delete(scope(name)?, key)?;
            None
        }
        ["replace", name, key, expected, value] => {
            let value_of = |word: &str| (word != "-").then(|| word.as_bytes().to_vec());
            let (expected, value) = (value_of(expected), value_of(value));
            Some(state::replace_bytes(scope(name)?, key, expected.as_deref(), value.as_deref())?.to_string())
        }
        ["keys", name] => Some(state::keys(scope(name)?, "")?.join(" ")),
        ["keys", name, prefix] => Some(state::keys(scope(name)?, prefix)?.join(" ")),
        ["count", name, key] => {
            let sum = state::update(scope(name)?, key, |sum: Option<u64>| Some(sum.unwrap_or(0) + 1))?;
            Some(sum.unwrap_or(0).to_string())
        }
        ["many", name, count] => {
            for number in 0..count.parse::<usize>()? {
                state::set_bytes(scope(name)?, &format!("many-{number:04}"), b"x")?;
            }
            None
        }
        ["say", words @ ..] => Some(words.join(" ")),
        ["log", words @ ..] => {
            log::info!("{}", words.join(" "));
            None
        }
        ["used", tokens] => {
            let tokens = tokens.parse()?;
            respond::report_usage(Usage { input_tokens: tokens, output_tokens: tokens, ..Usage::default() });
            None
        }
        ["history"] => {
            let history = context::history()?;
            let texts = history.iter().filter_map(|item| item.as_message()).map(|message| message.text().to_string());
            Some(texts.collect::<Vec<_>>().join(" | ").replace('\n', " "))
        }
        ["config"] => Some(context::config::<serde_json::Value>()?.to_string()),
        ["models"] => Some(model::models().join(" ")),
        ["ask", name] => {
            let request = model::Request::new().model(*name).input([Item::user("Say it.")]);
            Some(model::generate(request)?.finish()?.text())
        }
        ["wait", ms] => {
            tasks::sleep(Duration::from_millis(ms.parse()?))?;
            None
        }
        _ => return Err(Failure::invalid("unknown_step", format!("no such step: {text:?}"))),
    })
}

fn scope(name: &str) -> Result<Scope, Failure> {
    Ok(match name {
        "run" => Scope::Run,
        "conversation" => Scope::Conversation,
        "principal" => Scope::Principal,
        _ => return Err(Failure::invalid("unknown_scope", format!("no such scope: {name:?}"))),
    })
}
