//! What must hold when all is over.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use sqlx::{AnyConnection, Row as _};

use super::{
    clients::{Fate, Seen, World, output},
    faults::Faults,
    halls,
    journals::{Journals, marker},
    letters::{self, Arrived, Letterbox},
    runs::{Kind, Plan, Policy},
    upstream::{Call, Upstream},
};
use crate::harness::{client::Client, events::Event, fold::fold, schema};

/// What was counted on the way.
#[derive(Debug, Default)]
pub struct Checked {
    pub runs: BTreeMap<Kind, usize>,
    pub events: usize,
    /// Runs whose clients never knew whether they began, and that did.
    pub lost: usize,
    /// Runs that were given up because they did not get on.
    pub given_up: usize,
    pub calls: usize,
    /// Calls that were cut off, and asked again.
    pub repeated: usize,
    pub turns: usize,
    /// Turns of conversations of several clients, and items that were added between them.
    pub halls: (usize, usize),
    /// Responses that clients have deleted.
    pub deleted: usize,
    /// Letters that arrived.
    pub letters: usize,
    /// Letters that were sent again.
    pub sent_again: usize,
    /// Letters of which nobody knows whether they arrived.
    pub unknown: usize,
}

/// A run as the database has it.
#[derive(Debug)]
struct Stored {
    response: Value,
    events: Vec<Event>,
}

/// Checks everything, and panics at the first thing that is not as it must be.
pub async fn all(
    faults: &mut Faults,
    world: &World,
    upstream: &Upstream,
    letterbox: &Letterbox,
    seen: &[Seen],
) -> Checked {
    let mut checked = Checked::default();
    let client = faults.server.client();
    // Also runs that nobody knows of come to their end.
    for id in faults.server.response_ids().await {
        if !world.marks.may_be_gone(&id) {
            client.ended(&id).await;
        }
    }
    let resumed = faults.server.log().matches("resuming the runs").count();
    faults.restart_idle().await;
    let client = faults.server.client();
    assert_eq!(faults.server.log().matches("resuming the runs").count(), resumed, "there was nothing to resume");

    let mut database = faults.server.database().await;
    nothing_is_left(&mut database).await;
    let lives = lives_by_marker(&upstream.calls());
    for (marker, lives) in &lives {
        let once = world.plan(marker).is_some_and(|plan| plan.kind == Kind::Chat(Policy::Fail));
        assert!(!once || lives.len() == 1, "{marker}: asked in the lives {lives:?}, and may be asked once");
    }
    let stored = every_run_is_right(&mut database, &client, world, faults, &lives, &mut checked).await;
    for seen in seen {
        if seen.id.as_ref().is_none_or(|id| !world.marks.may_be_gone(id)) {
            what_was_seen_is_what_is_stored(seen, &stored);
        }
        let there = seen.id.as_ref().is_some_and(|id| !world.marks.may_be_gone(id));
        if seen.plan.key.is_some() && seen.fate == Fate::Ended && there {
            a_key_names_one_response(&client, seen).await;
        }
    }
    let known: BTreeSet<_> = seen.iter().filter_map(|seen| seen.id.as_ref()).collect();
    checked.lost = stored.values().filter(|run| known.iter().all(|id| run.response["id"] != **id)).count();
    conversations_have_each_turn_once(&mut database, seen, &stored, &mut checked).await;
    checked.halls = halls::check(&mut database, world, &turns_of_halls(world, &stored)).await;
    what_was_deleted_is_gone(&client, world, &mut checked).await;
    calls_are_not_repeated(&lives, &faults.journals, &mut checked);
    letters_arrive_once(&letterbox.letters(), world, &stored, &mut checked);
    let log = faults.server.log();
    for word in ["panicked", "diverged", "was ended elsewhere", "database refuses"] {
        assert!(!log.contains(word), "the log says `{word}`");
    }
    checked
}

/// The completed turns of the conversations of several clients, by their markers: which, and the ids of their output.
fn turns_of_halls(world: &World, stored: &BTreeMap<String, Stored>) -> BTreeMap<String, (String, Vec<String>)> {
    let completed = stored.iter().filter(|(_, run)| run.response["status"] == "completed");
    let turns = completed.filter_map(|(marker, run)| {
        let hall = world.plan(marker)?.hall.clone()?;
        let output = run.response["output"].as_array().unwrap();
        Some((marker.clone(), (hall, output.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect())))
    });
    turns.collect()
}

/// What a client has deleted nobody sees, whatever still needed it.
async fn what_was_deleted_is_gone(client: &Client, world: &World, checked: &mut Checked) {
    let deleted = world.marks.deleted.lock().clone();
    for (id, _) in deleted.iter().filter(|(_, known)| **known) {
        client.get(id).await.refused(404, "response_not_found");
    }
    checked.deleted = deleted.len();
}

/// No run is active, and nothing is kept of what is only needed while one is.
async fn nothing_is_left(database: &mut AnyConnection) {
    for (what, query) in [
        ("runs are active", "SELECT COUNT(*) FROM responses WHERE ended_at IS NULL OR response IS NULL"),
        ("journals are left", "SELECT COUNT(*) FROM journal"),
        ("conversations are held", "SELECT COUNT(*) FROM conversations WHERE active_response_id IS NOT NULL"),
        ("events have no response", "SELECT COUNT(*) FROM events WHERE response_id NOT IN (SELECT id FROM responses)"),
        (
            "keys name several responses",
            "SELECT COUNT(idempotency_key) - COUNT(DISTINCT idempotency_key) FROM responses",
        ),
    ] {
        let count: i64 = sqlx::query(query).fetch_one(&mut *database).await.unwrap().get(0);
        assert_eq!(count, 0, "{what}");
    }
}

/// Every stored run says what it must, and its events make its response. Gives them by their markers.
async fn every_run_is_right(
    database: &mut AnyConnection,
    client: &Client,
    world: &World,
    faults: &Faults,
    lives: &Lives,
    checked: &mut Checked,
) -> BTreeMap<String, Stored> {
    let rows = sqlx::query("SELECT id, request FROM responses").fetch_all(database).await.unwrap();
    let mut stored = BTreeMap::new();
    for row in rows {
        let id = row.get::<String, _>("id");
        if world.marks.may_be_gone(&id) {
            continue;
        }
        if world.marks.is_poisoned(&id) {
            assert_eq!(client.response(&id).await["status"], "failed", "{id}, of which a row cannot be read");
            continue;
        }
        let marker = marker(&row.get::<String, _>("request"));
        let plan = world.plan(&marker).unwrap_or_else(|| panic!("nobody asked for {marker}"));
        let response = client.response(&id).await;
        let events = client.get_stream(&id, None).await.rest().await;
        assert_eq!(fold(&events), response, "{marker}: its events make its response");
        if gives_up(&response) {
            assert!(plan.kind != Kind::Sleeper, "{marker} slept, and was given up: {response}");
            let lives = faults.life;
            assert!(lives > 5, "{marker} was given up after {lives} starts: {response}");
            checked.given_up += 1;
        } else {
            let lives = lives.get(&marker).map_or(&[][..], Vec::as_slice);
            // A call may be cut off before it arrives.
            let cut_off = lives.iter().any(|life| faults.journals.cut_off(&marker, *life))
                || lives.is_empty() && faults.journals.cut_off_at_all(&marker);
            says_what_it_must(&plan, &response, cut_off);
        }
        *checked.runs.entry(plan.kind).or_default() += 1;
        checked.events += events.len();
        assert!(stored.insert(marker.clone(), Stored { response, events }).is_none(), "{marker} ran twice");
    }
    // One run in fifty at most: otherwise the faults leave the runs no time, and show nothing.
    assert!(checked.given_up * 50 <= stored.len(), "{} of {} runs were given up", checked.given_up, stored.len());
    stored
}

/// Whether a run was resumed too often without getting on.
fn gives_up(response: &Value) -> bool {
    response["error"]["message"].as_str().is_some_and(|message| message.contains("without making progress"))
}

/// `cut_off`: whether a call of its model may have been.
fn says_what_it_must(plan: &Plan, response: &Value, cut_off: bool) {
    let marker = &plan.marker;
    let items: Vec<(&str, &str)> = response["output"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| (item["status"].as_str().unwrap(), item["content"][0]["text"].as_str().unwrap_or_default()))
        .collect();
    let whole = [("completed", plan.text.as_str())];
    let status = response["status"].as_str().unwrap();
    match plan.kind {
        Kind::Echo | Kind::Background | Kind::Keyed | Kind::Sleeper => {
            assert_eq!((status, items.as_slice()), ("completed", &whole[..]), "{marker}: {}", response["error"]);
            let words = plan.text.split(' ').count();
            assert_eq!(response["usage"]["output_tokens"], words, "{marker}: its usage");
        }
        Kind::Chat(Policy::Fail) if status == "failed" => {
            let message = response["error"]["message"].as_str().unwrap();
            assert!(message.contains("stopped while the model was answering"), "{marker}: {message}");
            assert!(cut_off, "{marker} failed, and its call was never cut off");
            for (status, text) in items {
                assert!(status == "incomplete" && plan.text.starts_with(text), "{marker}: {status} {text}");
            }
        }
        // What became of the letters is compared with those that arrived.
        Kind::Letters | Kind::IdempotentLetters => assert_eq!((status, items.len()), ("completed", 1), "{marker}"),
        Kind::Chat(policy) => {
            let (last, before) = items.split_last().unwrap_or_else(|| panic!("{marker} says nothing: {response}"));
            assert_eq!((status, *last), ("completed", whole[0]), "{marker}: {}", response["error"]);
            for (status, text) in before {
                assert!(plan.text.starts_with(text), "{marker}: {text}");
                assert_eq!(*status, "incomplete", "{marker}: what was cut off, before the answer: {response}");
                // What it had said is gone on from; only what had said nothing is closed.
                assert!(policy == Policy::Restart || text.is_empty(), "{marker}: {response}");
            }
        }
    }
}

fn what_was_seen_is_what_is_stored(seen: &Seen, stored: &BTreeMap<String, Stored>) {
    let marker = &seen.plan.marker;
    let run = stored.get(marker);
    let run = match (seen.fate, run) {
        (Fate::Ended, Some(run)) => run,
        (Fate::Refused, None) | (Fate::Lost | Fate::Poisoned, _) => return,
        (Fate::Refused, Some(run)) => panic!("{marker} was refused, and ran: {}", run.response),
        (fate, run) => panic!("{marker}: {fate:?}, and in the database {run:?}"),
    };
    assert_eq!(seen.id.as_deref(), run.response["id"].as_str(), "{marker}");
    for (number, frame) in &seen.frames {
        let event = usize::try_from(*number).ok().and_then(|number| run.events.get(number));
        let event = event.unwrap_or_else(|| panic!("{marker}: event {number} was shown, and is not kept"));
        assert!(event.frame == *frame, "{marker}: event {number} was shown otherwise than it is kept");
    }
    // Without a snapshot in between, what was read by cursor has no gap.
    let last = seen.frames.keys().last().map_or(0, |last| last + 1);
    if seen.snapshots.is_empty() {
        assert_eq!(seen.frames.len() as u64, last, "{marker}: a gap in {:?}", seen.frames.keys());
    }
    for snapshot in &seen.snapshots {
        let last = usize::try_from(snapshot["sequence_number"].as_u64().unwrap()).unwrap();
        let expected = output(&fold(&run.events[..=last]));
        assert_eq!(output(&snapshot["response"]), expected, "{marker}: the snapshot at event {last}");
    }
    if let Some(ended) = &seen.ended {
        assert_eq!(*ended, run.response, "{marker}: the end that was shown");
    }
}

async fn a_key_names_one_response(client: &Client, seen: &Seen) {
    let request = client.request(reqwest::Method::POST, "/v1/responses").json(&seen.plan.body);
    let again = client.send(request.header("idempotency-key", seen.plan.key.as_ref().unwrap())).await;
    assert_eq!(again.headers["idempotency-replayed"], "true");
    // A failed run is an error that names its response.
    if again.status == 502 {
        let id = again.body["error"]["response_id"].as_str();
        assert_eq!(seen.id.as_deref(), id, "{}: its key", seen.plan.marker);
        return;
    }
    let response = again.ok();
    schema::check_response(&response);
    assert_eq!(seen.id.as_deref(), response["id"].as_str(), "{}: its key", seen.plan.marker);
}

/// A conversation has the input and the output of each completed turn, once and in order.
async fn conversations_have_each_turn_once(
    database: &mut AnyConnection,
    seen: &[Seen],
    stored: &BTreeMap<String, Stored>,
    checked: &mut Checked,
) {
    let mut expected: BTreeMap<&str, (Vec<Value>, Value)> = BTreeMap::new();
    for seen in seen {
        let Some(conversation) = &seen.plan.conversation else { continue };
        checked.turns += 1;
        let response = &stored[&seen.plan.marker].response;
        let (items, latest) = expected.entry(conversation).or_default();
        if response["status"] == "completed" {
            items.push(seen.plan.body["input"].clone());
            items.extend(response["output"].as_array().unwrap().iter().map(|item| item["id"].clone()));
            *latest = response["id"].clone();
        }
    }
    for (conversation, (expected, latest)) in expected {
        let query = sqlx::query("SELECT item FROM conversation_items WHERE conversation_id = $1 ORDER BY position");
        let rows = query.bind(conversation.to_owned()).fetch_all(&mut *database).await.unwrap();
        let items: Vec<Value> = rows
            .iter()
            .map(|row| serde_json::from_str::<Value>(&row.get::<String, _>(0)).unwrap())
            .map(|item| if item["role"] == "user" { item["content"][0]["text"].clone() } else { item["id"].clone() })
            .collect();
        assert_eq!(items, expected, "{conversation}: its items");
        let query = sqlx::query("SELECT latest_completed_response_id FROM conversations WHERE id = $1");
        let row = query.bind(conversation.to_owned()).fetch_optional(&mut *database).await.unwrap();
        let found = row.and_then(|row| row.get::<Option<String>, _>(0));
        assert_eq!(json!(found), latest, "{conversation}: its checkpoint");
    }
}

/// A letter arrives once, or as often as lives of the server ended before its answer was recorded where it may be sent
/// again.
fn letters_arrive_once(
    letters: &BTreeMap<String, Arrived>,
    world: &World,
    stored: &BTreeMap<String, Stored>,
    checked: &mut Checked,
) {
    let none = Arrived::new();
    for (marker, run) in stored {
        let plan = world.plan(marker).unwrap();
        let idempotent = match plan.kind {
            Kind::Letters => false,
            Kind::IdempotentLetters => true,
            _ => continue,
        };
        let arrived = letters.get(marker).unwrap_or(&none);
        checked.letters += arrived.len();
        if !gives_up(&run.response) {
            let text = run.response["output"][0]["content"][0]["text"].as_str().unwrap();
            let (again, unknown) = letters::check(marker, idempotent, plan.letters, text, arrived);
            checked.sent_again += again;
            checked.unknown += unknown;
        }
    }
    for marker in letters.keys() {
        let there = stored.contains_key(marker) || world.marks.is_marker_poisoned(marker);
        assert!(there, "{marker} posted letters, and does not exist");
    }
}

/// The lives of the server in which the model was asked for a run, by the run's marker.
type Lives = BTreeMap<String, Vec<u64>>;

fn lives_by_marker(calls: &[Call]) -> Lives {
    let mut lives = Lives::new();
    for call in calls {
        lives.entry(call.marker.clone()).or_default().push(call.life);
    }
    lives.values_mut().for_each(|lives| lives.sort_unstable());
    lives
}

/// The model was asked once for each run, and once more at most for each life of the server that ended in the middle of
/// a call; and never again after an answer was recorded.
fn calls_are_not_repeated(lives: &Lives, journals: &Journals, checked: &mut Checked) {
    for (marker, lives) in lives {
        assert!(
            lives.windows(2).all(|two| two[0] < two[1]),
            "{marker}: two calls in one life of the server: {lives:?}"
        );
        let (last, before) = lives.split_last().unwrap();
        if let Some(recorded) = journals.answered.get(marker) {
            assert!(last <= recorded, "{marker}: asked in life {last}, and answered since life {recorded}");
        }
        for life in before {
            let cut_off = journals.cut_off(marker, *life);
            assert!(cut_off, "{marker}: asked again after life {life}, which did not end in the middle of its call");
        }
        checked.calls += lives.len();
        checked.repeated += before.len();
    }
}
