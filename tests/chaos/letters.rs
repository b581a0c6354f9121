//! Where the letters of `courier` arrive: a server that counts them, and keeps whose each is.
//!
//! The server under test puts the number of its life into them, as an operator's secret header.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    extract::{Path, State},
    http::HeaderMap,
    routing::post,
};
use parking_lot::Mutex;
use tokio::net::TcpListener;

use crate::harness::server::Options;

/// A letter that arrived.
#[derive(Clone, Debug)]
pub struct Letter {
    /// Which life of the server sent it.
    pub life: u64,
    /// Its `idempotency-key`.
    pub key: String,
}

/// The letters of one run that arrived, by their numbers, each as often as it came.
pub type Arrived = BTreeMap<u64, Vec<Letter>>;

/// The server.
#[derive(Clone, Debug)]
pub struct Letterbox {
    address: String,
    letters: Arc<Mutex<BTreeMap<String, Arrived>>>,
}

impl Letterbox {
    /// A server on a port of its own.
    pub async fn start() -> Self {
        let letters = Arc::<Mutex<BTreeMap<String, Arrived>>>::default();
        let app = Router::new().route("/{marker}/{number}", post(arrive)).with_state(letters.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, letters }
    }

    /// Where letters go.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A server whose `courier` may post them.
    pub fn options(&self, options: Options, life: u64) -> Options {
        let address = &self.address;
        options.config(&format!(
            "[agents.courier.http]\nhosts = [\"{address}\"]\nmethods = [\"POST\"]\nprivate = true\n\
             [agents.courier.http.secrets]\n\"http://{address}\" = {{ x-life = \"{life}\" }}"
        ))
    }

    /// Those that have arrived, by the markers of their runs.
    pub fn letters(&self) -> BTreeMap<String, Arrived> {
        self.letters.lock().clone()
    }
}

async fn arrive(
    State(letters): State<Arc<Mutex<BTreeMap<String, Arrived>>>>,
    Path((marker, number)): Path<(String, u64)>,
    headers: HeaderMap,
) {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let letter = Letter { life: header("x-life").parse().unwrap(), key: header("idempotency-key") };
    letters.lock().entry(marker).or_default().entry(number).or_default().push(letter);
    tokio::time::sleep(Duration::from_millis(fastrand::u64(5..200))).await;
}

/// Checks the letters of a run that says what became of each, and returns how many came more than once and of how many
/// nobody knew.
pub fn check(marker: &str, idempotent: bool, count: u64, text: &str, arrived: &Arrived) -> (usize, usize) {
    let said: Vec<&str> = text.split_whitespace().collect();
    assert_eq!(said.len() as u64, count, "{marker}: {text}");
    let (mut again, mut unknown) = (0, 0);
    for (number, said) in (0..).zip(said) {
        let letters = arrived.get(&number).map_or(&[][..], Vec::as_slice);
        let lives: Vec<u64> = letters.iter().map(|letter| letter.life).collect();
        if said == format!("{number}:200") {
            assert!(!letters.is_empty(), "{marker}: letter {number} was answered, and never arrived");
        } else {
            assert_eq!(said, format!("{number}:interrupted"), "{marker}");
            assert!(!idempotent, "{marker}: letter {number} could have been sent again");
            unknown += 1;
        }
        assert!(idempotent || letters.len() <= 1, "{marker}: letter {number} was sent in the lives {lives:?}");
        // Not in their order: a server that is stopped between its look at the lease and the write to the socket writes when
        // it goes on, and by then the next one may have sent the letter again. Its key tells that it is the same.
        let once = lives.iter().collect::<BTreeSet<_>>().len() == lives.len();
        assert!(once, "{marker}: letter {number} was sent twice in one life: {lives:?}");
        let keys: BTreeSet<&str> = letters.iter().map(|letter| letter.key.as_str()).collect();
        assert!(keys.len() <= 1 && !keys.contains(""), "{marker}: letter {number} has the keys {keys:?}");
        again += letters.len().saturating_sub(1);
    }
    let keys: BTreeSet<&str> = arrived.values().flatten().map(|letter| letter.key.as_str()).collect();
    assert_eq!(keys.len(), arrived.len(), "{marker}: each letter has a key of its own");
    (again, unknown)
}
