use outlast_protocol::{ClientTool, CreateRequest, Fold, Frame, RequestLimits, ToolKind, frames};
use proptest::prelude::*;
use serde_json::json;
use uuid::Uuid;

use super::*;

const LIMITS: OutputLimits = OutputLimits { event_bytes: 64, output_bytes: 1_000, output_items: 8, events: 10_000 };

fn recorder() -> Recorder {
    let limits = RequestLimits { text_bytes: 100, input_items: 10 };
    let request = CreateRequest::parse(br#"{"model":"echo","input":"hi"}"#, &limits).unwrap();
    let id = ResponseId::new(Uuid::from_u128(1));
    let response = request.response(&id, 100);
    let mut recorder = Recorder::new(id, response, LIMITS);
    recorder.start();
    recorder
}

fn events(recorder: &mut Recorder) -> Vec<Frame> {
    let segment = recorder.take().unwrap();
    frames(&segment.frames).collect::<Result<_, _>>().unwrap()
}

fn names(events: &[Frame]) -> Vec<&'static str> {
    events.iter().map(|frame| frame.event.type_name()).collect()
}

#[test]
fn a_message_has_the_event_order_of_the_protocol() {
    let mut recorder = recorder();
    let Ok(Emitted::Item(message)) = recorder.emit(Emission::OpenMessage) else { panic!("no item") };
    recorder.emit(Emission::Text(message, "Hel")).unwrap();
    recorder.emit(Emission::Text(message, "")).unwrap();
    recorder.emit(Emission::Text(message, "lo")).unwrap();
    recorder.emit(Emission::Finish(message)).unwrap();
    assert_eq!(recorder.end(Ending::Completed, 101), Some(TerminalStatus::Completed));
    insta::assert_snapshot!(String::from_utf8(recorder.take().unwrap().frames.to_vec()).unwrap());
}

#[test]
fn a_function_call_has_the_event_order_of_the_protocol() {
    let mut recorder = recorder();
    let tool = ClientTool::function("f");
    let Ok(Emitted::Call(call, call_id)) = recorder.emit(Emission::OpenCall(&tool)) else { panic!("no call") };
    recorder.emit(Emission::Arguments(call, "{")).unwrap();
    recorder.emit(Emission::Arguments(call, "}")).unwrap();
    recorder.emit(Emission::Finish(call)).unwrap();
    recorder.end(Ending::Completed, 101);
    let events = events(&mut recorder);
    assert_eq!(
        names(&events)[2..],
        [
            "response.output_item.added",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "response.output_item.done",
            "response.completed"
        ]
    );
    let Item::FunctionCall { call_id: shown, arguments, .. } = &recorder.response().output[0] else {
        panic!("no call")
    };
    assert_eq!((shown, arguments.as_str()), (&call_id, "{}"));
}

#[test]
fn a_call_of_a_custom_tool_has_a_text_instead_of_arguments() {
    let mut recorder = recorder();
    let tool = ClientTool { kind: ToolKind::Custom, namespace: Some("n".to_owned()), ..ClientTool::function("patch") };
    let Ok(Emitted::Call(call, call_id)) = recorder.emit(Emission::OpenCall(&tool)) else { panic!("no call") };
    for piece in ["{\"inp", "ut\": \"a\\", "nb", "\"}"] {
        recorder.emit(Emission::Arguments(call, piece)).unwrap();
    }
    recorder.emit(Emission::Finish(call)).unwrap();
    recorder.end(Ending::Completed, 101);
    assert_eq!(
        names(&events(&mut recorder))[2..],
        [
            "response.output_item.added",
            "response.custom_tool_call_input.delta",
            "response.custom_tool_call_input.delta",
            "response.custom_tool_call_input.done",
            "response.output_item.done",
            "response.completed"
        ]
    );
    assert_eq!(
        json!(recorder.response().output),
        json!([{
            "type": "custom_tool_call", "id": "ctc_000000000000000000000000000000010000", "call_id": call_id,
            "name": "patch", "namespace": "n", "input": "a\nb", "status": "completed",
        }])
    );
}

#[test]
fn what_is_open_at_the_end_is_closed_as_incomplete() {
    let mut recorder = recorder();
    for _ in 0..2 {
        recorder.emit(Emission::OpenMessage).unwrap();
    }
    recorder.emit(Emission::Text(0, "half")).unwrap();
    recorder.end(Ending::Cancelled, 101);
    assert!(recorder.response().output.iter().all(|item| item.status() == ItemStatus::Incomplete));
    assert_eq!(*names(&events(&mut recorder)).last().unwrap(), "response.failed");
    assert_eq!(recorder.response().status, Status::Terminal(TerminalStatus::Cancelled));
}

#[test]
fn nothing_is_recorded_after_the_end() {
    let mut recorder = recorder();
    recorder.end(Ending::failed("broken"), 101);
    recorder.take();
    assert_eq!(recorder.emit(Emission::OpenMessage), Err(EmitError::Ended));
    assert_eq!(recorder.end(Ending::Completed, 102), None);
    assert_eq!(recorder.take(), None);
}

#[test]
fn a_finished_item_takes_nothing_more() {
    let mut recorder = recorder();
    recorder.emit(Emission::OpenMessage).unwrap();
    recorder.emit(Emission::Finish(0)).unwrap();
    assert_eq!(recorder.emit(Emission::Text(0, "late")), Err(EmitError::Closed));
    assert_eq!(recorder.emit(Emission::Text(7, "nowhere")), Err(EmitError::Closed));
    recorder.emit(Emission::OpenMessage).unwrap();
    assert_eq!(recorder.emit(Emission::Arguments(1, "{}")), Err(EmitError::WrongKind("arguments")));
}

#[test]
fn a_limit_is_named_when_it_is_reached() {
    let mut recorder = recorder();
    recorder.emit(Emission::OpenMessage).unwrap();
    let error = recorder.emit(Emission::Text(0, &"x".repeat(65))).unwrap_err();
    assert_eq!(error.to_string(), "wrote bytes in one call: 65, limit 64 (limits.event_bytes)");
}

fn emission() -> impl Strategy<Value = (u8, usize, String)> {
    (0u8..11, 0usize..6, "[a-zé\n\"]{0,8}")
}

/// Refused emissions are part of the tests: they must leave no trace.
fn say(recorder: &mut Recorder, kind: u8, item: usize, text: &str) {
    let takes = if kind == 9 { ToolKind::Custom } else { ToolKind::Function };
    let tool = ClientTool { kind: takes, ..ClientTool::function("f") };
    let _ = recorder.emit(match kind {
        0 => Emission::OpenMessage,
        1 => Emission::OpenReasoning,
        2 | 3 => Emission::Text(item, text),
        4 => Emission::Refusal(item, text),
        5 => Emission::Summary(item, text),
        6 => Emission::Finish(item),
        7 => Emission::Abandon(item),
        8 | 9 => Emission::OpenCall(&tool),
        _ => Emission::Arguments(item, text),
    });
}

fn ending() -> impl Strategy<Value = Ending> {
    prop_oneof![
        Just(Ending::Completed),
        Just(Ending::Incomplete("max_output_tokens".to_owned())),
        Just(Ending::failed("broken")),
        Just(Ending::Cancelled),
    ]
}

/// A client that believes nothing: it follows the events and checks each against the rules.
#[derive(Default)]
struct StrictClient {
    next: u64,
    /// Per item: its id, and whether it is done.
    items: Vec<(String, bool)>,
    /// The open content or summary part of each item.
    open_part: Vec<Option<usize>>,
    failed: bool,
    terminal: bool,
}

impl StrictClient {
    fn see(&mut self, frame: &Frame) {
        assert!(!self.terminal, "an event after the terminal one");
        assert_eq!(frame.sequence_number, self.next);
        self.next += 1;
        match &frame.event {
            Event::Created { .. } => assert_eq!(frame.sequence_number, 0),
            Event::InProgress { .. } => assert_eq!(frame.sequence_number, 1),
            Event::ItemAdded { output_index, item } => {
                assert_eq!(*output_index, self.items.len());
                self.items.push((item.id().to_owned(), false));
                self.open_part.push(None);
            }
            Event::ItemDone { output_index, item } => {
                assert_eq!(self.items[*output_index], (item.id().to_owned(), false));
                assert_eq!(self.open_part[*output_index], None, "an item done before its part");
                assert_ne!(item.status(), ItemStatus::InProgress);
                self.items[*output_index].1 = true;
            }
            Event::PartAdded { item_id, output_index, content_index: part, .. }
            | Event::SummaryPartAdded { item_id, output_index, summary_index: part, .. } => {
                self.open_item(item_id, *output_index);
                assert_eq!(self.open_part[*output_index].replace(*part), None);
            }
            Event::PartDone { item_id, output_index, content_index: part, .. }
            | Event::SummaryPartDone { item_id, output_index, summary_index: part, .. } => {
                self.open_item(item_id, *output_index);
                assert_eq!(self.open_part[*output_index].take(), Some(*part));
            }
            Event::TextDelta { item_id, output_index, content_index: part, delta, .. }
            | Event::RefusalDelta { item_id, output_index, content_index: part, delta }
            | Event::SummaryDelta { item_id, output_index, summary_index: part, delta } => {
                self.open_item(item_id, *output_index);
                assert_eq!(self.open_part[*output_index], Some(*part), "a delta without its part");
                assert!(!delta.is_empty());
            }
            Event::TextDone { item_id, output_index, content_index: part, .. }
            | Event::RefusalDone { item_id, output_index, content_index: part, .. }
            | Event::SummaryDone { item_id, output_index, summary_index: part, .. } => {
                self.open_item(item_id, *output_index);
                assert_eq!(self.open_part[*output_index], Some(*part));
            }
            Event::ArgumentsDelta { item_id, output_index, .. }
            | Event::InputDelta { item_id, output_index, .. }
            | Event::InputDone { item_id, output_index, .. }
            | Event::ArgumentsDone { item_id, output_index, .. } => self.open_item(item_id, *output_index),
            Event::Completed { response } | Event::Failed { response } | Event::Incomplete { response } => {
                assert!(self.items.iter().all(|(_, done)| *done), "an item that is never done");
                assert!(response.usage.is_some());
                assert!(response.status.terminal().is_some());
                assert_eq!(self.failed, response.error.is_some(), "a failure is told before the end");
                self.terminal = true;
            }
            Event::Error { .. } => assert!(!std::mem::replace(&mut self.failed, true)),
            Event::Queued { .. } => panic!("a run that is not in the background is not queued"),
        }
    }

    fn open_item(&self, id: &str, index: usize) {
        assert_eq!(self.items[index], (id.to_owned(), false), "an event of an item that is not open");
    }
}

proptest! {
    #[test]
    fn any_emissions_make_a_stream_that_a_strict_client_accepts(
        emissions in prop::collection::vec(emission(), 0..60),
        ending in ending(),
        take_every in 1usize..10,
    ) {
        let mut recorder = recorder();
        let mut log = Vec::new();
        for (count, (kind, item, text)) in emissions.iter().enumerate() {
            say(&mut recorder, *kind, *item, text);
            if count % take_every == 0 {
                log.extend(recorder.take().map(|segment| segment.frames));
            }
        }
        let before = recorder.response().clone();
        recorder.end(ending, 101);
        log.extend(recorder.take().map(|segment| segment.frames));

        let mut client = StrictClient::default();
        let mut fold = Fold::new();
        let mut partial = None;
        for frame in log.iter().flat_map(|bytes| frames(bytes)) {
            let frame = frame.unwrap();
            client.see(&frame);
            let terminal = matches!(frame.event, Event::Completed { .. } | Event::Failed { .. } | Event::Incomplete { .. });
            if !terminal {
                fold.apply(frame).unwrap();
                partial = fold.response().cloned();
            }
        }
        prop_assert!(client.terminal);
        // Without its terminal event the fold is the response with everything closed.
        let partial = partial.unwrap();
        prop_assert_eq!(&partial.output, &recorder.response().output);
        prop_assert_eq!(before.output.len(), partial.output.len());

        let mut whole = Fold::new();
        for bytes in &log {
            whole.extend(bytes).unwrap();
        }
        prop_assert_eq!(whole.response().unwrap(), recorder.response());
        prop_assert_eq!(json!(whole.response().unwrap()), json!(recorder.response()));
    }

    #[test]
    fn a_run_that_is_executed_again_goes_on_where_its_log_ends(
        emissions in prop::collection::vec(emission(), 0..40),
        cut in any::<prop::sample::Index>(),
        ending in ending(),
    ) {
        let mut whole = recorder();
        emissions.iter().for_each(|(kind, item, text)| say(&mut whole, *kind, *item, text));
        let frames = whole.take().unwrap().frames;
        let cut = 2 + cut.index(whole.next() as usize - 1) as u64;
        let log = frames.slice(..skip_frames(&frames, cut));
        let mut again = replay(&log, cut);
        emissions.iter().for_each(|(kind, item, text)| say(&mut again, *kind, *item, text));
        prop_assert!(!again.replaying());
        let rest = again.take();
        prop_assert_eq!(rest.as_ref().map_or(cut, |rest| rest.first), cut);
        prop_assert_eq!([log, rest.map(|rest| rest.frames).unwrap_or_default()].concat(), frames);
        whole.end(ending.clone(), 101);
        again.end(ending, 101);
        prop_assert_eq!(again.take(), whole.take());
        prop_assert_eq!(again.response(), whole.response());
    }
}

/// The recorder of [`recorder`]'s run, executed again.
fn replay(log: &Bytes, events: u64) -> Recorder {
    Recorder::replay(ResponseId::new(Uuid::from_u128(1)), log.clone(), events, LIMITS).unwrap()
}

/// The log of a run that has said `Hello` in an open message, and how many events it has.
fn hello() -> (Bytes, u64) {
    let mut recorder = recorder();
    recorder.emit(Emission::OpenMessage).unwrap();
    recorder.emit(Emission::Text(0, "Hello")).unwrap();
    (recorder.take().unwrap().frames, recorder.next())
}

fn failure(recorder: &Recorder) -> &str {
    &recorder.response().error.as_ref().unwrap().message
}

#[test]
fn a_run_that_says_something_else_than_before_has_diverged() {
    let (log, events) = hello();
    let mut recorder = replay(&log, events);
    recorder.emit(Emission::OpenMessage).unwrap();
    let Err(EmitError::Diverged(why)) = recorder.emit(Emission::Text(0, "Hallo")) else { panic!("no divergence") };
    assert!(why.starts_with("diverged at event 4: expected {"), "{why}");
    assert!(why.contains("Hello") && why.contains(", got {") && why.contains("Hallo"), "{why}");
    recorder.end(Ending::failed("whatever the component said then"), 101);
    assert!(failure(&recorder).contains(&why));
    // What was seen stands.
    assert!(serde_json::to_string(recorder.response()).unwrap().contains("Hello"));
    assert_eq!(recorder.take().unwrap().first, events);
}

#[test]
fn a_run_that_ends_before_its_log_does_has_diverged() {
    let (log, events) = hello();
    let mut recorder = replay(&log, events);
    recorder.emit(Emission::OpenMessage).unwrap();
    recorder.end(Ending::Completed, 101);
    assert!(failure(&recorder).contains("diverged at event 3: expected more events, got the end of the run"));
    let mut cancelled = replay(&log, events);
    cancelled.end(Ending::Cancelled, 101);
    assert_eq!(cancelled.response().status, Status::Terminal(TerminalStatus::Cancelled));
    assert_eq!(cancelled.response().output, recorder.response().output);
}

#[test]
fn what_the_host_said_itself_is_skipped() {
    let (log, events) = hello();
    let mut recorder = replay(&log, events);
    recorder.skip(Some(3)).unwrap();
    assert_eq!((recorder.next(), recorder.replaying()), (3, true));
    recorder.skip(None).unwrap();
    assert_eq!((recorder.next(), recorder.replaying()), (events, false));
    assert_eq!(recorder.take(), None);
    recorder.emit(Emission::Text(0, ", you")).unwrap();
    assert_eq!(recorder.take().unwrap().first, events);
}

#[test]
fn behind_a_damaged_log_the_run_can_still_end() {
    let (log, events) = hello();
    let damaged = String::from_utf8(log.to_vec()).unwrap().replace("\"delta\":\"Hello\"", "\"delta\":");
    let mut recorder = replay(&damaged.into(), events);
    recorder.end(Ending::failed("broken"), 101);
    assert_eq!(recorder.take().unwrap().first, events);
    assert!(Recorder::replay(ResponseId::new(Uuid::from_u128(1)), Bytes::new(), 0, LIMITS).is_err());
}
