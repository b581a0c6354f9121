//! Events, and the frames they travel in.
//!
//! A frame is the bytes of one server-sent event: `event: <type>` LF `data: <one line of JSON>` LF LF. It is
//! made once, when the event happens; the log keeps those bytes and every subscriber gets those bytes. A
//! blank line therefore stands at the end of a frame and nowhere else, which is how a reader finds the
//! borders of frames in a row of them.

use std::borrow::Cow;

use bytes::Bytes;
use memchr::memmem;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{
    failed::StreamError,
    item::{Content, Item, SummaryPart},
    response::{Response, ResponseError},
};

/// An event of the Responses API. Its `sequence_number` is not part of it: the recorder adds it in [`encode`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type")]
#[allow(missing_docs)] // The fields are the protocol's own and stand in its specifications.
pub enum Event<'a> {
    #[serde(rename = "response.created")]
    Created { response: Cow<'a, Response> },
    #[serde(rename = "response.queued")]
    Queued { response: Cow<'a, Response> },
    #[serde(rename = "response.in_progress")]
    InProgress { response: Cow<'a, Response> },
    #[serde(rename = "response.output_item.added")]
    ItemAdded { output_index: usize, item: Cow<'a, Item> },
    #[serde(rename = "response.output_item.done")]
    ItemDone { output_index: usize, item: Cow<'a, Item> },
    #[serde(rename = "response.content_part.added")]
    PartAdded { item_id: Cow<'a, str>, output_index: usize, content_index: usize, part: Cow<'a, Content> },
    #[serde(rename = "response.content_part.done")]
    PartDone { item_id: Cow<'a, str>, output_index: usize, content_index: usize, part: Cow<'a, Content> },
    #[serde(rename = "response.output_text.delta")]
    TextDelta {
        item_id: Cow<'a, str>,
        output_index: usize,
        content_index: usize,
        delta: Cow<'a, str>,
        logprobs: Vec<Value>,
    },
    #[serde(rename = "response.output_text.done")]
    TextDone {
        item_id: Cow<'a, str>,
        output_index: usize,
        content_index: usize,
        text: Cow<'a, str>,
        logprobs: Vec<Value>,
    },
    #[serde(rename = "response.refusal.delta")]
    RefusalDelta { item_id: Cow<'a, str>, output_index: usize, content_index: usize, delta: Cow<'a, str> },
    #[serde(rename = "response.refusal.done")]
    RefusalDone { item_id: Cow<'a, str>, output_index: usize, content_index: usize, refusal: Cow<'a, str> },
    #[serde(rename = "response.reasoning_summary_part.added")]
    SummaryPartAdded { item_id: Cow<'a, str>, output_index: usize, summary_index: usize, part: Cow<'a, SummaryPart> },
    #[serde(rename = "response.reasoning_summary_part.done")]
    SummaryPartDone { item_id: Cow<'a, str>, output_index: usize, summary_index: usize, part: Cow<'a, SummaryPart> },
    #[serde(rename = "response.reasoning_summary_text.delta")]
    SummaryDelta { item_id: Cow<'a, str>, output_index: usize, summary_index: usize, delta: Cow<'a, str> },
    #[serde(rename = "response.reasoning_summary_text.done")]
    SummaryDone { item_id: Cow<'a, str>, output_index: usize, summary_index: usize, text: Cow<'a, str> },
    #[serde(rename = "response.function_call_arguments.delta")]
    ArgumentsDelta { item_id: Cow<'a, str>, output_index: usize, delta: Cow<'a, str> },
    #[serde(rename = "response.function_call_arguments.done")]
    ArgumentsDone { item_id: Cow<'a, str>, output_index: usize, name: Cow<'a, str>, arguments: Cow<'a, str> },
    #[serde(rename = "error")]
    Error { code: Cow<'a, str>, message: Cow<'a, str>, param: Option<Cow<'a, str>>, error: Cow<'a, StreamError> },
    #[serde(rename = "response.custom_tool_call_input.delta")]
    InputDelta { item_id: Cow<'a, str>, output_index: usize, delta: Cow<'a, str> },
    #[serde(rename = "response.custom_tool_call_input.done")]
    InputDone { item_id: Cow<'a, str>, output_index: usize, input: Cow<'a, str> },
    #[serde(rename = "response.completed")]
    Completed { response: Cow<'a, Response> },
    #[serde(rename = "response.failed")]
    Failed { response: Cow<'a, Response> },
    #[serde(rename = "response.incomplete")]
    Incomplete { response: Cow<'a, Response> },
}

impl Event<'_> {
    /// The event's `type`.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Created { .. } => "response.created",
            Self::Queued { .. } => "response.queued",
            Self::InProgress { .. } => "response.in_progress",
            Self::ItemAdded { .. } => "response.output_item.added",
            Self::ItemDone { .. } => "response.output_item.done",
            Self::PartAdded { .. } => "response.content_part.added",
            Self::PartDone { .. } => "response.content_part.done",
            Self::TextDelta { .. } => "response.output_text.delta",
            Self::TextDone { .. } => "response.output_text.done",
            Self::RefusalDelta { .. } => "response.refusal.delta",
            Self::RefusalDone { .. } => "response.refusal.done",
            Self::SummaryPartAdded { .. } => "response.reasoning_summary_part.added",
            Self::SummaryPartDone { .. } => "response.reasoning_summary_part.done",
            Self::SummaryDelta { .. } => "response.reasoning_summary_text.delta",
            Self::SummaryDone { .. } => "response.reasoning_summary_text.done",
            Self::ArgumentsDelta { .. } => "response.function_call_arguments.delta",
            Self::ArgumentsDone { .. } => "response.function_call_arguments.done",
            Self::Error { .. } => "error",
            Self::InputDelta { .. } => "response.custom_tool_call_input.delta",
            Self::InputDone { .. } => "response.custom_tool_call_input.done",
            Self::Completed { .. } => "response.completed",
            Self::Failed { .. } => "response.failed",
            Self::Incomplete { .. } => "response.incomplete",
        }
    }
}

impl Event<'static> {
    /// The event that tells that a run fails: SDKs raise its nested `error`, others read the flat fields.
    pub fn error(failure: &ResponseError) -> Self {
        let error = failure.in_stream();
        let (code, message) = (error.code.clone().into(), error.message.clone().into());
        Self::Error { code, message, param: error.param.clone().map(Cow::Owned), error: Cow::Owned(error) }
    }
}

impl Event<'_> {
    /// How many bytes of text the agent said with this event.
    pub fn said(&self) -> usize {
        match self {
            Self::TextDelta { delta, .. }
            | Self::RefusalDelta { delta, .. }
            | Self::SummaryDelta { delta, .. }
            | Self::ArgumentsDelta { delta, .. }
            | Self::InputDelta { delta, .. } => delta.len(),
            _ => 0,
        }
    }
}

/// Appends the frame of `event` to `out`.
pub fn encode(event: &Event<'_>, sequence_number: u64, out: &mut Vec<u8>) {
    use std::io::Write as _;
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(event.type_name().as_bytes());
    out.extend_from_slice(b"\ndata: ");
    // Neither can fail: the sink is memory, and every map in an event has strings as keys.
    let _ = serde_json::to_writer(&mut *out, event);
    out.pop(); // The closing brace comes after the number.
    let _ = write!(out, ",\"sequence_number\":{sequence_number}}}\n\n");
}

/// The frame that a repeated request begins with: the response with the events up to `sequence_number`. It is no
/// event of the run: it is not stored, and only whoever sent an idempotency key sees it.
pub fn snapshot_frame(response: &Response, sequence_number: u64) -> Bytes {
    let data = json!({"type": "response.snapshot", "sequence_number": sequence_number, "response": response});
    format!("event: response.snapshot\ndata: {data}\n\n").into()
}

/// The frames of consecutive events of one response, as one piece of memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The sequence number of the first event.
    pub first: u64,
    /// The sequence number of the last event.
    pub last: u64,
    /// The frames, in order.
    pub frames: Bytes,
}

impl Segment {
    /// How many events it has.
    pub fn events(&self) -> u64 {
        self.last + 1 - self.first
    }

    /// Whether it has as many whole frames as its numbers say.
    pub fn is_whole(&self) -> bool {
        let frames = memmem::find_iter(&self.frames, b"\n\n").count() as u64;
        self.frames.ends_with(b"\n\n") && (self.last + 1).checked_sub(self.first) == Some(frames)
    }

    /// The part of this segment that begins with event `from`; the whole when `from` is before it.
    pub fn from(&self, from: u64) -> Bytes {
        let skip = from.saturating_sub(self.first);
        self.frames.slice(skip_frames(&self.frames, skip)..)
    }
}

/// Where the frame number `count` of `frames` begins, counted from 0, in bytes.
pub fn skip_frames(frames: &[u8], count: u64) -> usize {
    let Some(last) = count.checked_sub(1) else { return 0 };
    memmem::find_iter(frames, b"\n\n").nth(last as usize).map_or(frames.len(), |at| at + 2)
}

/// The JSON of each event in a row of frames, without its frame and without a copy: what a WebSocket carries.
pub fn payloads(frames: &Bytes) -> impl Iterator<Item = Bytes> + '_ {
    let mut start = 0;
    memmem::find_iter(frames, b"\n\n").map(move |end| {
        let from = memmem::find(&frames[start..end], b"\ndata: ").map_or(end, |at| start + at + 7);
        start = end + 2;
        frames.slice(from..end)
    })
}

/// Whether a row of frames ends with a terminal event, after which none comes.
pub fn is_end(frames: &[u8]) -> bool {
    let Some(row) = frames.strip_suffix(b"\n\n") else { return false };
    let last = memmem::rfind(row, b"\n\n").map_or(row, |at| &row[at + 2..]);
    let ends = ["event: response.completed\n", "event: response.failed\n", "event: response.incomplete\n"];
    ends.iter().any(|end| last.starts_with(end.as_bytes()))
}

/// A frame, read back.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// The event's number.
    pub sequence_number: u64,
    /// The event.
    pub event: Event<'static>,
}

/// Reads frames back into events.
pub fn frames(bytes: &[u8]) -> impl Iterator<Item = Result<Frame, serde_json::Error>> + '_ {
    #[derive(Deserialize)]
    struct Number {
        sequence_number: u64,
    }
    let mut start = 0;
    memmem::find_iter(bytes, b"\n\n").map(move |end| {
        let frame = &bytes[start..end];
        start = end + 2;
        let data = memmem::find(frame, b"\ndata: ").map_or(&[][..], |at| &frame[at + 7..]);
        let Number { sequence_number } = serde_json::from_slice(data)?;
        Ok(Frame { sequence_number, event: serde_json::from_slice(data)? })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delta(text: &str) -> Event<'_> {
        Event::TextDelta {
            item_id: "msg_1".into(),
            output_index: 0,
            content_index: 0,
            delta: text.into(),
            logprobs: Vec::new(),
        }
    }

    #[test]
    fn a_frame_is_one_line_of_json_between_line_feeds() {
        let mut out = Vec::new();
        encode(&delta("a\n\nb"), 7, &mut out);
        assert_eq!(
            String::from_utf8_lossy(&out),
            "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"item_id\":\"msg_1\",\
             \"output_index\":0,\"content_index\":0,\"delta\":\"a\\n\\nb\",\"logprobs\":[],\"sequence_number\":7}\n\n"
        );
    }

    #[test]
    fn frames_are_read_back_as_they_were_written() {
        let mut out = Vec::new();
        for (number, text) in ["one", "two\n\n", "three"].iter().enumerate() {
            encode(&delta(text), number as u64, &mut out);
        }
        let read: Vec<_> = frames(&out).collect::<Result<_, _>>().unwrap();
        assert_eq!(read.len(), 3);
        assert_eq!(read[1], Frame { sequence_number: 1, event: delta("two\n\n") });
    }

    #[test]
    fn the_json_of_every_event_is_taken_out_of_its_frame() {
        let mut out = Vec::new();
        for (number, text) in ["one", "two\n\n", "\ndata: three"].iter().enumerate() {
            encode(&delta(text), number as u64, &mut out);
        }
        let frames = Bytes::from(out);
        let read: Vec<Value> = payloads(&frames).map(|json| serde_json::from_slice(&json).unwrap()).collect();
        let texts: Vec<_> = read.iter().map(|event| event["delta"].as_str().unwrap()).collect();
        assert_eq!(texts, ["one", "two\n\n", "\ndata: three"]);
    }

    #[test]
    fn a_row_of_frames_tells_whether_it_is_the_end() {
        let mut row = Vec::new();
        assert!(!is_end(&row));
        encode(&delta("event: response.completed\n"), 0, &mut row);
        assert!(!is_end(&row));
        row.extend_from_slice(b"event: response.failed\ndata: {}\n\n");
        assert!(is_end(&row));
        assert!(is_end(b"event: response.completed\ndata: {}\n\n"));
        encode(&delta("x"), 1, &mut row);
        assert!(!is_end(&row));
    }

    #[test]
    fn a_segment_is_cut_at_the_border_of_a_frame() {
        let mut out = Vec::new();
        for number in 4..8 {
            encode(&delta("x"), number, &mut out);
        }
        let one = out.len() / 4;
        let segment = Segment { first: 4, last: 7, frames: out.into() };
        assert_eq!(segment.from(0).len(), 4 * one);
        assert_eq!(segment.from(4).len(), 4 * one);
        assert_eq!(segment.from(6).len(), 2 * one);
        assert_eq!(segment.from(8).len(), 0);
    }
}
