//! Server-sent events, read strictly.
//!
//! A real SSE parser forgives much. This one takes only what the contract says: `event: TYPE`, LF, `data: ` and one
//! line of JSON, LF LF; the same type in both; numbers without gaps; one terminal event, then `data: [DONE]`, then
//! the end. Comment lines may stand between frames. Every event is checked against its Open Responses schema.

use std::time::Duration;

use serde_json::Value;

use super::{schema, wait};

/// An event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its number.
    pub number: u64,
    /// Its type.
    pub kind: String,
    /// Its JSON.
    pub data: Value,
    /// The whole frame as it was sent.
    pub frame: Vec<u8>,
}

impl Event {
    /// The text of a text delta.
    pub fn delta(&self) -> Option<&str> {
        (self.kind == "response.output_text.delta").then(|| self.data["delta"].as_str().unwrap())
    }

    /// Whether nothing but `[DONE]` may follow.
    pub fn terminal(&self) -> bool {
        matches!(self.kind.as_str(), "response.completed" | "response.failed" | "response.incomplete")
    }
}

/// Something between two empty lines.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// An event.
    Event(Event),
    /// `data: [DONE]`
    Done,
    /// A comment.
    Comment,
}

/// Reads bytes into frames.
#[derive(Debug, Default)]
pub struct Parser {
    bytes: Vec<u8>,
    start: usize,
    expected: Option<u64>,
    ended: bool,
    done: bool,
    /// Whether events are not compared with their schemas, where there are very many.
    pub unchecked: bool,
}

impl Parser {
    /// A parser whose first event must have this number.
    pub fn expecting(number: u64) -> Self {
        Self { expected: Some(number), ..Self::default() }
    }

    /// Adds what has come.
    pub fn push(&mut self, bytes: &[u8]) {
        assert!(!bytes.contains(&b'\r'), "a carriage return in the stream");
        if self.start > 1 << 20 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame.
    pub fn next(&mut self) -> Option<Frame> {
        let rest = &self.bytes[self.start..];
        let end = memchr::memmem::find(rest, b"\n\n")? + 2;
        let frame = rest[..end].to_vec();
        self.start += end;
        Some(self.frame(frame))
    }

    /// The next number does not come.
    pub fn skip(&mut self) {
        self.expected = self.expected.map(|number| number + 1);
    }

    /// Whether `[DONE]` has come.
    pub fn done(&self) -> bool {
        self.done
    }

    /// Whether nothing is left between frames.
    pub fn at_border(&self) -> bool {
        self.start == self.bytes.len()
    }

    fn frame(&mut self, frame: Vec<u8>) -> Frame {
        let text = std::str::from_utf8(&frame).unwrap_or_else(|error| panic!("not UTF-8: {error}"));
        let body = text.strip_suffix("\n\n").unwrap();
        if body.starts_with(':') {
            assert!(!body.contains('\n'), "a comment is one line: {text:?}");
            return Frame::Comment;
        }
        assert!(!self.done, "after [DONE]: {text:?}");
        if body == "data: [DONE]" {
            assert!(self.ended || self.expected.is_none_or(|number| number > 0), "[DONE] without a terminal event");
            self.done = true;
            return Frame::Done;
        }
        assert!(!self.ended, "after the terminal event: {text:?}");
        let (event, data) = body.split_once('\n').unwrap_or_else(|| panic!("not two lines: {text:?}"));
        let kind = event.strip_prefix("event: ").unwrap_or_else(|| panic!("no `event: `: {text:?}"));
        let data = data.strip_prefix("data: ").unwrap_or_else(|| panic!("no `data: `: {text:?}"));
        assert!(!data.contains('\n'), "more than one line of data: {text:?}");
        let data: Value = serde_json::from_str(data).unwrap_or_else(|error| panic!("{error}: {text:?}"));
        assert_eq!(data["type"], kind, "the type is the same in both lines");
        let number = data["sequence_number"].as_u64().unwrap_or_else(|| panic!("no sequence_number: {text:?}"));
        if let Some(expected) = self.expected {
            assert_eq!(number, expected, "the number of {text:?}");
        }
        self.expected = Some(number + 1);
        let event = Event { number, kind: kind.to_owned(), data, frame };
        self.ended = event.terminal();
        if !self.unchecked {
            schema::check_event(&event.data);
        }
        Frame::Event(event)
    }
}

/// The events of one answer.
#[derive(Debug)]
pub struct Events {
    answer: reqwest::Response,
    parser: Parser,
    /// All event frames so far, as they were sent.
    frames: Vec<u8>,
    comments: usize,
    cut: bool,
}

impl Events {
    pub(super) fn new(answer: reqwest::Response, first: u64) -> Self {
        Self { answer, parser: Parser::expecting(first), frames: Vec::new(), comments: 0, cut: false }
    }

    /// Without schemas, for very many events.
    pub fn unchecked(mut self) -> Self {
        self.parser.unchecked = true;
        self
    }

    /// The next event; none at the end of the stream, orderly or not.
    pub async fn next(&mut self) -> Option<Event> {
        self.next_within(wait::PATIENCE).await
    }

    /// The next event, which must come within `limit`.
    pub async fn next_within(&mut self, limit: Duration) -> Option<Event> {
        wait::within(limit, "the next event", self.read()).await
    }

    async fn read(&mut self) -> Option<Event> {
        loop {
            match self.parser.next() {
                Some(Frame::Event(event)) => {
                    self.frames.extend_from_slice(&event.frame);
                    return Some(event);
                }
                Some(Frame::Comment) => self.comments += 1,
                Some(Frame::Done) => {}
                None => match self.answer.chunk().await {
                    Ok(Some(bytes)) => self.parser.push(&bytes),
                    Ok(None) => {
                        assert!(self.parser.at_border(), "the stream ended inside a frame");
                        return None;
                    }
                    Err(_) => {
                        self.cut = true;
                        return None;
                    }
                },
            }
        }
    }

    /// Reads up to and including the first event for which `last` holds.
    pub async fn until(&mut self, last: impl Fn(&Event) -> bool) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            let found = last(&event);
            events.push(event);
            if found {
                return events;
            }
        }
        panic!("the stream ended before the event that was waited for: {:?}", kinds(&events));
    }

    /// Reads up to and including text delta number `count`, counted from 1.
    pub async fn until_delta(&mut self, count: usize) -> Vec<Event> {
        let mut seen = Vec::new();
        for _ in 0..count {
            seen.extend(self.until(|event| event.delta().is_some()).await);
        }
        seen
    }

    /// Reads the rest of a stream that must end in order.
    pub async fn rest(&mut self) -> Vec<Event> {
        let events = self.rest_or_cut().await;
        assert!(!self.cut, "the connection was cut after {:?}", kinds(&events));
        assert!(self.parser.done(), "no [DONE] after {:?}", kinds(&events));
        events
    }

    /// Reads the rest of a stream that may be cut.
    pub async fn rest_or_cut(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }

    /// All event frames so far, as they were sent.
    pub fn frames(&self) -> &[u8] {
        &self.frames
    }

    /// How many comment lines have come.
    pub fn comments(&self) -> usize {
        self.comments
    }

    /// Whether `[DONE]` has come.
    pub fn done(&self) -> bool {
        self.parser.done()
    }
}

/// The types of events, for messages and for comparing orders.
pub fn kinds(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.kind.as_str()).collect()
}

/// The id of the response that a stream is about, from its first event.
pub fn response_id(events: &[Event]) -> String {
    events[0].data["response"]["id"].as_str().unwrap().to_owned()
}

/// All text deltas, joined.
pub fn text(events: &[Event]) -> String {
    events.iter().filter_map(Event::delta).collect()
}

/// Frames of events, joined.
pub fn frames(events: &[Event]) -> Vec<u8> {
    events.iter().flat_map(|event| event.frame.clone()).collect()
}
