//! Long histories: what a turn costs that continues many others.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{
    client::Client,
    database::Database,
    server::{Options, Server},
};

/// The turns that are measured: so many stand before each.
pub const TURNS: [usize; 4] = [10, 300, 500, 999];
/// How many turns around each are measured.
const AROUND: usize = 10;
/// Words in each turn.
const WORDS: usize = 50;

/// The median time of a turn, for each of [`TURNS`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Histories {
    /// Of a chain of `previous_response_id`.
    pub chain: [Duration; TURNS.len()],
    /// Of a conversation.
    pub conversation: [Duration; TURNS.len()],
}

/// Lets one chain and one conversation grow, and measures its turns.
pub async fn measure(database: Database) -> Histories {
    let server = Server::start(Options::new(database));
    let client = server.client();
    Histories { chain: grow(&client, false).await, conversation: grow(&client, true).await }
}

async fn grow(client: &Client, conversation: bool) -> [Duration; TURNS.len()] {
    let input = (0..WORDS).map(|n| format!("word{n}")).collect::<Vec<_>>().join(" ");
    let (mut previous, mut times) = (None::<String>, Vec::new());
    for _ in 0..TURNS[TURNS.len() - 1] + AROUND {
        let mut body = json!({"model": "echo", "input": input});
        match &previous {
            _ if conversation => body["conversation"] = json!("grows"),
            Some(previous) => body["previous_response_id"] = json!(previous),
            None => {}
        }
        let start = Instant::now();
        let response = client.post(body).await.response();
        times.push(start.elapsed());
        previous = response["id"].as_str().map(str::to_owned);
    }
    TURNS.map(|turn| {
        let mut around = times[turn.saturating_sub(AROUND)..turn + AROUND].to_vec();
        around.sort_unstable();
        around[around.len() / 2]
    })
}
