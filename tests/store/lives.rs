//! Runs over the lives of the server.

use outlast::{
    protocol::Segment,
    store::{Batch, JournalSegment, Phase, TakenRun, WriteConnection},
};

use crate::{
    Opened, ended, entries,
    harness::database::{Database, both_databases},
    id, open, row, segment,
};

both_databases!(
    a_run_is_counted_when_a_life_ends_while_it_has_an_instance,
    a_run_that_gets_on_is_counted_anew,
    a_run_that_sleeps_or_waits_is_never_counted,
    events_that_contradict_those_that_are_kept_are_found,
);

/// The next start.
async fn taken(writer: &mut WriteConnection) -> TakenRun {
    writer.take_over().await.unwrap().runs.remove(0)
}

async fn stands(writer: &mut WriteConnection, run: &TakenRun, phase: Phase) {
    let batch = Batch { phases: vec![(&run.id, run.epoch, phase)], ..Batch::default() };
    writer.commit(&batch).await.unwrap();
}

async fn a_run_is_counted_when_a_life_ends_while_it_has_an_instance(database: Database) {
    let Opened { store, .. } = &open(&database).await;
    let mut writer = store.writer().await.unwrap();
    let row = row(&id());
    writer.commit(&Batch { admitted: vec![&row], ..Batch::default() }).await.unwrap();
    // A run that was admitted is executed.
    let run = taken(&mut writer).await;
    assert_eq!((run.attempts, run.crashes, run.wake_at), (1, 1, None));
    // This life did nothing with it.
    assert_eq!(taken(&mut writer).await.attempts, 1);
    for expected in [2, 3] {
        let run = taken(&mut writer).await;
        stands(&mut writer, &run, Phase::Executing).await;
        assert_eq!(taken(&mut writer).await.attempts, expected);
    }
    store.forgive_attempts(&[&row.id]).await.unwrap();
    let run = taken(&mut writer).await;
    assert_eq!((run.attempts, run.crashes), (0, 3), "what is forgiven is not forgotten");
    // What another owner says does not count.
    stands(&mut writer, &TakenRun { epoch: 1, ..run }, Phase::Executing).await;
    assert_eq!(taken(&mut writer).await.attempts, 0);
    let end = ended(&row.id, outlast::protocol::TerminalStatus::Completed, taken(&mut writer).await.epoch);
    writer.commit(&Batch { ended: vec![&end], ..Batch::default() }).await.unwrap();
    assert!(writer.take_over().await.unwrap().runs.is_empty());
}

async fn a_run_that_gets_on_is_counted_anew(database: Database) {
    let Opened { store, .. } = &open(&database).await;
    let mut writer = store.writer().await.unwrap();
    let row = row(&id());
    let events = segment(0, 1);
    let batch = Batch { admitted: vec![&row], segments: vec![(&row.id, &events)], ..Batch::default() };
    writer.commit(&batch).await.unwrap();
    let (entries, events) = (entries(0, 0), segment(2, 2));
    let steps = [
        Batch::default(),
        Batch { entries: vec![(&row.id, &entries)], ..Batch::default() },
        Batch { segments: vec![(&row.id, &events)], ..Batch::default() },
    ];
    for step in steps {
        writer.commit(&step).await.unwrap();
        let run = taken(&mut writer).await;
        assert_eq!((run.attempts, run.crashes), (1, 1));
        for _ in 0..2 {
            stands(&mut writer, &run, Phase::Executing).await;
            let again = taken(&mut writer).await;
            stands(&mut writer, &again, Phase::Executing).await;
        }
        // As the next life finds it.
        let run = taken(&mut writer).await;
        assert!(run.attempts > 1 && run.crashes > 1, "{run:?}");
        stands(&mut writer, &run, Phase::Executing).await;
    }
    let run = taken(&mut writer).await;
    assert_eq!((run.events, run.entries), (3, 1));
}

async fn a_run_that_sleeps_or_waits_is_never_counted(database: Database) {
    let Opened { store, .. } = &open(&database).await;
    let mut writer = store.writer().await.unwrap();
    let row = row(&id());
    let asleep = vec![(&row.id, 1, Phase::Asleep(77))];
    writer.commit(&Batch { admitted: vec![&row], phases: asleep, ..Batch::default() }).await.unwrap();
    for _ in 0..10 {
        let run = taken(&mut writer).await;
        assert_eq!((run.attempts, run.crashes, run.wake_at), (0, 0, Some(77)));
    }
    let run = taken(&mut writer).await;
    stands(&mut writer, &run, Phase::Executing).await;
    stands(&mut writer, &run, Phase::Waiting).await;
    for _ in 0..10 {
        let run = taken(&mut writer).await;
        assert_eq!((run.attempts, run.crashes, run.wake_at), (0, 0, None));
    }
}

async fn events_that_contradict_those_that_are_kept_are_found(database: Database) {
    let Opened { store, .. } = &open(&database).await;
    let mut writer = store.writer().await.unwrap();
    let (one, two) = (row(&id()), row(&id()));
    let (events, next) = (segment(0, 1), segment(2, 2));
    let (entries, others) = (entries(0, 1), JournalSegment { first: 1, last: 1, lines: b"other\n".to_vec() });
    let other = Segment { first: 1, last: 1, frames: "event: x\ndata: other\n\n".into() };
    let batch = Batch {
        admitted: vec![&one, &two],
        segments: vec![(&one.id, &events), (&two.id, &events)],
        entries: vec![(&one.id, &entries), (&two.id, &entries)],
        ..Batch::default()
    };
    assert!(writer.commit(&batch).await.unwrap().contradicted.is_empty());
    let batch = Batch { segments: vec![(&one.id, &next), (&two.id, &other)], ..Batch::default() };
    assert!(writer.commit(&batch).await.unwrap().contradicted.iter().eq([&two.id]));
    let end = ended(&one.id, outlast::protocol::TerminalStatus::Completed, 1);
    let batch = Batch { entries: vec![(&one.id, &others)], ended: vec![&end], ..Batch::default() };
    assert!(writer.commit(&batch).await.unwrap().contradicted.iter().eq([&one.id]));
    // What a run has to say that contradicts itself is no end.
    assert_eq!(writer.take_over().await.unwrap().runs.len(), 2);
    assert_eq!(store.events(&two.id, 0).await.unwrap(), [events]);
}
