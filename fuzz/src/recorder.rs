//! What an agent says, in any order: its events fold to its response, and a run that is executed again continues exactly
//! where its log ends.

use outlast_protocol::{ClientTool, CreateRequest, Emission, Fold, ResponseId, ToolKind, Usage, frames, skip_frames};
use outlast_run::{Ending, OutputLimits, Recorder};
use serde_json::json;
use uuid::Uuid;

use crate::request::LIMITS as REQUEST;

const LIMITS: OutputLimits = OutputLimits { event_bytes: 64, output_bytes: 1_000, output_items: 8, events: 10_000 };
const REQUESTS: [&[u8]; 2] =
    [br#"{"model":"a","input":"hi"}"#, br#"{"model":"a","input":"hi","background":true,"store":true}"#];

pub(crate) fn target(bytes: &[u8]) {
    let [kind, cut, emissions @ ..] = bytes else { return };
    let emissions = read(emissions);
    let id = ResponseId::new(Uuid::from_u128(1));
    let Ok(request) = CreateRequest::parse(REQUESTS[usize::from(kind % 2)], &REQUEST) else { panic!() };
    let mut whole = Recorder::new(id.clone(), request.response(&id, 100), LIMITS);
    whole.start();
    whole.begin();
    emissions.iter().for_each(|emission| say(&mut whole, *emission));
    let said = whole.take().map(|segment| segment.frames).unwrap_or_default();
    let mut fold = Fold::new();
    fold.extend(&said).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(fold.response(), Some(whole.response()));
    assert_eq!(fold.next(), frames(&said).count() as u64);

    // It is executed again after any of its events, from the second.
    let cut = 2 + u64::from(*cut) % (whole.next() - 1);
    let log = said.slice(..skip_frames(&said, cut));
    let mut again = Recorder::replay(id, log.clone(), cut, LIMITS).unwrap_or_else(|error| panic!("{error}"));
    again.begin();
    emissions.iter().for_each(|emission| say(&mut again, *emission));
    assert!(!again.replaying());
    let rest = again.take().map(|segment| segment.frames).unwrap_or_default();
    assert_eq!([log, rest].concat(), said);

    let ending = match kind / 2 % 4 {
        0 => Ending::Completed,
        1 => Ending::Incomplete("max_output_tokens".to_owned()),
        2 => Ending::failed("broken"),
        _ => Ending::Cancelled,
    };
    whole.end(ending.clone(), 101);
    again.end(ending, 101);
    let end = whole.take();
    assert_eq!(again.take(), end);
    assert_eq!(again.response(), whole.response());
    fold.extend(&end.map(|segment| segment.frames).unwrap_or_default()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(fold.response(), Some(whole.response()));
    assert_eq!(json!(fold.response()), json!(whole.response()));
}

/// Emissions, each from the number of its kind, the place of its item, and the length of its text.
fn read(mut bytes: &[u8]) -> Vec<(u8, usize, &str)> {
    let mut emissions = Vec::new();
    while let [kind, item, length, rest @ ..] = bytes {
        let (text, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        // What is no text ends where it stops to be one.
        let text = str::from_utf8(text).or_else(|error| str::from_utf8(&text[..error.valid_up_to()]));
        emissions.push((*kind, usize::from(item % 10), text.unwrap_or_default()));
        bytes = rest;
    }
    emissions
}

/// Refused emissions are part of it: they must leave no trace.
fn say(recorder: &mut Recorder, (kind, item, text): (u8, usize, &str)) {
    let takes = if kind & 16 == 0 { ToolKind::Function } else { ToolKind::Custom };
    let tool = ClientTool { kind: takes, ..ClientTool::function("f") };
    let likely = [json!({"token": text})];
    let tokens = text.len() as u64;
    let _ = recorder.emit(match kind % 12 {
        0 => Emission::OpenMessage,
        1 => Emission::OpenReasoning,
        2 | 3 => Emission::Text(item, text),
        4 => Emission::Refusal(item, text),
        5 => Emission::Summary(item, text),
        6 => Emission::Finish(item),
        7 => Emission::Abandon(item),
        8 => Emission::OpenCall(&tool),
        9 => Emission::Logprobs(item, &likely),
        10 => Emission::Usage(Usage { input_tokens: tokens, ..Usage::default() }),
        _ => Emission::Arguments(item, text),
    });
}
