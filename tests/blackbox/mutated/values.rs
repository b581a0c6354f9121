//! Values that are right somewhere, values that have broken servers, and changes of both.

use fastrand::Rng;
use serde_json::{Map, Number, Value, json};

use crate::fields::REQUEST;

/// Names of fields that mean something in an item, or elsewhere.
const OTHERS: [&str; 16] = [
    "type",
    "role",
    "content",
    "id",
    "call_id",
    "name",
    "arguments",
    "output",
    "summary",
    "encrypted_content",
    "status",
    "items",
    "image_url",
    "format",
    "delay_ms",
    "",
];

const TEXTS: [&str; 26] = [
    "",
    "x",
    "echo",
    "chat/gpt-4o",
    "user",
    "assistant",
    "developer",
    "message",
    "function_call",
    "function_call_output",
    "item_reference",
    "compaction",
    "input_text",
    "auto",
    "none",
    "null",
    "0",
    "-1",
    "10000",
    "\u{0}",
    "\u{1b}[31m",
    "\u{202e}",
    "\u{feff}",
    "👩‍👩‍👧",
    "../../etc/passwd",
    "' OR 1=1 --",
];

/// One of these.
pub fn one<T: Copy>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.usize(..of.len())]
}

/// The name of a field.
fn field(rng: &mut Rng) -> &'static str {
    let at = rng.usize(..REQUEST.len() + OTHERS.len());
    REQUEST.get(at).unwrap_or_else(|| &OTHERS[at - REQUEST.len()])
}

/// True once in so many times.
pub fn once_in(rng: &mut Rng, times: u32) -> bool {
    rng.u32(..times) == 0
}

/// A text; mostly short.
pub fn text(rng: &mut Rng) -> String {
    match rng.u8(..12) {
        0 => one(rng, &TEXTS).repeat(rng.usize(..2_000)),
        1 => (0..rng.usize(..40)).map(|_| rng.char(..)).collect(),
        2 => format!("resp_{:032x}", rng.u128(..)),
        _ => one(rng, &TEXTS).to_owned(),
    }
}

/// Any value.
pub fn value(rng: &mut Rng) -> Value {
    match rng.u8(..14) {
        0 => Value::Null,
        1 => rng.bool().into(),
        2 => rng.i64(..).into(),
        3 => one(rng, &[0, 1, -1, 2, 1_000_000, i64::MAX, i64::MIN]).into(),
        4 => Number::from_f64(one(rng, &[0.5, -0.0, 1e308, 5e-324, 2.0])).map_or(Value::Null, Value::Number),
        5 => u64::MAX.into(),
        6 => json!([]),
        7 => json!({}),
        8 => (0..rng.usize(..4)).map(|_| value(rng)).collect(),
        9 => object(rng),
        10 => nested(rng),
        _ => text(rng).into(),
    }
}

fn object(rng: &mut Rng) -> Value {
    let fields = (0..rng.usize(..4)).map(|_| (field(rng).to_owned(), value(rng)));
    Value::Object(fields.collect::<Map<_, _>>())
}

/// Many of one kind, beside or in each other. Not deeper than what builds it can drop.
fn nested(rng: &mut Rng) -> Value {
    match rng.u8(..3) {
        0 => vec![json!(0); rng.usize(..3_000)].into(),
        1 => (0..rng.usize(..300)).fold(json!(1), |inner, _| json!([inner])),
        _ => (0..rng.usize(..300)).fold(json!(1), |inner, _| json!({"a": inner})),
    }
}

/// Changes something somewhere in a value.
pub fn change(rng: &mut Rng, value: &mut Value) {
    match value {
        Value::Object(fields) if !fields.is_empty() && !once_in(rng, 8) => {
            let name = fields.keys().nth(rng.usize(..fields.len())).cloned().unwrap_or_default();
            match rng.u8(..10) {
                0 => drop(fields.remove(&name)),
                1 => drop(fields.insert(field(rng).to_owned(), self::value(rng))),
                2 => drop(fields.insert(text(rng), self::value(rng))),
                _ => {
                    if let Some(inner) = fields.get_mut(&name) {
                        change(rng, inner);
                    }
                }
            }
        }
        Value::Array(list) if !list.is_empty() && !once_in(rng, 8) => {
            let place = rng.usize(..list.len());
            match rng.u8(..8) {
                0 => drop(list.remove(place)),
                1 => list.push(self::value(rng)),
                2 => {
                    let again = list[place].clone();
                    list.extend(vec![again; rng.usize(..50)]);
                }
                _ => change(rng, &mut list[place]),
            }
        }
        _ => *value = self::value(rng),
    }
}

/// Changes some bytes.
pub fn damage(rng: &mut Rng, bytes: &mut Vec<u8>) {
    if bytes.is_empty() {
        return;
    }
    let place = rng.usize(..bytes.len());
    match rng.u8(..6) {
        0 => bytes.truncate(place),
        1 => bytes[place] ^= 1 << rng.u8(..8),
        2 => bytes.insert(place, rng.u8(..)),
        3 => drop(bytes.remove(place)),
        4 => {
            let upto = (place + rng.usize(..64)).min(bytes.len());
            let again = bytes[place..upto].to_vec();
            bytes.splice(place..place, again);
        }
        _ => {
            drop(bytes.splice(
                place..place,
                one(rng, &[&b"\xff\xfe"[..], b"\0", b"\xed\xa0\x80", b"\r\n\r\n", b"{"]).to_vec(),
            ))
        }
    }
}
