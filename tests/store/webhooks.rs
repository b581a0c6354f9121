//! Deliveries to webhooks: written once, and tried by one at a time.

use std::collections::{BTreeSet, HashMap};

use outlast::{
    protocol::{ResponseId, TerminalStatus, event_id},
    store::{Batch, Claim, Claimed, DeliveryFilter, DeliveryState, Store, Tried, TryOutcome, WebhookRow},
};

use crate::{
    Opened, ended,
    harness::database::{Database, both_databases},
    id, open, row,
};

both_databases!(
    what_is_told_is_written_once_with_the_end,
    a_delivery_is_tried_by_one_until_its_claim_is_over,
    what_two_claim_at_once_is_not_claimed_twice,
);

/// A database that has its tables.
async fn opened(database: &Database) -> Opened {
    let opened = open(database).await;
    opened.store.writer().await.unwrap().close().await;
    opened
}

fn endpoint(id: &str, principal: &str) -> WebhookRow {
    WebhookRow {
        id: id.to_owned(),
        principal: principal.to_owned(),
        name: "a".to_owned(),
        url: "https://a.test/".to_owned(),
        event_types: vec!["response.completed".to_owned()],
        all_runs: false,
        secrets: "sealed".to_owned(),
        secret_hint: "…".to_owned(),
        configured: false,
        created_at: 1,
        updated_at: 1,
        disabled_at: None,
    }
}

/// Ends responses of ann that nobody has told of yet, in one transaction, twice: the answer to the first did not come.
async fn end(store: &Store, status: TerminalStatus, count: usize) -> Vec<ResponseId> {
    let mut writer = store.writer().await.unwrap();
    let ids: Vec<_> = (0..count).map(|_| id()).collect();
    let (rows, ends): (Vec<_>, Vec<_>) = ids.iter().map(|id| (row(id), ended(id, status, 1))).unzip();
    writer.commit(&Batch { admitted: rows.iter().collect(), ..Batch::default() }).await.unwrap();
    let batch = Batch { ended: ends.iter().collect(), ..Batch::default() };
    let (first, second) = (writer.commit(&batch).await.unwrap(), writer.commit(&batch).await.unwrap());
    assert_eq!(second.deliveries, 0);
    assert!(first.superseded.is_empty() && second.superseded.is_empty());
    writer.close().await;
    ids
}

async fn claim(store: &Store, by: &str, now: i64, each: usize) -> Vec<Claimed> {
    let busy = HashMap::new();
    store.claim_deliveries(&Claim { by, now, until: now + 100, busy: &busy, each, most: 64 }).await.unwrap()
}

async fn what_is_told_is_written_once_with_the_end(database: Database) {
    let Opened { store, .. } = &opened(&database).await;
    for (id, principal) in [("whe_1", "ann"), ("whe_2", "ann"), ("whe_3", "bob")] {
        store.keep_webhook(&endpoint(id, principal)).await.unwrap();
    }
    let ids = end(store, TerminalStatus::Completed, 5).await;
    end(store, TerminalStatus::Failed, 1).await;
    let filter = DeliveryFilter { limit: 100, ..DeliveryFilter::default() };
    let rows = store.deliveries(&filter).await.unwrap();
    let told: BTreeSet<_> = rows.iter().map(|row| (row.event_id.clone(), row.endpoint_id.clone())).collect();
    let expected = ids.iter().flat_map(|id| ["whe_1", "whe_2"].map(|endpoint| (event_id(id), endpoint.to_owned())));
    assert_eq!((told, rows.len()), (expected.collect(), 10));
    let about = DeliveryFilter { response: Some(ids[0].clone()), ..filter.clone() };
    assert_eq!(store.deliveries(&about).await.unwrap().len(), 2);

    // What waits for an endpoint goes with it, or is given up.
    assert!(store.delete_webhook("whe_1").await.unwrap());
    assert!(store.disable_webhook("whe_2", 7).await.unwrap());
    assert!(!store.disable_webhook("whe_2", 8).await.unwrap());
    let rows = store.deliveries(&filter).await.unwrap();
    assert!(rows.len() == 5 && rows.iter().all(|row| row.state == DeliveryState::Dead && row.ended_at == Some(7)));
    end(store, TerminalStatus::Completed, 1).await;
    assert_eq!(store.deliveries(&filter).await.unwrap().len(), 5);
    assert!(!store.redeliver(&rows[0].id, 9).await.unwrap());
    assert_eq!(store.remove_deliveries(7).await.unwrap(), 0);
    assert_eq!(store.remove_deliveries(8).await.unwrap(), 5);
}

async fn a_delivery_is_tried_by_one_until_its_claim_is_over(database: Database) {
    let Opened { store, .. } = &opened(&database).await;
    store.keep_webhook(&endpoint("whe_1", "ann")).await.unwrap();
    end(store, TerminalStatus::Completed, 1).await;
    let delivery = claim(store, "one", 10, 8).await.remove(0);
    assert_eq!((&*delivery.url, &*delivery.secrets, delivery.attempts), ("https://a.test/", "sealed", 0));
    assert!(claim(store, "two", 109, 8).await.is_empty());
    assert!(!store.redeliver(&delivery.id, 109).await.unwrap());
    let settle = async |by, outcome| {
        let tried =
            Tried { id: &delivery.id, by, at: 111, status: Some(500), error: Some("a\0b"), answer: None, outcome };
        store.settle_delivery(&tried).await.unwrap()
    };
    // The first is late: the second has it by then.
    assert_eq!(claim(store, "two", 110, 8).await, std::slice::from_ref(&delivery));
    assert!(!settle("one", TryOutcome::Delivered).await);
    assert!(settle("two", TryOutcome::Again(500)).await);
    assert!(!settle("two", TryOutcome::Delivered).await);
    assert!(claim(store, "two", 499, 8).await.is_empty());
    let again = claim(store, "two", 500, 8).await.remove(0);
    assert_eq!((again.attempts, again.queued_at), (1, 2));
    // A start frees what the one before it has claimed, and not its own.
    assert_eq!(store.free_claims("two", 510).await.unwrap(), 0);
    assert_eq!(store.free_claims("three", 510).await.unwrap(), 1);
    assert_eq!(claim(store, "three", 510, 8).await.len(), 1);
    assert!(settle("three", TryOutcome::Dead).await);
    let dead = store.delivery(&delivery.id).await.unwrap().unwrap();
    assert_eq!((dead.state, dead.attempts, dead.last_error.as_deref()), (DeliveryState::Dead, 2, Some("a\u{fffd}b")));
    assert!(store.redeliver(&delivery.id, 600).await.unwrap());
    let again = claim(store, "three", 600, 8).await.remove(0);
    assert_eq!((again.event_id, again.attempts, again.queued_at), (delivery.event_id.clone(), 0, 600));
}

async fn what_two_claim_at_once_is_not_claimed_twice(database: Database) {
    let Opened { store, .. } = &opened(&database).await;
    store.keep_webhook(&endpoint("whe_1", "ann")).await.unwrap();
    store.keep_webhook(&endpoint("whe_2", "ann")).await.unwrap();
    end(store, TerminalStatus::Completed, 20).await;
    let (one, two) = tokio::join!(claim(store, "one", 10, 8), claim(store, "two", 10, 8));
    let ids: BTreeSet<_> = one.iter().chain(&two).map(|delivery| &delivery.id).collect();
    assert_eq!(ids.len(), one.len() + two.len());
    for claimed in [one, two] {
        for endpoint in ["whe_1", "whe_2"] {
            assert!(claimed.iter().filter(|delivery| delivery.endpoint_id == endpoint).count() <= 8);
        }
    }
}
