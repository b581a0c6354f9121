//! The agent `echo` says the text of the last user message back, word by word.
//!
//! Put together, the pieces are exactly that text: every word keeps the white space behind it. With
//! `metadata.delay_ms`, a string from `"0"` to `"10000"`, it waits that many milliseconds between two words,
//! which makes a run of any length without a language model.
//!
//! For its usage, a word counts as a token: as many input tokens as words were read, as many output tokens
//! as words were written.

use std::iter;
use std::time::Duration;

use outlast_guest::{Agent, Failure, Outcome, Turn, Usage, context, respond, tasks};

struct Echo;

outlast_guest::agent!(Echo);

impl Agent for Echo {
    const NAME: &'static str = "echo";
    const ABOUT: &'static str = "Repeats the last message of the user, word by word; metadata.delay_ms sets the \
                                 milliseconds between two words.";

    fn run(turn: Turn) -> Result<Outcome, Failure> {
        let delay = delay(context::request()?.metadata.get("delay_ms"))?;
        let text = turn.user_text();

        let mut message = respond::Message::open();
        for (n, word) in words(&text).enumerate() {
            if n > 0 && !delay.is_zero() {
                tasks::sleep(delay)?;
            }
            message.write(word);
        }
        message.finish();

        let tokens = text.split_whitespace().count() as u64;
        respond::report_usage(Usage { input_tokens: tokens, output_tokens: tokens, ..Usage::default() });
        Ok(Outcome::Completed)
    }
}

const MAX_DELAY_MS: u64 = 10_000;

/// The time between two words: none unless the client asks for it.
fn delay(delay_ms: Option<&String>) -> Result<Duration, Failure> {
    let Some(text) = delay_ms else {
        return Ok(Duration::ZERO);
    };
    match text.parse::<u64>() {
        // A number has one spelling: `+5` and `05` are refused like `5s`.
        Ok(ms) if ms <= MAX_DELAY_MS && ms.to_string() == *text => Ok(Duration::from_millis(ms)),
        _ => Err(Failure::invalid(
            "invalid_delay_ms",
            format!(
                "metadata.delay_ms must be a whole number of milliseconds from \"0\" to \
                 \"{MAX_DELAY_MS}\", as a string; it is {text:?}"
            ),
        )),
    }
}

/// Splits a text into words, each with the white space behind it. White space at the beginning goes with
/// the first word; a text of white space is one piece; an empty text has none.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    iter::from_fn(move || {
        let start = rest.len() - rest.trim_start().len();
        let word = rest[start..].find(char::is_whitespace).map_or(rest.len(), |length| start + length);
        let end = rest.len() - rest[word..].trim_start().len();
        let (piece, tail) = rest.split_at(end);
        rest = tail;
        (!piece.is_empty()).then_some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use outlast_guest::FailureKind;
    use outlast_guest::mock::Mock;

    #[test]
    fn it_says_every_word_after_the_delay() {
        let run = Mock::new()
            .input("one two  three")
            .request("metadata", std::collections::BTreeMap::from([("delay_ms", "500")]))
            .run::<Echo>();
        assert_eq!(run.result, Ok(Outcome::Completed));
        assert_eq!(run.deltas, ["one ", "two  ", "three"]);
        assert_eq!(run.slept, Duration::from_secs(1));
        assert_eq!((run.usage.input_tokens, run.usage.output_tokens), (3, 3));
    }

    #[test]
    fn a_cancel_leaves_the_message_unfinished() {
        let mock =
            Mock::new().input("one two").request("metadata", std::collections::BTreeMap::from([("delay_ms", "500")]));
        let run = mock.cancel_after(Duration::from_millis(200)).run::<Echo>();
        assert_eq!(run.failure().kind, FailureKind::Cancelled);
        assert_eq!((run.text().as_str(), run.slept), ("one ", Duration::from_millis(200)));
        assert_eq!(run.output[0].as_message().unwrap().rest["status"], "incomplete");
    }

    fn split(text: &str) -> Vec<&str> {
        words(text).collect()
    }

    #[test]
    fn a_word_keeps_the_white_space_behind_it() {
        assert_eq!(split("the quick  fox"), ["the ", "quick  ", "fox"]);
        assert_eq!(split("one"), ["one"]);
        assert_eq!(split("ends \n"), ["ends \n"]);
    }

    #[test]
    fn white_space_at_the_beginning_goes_with_the_first_word() {
        assert_eq!(split("\n\t a b"), ["\n\t a ", "b"]);
    }

    #[test]
    fn white_space_alone_is_one_piece_and_nothing_is_none() {
        assert_eq!(split(" \u{3000}\n"), [" \u{3000}\n"]);
        assert!(split("").is_empty());
    }

    #[test]
    fn words_are_split_at_unicode_white_space_and_nowhere_else() {
        assert_eq!(split("größer\u{a0}als 👩‍👩‍👧\u{2003}!"), ["größer\u{a0}", "als ", "👩‍👩‍👧\u{2003}", "!"]);
        assert_eq!(split("zero\u{200b}width"), ["zero\u{200b}width"]);
    }

    /// Every text of up to six characters from an alphabet that has each kind of neighbour: 19,531 texts.
    #[test]
    fn every_text_is_its_pieces_joined_and_every_piece_has_one_word() {
        let mut texts = vec![String::new()];
        let mut from = 0;
        for _ in 0..6 {
            let upto = texts.len();
            for n in from..upto {
                for c in ['a', 'é', ' ', '\n', '\u{3000}'] {
                    texts.push(format!("{}{c}", texts[n]));
                }
            }
            from = upto;
        }
        for text in &texts {
            let pieces = split(text);
            assert_eq!(&pieces.concat(), text);
            let counted = text.split_whitespace().count();
            assert_eq!(pieces.len(), counted.max(usize::from(!text.is_empty())), "{text:?}");
            for piece in pieces {
                assert!(piece.split_whitespace().count() <= 1, "{text:?}");
            }
        }
    }

    #[test]
    fn the_delay_is_none_unless_given() {
        assert_eq!(delay(None), Ok(Duration::ZERO));
        for (text, ms) in [("0", 0), ("1", 1), ("10000", 10_000)] {
            assert_eq!(delay(Some(&text.to_string())), Ok(Duration::from_millis(ms)));
        }
    }

    #[test]
    fn any_other_delay_is_refused() {
        for text in ["", " ", "-1", "+1", "01", "1.5", "10001", "1e3", "5s", "١", "99999999999999999999"] {
            let failure = delay(Some(&text.to_string())).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Invalid);
            assert_eq!(failure.code, "invalid_delay_ms");
            assert!(failure.message.contains("\"0\" to \"10000\""), "{}", failure.message);
        }
    }
}
