//! What is asked for, and what must come of it.
//!
//! The first word of every input is the run's own: wherever a run comes up, in the database, at the model, it is known
//! by it.

use std::sync::Arc;

use serde_json::{Value, json};

/// What kind of run it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Says its input, with a pause behind every word.
    Echo,
    /// The same, in the background.
    Background,
    /// The same, begun with an idempotency key.
    Keyed,
    /// A model says something.
    Chat(Policy),
    /// Orders things over HTTP, of which every other one may be ordered again.
    Orders,
}

/// What becomes of a call of a model that was cut off: `on_interrupt` of its provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // The names say it.
pub enum Policy {
    Restart,
    Continue,
    Fail,
}

/// A run that is asked for.
#[derive(Debug)]
pub struct Plan {
    /// The first word of its input.
    pub marker: String,
    pub kind: Kind,
    /// Its idempotency key.
    pub key: Option<String>,
    /// The conversation of which it is a turn.
    pub conversation: Option<String>,
    /// Without `stream`.
    pub body: Value,
    /// What it says if nobody cuts off the model.
    pub text: String,
}

impl Policy {
    pub const ALL: [Self; 3] = [Self::Restart, Self::Continue, Self::Fail];

    /// As the configuration has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Continue => "continue",
            Self::Fail => "fail",
        }
    }
}

impl Kind {
    fn any(random: &mut fastrand::Rng) -> Self {
        match random.u8(..12) {
            0 | 1 => Self::Echo,
            2 | 3 => Self::Background,
            4 => Self::Keyed,
            5 | 6 => Self::Chat(Policy::Restart),
            7 | 8 => Self::Chat(Policy::Continue),
            9 => Self::Chat(Policy::Fail),
            _ => Self::Orders,
        }
    }
}

impl Plan {
    /// A run that stands for itself.
    pub fn new(marker: String, random: &mut fastrand::Rng) -> Arc<Self> {
        let kind = Kind::any(random);
        let with_key = kind == Kind::Keyed || matches!(kind, Kind::Chat(_)) && random.bool();
        Arc::new(Self::of(kind, marker, with_key, random))
    }

    /// A turn of a conversation. It has a key: without one, a client that did not see its answer begin could not know
    /// whether the turn was taken.
    pub fn turn(marker: String, conversation: &str, random: &mut fastrand::Rng) -> Arc<Self> {
        // What fails leaves no trace in a conversation.
        let kind = if random.bool() { Kind::Keyed } else { Kind::Chat(Policy::ALL[random.usize(..3)]) };
        let mut plan = Self::of(kind, marker, true, random);
        plan.body["conversation"] = conversation.into();
        plan.conversation = Some(conversation.to_owned());
        Arc::new(plan)
    }

    fn of(kind: Kind, marker: String, with_key: bool, random: &mut fastrand::Rng) -> Self {
        let words: Vec<_> = (0..random.usize(2..24)).map(|n| format!("w{n}")).collect();
        let input = format!("{marker} {}", words.join(" "));
        let (body, text) = match kind {
            Kind::Echo | Kind::Background | Kind::Keyed => {
                let delay = random.u64(0..150).to_string();
                let body = json!({"model": "echo", "input": input, "metadata": {"delay_ms": delay},
                    "background": kind == Kind::Background || kind == Kind::Keyed && random.bool()});
                (body, input)
            }
            Kind::Orders => {
                let things = words
                    .iter()
                    .enumerate()
                    .map(|(n, word)| if n % 2 == 0 { word.clone() } else { format!("!{word}") });
                let things = things.fold(String::new(), |text, thing| text + &thing + " ");
                let input = format!("{marker} {}", things.trim_end());
                (json!({"model": "orders", "input": input, "background": random.bool()}), things)
            }
            Kind::Chat(policy) => {
                let body = json!({"model": format!("chat/{}/slow", policy.name()), "input": input,
                    "background": random.bool()});
                (body, script(&marker))
            }
        };
        let key = with_key.then(|| format!("key-{marker}"));
        Self { marker, kind, key, conversation: None, body, text }
    }

    /// Whether it is answered before it has ended.
    pub fn background(&self) -> bool {
        self.body["background"] == true
    }
}

/// The first word of an input.
pub fn marker_of(input: &str) -> &str {
    input.split(' ').next().unwrap()
}

/// What the model says to the run with this marker: some words that nobody else says.
pub fn script(marker: &str) -> String {
    let count = 3 + marker.bytes().map(usize::from).sum::<usize>() % 40;
    let words: Vec<_> = (0..count).map(|n| format!("{marker}.{n}")).collect();
    words.join(" ")
}
