//! The function calls of an answer, put together from their pieces.
//!
//! A piece says which call it belongs to by `index`, by `id`, or not at all. Servers give every call the index 0, every
//! piece an id of its own, or neither: so it is told from the name and from whether the arguments so far are whole. What
//! counts is that no piece of arguments is lost and no two calls become one.

use std::{collections::HashSet, sync::Arc};

use serde_json::Value;

use super::{
    conversation::FunctionCall,
    halves::Half,
    piece::{CallDelta, Piece},
};

/// The longest name of a function, in bytes.
const NAME: usize = 256;

/// Where the fields of a call are found.
const ARGUMENTS: [&str; 4] = ["arguments", "parameters", "args", "input"];

/// What some models put before the names of functions.
const PREFIXES: [&str; 4] = ["functions.", "function.", "tools.", "default_api."];

/// Calls under way.
#[derive(Debug, Default)]
pub(super) struct Calls {
    /// The names that the model was told.
    functions: Arc<[String]>,
    open: Vec<Open>,
    /// The calls that the list of this chunk has named already.
    named: HashSet<usize>,
}

#[derive(Debug, Default)]
struct Open {
    /// The number that the provider gave it.
    index: Option<u64>,
    call: FunctionCall,
    nesting: Nesting,
    half: Half,
}

/// What a piece says.
struct Said {
    index: Option<u64>,
    id: String,
    name: String,
    arguments: String,
}

impl Calls {
    /// None yet; the model was told of these functions.
    pub(super) fn new(functions: Arc<[String]>) -> Self {
        Self { functions, ..Self::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Takes in the `tool_calls` of a chunk. In a `whole` message the calls are in order and have no indexes.
    pub(super) fn take(&mut self, list: &Value, whole: bool) -> Result<Vec<Piece>, &'static str> {
        self.named.clear();
        let one = std::slice::from_ref(list);
        let list = list.as_array().map_or(if list.is_object() { one } else { &[] }, Vec::as_slice);
        let mut pieces = Vec::new();
        for (position, piece) in list.iter().enumerate() {
            let mut said = self.read(piece)?;
            said.index = said.index.or(whole.then_some(position as u64));
            pieces.push(self.add(said));
        }
        Ok(pieces)
    }

    fn read(&self, piece: &Value) -> Result<Said, &'static str> {
        let text = |value: &Value| value.as_str().unwrap_or_default().trim().to_owned();
        let function = if piece["function"].is_object() { &piece["function"] } else { piece };
        let name = self.declared(text(&function["name"]));
        if name.len() > NAME {
            return Err("The name of a function is too long.");
        }
        let arguments = match ARGUMENTS.iter().map(|field| &function[field]).find(|value| !value.is_null()) {
            None => String::new(),
            Some(Value::String(text)) => text.clone(),
            // Some servers send a value where JSON text belongs.
            Some(value) => value.to_string(),
        };
        let index = &piece["index"];
        let number = index.as_f64().or_else(|| index.as_str()?.trim().parse().ok());
        let index = number.filter(|number| *number >= 0.0).map(|number| number as u64);
        Ok(Said { index, id: text(&piece["id"]), name, arguments })
    }

    /// The function that a model means by a name.
    fn declared(&self, name: String) -> String {
        let known = |name: &str| self.functions.iter().any(|function| function == name);
        if name.is_empty() || known(&name) {
            return name;
        }
        let bare = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(&name);
        let bare =
            bare.rsplit_once(':').filter(|(_, number)| number.parse::<u32>().is_ok()).map_or(bare, |(bare, _)| bare);
        if known(bare) {
            return bare.to_owned();
        }
        let mut alike = self.functions.iter().filter(|function| function.eq_ignore_ascii_case(bare));
        match (alike.next(), alike.next()) {
            (Some(function), None) => function.clone(),
            _ => name,
        }
    }

    fn add(&mut self, said: Said) -> Piece {
        let place = self.place(&said).unwrap_or_else(|| {
            self.open.push(Open { index: said.index, ..Open::default() });
            self.open.len() - 1
        });
        let Said { id, name, arguments, .. } = said;
        let size = id.len() + name.len() + arguments.len();
        if !name.is_empty() {
            self.named.insert(place);
        }
        let open = &mut self.open[place];
        let arguments = open.half.join(arguments);
        open.nesting.read(&arguments);
        let call = &mut open.call;
        let known = !call.name.is_empty();
        if call.call_id.is_empty() {
            call.call_id = id;
        }
        if call.name.is_empty() {
            call.name = name;
        }
        call.arguments.push_str(&arguments);
        if call.name.is_empty() {
            return Piece::Call(size, None);
        }
        // With the name comes what came before it.
        let arguments = if known { arguments } else { call.arguments.clone() };
        Piece::Call(size, Some(CallDelta { place, name: call.name.clone(), arguments }))
    }

    /// The call that a piece continues; none when it begins one.
    fn place(&self, said: &Said) -> Option<usize> {
        let find = |fits: &dyn Fn(&Open) -> bool| self.open.iter().rposition(fits);
        let of_id = if said.id.is_empty() { None } else { find(&|open| open.call.call_id == said.id) };
        let last = self.open.len().checked_sub(1);
        let place = match said.index {
            Some(_) => match find(&|open| open.index == said.index) {
                // The numbers may count pieces, not calls.
                None if said.name.is_empty() && (of_id.is_some() || said.id.is_empty()) => of_id.or(last),
                place => place,
            },
            None => of_id.or(last),
        }?;
        let again = said.index.is_none() && !said.name.is_empty() && self.named.contains(&place);
        (!again && self.open[place].continues(said)).then_some(place)
    }

    /// The calls, whole.
    ///
    /// # Errors
    ///
    /// One of them has no name.
    pub(super) fn end(self) -> Result<Vec<FunctionCall>, &'static str> {
        let mut ids = HashSet::new();
        let mut calls = Vec::new();
        for Open { mut call, mut half, .. } in self.open {
            call.arguments.extend(half.end());
            if call.name.is_empty() {
                match call.arguments.trim() {
                    // Nothing was said.
                    "" if call.call_id.is_empty() => continue,
                    _ => return Err("A function call has no name."),
                }
            }
            if call.arguments.trim().is_empty() {
                call.arguments = "{}".to_owned();
            }
            // An id that comes twice names nothing.
            if !ids.insert(call.call_id.clone()) {
                call.call_id.clear();
            }
            calls.push(call);
        }
        Ok(calls)
    }
}

impl Open {
    /// Whether a piece is more of this call, where its number or its place say so.
    fn continues(&self, said: &Said) -> bool {
        let call = &self.call;
        if said.name.is_empty() || call.name.is_empty() {
            return true;
        }
        if !said.id.is_empty() && call.call_id == said.id && call.name == said.name {
            return true;
        }
        // A name that comes again is the same call as long as its arguments are not whole.
        let more = !self.nesting.is_whole() || said.arguments.is_empty() && said.id.is_empty();
        call.name == said.name && more
    }
}

/// Whether a JSON text that comes in pieces is whole: all that was opened is closed.
#[derive(Debug, Default)]
struct Nesting {
    depth: usize,
    begun: bool,
    in_text: bool,
    escaped: bool,
}

impl Nesting {
    fn read(&mut self, piece: &str) {
        for byte in piece.bytes() {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_text => self.escaped = true,
                b'"' => self.in_text = !self.in_text,
                b'{' | b'[' if !self.in_text => {
                    self.depth += 1;
                    self.begun = true;
                }
                b'}' | b']' if !self.in_text => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
        }
    }

    fn is_whole(&self) -> bool {
        self.begun && self.depth == 0 && !self.in_text
    }
}
