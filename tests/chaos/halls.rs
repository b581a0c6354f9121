//! Conversations in which several clients take turns, add items and delete them, all at once.
//!
//! While a turn goes on nothing else gets in: its input and its output stand together, and each item that was added
//! stands once.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
};

use serde_json::Value;
use sqlx::{AnyConnection, Row as _};

use super::{clients::World, runs::marker_of};

/// What begins the text of every item that a client adds.
const NOTE: &str = "note-";

/// An item that a client has added to a hall, or wanted to.
#[derive(Clone, Debug)]
pub struct Note {
    pub hall: String,
    pub text: String,
    pub fate: NoteFate,
}

/// How it went with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoteFate {
    /// It was refused: a turn went on.
    Refused,
    /// It was added.
    Added,
    /// It was added, and deleted.
    Deleted,
    /// Nobody knows.
    Unknown,
}

impl Note {
    /// The text of an item of this client.
    pub fn text(client: u64, number: u64) -> String {
        format!("{NOTE}{client}-{number}")
    }
}

/// Checks the items of all halls; `outputs` are the ids of the output items of the completed turns, by their markers.
/// Gives how many turns and added items there are.
pub async fn check(
    database: &mut AnyConnection,
    world: &World,
    outputs: &BTreeMap<String, (String, Vec<String>)>,
) -> (usize, usize) {
    let notes = world.notes.lock().clone();
    let halls: BTreeSet<&str> =
        outputs.values().map(|(hall, _)| hall.as_str()).chain(notes.iter().map(|note| note.hall.as_str())).collect();
    let (mut turns, mut added) = (0, 0);
    for hall in halls {
        let query = sqlx::query("SELECT item FROM conversation_items WHERE conversation_id = $1 ORDER BY position");
        let rows = query.bind(hall.to_owned()).fetch_all(&mut *database).await.unwrap();
        let items: Vec<Value> =
            rows.iter().map(|row| serde_json::from_str(&row.get::<String, _>(0)).unwrap()).collect();
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let mut rest = items.iter();
        while let Some(item) = rest.next() {
            assert_eq!(item["role"], "user", "{hall}: an output without its input: {item}");
            let content = &item["content"];
            let text = content.as_str().or(content[0]["text"].as_str()).unwrap_or_else(|| panic!("{hall}: {item}"));
            let name = marker_of(text).to_owned();
            if !text.starts_with(NOTE) {
                let (_, outputs) = outputs.get(&name).unwrap_or_else(|| panic!("{hall}: {name} has not completed"));
                let behind: Vec<&Value> = rest.by_ref().take(outputs.len()).map(|item| &item["id"]).collect();
                assert_eq!(
                    behind,
                    outputs.iter().collect::<Vec<_>>(),
                    "{hall}: what stands behind the input of {name}"
                );
            }
            *seen.entry(name).or_default() += 1;
        }
        let mut times = |name: &str| seen.remove(name).unwrap_or_default();
        for (marker, _) in outputs.iter().filter(|(_, (of, _))| of == hall) {
            assert_eq!(times(marker), 1, "{hall}: the turn {marker}");
            turns += 1;
        }
        for note in notes.iter().filter(|note| note.hall == hall) {
            let times = times(&note.text);
            match note.fate {
                NoteFate::Added => assert_eq!(times, 1, "{note:?}"),
                NoteFate::Refused | NoteFate::Deleted => assert_eq!(times, 0, "{note:?}"),
                NoteFate::Unknown => assert!(times <= 1, "{note:?}: {times} times"),
            }
            added += times;
        }
        assert!(seen.is_empty(), "{hall}: nobody has said {seen:?}");
    }
    (turns, added)
}
