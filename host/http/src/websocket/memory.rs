//! What a WebSocket remembers: the turns of its responses that are kept nowhere else.
//!
//! With `store: false` nothing is written, and yet the next turn may go on from the last one, as long as both come
//! over the same socket. What that takes is bounded in responses and in bytes; the oldest are forgotten first.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use outlast_protocol::ResponseId;
use serde_json::Value;

/// What stands behind a response that is not kept: a stored response, if there is one, and the turns after it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Chain {
    /// The last response of the chain that the database has.
    pub stored: Option<ResponseId>,
    /// The turns after it, each a JSON array of items. Chains that share turns share memory.
    turns: Vec<Arc<str>>,
}

impl Chain {
    /// The chain that begins behind a stored response, or behind nothing.
    pub fn after(stored: Option<ResponseId>) -> Self {
        Self { stored, turns: Vec::new() }
    }

    /// This chain with one turn more.
    pub fn with(mut self, turn: &[Value]) -> Self {
        // Strings, numbers and lists: they always serialize.
        self.turns.push(serde_json::to_string(turn).unwrap_or_default().into());
        self
    }

    /// The items of all turns, oldest first.
    pub fn items(&self) -> Vec<Value> {
        let turn = |turn: &Arc<str>| serde_json::from_str::<Vec<Value>>(turn).unwrap_or_default();
        self.turns.iter().flat_map(turn).collect()
    }
}

/// The chains of one socket.
#[derive(Debug)]
pub(super) struct Memory {
    responses: usize,
    bytes: usize,
    kept: VecDeque<(String, Chain)>,
}

impl Memory {
    /// A memory for so many responses, whose turns have at most `bytes` together.
    pub fn new(responses: usize, bytes: usize) -> Self {
        Self { responses, bytes, kept: VecDeque::new() }
    }

    /// The chain that ends with a response.
    pub fn get(&self, id: &str) -> Option<&Chain> {
        self.kept.iter().find(|(kept, _)| kept == id).map(|(_, chain)| chain)
    }

    /// Remembers a response, and forgets the oldest ones when there is no room.
    pub fn keep(&mut self, id: &ResponseId, chain: Chain) {
        self.kept.push_back((id.to_string(), chain));
        while self.kept.len() > self.responses || self.size() > self.bytes {
            self.kept.pop_front();
        }
    }

    /// Forgets a response.
    pub fn forget(&mut self, id: &str) {
        self.kept.retain(|(kept, _)| kept != id);
    }

    /// How many bytes the turns have, those that chains share counted once.
    fn size(&self) -> usize {
        let mut seen = HashSet::new();
        let turns = self.kept.iter().flat_map(|(_, chain)| &chain.turns);
        turns.filter(|turn| seen.insert(Arc::as_ptr(turn).cast::<u8>())).map(|turn| turn.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use uuid::Uuid;

    use super::*;

    fn id(number: u128) -> ResponseId {
        ResponseId::new(Uuid::from_u128(number))
    }

    fn text(length: usize) -> Vec<Value> {
        vec![json!("x".repeat(length))]
    }

    #[test]
    fn a_chain_is_its_turns_in_order() {
        let chain = Chain::after(Some(id(9))).with(&[json!(1), json!(2)]).with(&[]).with(&[json!(3)]);
        assert_eq!(chain.items(), [json!(1), json!(2), json!(3)]);
        assert_eq!(chain.stored, Some(id(9)));
    }

    #[test]
    fn the_oldest_response_is_forgotten_first() {
        let mut memory = Memory::new(2, 1_000);
        for number in 1..=3 {
            memory.keep(&id(number), Chain::default().with(&text(1)));
        }
        assert!(memory.get(id(1).as_str()).is_none());
        assert!(memory.get(id(2).as_str()).is_some());
        memory.forget(id(2).as_str());
        assert!(memory.get(id(2).as_str()).is_none());
        assert!(memory.get(id(3).as_str()).is_some());
    }

    #[test]
    fn turns_that_chains_share_count_once() {
        let mut memory = Memory::new(100, 1_000);
        let mut chain = Chain::default();
        for number in 0..9 {
            chain = chain.with(&text(96));
            memory.keep(&id(number), chain.clone());
        }
        assert_eq!(memory.size(), 900);
        assert!(memory.get(id(0).as_str()).is_some());
    }

    #[test]
    fn a_response_that_is_larger_than_the_memory_is_not_remembered() {
        let mut memory = Memory::new(100, 1_000);
        memory.keep(&id(1), Chain::default().with(&text(100)));
        memory.keep(&id(2), Chain::default().with(&text(1_000)));
        assert!(memory.get(id(1).as_str()).is_none());
        assert!(memory.get(id(2).as_str()).is_none());
        assert_eq!(memory.size(), 0);
    }
}
