//! How much a principal keeps, and what it has not changed for long.

use outlast::{
    protocol::{ConversationId, TerminalStatus},
    store::{Batch, ConversationItem, EndedResponse, LogSegment, NewItem, STORED_ROW},
};
use sqlx::Connection as _;

use crate::{
    Opened, ended,
    harness::database::{Database, both_databases},
    id, open, row, segment,
};

both_databases!(
    what_a_principal_keeps_is_counted,
    every_change_of_a_conversation_lets_its_time_begin_anew,
    a_conversation_of_an_older_version_is_dated_when_somebody_asks,
);

async fn what_a_principal_keeps_is_counted(database: Database) {
    let Opened { store, .. } = &open(&database).await;
    let mut writer = store.writer().await.unwrap();
    assert_eq!(store.stored_bytes("ann").await.unwrap(), 0);
    let (mut first, second) = (row(&id()), row(&id()));
    // Bytes, not characters.
    first.request = "\"ä\"".to_owned();
    let events = segment(0, 1);
    let logs = LogSegment { first: 0, last: 0, lines: b"{}\n".to_vec() };
    let end = ended(&first.id, TerminalStatus::Completed, 1);
    let batch = Batch {
        admitted: vec![&first, &second],
        segments: vec![(&first.id, &events)],
        logs: vec![(&first.id, &logs)],
        ended: vec![&end],
        ..Batch::default()
    };
    writer.commit(&batch).await.unwrap();
    let conversation = ConversationId::parse("c").unwrap();
    let item = NewItem { id: "msg_1", item: "{\"a\":1}" };
    store.create_conversation("ann", &conversation, 1, "{}", &[item]).await.unwrap();
    let bytes = first.request.len() + second.request.len() + end.response.len() + events.frames.len() + 3 + 2 + 7;
    assert_eq!(store.stored_bytes("ann").await.unwrap(), bytes as u64 + 6 * STORED_ROW);
    assert_eq!(store.stored_bytes("bob").await.unwrap(), 0);
}

async fn every_change_of_a_conversation_lets_its_time_begin_anew(database: Database) {
    let Opened { store, .. } = &open(&database).await;
    let mut writer = store.writer().await.unwrap();
    let conversation = ConversationId::parse("c").unwrap();
    let item = NewItem { id: "msg_1", item: "{}" };
    let since = async |changed: i64| {
        assert!(store.unchanged_conversations(changed).await.unwrap().is_empty(), "changed before {changed}");
        assert!(!store.remove_unchanged("ann", "c", changed).await.unwrap());
        let unchanged = store.unchanged_conversations(changed + 1).await.unwrap();
        assert_eq!(unchanged, [("ann".to_owned(), "c".to_owned())], "not changed at {changed}");
    };
    store.create_conversation("ann", &conversation, 10, "{}", &[item]).await.unwrap();
    since(10).await;
    store.add_items("ann", &conversation, &[item], 20).await.unwrap();
    since(20).await;
    store.set_conversation_metadata("ann", &conversation, "{}", 30).await.unwrap();
    since(30).await;
    store.delete_item("ann", &conversation, "msg_1", 40).await.unwrap();
    since(40).await;
    for (status, ended_at) in [(TerminalStatus::Completed, 50), (TerminalStatus::Failed, 60)] {
        let mut turn = row(&id());
        let position = store.conversation_head("ann", &conversation).await.unwrap().unwrap().position;
        turn.conversation = Some((conversation.clone(), position));
        let batch = Batch { admitted: vec![&turn], ..Batch::default() };
        assert!(writer.commit(&batch).await.unwrap().conversation_conflicts.is_empty());
        // While a response is being made in it, it does not go.
        assert!(store.unchanged_conversations(1_000).await.unwrap().is_empty());
        assert!(!store.remove_unchanged("ann", "c", 1_000).await.unwrap());
        let items = vec![ConversationItem { id: "msg_2".to_owned(), item: "{}".to_owned() }];
        let end = EndedResponse { ended_at, items, ..ended(&turn.id, status, turn.epoch) };
        writer.commit(&Batch { ended: vec![&end], ..Batch::default() }).await.unwrap();
        since(ended_at).await;
    }
    assert!(store.remove_unchanged("ann", "c", 61).await.unwrap());
    assert!(store.conversation_head("ann", &conversation).await.unwrap().is_none());
    assert!(store.history("ann", &conversation, 10).await.unwrap().is_empty());
}

async fn a_conversation_of_an_older_version_is_dated_when_somebody_asks(database: Database) {
    let Opened { store, folder, .. } = &open(&database).await;
    drop(store.writer().await.unwrap());
    store.create_conversation("ann", &ConversationId::parse("c").unwrap(), 10, "{}", &[]).await.unwrap();
    let mut connection = database.connect(folder.path()).await;
    sqlx::query("UPDATE conversations SET changed_at = NULL").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    assert!(store.unchanged_conversations(i64::MAX).await.unwrap().is_empty());
    store.date_conversations(100).await.unwrap();
    assert!(store.unchanged_conversations(100).await.unwrap().is_empty());
    assert_eq!(store.unchanged_conversations(101).await.unwrap().len(), 1);
}
