//! `truncation: "auto"`: what is too long for a model is made shorter at its beginning.
//!
//! Whole turns are left out, each from a message of the user to the next one, and never the last. Instructions stay. A
//! call is left out with its output and an output with its call, wherever they are.

use std::collections::HashSet;

use outlast_protocol::input_tokens;
use serde_json::{Map, Value};

use super::conversation::Call;

impl Call {
    /// Whether it may be made shorter.
    pub(super) fn may_be_truncated(&self) -> bool {
        self.options.get("truncation").is_some_and(|truncation| truncation == "auto")
    }

    /// Leaves out turns until there are at most so many tokens, or one turn. Says how many items were left out.
    pub(super) fn truncate(&mut self, most: u64) -> usize {
        let sizes: Vec<u64> = self.input.iter().map(size).collect();
        let mut size = self.frame().saturating_add(sizes.iter().sum());
        let begins: Vec<usize> = (0..self.input.len()).filter(|at| is(&self.input[*at], "user")).collect();
        let mut until = 0;
        for begin in begins.into_iter().skip(usize::from(is_first(&self.input))) {
            if size <= most {
                break;
            }
            let left_out = (until..begin).filter(|at| !is_instruction(&self.input[*at])).map(|at| sizes[at]);
            size = size.saturating_sub(left_out.sum());
            until = begin;
        }
        self.leave_out(until)
    }

    /// Leaves out the oldest turns: half of the input, but not the last turn.
    pub(super) fn halve(&mut self) -> usize {
        let all: u64 = self.input.iter().map(size).sum();
        self.truncate(self.frame().saturating_add(all / 2))
    }

    /// The tokens of all but the input: instructions and tools.
    fn frame(&self) -> u64 {
        let mut fields = self.options.clone();
        fields.insert("instructions".to_owned(), self.instructions.as_deref().unwrap_or_default().into());
        input_tokens(std::iter::empty(), &fields)
    }

    /// Leaves out the items before `until`, but for instructions.
    fn leave_out(&mut self, until: usize) -> usize {
        let before = self.input.len();
        let kept = self.input.split_off(until);
        let (instructions, left_out): (Vec<Value>, Vec<Value>) =
            std::mem::take(&mut self.input).into_iter().partition(is_instruction);
        let gone: HashSet<&str> = left_out.iter().filter_map(|item| item["call_id"].as_str()).collect();
        let known = |item: &Value| item["call_id"].as_str().is_none_or(|id| !gone.contains(id));
        self.input = instructions.into_iter().chain(kept.into_iter().filter(known)).collect();
        before - self.input.len()
    }
}

fn size(item: &Value) -> u64 {
    let (none, fields) = (std::iter::empty(), Map::new());
    input_tokens(std::iter::once(item), &fields).saturating_sub(input_tokens(none, &fields))
}

fn is(item: &Value, role: &str) -> bool {
    item["type"].as_str().unwrap_or("message") == "message" && item["role"] == role
}

fn is_instruction(item: &Value) -> bool {
    is(item, "system") || is(item, "developer")
}

/// Whether nothing that can be left out is before the first message of the user.
fn is_first(items: &[Value]) -> bool {
    items.iter().find(|item| !is_instruction(item)).is_some_and(|item| is(item, "user"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn user(text: &str) -> Value {
        json!({"role": "user", "content": text})
    }

    fn said(text: &str) -> Value {
        json!({"role": "assistant", "content": text})
    }

    fn of_call(kind: &str, id: &str) -> Value {
        json!({"type": kind, "call_id": id, "name": "f", "arguments": "{}", "output": "x"})
    }

    fn call(input: &[Value]) -> Call {
        Call { input: input.to_vec(), ..Call::default() }
    }

    #[test]
    fn whole_turns_are_left_out_from_the_front() {
        let developer = json!({"role": "developer", "content": "be kind"});
        let turns = [said("hello"), user("one"), said("1"), developer.clone(), user("two"), said("2"), user("three")];
        for (most, left) in [
            (1_000, turns.to_vec()),
            (40, turns[1..].to_vec()),
            (30, [std::slice::from_ref(&developer), &turns[4..]].concat()),
            (1, vec![developer.clone(), user("three")]),
        ] {
            let mut call = call(&turns);
            let left_out = call.truncate(most);
            assert_eq!((left_out, call.input), (turns.len() - left.len(), left), "{most}");
        }
    }

    #[test]
    fn a_call_and_its_output_stay_together() {
        let (asked, answered) = (of_call("function_call", "c"), of_call("function_call_output", "c"));
        let mut whole = call(&[user("one"), asked.clone(), answered.clone(), said("1"), user("two")]);
        assert_eq!(whole.truncate(1), 4);
        assert_eq!(whole.input, [user("two")]);
        let mut split = call(&[user("one"), asked.clone(), user("two"), answered.clone()]);
        assert_eq!((split.truncate(1), split.input), (3, vec![user("two")]));
        // Of the last turn, nothing is left out.
        let mut last = call(&[user("one"), asked.clone(), answered.clone()]);
        assert_eq!((last.truncate(1), last.input.len()), (0, 3));
    }

    #[test]
    fn half_is_left_out_where_nobody_says_how_much_fits() {
        let mut long = call(&[user("one one one"), user("two two two"), user("three"), user("four")]);
        assert_eq!((long.halve(), long.input), (2, vec![user("three"), user("four")]));
        assert_eq!(call(&[user("one")]).halve(), 0);
    }
}
