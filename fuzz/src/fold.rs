//! Frames as they lie in the database or come over a connection, and the response that they fold to.

use bytes::Bytes;
use outlast_protocol::{Event, Fold, ResponseId, encode, frames, is_end, payloads, skip_frames};
use outlast_run::{Ending, OutputLimits, Recorder};
use uuid::Uuid;

pub(crate) fn target(bytes: &[u8]) {
    let log = Bytes::copy_from_slice(bytes);
    is_end(bytes);
    payloads(&log).for_each(drop);
    let (mut fold, mut count) = (Fold::new(), 0);
    for frame in frames(bytes) {
        let Ok(frame) = frame else { break };
        frame.event.said();
        if fold.apply(frame).is_err() {
            break;
        }
        count += 1;
        assert!(skip_frames(bytes, count) <= bytes.len());
    }
    let id = ResponseId::new(Uuid::from_u128(1));
    if let Ok(mut recorder) = Recorder::replay(id, log, count, OutputLimits::default()) {
        let _ = recorder.skip(None);
        recorder.end(Ending::Cancelled, 2);
        recorder.take();
    }
    if let Some(response) = fold.response() {
        // What was read is written as something that is read the same.
        let mut again = Vec::new();
        encode(&Event::Created { response: std::borrow::Cow::Borrowed(response) }, 0, &mut again);
        let mut folded = Fold::new();
        folded.extend(&again).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&again)));
        assert_eq!(folded.response(), Some(response));
    }
}
