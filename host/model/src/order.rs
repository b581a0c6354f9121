//! The order of turns that Chat Completions servers and chat templates ask for.
//!
//! Clients of the Responses API may put instructions and outputs of functions anywhere. Most servers refuse that: the
//! outputs must follow their calls at once, and text is all that an output can have.

use std::collections::{HashMap, VecDeque};

use super::conversation::{Message, Part};

/// What stands for an output that is no text.
const NEXT: &str = "The output is in the next message.";

/// The turns in order: each output directly after the turn of its call, in the order of the calls, and after them what is
/// no text, as a message of the user. An output without its call stays where it is.
pub(super) fn ordered(turns: Vec<Message>) -> Vec<Message> {
    let calls = turns.iter().flat_map(|turn| match turn {
        Message::Assistant { calls, .. } => calls.as_slice(),
        _ => &[],
    });
    let mut outputs: HashMap<String, Outputs> = HashMap::new();
    for call in calls {
        outputs.entry(call.call_id.clone()).or_default().calls += 1;
    }
    let mut others = Vec::with_capacity(turns.len());
    for turn in turns {
        match &turn {
            Message::Output { call_id, .. } => match outputs.get_mut(call_id) {
                Some(known) => known.turns.push_back(turn),
                None => others.push(turn),
            },
            _ => others.push(turn),
        }
    }
    let mut ordered = Vec::with_capacity(others.len());
    for turn in others {
        let ids: Vec<String> = match &turn {
            Message::Assistant { calls, .. } => calls.iter().map(|call| call.call_id.clone()).collect(),
            _ => Vec::new(),
        };
        let mut shown = Vec::new();
        match turn {
            Message::Output { call_id, text, parts } => ordered.push(plain(call_id, text, parts, &mut shown)),
            other => ordered.push(other),
        }
        for id in ids {
            for output in outputs.get_mut(&id).map(Outputs::next).into_iter().flatten() {
                if let Message::Output { call_id, text, parts } = output {
                    ordered.push(plain(call_id, text, parts, &mut shown));
                }
            }
        }
        if !shown.is_empty() {
            ordered.push(Message::User(shown));
        }
    }
    ordered
}

/// What calls of one id returned: an id may come again.
#[derive(Default)]
struct Outputs {
    /// The calls whose outputs were not taken.
    calls: usize,
    turns: VecDeque<Message>,
}

impl Outputs {
    /// The outputs of the next call.
    fn next(&mut self) -> Vec<Message> {
        self.calls = self.calls.saturating_sub(1);
        let count = if self.calls == 0 { self.turns.len() } else { self.turns.len().min(1) };
        self.turns.drain(..count).collect()
    }
}

/// An output with text alone. What else it has is added to what is `shown` after it.
fn plain(call_id: String, text: String, parts: Vec<Part>, shown: &mut Vec<Part>) -> Message {
    if parts.is_empty() {
        return Message::Output { call_id, text, parts };
    }
    shown.push(Part::Text(format!("The output of the function call {call_id}:")));
    shown.extend(parts);
    let text = if text.is_empty() { NEXT.to_owned() } else { text };
    Message::Output { call_id, text, parts: Vec::new() }
}

/// The same with all instructions in one turn, the first.
pub(super) fn instructed(turns: &[Message]) -> Vec<Message> {
    let mut instructions = Vec::new();
    let mut others = Vec::with_capacity(turns.len());
    for turn in turns {
        match turn {
            Message::System(text) => instructions.push(text.as_str()),
            other => others.push(other.clone()),
        }
    }
    if !instructions.is_empty() {
        others.insert(0, Message::System(instructions.join("\n\n")));
    }
    others
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conversation::FunctionCall;

    fn user(text: &str) -> Message {
        Message::User(vec![Part::Text(text.to_owned())])
    }

    fn calls(ids: &[&str]) -> Message {
        let call = |id: &&str| FunctionCall { call_id: (*id).to_owned(), ..FunctionCall::default() };
        Message::Assistant { text: String::new(), reasoning: String::new(), calls: ids.iter().map(call).collect() }
    }

    fn output(id: &str) -> Message {
        Message::Output { call_id: id.to_owned(), text: "x".to_owned(), parts: Vec::new() }
    }

    #[test]
    fn outputs_follow_their_calls() {
        for (turns, expected) in [
            (
                vec![user("a"), calls(&["1"]), user("b"), output("1")],
                vec![user("a"), calls(&["1"]), output("1"), user("b")],
            ),
            (vec![output("1"), calls(&["1"])], vec![calls(&["1"]), output("1")]),
            (
                vec![calls(&["1", "2"]), output("2"), user("b"), output("1")],
                vec![calls(&["1", "2"]), output("1"), output("2"), user("b")],
            ),
            (
                vec![calls(&["1"]), user("b"), calls(&["2"]), output("2"), output("1")],
                vec![calls(&["1"]), output("1"), user("b"), calls(&["2"]), output("2")],
            ),
            // An id that comes again is another call.
            (
                vec![calls(&["1"]), output("1"), calls(&["1"]), output("1")],
                vec![calls(&["1"]), output("1"), calls(&["1"]), output("1")],
            ),
            // Its call is not there.
            (vec![output("3"), user("a")], vec![output("3"), user("a")]),
        ] {
            assert_eq!(ordered(turns), expected);
        }
    }

    #[test]
    fn what_is_no_text_follows_all_outputs_of_a_turn() {
        let image = Part::Image { url: "https://x/y.png".to_owned(), detail: None };
        let with = |id: &str, text: &str, parts: &[Part]| Message::Output {
            call_id: id.to_owned(),
            text: text.to_owned(),
            parts: parts.to_vec(),
        };
        let turns =
            vec![calls(&["1", "2"]), with("1", "", std::slice::from_ref(&image)), with("2", "x", &[]), user("b")];
        let said = Part::Text("The output of the function call 1:".to_owned());
        assert_eq!(
            ordered(turns),
            [
                calls(&["1", "2"]),
                with("1", NEXT, &[]),
                with("2", "x", &[]),
                Message::User(vec![said, image]),
                user("b")
            ]
        );
    }

    #[test]
    fn instructions_are_one_turn() {
        let system = |text: &str| Message::System(text.to_owned());
        let turns = [system("a"), user("b"), system("c")];
        assert_eq!(instructed(&turns), [system("a\n\nc"), user("b")]);
        assert_eq!(instructed(&[user("b")]), [user("b")]);
    }
}
