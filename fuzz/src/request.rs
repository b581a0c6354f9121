//! The body of a request, from its bytes to the first event of its run.

use outlast_protocol::{
    CreateConversation, CreateRequest, Fold, RequestLimits, ResponseId, check_message, half_characters, identify,
    input_tokens, parse_items, parse_metadata, read_compact, read_message,
};
use outlast_run::{Ending, OutputLimits, Recorder};
use uuid::Uuid;

pub(crate) const LIMITS: RequestLimits = RequestLimits { text_bytes: 10_000, input_items: 50 };

pub(crate) fn target(bytes: &[u8]) {
    if let Ok(request) = CreateRequest::parse(bytes, &LIMITS) {
        accepted(request);
    }
    if let Ok(request) = read_compact(bytes, &LIMITS) {
        request.summary();
        accepted(request);
    }
    let _ = CreateConversation::parse(bytes, &LIMITS);
    let _ = parse_items(bytes, &LIMITS);
    let _ = parse_metadata(bytes);
    if let Ok(text) = str::from_utf8(bytes) {
        half_characters(text.as_bytes()).for_each(drop);
        if let Ok(fields) = read_message(text) {
            let _ = check_message(&fields);
        }
    }
}

/// What the server makes of an accepted request is what a client reads.
fn accepted(mut request: CreateRequest) {
    let id = ResponseId::new(Uuid::from_u128(1));
    identify(&mut request.input, |prefix, index| id.input_child(prefix, index));
    request.ignored();
    input_tokens(request.input.iter(), &request.fields);
    let mut recorder = Recorder::new(id.clone(), request.response(&id, 1), OutputLimits::default());
    recorder.start();
    recorder.end(Ending::Completed, 2);
    let frames = recorder.take().map(|segment| segment.frames).unwrap_or_default();
    let mut fold = Fold::new();
    fold.extend(&frames).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&frames)));
    assert_eq!(fold.response(), Some(recorder.response()));
}
