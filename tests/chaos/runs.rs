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
    /// Letters are posted that may be posted once.
    Letters,
    /// Letters are posted that may be posted again.
    IdempotentLetters,
    /// Says its input, and leaves memory in the long sleep behind every word.
    Sleeper,
}

/// What becomes of a call of a model that was cut off: `on_interrupt` of its provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // The names say it.
pub enum Policy {
    Restart,
    Continue,
    Fail,
}

/// What becomes of a response that another one goes on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgotten {
    /// Its client deletes it.
    Deleted,
    /// It has been kept long enough.
    Expired,
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
    /// The conversation of several clients of which it is a turn.
    pub hall: Option<String>,
    /// The response that it goes on from, and what becomes of that one while it runs.
    pub previous: Option<(String, Forgotten)>,
    /// Without `stream`.
    pub body: Value,
    /// What it says if nobody cuts off the model; empty for letters.
    pub text: String,
    /// How many letters it posts.
    pub letters: u64,
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
        match random.u8(..16) {
            0 | 1 => Self::Echo,
            2 | 3 => Self::Background,
            4 => Self::Keyed,
            10 | 11 => Self::Letters,
            12 | 13 => Self::IdempotentLetters,
            14 | 15 => Self::Sleeper,
            5 | 6 => Self::Chat(Policy::Restart),
            7 | 8 => Self::Chat(Policy::Continue),
            _ => Self::Chat(Policy::Fail),
        }
    }
}

impl Plan {
    /// A run that stands for itself. Letters go to `letterbox`.
    pub fn new(marker: String, letterbox: &str, random: &mut fastrand::Rng) -> Arc<Self> {
        let kind = Kind::any(random);
        let with_key = kind == Kind::Keyed || matches!(kind, Kind::Chat(_)) && random.bool();
        Arc::new(Self::of(kind, marker, letterbox, with_key, random))
    }

    /// A turn of a conversation. It has a key: without one, a client that did not see its answer begin could not know
    /// whether the turn was taken.
    pub fn turn(marker: String, conversation: &str, letterbox: &str, random: &mut fastrand::Rng) -> Arc<Self> {
        // What fails leaves no trace in a conversation.
        let kind = match random.u8(..9) {
            0..4 => Kind::Keyed,
            4 => Kind::Letters,
            _ => Kind::Chat(Policy::ALL[random.usize(..3)]),
        };
        let mut plan = Self::of(kind, marker, letterbox, true, random);
        plan.body["conversation"] = conversation.into();
        plan.conversation = Some(conversation.to_owned());
        Arc::new(plan)
    }

    /// A turn of a conversation in which others take turns too.
    pub fn in_hall(marker: String, hall: &str, letterbox: &str, random: &mut fastrand::Rng) -> Arc<Self> {
        let kind = if random.bool() { Kind::Keyed } else { Kind::Chat(Policy::ALL[random.usize(..3)]) };
        let mut plan = Self::of(kind, marker, letterbox, true, random);
        plan.body["conversation"] = hall.into();
        plan.hall = Some(hall.to_owned());
        Arc::new(plan)
    }

    /// A response that another one is to go on from.
    pub fn first(marker: String, letterbox: &str, random: &mut fastrand::Rng) -> Arc<Self> {
        Arc::new(Self::of(Kind::Keyed, marker, letterbox, true, random))
    }

    /// A run that goes on from the response `previous`.
    pub fn behind(marker: String, previous: &str, letterbox: &str, random: &mut fastrand::Rng) -> Arc<Self> {
        let kind = match random.u8(..3) {
            0 => Kind::Sleeper,
            1 => Kind::Chat(Policy::Restart),
            _ => Kind::Chat(Policy::Continue),
        };
        let mut plan = Self::of(kind, marker, letterbox, true, random);
        plan.body["previous_response_id"] = previous.into();
        let forgotten = if random.bool() { Forgotten::Deleted } else { Forgotten::Expired };
        plan.previous = Some((previous.to_owned(), forgotten));
        Arc::new(plan)
    }

    fn of(kind: Kind, marker: String, letterbox: &str, with_key: bool, random: &mut fastrand::Rng) -> Self {
        let words: Vec<_> = (0..random.usize(2..24)).map(|n| format!("w{n}")).collect();
        let input = format!("{marker} {}", words.join(" "));
        let mut letters = 0;
        let (body, text) = match kind {
            Kind::Echo | Kind::Background | Kind::Keyed => {
                let delay = random.u64(0..150).to_string();
                let body = json!({"model": "echo", "input": input, "metadata": {"delay_ms": delay},
                    "background": kind == Kind::Background || kind == Kind::Keyed && random.bool()});
                (body, input)
            }
            Kind::Sleeper => {
                let words = &words[..words.len().min(4)];
                let input = format!("{marker} {}", words.join(" "));
                let delay = random.u64(1_500..4_000).to_string();
                let body = json!({"model": "echo", "input": input, "metadata": {"delay_ms": delay},
                    "background": random.bool()});
                (body, input)
            }
            Kind::Chat(policy) => {
                let body = json!({"model": format!("chat/{}/slow", policy.name()), "input": input,
                    "background": random.bool()});
                (body, script(&marker))
            }
            Kind::Letters | Kind::IdempotentLetters => {
                letters = random.u64(1..8);
                let mode = if kind == Kind::Letters { "once" } else { "idempotent" };
                let input = format!("{marker} {letterbox} {letters} {mode}");
                (json!({"model": "courier", "input": input, "background": random.bool()}), String::new())
            }
        };
        let key = with_key.then(|| format!("key-{marker}"));
        Self { marker, kind, key, conversation: None, hall: None, previous: None, body, text, letters }
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
