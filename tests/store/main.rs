//! The store, over both databases, through the library.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod commit_log;
mod file;
mod guard;
#[path = "../harness/mod.rs"]
mod harness;
mod lives;
mod migrations;
mod needed;
mod outage;
mod ownership;
mod shrink;
mod unchanged;
mod webhooks;

use std::time::Duration;

use harness::{
    database::{Database, both_databases},
    scratch,
};
use outlast::{
    protocol::{ConversationId, IdempotencyKey, ResponseId, Segment, Status, TerminalStatus, Usage},
    store::{
        Batch, EndedResponse, JournalSegment, LogSegment, NewResponse, RunUsage, StateOwner, StatePlace, StateWrite,
        Store, StoreError,
    },
};
use tempfile::TempDir;
use uuid::Uuid;

both_databases!(
    a_batch_is_read_back_as_it_was_written,
    a_batch_that_is_written_again_changes_nothing,
    an_end_is_written_once,
    an_end_under_another_epoch_is_not_written,
    a_key_is_reserved_once,
    an_abandoned_admission_goes,
    a_principal_sees_its_own,
    the_log_is_read_from_any_event,
    a_journal_goes_with_its_run,
    whoever_takes_a_run_over_is_its_one_owner,
    a_component_is_kept_while_it_is_needed,
    what_agents_keep_is_written_in_order_and_its_owners_alone,
    what_is_kept_for_a_conversation_that_is_gone_is_not_kept,
    logs_and_usage_go_with_their_response,
    a_second_owner_is_refused,
    the_schema_is_made_once,
);

struct Opened {
    store: Store,
    database: String,
    folder: TempDir,
}

async fn open(database: &Database) -> Opened {
    let folder = scratch::dir("store");
    let database = database.argument(folder.path());
    Opened { store: Store::open(&database).await.unwrap(), database, folder }
}

fn id() -> ResponseId {
    ResponseId::new(Uuid::now_v7())
}

fn row(id: &ResponseId) -> NewResponse {
    NewResponse {
        id: id.clone(),
        principal: "ann".to_owned(),
        epoch: 1,
        agent: "echo".to_owned(),
        component: "00".to_owned(),
        status: Status::IN_PROGRESS,
        previous: None,
        turns: 0,
        conversation: None,
        key: None,
        created_at: 1,
        request: r#"{"fields":{},"input":[{"text":"with \u0000 and ü"}]}"#.to_owned(),
    }
}

fn segment(first: u64, last: u64) -> Segment {
    let frames: String = (first..=last).map(|number| format!("event: x\ndata: {number}\n\n")).collect();
    Segment { first, last, frames: frames.into() }
}

fn ended(id: &ResponseId, status: TerminalStatus, epoch: i64) -> EndedResponse {
    let response = format!("{{\"status\":\"{}\"}}", status.as_str());
    EndedResponse {
        id: id.clone(),
        epoch,
        status,
        ended_at: 2,
        response,
        background: true,
        journaled: true,
        given_up: false,
        lived: true,
        items: Vec::new(),
    }
}

async fn a_batch_is_read_back_as_it_was_written(database: Database) {
    let Opened { store, .. } = &open(&database).await;
    let mut writer = store.writer().await.unwrap();
    let ids: Vec<_> = (0..70).map(|_| id()).collect();
    let rows: Vec<_> = ids.iter().map(row).collect();
    let (one, two) = (segment(0, 3), segment(4, 4));
    let batch = Batch {
        admitted: rows.iter().collect(),
        segments: ids.iter().flat_map(|id| [(id, &one), (id, &two)]).collect(),
        ..Batch::default()
    };
    writer.commit(&batch).await.unwrap();
    for id in &ids {
        let stored = store.response("ann", id).await.unwrap().unwrap();
        assert_eq!((stored.status, stored.epoch, stored.response), (Status::IN_PROGRESS, 1, None));
        assert_eq!(store.events(id, 0).await.unwrap(), [segment(0, 4)]);
        assert_eq!(store.turns("ann", id, 1).await.unwrap()[0].request, rows[0].request);
    }
    assert_eq!(writer.take_over().await.unwrap().runs.len(), 70);
}

async fn a_batch_that_is_written_again_changes_nothing(database: Database) {
    let Opened { store, .. } = &open(&database).await;
    let mut writer = store.writer().await.unwrap();
    let id = id();
    let mut row = row(&id);
    row.conversation = Some((ConversationId::parse("hall").unwrap(), 0));
    row.key = Some(IdempotencyKey { key: "k".to_owned(), fingerprint: "f".to_owned() });
    for _ in 0..2 {
        let committed = writer.commit(&Batch { admitted: vec![&row], ..Batch::default() }).await.unwrap();
        assert!(committed.key_conflicts.is_empty() && committed.conversation_conflicts.is_empty(), "{committed:?}");
        assert!(store.response("ann", &id).await.unwrap().is_some());
    }
    let (segment, end) = (segment(0, 1), ended(&id, TerminalStatus::Completed, 1));
    let batch = Batch { segments: vec![(&id, &segment)], ended: vec![&end], ..Batch::default() };
    for _ in 0..2 {
        let committed = writer.commit(&batch).await.unwrap();
        assert!(committed.superseded.is_empty());
    }
    assert_eq!(store.events(&id, 0).await.unwrap(), std::slice::from_ref(&segment));
}

async fn an_end_is_written_once(database: Database) {
    let Opened { store, .. } = &open(&database).await;
    let mut writer = store.writer().await.unwrap();
    let id = id();
    let cancelled = ended(&id, TerminalStatus::Cancelled, 1);
    writer.commit(&Batch { admitted: vec![&row(&id)], ended: vec![&cancelled], ..Batch::default() }).await.unwrap();
    let completed = ended(&id, TerminalStatus::Completed, 1);
    let late = writer.commit(&Batch { ended: vec![&completed], ..Batch::default() }).await.unwrap().superseded;
    assert!(late.contains(&id));
    let stored = store.response("ann", &id).await.unwrap().unwrap();
    assert_eq!(stored.status, TerminalStatus::Cancelled.into());
    assert_eq!(stored.response, Some(cancelled.response));
    assert!(writer.take_over().await.unwrap().runs.is_empty());
}

async fn an_end_under_another_epoch_is_not_written(database: Database) {
    let Opened { store, .. } = &open(&database).await;
    let mut writer = store.writer().await.unwrap();
    let id = id();
    let end = ended(&id, TerminalStatus::Completed, 2);
    let row = row(&id);
    let batch = Batch { admitted: vec![&row], ended: vec![&end], ..Batch::default() };
    assert!(writer.commit(&batch).await.unwrap().superseded.contains(&id));
    assert_eq!(store.response("ann", &id).await.unwrap().unwrap().status, Status::IN_PROGRESS);
}

async fn a_key_is_reserved_once(database: Database) {
    let Opened { store, .. } = &open(&database).await;
    let mut writer = store.writer().await.unwrap();
    let with_key = |principal: &str, fingerprint: &str| {
        let mut row = row(&id());
        row.principal = principal.to_owned();
        row.key = Some(IdempotencyKey { key: "k".to_owned(), fingerprint: fingerprint.to_owned() });
        row
    };
    let (first, second, other) = (with_key("ann", "f1"), with_key("ann", "f2"), with_key("bob", "f3"));
    let events = segment(0, 1);
    let batch = Batch {
        admitted: vec![&first, &second, &other],
        segments: vec![(&first.id, &events), (&second.id, &events)],
        ..Batch::default()
    };
    let taken = writer.commit(&batch).await.unwrap().key_conflicts;
    assert_eq!(taken.into_iter().collect::<Vec<_>>(), std::slice::from_ref(&second.id));
    assert!(store.events(&second.id, 0).await.unwrap().is_empty());
    assert_eq!(store.response_of_key("ann", "k").await.unwrap(), Some((first.id.clone(), "f1".to_owned())));
    assert_eq!(store.response_of_key("bob", "k").await.unwrap(), Some((other.id, "f3".to_owned())));
    let late = with_key("ann", "f4");
    assert!(
        writer
            .commit(&Batch { admitted: vec![&late], ..Batch::default() })
            .await
            .unwrap()
            .key_conflicts
            .contains(&late.id)
    );
    assert!(store.delete_response("ann", &first.id, 3).await.unwrap());
    assert_eq!(store.response_of_key("ann", "k").await.unwrap(), None);
    assert!(store.events(&first.id, 0).await.unwrap().is_empty());
}

async fn an_abandoned_admission_goes(database: Database) {
    let Opened { store, .. } = &open(&database).await;
    let mut writer = store.writer().await.unwrap();
    let (id, events) = (id(), segment(0, 1));
    let row = row(&id);
    let batch = Batch { admitted: vec![&row], segments: vec![(&id, &events)], ..Batch::default() };
    writer.commit(&batch).await.unwrap();
    writer.commit(&Batch { abandoned: vec![&id], ..Batch::default() }).await.unwrap();
    assert!(store.response("ann", &id).await.unwrap().is_none());
    assert!(store.events(&id, 0).await.unwrap().is_empty());
}

async fn a_principal_sees_its_own(database: Database) {
    let Opened { store, .. } = &open(&database).await;
    let mut writer = store.writer().await.unwrap();
    let id = id();
    writer.commit(&Batch { admitted: vec![&row(&id)], ..Batch::default() }).await.unwrap();
    assert!(store.response("ann", &id).await.unwrap().is_some());
    assert!(store.response("bob", &id).await.unwrap().is_none());
    assert!(store.turns("bob", &id, 10).await.unwrap().is_empty());
    assert!(!store.delete_response("bob", &id, 3).await.unwrap());
}

async fn the_log_is_read_from_any_event(database: Database) {
    let Opened { store, .. } = &open(&database).await;
    let mut writer = store.writer().await.unwrap();
    let id = id();
    let segments: Vec<_> = (0..40).map(|number| segment(number * 2, number * 2 + 1)).collect();
    for segment in &segments {
        // A run that waits is nowhere but in its tables.
        let phases = vec![(&id, 1, outlast::store::Phase::Waiting)];
        writer.commit(&Batch { segments: vec![(&id, segment)], phases, ..Batch::default() }).await.unwrap();
    }
    let page = store.events(&id, 5).await.unwrap();
    assert_eq!((&page[0], &page[1]), (&segment(5, 5), &segments[3]));
    assert!(page.len() < segments.len(), "a page is bounded");
    assert_eq!(store.events(&id, 79).await.unwrap(), [segment(79, 79)]);
    for beyond in [80, i64::MAX.cast_unsigned(), u64::MAX] {
        assert!(store.events(&id, beyond).await.unwrap().is_empty());
    }
}

fn entries(first: u64, last: u64) -> JournalSegment {
    JournalSegment {
        first,
        last,
        lines: (first..=last).flat_map(|number| format!("{number}\n").into_bytes()).collect(),
    }
}

async fn a_journal_goes_with_its_run(database: Database) {
    let Opened { store, .. } = &open(&database).await;
    let mut writer = store.writer().await.unwrap();
    let (row, kept) = (row(&id()), row(&id()));
    let (one, two) = (entries(0, 2), entries(3, 3));
    let batch = Batch {
        admitted: vec![&row, &kept],
        entries: vec![(&row.id, &one), (&kept.id, &one), (&row.id, &two)],
        ..Batch::default()
    };
    for _ in 0..2 {
        writer.commit(&batch).await.unwrap();
        assert_eq!(store.journal(&row.id).await.unwrap(), [entries(0, 3)]);
    }
    let end = ended(&row.id, TerminalStatus::Completed, 1);
    writer.commit(&Batch { ended: vec![&end], ..Batch::default() }).await.unwrap();
    assert!(store.journal(&row.id).await.unwrap().is_empty());
    assert_eq!(store.journal(&kept.id).await.unwrap(), [one]);
    store.delete_response("ann", &kept.id, 3).await.unwrap();
    assert!(store.journal(&kept.id).await.unwrap().is_empty());
}

async fn whoever_takes_a_run_over_is_its_one_owner(database: Database) {
    let Opened { store, .. } = &open(&database).await;
    let mut writer = store.writer().await.unwrap();
    let (mut first, mut second) = (row(&id()), row(&id()));
    (first.created_at, second.created_at) = (2, 1);
    first.previous = Some(id());
    second.conversation = Some((ConversationId::parse("c").unwrap(), 0));
    writer.commit(&Batch { admitted: vec![&first, &second], ..Batch::default() }).await.unwrap();
    let runs = writer.take_over().await.unwrap().runs;
    assert_eq!(runs.iter().map(|run| &run.id).collect::<Vec<_>>(), [&second.id, &first.id], "oldest first");
    assert_eq!(runs[1].epoch, 2);
    let (one, two) = (store.active_run(&first.id).await.unwrap(), store.active_run(&second.id).await.unwrap());
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!((&two.conversation, &two.previous), (&second.conversation.map(|(id, _)| id), &None));
    assert_eq!((&one.conversation, &one.previous), (&None, &first.previous));
    assert_eq!((&one.request, one.epoch), (&first.request, 2));
    let late = ended(&first.id, TerminalStatus::Completed, 1);
    assert!(
        writer.commit(&Batch { ended: vec![&late], ..Batch::default() }).await.unwrap().superseded.contains(&first.id)
    );
    let end = ended(&first.id, TerminalStatus::Failed, 2);
    assert!(writer.commit(&Batch { ended: vec![&end], ..Batch::default() }).await.unwrap().superseded.is_empty());
}

async fn a_component_is_kept_while_it_is_needed(database: Database) {
    let Opened { store, .. } = &open(&database).await;
    let mut writer = store.writer().await.unwrap();
    let mut row = row(&id());
    row.component = "needed".to_owned();
    writer.commit(&Batch { admitted: vec![&row], ..Batch::default() }).await.unwrap();
    for sha256 in ["needed", "needed", "loaded", "old"] {
        store.keep_component(sha256, sha256.as_bytes(), 1).await.unwrap();
    }
    let kept = async |loaded: &str| {
        store.remove_components(&[loaded.to_owned()]).await.unwrap();
        let mut kept = Vec::new();
        for sha256 in ["needed", "loaded", "old"] {
            kept.extend(store.component(sha256).await.unwrap().unwrap_or_default());
        }
        String::from_utf8(kept).unwrap()
    };
    assert_eq!(kept("loaded").await, "neededloaded");
    let end = ended(&row.id, TerminalStatus::Completed, 1);
    writer.commit(&Batch { ended: vec![&end], ..Batch::default() }).await.unwrap();
    assert_eq!(kept("loaded").await, "loaded");
}

fn owner(principal: &str, agent: &str) -> StateOwner {
    StateOwner { principal: principal.to_owned(), agent: agent.to_owned() }
}

fn place(conversation: &str, key: &str) -> StatePlace {
    StatePlace { conversation: conversation.to_owned(), key: key.to_owned() }
}

async fn what_agents_keep_is_written_in_order_and_its_owners_alone(database: Database) {
    let Opened { store, .. } = &open(&database).await;
    let mut writer = store.writer().await.unwrap();
    let (ann, bob, other) = (owner("ann", "a"), owner("bob", "a"), owner("ann", "b"));
    let (run, k, l) = (&id(), place("", "k"), place("", "l"));
    let write = |owner, place, value| StateWrite { run, owner, place, value };
    let batch = Batch {
        state: vec![
            write(&ann, &k, Some(b"1")),
            write(&ann, &k, None),
            write(&ann, &k, Some(b"3")),
            write(&bob, &k, Some(b"x")),
            write(&ann, &l, Some(b"1")),
            write(&ann, &l, None),
        ],
        ..Batch::default()
    };
    for _ in 0..2 {
        assert!(writer.commit(&batch).await.unwrap().without_conversation.is_empty());
        assert_eq!(store.state(&ann, &k).await.unwrap(), Some(b"3".to_vec()));
        assert_eq!(store.state(&bob, &k).await.unwrap(), Some(b"x".to_vec()));
        assert_eq!(store.state(&ann, &l).await.unwrap(), None);
        assert_eq!(store.state(&other, &k).await.unwrap(), None);
        assert_eq!((store.state_bytes(&ann, 10).await.unwrap(), store.state_bytes(&other, 10).await.unwrap()), (12, 0));
    }
    let batch = Batch { state: vec![write(&ann, &k, None)], ..Batch::default() };
    writer.commit(&batch).await.unwrap();
    assert_eq!(store.state(&ann, &k).await.unwrap(), None);
    assert!(store.state(&bob, &k).await.unwrap().is_some());
}

async fn what_is_kept_for_a_conversation_that_is_gone_is_not_kept(database: Database) {
    let Opened { store, .. } = &open(&database).await;
    let mut writer = store.writer().await.unwrap();
    let (ann, run, here, gone) = (owner("ann", "a"), &id(), place("c", "k"), place("d", "k"));
    let conversation = ConversationId::parse("c").unwrap();
    store.create_conversation("ann", &conversation, 1, "{}", &[]).await.unwrap();
    let write = |place| StateWrite { run, owner: &ann, place, value: Some(b"1") };
    let batch = Batch { state: vec![write(&here), write(&gone)], ..Batch::default() };
    assert!(writer.commit(&batch).await.unwrap().without_conversation.contains(run));
    assert!(store.state(&ann, &here).await.unwrap().is_some());
    assert!(store.state(&ann, &gone).await.unwrap().is_none());
    assert!(store.delete_conversation("ann", &conversation).await.unwrap());
    assert!(store.state(&ann, &here).await.unwrap().is_none());
    assert!(writer.commit(&batch).await.unwrap().without_conversation.contains(run));
    assert!(!store.delete_conversation("ann", &conversation).await.unwrap());
}

async fn logs_and_usage_go_with_their_response(database: Database) {
    let Opened { store, .. } = &open(&database).await;
    let mut writer = store.writer().await.unwrap();
    let row = row(&id());
    let line = |first: u64, last: u64| LogSegment { first, last, lines: b"{}\n".repeat((last - first + 1) as usize) };
    let (one, two) = (line(0, 1), line(2, 2));
    let reported = Usage::new(6, 0, 0, 7, 1);
    let usage = |cpu| RunUsage { cpu, memory: 2, input_tokens: 3, output_tokens: 4, heard: 5, reported };
    let batch = Batch {
        admitted: vec![&row],
        logs: vec![(&row.id, &one), (&row.id, &two)],
        usage: vec![(&row.id, usage(1))],
        ..Batch::default()
    };
    for _ in 0..2 {
        writer.commit(&batch).await.unwrap();
        assert_eq!(store.log(&row.id, 0).await.unwrap(), [line(0, 2)]);
        assert_eq!(store.log(&row.id, 2).await.unwrap(), [line(2, 2)]);
        assert!(store.log(&row.id, 3).await.unwrap().is_empty());
    }
    writer.commit(&Batch { usage: vec![(&row.id, usage(9))], ..Batch::default() }).await.unwrap();
    let run = store.run(&row.id).await.unwrap().unwrap();
    assert_eq!((run.usage, run.log_lines, store.log_bytes(&row.id).await.unwrap()), (usage(9), 3, 9));
    assert!(store.delete_response("ann", &row.id, 3).await.unwrap());
    assert!(store.run(&row.id).await.unwrap().is_none() && store.log(&row.id, 0).await.unwrap().is_empty());
}

async fn a_second_owner_is_refused(database: Database) {
    let opened = open(&database).await;
    let mut first = opened.store.clone().leased_for(Duration::from_secs(2)).writer().await.unwrap();
    let second = async {
        match Store::open(&opened.database).await {
            Ok(store) => store.writer().await.map(drop),
            Err(error) => Err(error),
        }
    };
    let living = async {
        loop {
            first.keep().await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let refused = tokio::select! {
        second = second => second,
        () = living => unreachable!(),
    };
    assert!(matches!(refused, Err(StoreError::Owned(_))));
}

async fn the_schema_is_made_once(database: Database) {
    let Opened { store, database, folder: _folder } = open(&database).await;
    let id = id();
    store.writer().await.unwrap().commit(&Batch { admitted: vec![&row(&id)], ..Batch::default() }).await.unwrap();
    store.close().await;
    drop(store);
    let store = Store::open(&database).await.unwrap();
    assert!(store.response("ann", &id).await.unwrap().is_some());
}
