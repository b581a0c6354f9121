//! A conversation has one turn at a time, also where two connections come at once.
//!
//! Each test holds the conversation's row in a transaction of its own, lets the store wait for it, and admits a turn in
//! between.

use outlast::{
    protocol::{ConversationId, ResponseId},
    store::{Batch, NewItem, Store, Written},
};
use sqlx::{AnyConnection, Connection as _, Executor as _, Row as _};

use crate::{
    Opened,
    harness::{database::Database, wait},
    id, open, row,
};

/// A conversation with an item, and the transaction in which another turn begins, once [`Turn::begin`] is called.
struct Turn {
    opened: Opened,
    conversation: ConversationId,
    other: AnyConnection,
    looks: AnyConnection,
}

impl Turn {
    async fn new() -> Option<Self> {
        let database = Database::postgres().await?;
        let opened = open(&database).await;
        // It makes the schema.
        drop(opened.store.writer().await.unwrap());
        let conversation = ConversationId::parse("c").unwrap();
        let item = NewItem { id: "msg_1", item: "{}" };
        opened.store.create_conversation("ann", &conversation, 1, "{}", &[item]).await.unwrap();
        let mut other = database.connect(opened.folder.path()).await;
        let looks = database.connect(opened.folder.path()).await;
        other.execute("BEGIN").await.unwrap();
        other.execute("SELECT id FROM conversations WHERE id = 'c' FOR UPDATE").await.unwrap();
        Some(Self { opened, conversation, other, looks })
    }

    fn store(&self) -> Store {
        self.opened.store.clone()
    }

    /// Waits until somebody waits for the row, and then commits another turn.
    async fn begins_meanwhile(mut self) {
        wait::eventually("the store waits for the conversation", async || {
            let waiting = "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() \
                           AND wait_event_type = 'Lock'";
            let row = sqlx::query(waiting).fetch_one(&mut self.looks).await.unwrap();
            (row.get::<i64, _>(0) > 0).then_some(())
        })
        .await;
        let first = id();
        let admit = format!(
            "INSERT INTO responses (id, principal, status, epoch, agent, component, created_at, request, \
             conversation_id) VALUES ('{first}', 'ann', 'in_progress', 1, 'echo', '00', 1, '{{}}', 'c'); \
             UPDATE conversations SET active_response_id = '{first}' WHERE id = 'c'; COMMIT"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(admit)).execute(&mut self.other).await.unwrap();
        self.other.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_turn_that_waited_for_another_turn_does_not_begin() {
    let Some(turn) = Turn::new().await else { return };
    let store = turn.store();
    let mut writer = store.writer().await.unwrap();
    let mut second = row(&id());
    second.conversation = Some((turn.conversation.clone(), 1));
    let batch = Batch { admitted: vec![&second], ..Batch::default() };
    let (committed, ()) = tokio::join!(writer.commit(&batch), turn.begins_meanwhile());
    assert!(committed.unwrap().conversation_conflicts.contains(&second.id));
    assert!(store.response("ann", &second.id).await.unwrap().is_none());
}

#[tokio::test]
async fn items_that_waited_for_a_turn_do_not_get_into_it() {
    let Some(turn) = Turn::new().await else { return };
    let (store, conversation) = (turn.store(), turn.conversation.clone());
    let items = [NewItem { id: "msg_2", item: "{}" }];
    let (written, ()) = tokio::join!(store.add_items("ann", &conversation, &items, 1), turn.begins_meanwhile());
    assert_eq!(written.unwrap(), Written::Guarded);
    assert_eq!(store.history("ann", &conversation, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_item_is_not_removed_from_under_a_turn_that_it_waited_for() {
    let Some(turn) = Turn::new().await else { return };
    let (store, conversation) = (turn.store(), turn.conversation.clone());
    let (written, ()) = tokio::join!(store.delete_item("ann", &conversation, "msg_1", 1), turn.begins_meanwhile());
    assert_eq!(written.unwrap(), Written::Guarded);
    assert_eq!(store.history("ann", &conversation, 10).await.unwrap().len(), 1);
}

/// Turns in the same conversations from one side and items from the other, in opposite orders: nobody waits for each
/// other, and each turn finds the history that it was checked against.
#[tokio::test]
async fn turns_and_items_that_meet_do_not_lock_each_other_out() {
    let Some(database) = Database::postgres().await else { return };
    let Opened { store, folder: _folder, .. } = open(&database).await;
    let mut writer = store.writer().await.unwrap();
    let names: Vec<_> = (0..20).map(|number| ConversationId::parse(&format!("c{number}")).unwrap()).collect();
    let turns: Vec<_> = (names.iter().rev()).map(|name| (id(), name.clone())).collect();
    let rows: Vec<_> = turns
        .iter()
        .map(|(id, name): &(ResponseId, _)| {
            let mut row = row(id);
            row.conversation = Some((name.clone(), 0));
            row
        })
        .collect();
    for name in &names {
        store.create_conversation("ann", name, 1, "{}", &[]).await.unwrap();
    }
    let batch = Batch { admitted: rows.iter().collect(), ..Batch::default() };
    let adds = async {
        let mut added = Vec::new();
        for name in &names {
            let item = NewItem { id: "msg_1", item: "{}" };
            added.push(store.add_items("ann", name, &[item], 1).await.unwrap());
        }
        added
    };
    let (committed, added) = tokio::join!(writer.commit(&batch), adds);
    let guarded = committed.unwrap().conversation_conflicts;
    for (name, added) in names.iter().zip(added) {
        let (turn, _) = turns.iter().find(|(_, other)| other == name).unwrap();
        // One of them came first, and the other one was told.
        assert_eq!(added == Written::Yes, guarded.contains(turn), "{name}");
    }
}
