//! What an active run goes on from stays until it has ended.

use outlast::{
    protocol::{ConversationId, ResponseId, TerminalStatus},
    store::{Batch, EndedResponse, NewItem, NewResponse, Store, Swept, WriteConnection},
};

use crate::{
    Opened, ended,
    harness::database::{Database, both_databases},
    id, open, row, segment,
};

both_databases!(
    retention_leaves_what_an_active_run_goes_on_from,
    what_is_deleted_is_hidden_while_an_active_run_goes_on_from_it,
    a_deleted_conversation_stays_for_its_active_turn,
);

/// A chain of two responses that have ended, and an active one that goes on from them.
async fn chain(writer: &mut WriteConnection) -> [NewResponse; 3] {
    let (first, mut second, mut active) = (row(&id()), row(&id()), row(&id()));
    (second.previous, second.turns) = (Some(first.id.clone()), 1);
    (active.previous, active.turns) = (Some(second.id.clone()), 2);
    let events = segment(0, 1);
    let ends = [&first, &second].map(|row| ended(&row.id, TerminalStatus::Completed, 1));
    let batch = Batch {
        admitted: vec![&first, &second, &active],
        segments: vec![(&first.id, &events), (&second.id, &events)],
        ended: ends.iter().collect(),
        ..Batch::default()
    };
    writer.commit(&batch).await.unwrap();
    [first, second, active]
}

async fn finish(writer: &mut WriteConnection, id: &ResponseId) {
    let end = EndedResponse { ended_at: 1_000, ..ended(id, TerminalStatus::Completed, 1) };
    writer.commit(&Batch { ended: vec![&end], ..Batch::default() }).await.unwrap();
}

/// A whole sweep.
async fn sweep(store: &Store, time: i64) -> u64 {
    let (mut removed, mut swept) = (0, Swept::default());
    loop {
        swept = store.remove_ended(time, &swept).await.unwrap();
        removed += swept.removed;
        if swept.looked_at == 0 {
            return removed;
        }
    }
}

async fn retention_leaves_what_an_active_run_goes_on_from(database: Database) {
    let Opened { store, .. } = &open(&database).await;
    let mut writer = store.writer().await.unwrap();
    let [first, second, active] = chain(&mut writer).await;
    let others: Vec<_> = (0..150).map(|_| row(&id())).collect();
    let ends: Vec<_> = others.iter().map(|row| ended(&row.id, TerminalStatus::Failed, 1)).collect();
    let batch = Batch { admitted: others.iter().collect(), ended: ends.iter().collect(), ..Batch::default() };
    writer.commit(&batch).await.unwrap();
    assert_eq!(sweep(store, 500).await, 150);
    assert_eq!(store.turns_of_run("ann", &second.id, Some(2)).await.unwrap().len(), 2);
    assert!(store.response("ann", &first.id).await.unwrap().is_some());
    finish(&mut writer, &active.id).await;
    assert_eq!(sweep(store, 500).await, 2);
    assert!(store.response("ann", &first.id).await.unwrap().is_none());
    assert!(store.response("ann", &active.id).await.unwrap().is_some());
}

async fn what_is_deleted_is_hidden_while_an_active_run_goes_on_from_it(database: Database) {
    let Opened { store, .. } = &open(&database).await;
    let mut writer = store.writer().await.unwrap();
    let [first, second, active] = chain(&mut writer).await;
    assert!(store.delete_response("ann", &first.id, 3).await.unwrap());
    assert!(store.response("ann", &first.id).await.unwrap().is_none());
    assert!(!store.delete_response("ann", &first.id, 4).await.unwrap(), "it is gone for everybody");
    assert!(store.run(&first.id).await.unwrap().is_none());
    assert_eq!(store.size().await.unwrap().responses, 2);
    // A new run is not told of it; the one that was told, is told again.
    assert_eq!(store.turns("ann", &second.id, 9).await.unwrap().len(), 1);
    assert_eq!(store.turns_of_run("ann", &second.id, Some(2)).await.unwrap().len(), 2);
    assert_eq!(store.remove_deleted().await.unwrap(), 0);
    finish(&mut writer, &active.id).await;
    assert_eq!(store.remove_deleted().await.unwrap(), 1);
    assert!(store.events(&first.id, 0).await.unwrap().is_empty());
    // Nobody needs it now: it goes at once.
    assert!(store.delete_response("ann", &second.id, 3).await.unwrap());
    assert!(store.events(&second.id, 0).await.unwrap().is_empty());
}

async fn a_deleted_conversation_stays_for_its_active_turn(database: Database) {
    let Opened { store, .. } = &open(&database).await;
    let mut writer = store.writer().await.unwrap();
    let conversation = ConversationId::parse("c").unwrap();
    let items = [NewItem { id: "a", item: r#"{"id":"a"}"# }, NewItem { id: "b", item: r#"{"id":"b"}"# }];
    store.create_conversation("ann", &conversation, 1, "{}", &items).await.unwrap();
    let mut turn = row(&id());
    turn.conversation = Some((conversation.clone(), 2));
    let committed = writer.commit(&Batch { admitted: vec![&turn], ..Batch::default() }).await.unwrap();
    assert!(committed.conversation_conflicts.is_empty());
    assert!(store.delete_conversation("ann", &conversation).await.unwrap());
    assert!(store.conversation("ann", &conversation).await.unwrap().is_none());
    assert!(store.history("ann", &conversation, 9).await.unwrap().is_empty());
    let run = store.active_run(&turn.id).await.unwrap().unwrap();
    assert_eq!(run.history.as_deref(), Some(r#"[{"id":"a"},{"id":"b"}]"#));
    // Another one of this name is another one.
    store.create_conversation("ann", &conversation, 1, "{}", &items[..1]).await.unwrap();
    finish(&mut writer, &turn.id).await;
    assert_eq!(store.history("ann", &conversation, 9).await.unwrap().len(), 1);
    let kept = sqlx::query_scalar::<_, Option<String>>("SELECT history FROM responses WHERE id = $1");
    let mut connection = database.connect(std::path::Path::new(store.shown()).parent().unwrap()).await;
    assert_eq!(kept.bind(turn.id.as_str()).fetch_one(&mut connection).await.unwrap(), None);
}
