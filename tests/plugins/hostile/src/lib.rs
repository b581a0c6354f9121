//! The agent `hostile` misbehaves on demand: the tests of the host use it to see every limit and every way
//! to end from the outside.
//!
//! The first word of the user's text chooses the behaviour, the words behind it are its arguments.
//!
//! | text | behaviour |
//! |---|---|
//! | `say TEXT` | says the text |
//! | `refuse TEXT` | refuses with the text |
//! | `wait MS` | sleeps, then says `done` |
//! | `naps N MS` | sleeps so many times for nothing, says `napped`, sleeps, then says `done` |
//! | `spin` | computes for ever |
//! | `laps N ROUNDS MS` | so many times: computes so many million rounds, says `x`, sleeps |
//! | `compute ROUNDS N MS` | computes so many million rounds, sleeps so many times, says `done` |
//! | `overflow` | recurses for ever |
//! | `grow [MIB]` | takes memory, for ever or up to so many MiB, then says `ok` |
//! | `grow-hold MIB MS` | takes so many MiB, says `ok`, sleeps |
//! | `panic` | panics with `agent logic blew up: n=1` |
//! | `exit` | calls `std::process::exit(3)` |
//! | `fail` | returns failure `other`, code `nope` |
//! | `big BYTES` | one write of so many bytes |
//! | `empty N`, `events N` | so many writes of `""`, of `"x"` |
//! | `messages N` | opens and finishes so many messages |
//! | `open` | returns while a written message, a reasoning item and an empty message are still open |
//! | `late-write` | writes to a message that is finished |
//! | `badjson` | forwards input that is not JSON, says the failure |
//! | `forward-bad` | forwards to the model `nope/none`, says the failure |
//! | `forward MODEL MS` | forwards to the model, sleeps, says `done` |
//! | `generate MODEL` | says what the model says piece by piece, then what `finish` returns |
//! | `forget-cancel` | sleeps again and again, whatever the answer |
//! | `stdout N` | prints so many lines on standard output and as many on standard error |
//! | `stdout-at-once BYTES` | one write of so many line breaks to standard output |
//! | `stdout-breaks N` | so many writes of 4,096 line breaks to standard output, then says `ok` |
//! | `random BYTES` | asks for so many random bytes at once, then says `ok` |
//! | `http-options BYTES` | sends a request with options of so many bytes, says the failure |
//! | `model-values BYTES N MODEL` | asks the model so many times with so many bytes of numbers, says the last failure |
//! | `model-hold BYTES N MODEL` | begins so many calls with so many bytes of messages, says how many it could, and the last failure |
//! | `log N BYTES` | so many log lines of so many bytes |
//! | `clock` | says the time, a hash order and random numbers |
//! | `env` | says what is to be seen of the world outside |
//! | `http REQUEST` | sends the request, says what came of it |
//! | `http-hold MS REQUEST` | the same, sleeps, says `done` |
//! | `http-beside MS REQUEST` | begins the request, sleeps, says what came of it |
//! | `http-race MS REQUESTS` | sleeps, begins all requests, says what comes of them as it comes |
//! | `http-flood N REQUEST` | begins the request so many times, says how often it could, and the last failure |
//! | `http-large BYTES REQUEST` | sends the request with such a header, then with such a body |
//! | `http-at-most MS REQUEST` | waits for the request or for a timer, says which ended |
//! | `http-all N URL` | sends so many requests at once with the SDK, says their bodies in order |
//! | `http-misuse REQUEST` | gives a request up, takes an answer twice, waits for nothing |
//! | `tools` | says the names of the tools that it is granted |
//! | `tool NAME ARGUMENTS` | calls the tool, says what came of it |
//! | `tool-hold MS NAME ARGUMENTS` | the same, sleeps, says `done` |
//! | `tool-race CALLS` | begins all calls, pairs of a name and arguments, says what comes of them as it comes |
//! | `tool-flood N NAME ARGUMENTS` | begins the call so many times, says how often it could, and the last failure |
//! | `tool-misuse NAME ARGUMENTS` | gives a call up, takes an answer twice |
//! | `tool-large BYTES NAME` | calls the tool with so many bytes of arguments |
//! | `denied` | tries everything that has to be granted, says what came of it |
//! | `timers N` | begins so many timers, waits for all, says how many there were |
//! | `leak N` | begins so many timers and gives none of their handles back, then says `ok` |
//! | `recall KEY` | says what it keeps for the principal under the key, or `-` |
//! | `history` | says who said what in the earlier turns |
//!
//! Anything else, and an argument that is no number, is failure `invalid`.

mod calls;
mod http;
mod limits;
mod models;
mod rules;
mod sandbox;
mod tools;

use std::time::Duration;

use outlast_guest::{Agent, Failure, Outcome, Turn, respond, state, tasks};

struct Hostile;

outlast_guest::agent!(Hostile);

impl Agent for Hostile {
    const NAME: &'static str = "hostile";
    const ABOUT: &'static str = "Misbehaves on demand, for tests.";

    fn run(turn: Turn) -> Result<Outcome, Failure> {
        let text = turn.user_text();
        let (behaviour, argument) = text.split_once(' ').unwrap_or((&text, ""));
        match behaviour {
            "say" => respond::text(argument),
            "refuse" => rules::refuse(argument),
            "wait" => wait(number(argument)?)?,
            "naps" => {
                let (naps, ms) = argument.split_once(' ').unwrap_or((argument, ""));
                for _ in 0..number(naps)? {
                    tasks::sleep(Duration::ZERO)?;
                }
                respond::text("napped");
                wait(number(ms)?)?;
            }

            "spin" => limits::spin(),
            "laps" | "compute" => {
                let (first, rest) = pair(argument);
                let (second, ms) = pair(rest);
                let (first, second, ms) = (number(first)?, number(second)?, number(ms)?);
                match behaviour {
                    "laps" => limits::laps(first, second, ms)?,
                    _ => limits::compute_once(first, second, ms)?,
                }
            }
            "overflow" => limits::overflow(),
            "grow" if argument.is_empty() => limits::grow(usize::MAX),
            "grow" => limits::grow(number(argument)?),
            "grow-hold" => {
                let (mib, ms) = pair(argument);
                limits::grow_and_hold(number(mib)?, number(ms)?)?;
            }
            "panic" => panic!("agent logic blew up: n=1"),
            "exit" => std::process::exit(3),
            "fail" => return Err(Failure::other("nope", "the agent was told to fail")),
            "big" => limits::write(1, &"x".repeat(number(argument)?)),
            "empty" => limits::write(number(argument)?, ""),
            "events" => limits::write(number(argument)?, "x"),
            "messages" => limits::messages(number(argument)?),
            "stdout" => limits::print(number(argument)?),
            "stdout-at-once" => calls::write_at_once(number(argument)?),
            "stdout-breaks" => calls::write_breaks(number(argument)?),
            "random" => calls::random(number(argument)?),
            "http-options" => calls::options(number(argument)?),
            "model-values" | "model-hold" => {
                let (bytes, rest) = pair(argument);
                let (times, model) = pair(rest);
                match behaviour {
                    "model-values" => calls::values(number(bytes)?, number(times)?, model),
                    _ => calls::hold(number(bytes)?, number(times)?, model),
                }
            }
            "log" => {
                let (lines, bytes) = argument.split_once(' ').unwrap_or((argument, ""));
                limits::log(number(lines)?, number(bytes)?);
            }

            "forward" => {
                let (name, ms) = argument.split_once(' ').unwrap_or((argument, ""));
                models::forward(name)?;
                wait(number(ms)?)?;
            }
            "generate" => models::generate(argument)?,

            "http" => http::send(argument)?,
            "http-misuse" => http::misuse(argument)?,
            "http-hold" => {
                let (ms, request) = pair(argument);
                http::send(request)?;
                wait(number(ms)?)?;
            }
            "http-all" | "http-beside" | "http-race" | "http-flood" | "http-large" | "http-at-most" => {
                let (count, rest) = pair(argument);
                let count = number(count)?;
                match behaviour {
                    "http-beside" => http::sleep_beside(count as u64, rest)?,
                    "http-race" => http::race(count as u64, rest)?,
                    "http-all" => http::all(count, rest)?,
                    "http-flood" => http::flood(count, rest)?,
                    "http-at-most" => http::at_most(count as u64, rest)?,
                    _ => http::large(count, rest)?,
                }
            }

            "tools" => tools::names(),
            "tool" => tools::call(argument)?,
            "tool-race" => tools::race(argument)?,
            "tool-misuse" => tools::misuse(argument)?,
            "tool-hold" | "tool-flood" | "tool-large" => {
                let (count, rest) = pair(argument);
                let count = number(count)?;
                match behaviour {
                    "tool-flood" => tools::flood(count, rest)?,
                    "tool-large" => tools::large(count, rest)?,
                    _ => {
                        tools::call(rest)?;
                        wait(count)?;
                    }
                }
            }

            "denied" => rules::try_everything(),
            "timers" => limits::timers(number(argument)?)?,
            "leak" => limits::leak(number(argument)?),
            "open" => rules::leave_open(),
            "late-write" => rules::write_late(),
            "badjson" => rules::forward_bad_json(),
            "forward-bad" => rules::forward_to_nobody(),
            "forget-cancel" => rules::forget_cancel(),

            "clock" => respond::text(&sandbox::clock()),
            "env" => respond::text(&sandbox::environment()),
            "recall" => {
                let kept = state::get_bytes(state::Scope::Principal, argument)?;
                respond::text(&kept.map_or("-".into(), |kept| String::from_utf8_lossy(&kept).into_owned()));
            }
            "history" => respond::text(&sandbox::history()?),

            _ => {
                return Err(Failure::invalid("unknown_behaviour", format!("no such behaviour: {behaviour:?}")));
            }
        }
        Ok(Outcome::Completed)
    }
}

fn pair(text: &str) -> (&str, &str) {
    text.split_once(' ').unwrap_or((text, ""))
}

fn number(text: &str) -> Result<usize, Failure> {
    text.parse().map_err(|_| Failure::invalid("invalid_argument", format!("not a number: {text:?}")))
}

fn wait(ms: usize) -> Result<(), Failure> {
    tasks::sleep(Duration::from_millis(ms as u64))?;
    respond::text("done");
    Ok(())
}
