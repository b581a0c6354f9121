//! Who asks, and comes back until the run has ended: by cursor, by idempotency key, by asking how far it is.
//!
//! A client tolerates what a server may do that is killed: no connection, a cut stream, 503. Everything else fails the
//! test at once.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::{
    halls::{Note, NoteFate},
    marks::Marks,
    runs::{Forgotten, Plan},
};
use crate::harness::{
    client::http,
    events::{Frame, Parser},
};

/// In so many conversations several clients take turns.
const HALLS: u64 = 6;
/// How long a client waits until an item is added.
const NOTE_PATIENCE: Duration = Duration::from_secs(20);

/// What all clients share.
#[derive(Debug)]
pub struct World {
    /// Where the server listens, or did last.
    url: Arc<Mutex<String>>,
    /// Where letters go.
    letterbox: String,
    pub marks: Arc<Marks>,
    /// What was added to halls.
    pub notes: Mutex<Vec<Note>>,
    over: AtomicBool,
    plans: Mutex<BTreeMap<String, Arc<Plan>>>,
}

/// A client, which asks for one run after the other.
#[derive(Debug)]
pub struct Client {
    world: Arc<World>,
    random: fastrand::Rng,
    http: reqwest::Client,
    number: u64,
    runs: u64,
}

/// What a client saw of one run.
#[derive(Debug)]
pub struct Seen {
    pub plan: Arc<Plan>,
    pub id: Option<String>,
    pub fate: Fate,
    /// The frames of its events.
    pub frames: BTreeMap<u64, Vec<u8>>,
    /// What it was given in place of events, with the number of the last event in it.
    pub snapshots: Vec<Value>,
    /// The response after its end.
    pub ended: Option<Value>,
    /// How often it came back.
    pub returns: u64,
    /// The longest time in which it saw nothing.
    pub pause: Duration,
    last: Instant,
}

/// How it went with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It has not been answered.
    Asked,
    /// It was refused: nothing may come of it.
    Refused,
    /// Nobody knows whether it was taken: it had no key, and its connection was cut.
    Lost,
    /// It was taken.
    Taken,
    /// Its end was seen.
    Ended,
    /// A row of it was damaged: it is not asked for any more.
    Poisoned,
}

/// A connection that does not come about or breaks, or an answer that says to come again.
struct Trouble;

impl World {
    pub fn new(url: Arc<Mutex<String>>, letterbox: String, marks: Arc<Marks>) -> Arc<Self> {
        let (notes, over, plans) = (Mutex::default(), AtomicBool::new(false), Mutex::default());
        Arc::new(Self { url, letterbox, marks, notes, over, plans })
    }

    /// Lets every client finish what it is at.
    pub fn stop(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// What the run with this marker is to be.
    pub fn plan(&self, marker: &str) -> Option<Arc<Plan>> {
        self.plans.lock().get(marker).cloned()
    }
}

impl Client {
    pub fn new(world: Arc<World>, seed: u64, number: u64) -> Self {
        Self { world, random: fastrand::Rng::with_seed(seed << 16 | number), http: http(), number, runs: 0 }
    }

    /// Asks until the chaos is over.
    pub async fn work(mut self) -> Vec<Seen> {
        let mut all = Vec::new();
        while !self.world.over.load(Ordering::Relaxed) {
            let kind = self.random.u8(..12);
            if kind < 2 {
                self.take_part(&mut all).await;
            } else if kind < 4 {
                self.go_on(&mut all).await;
            } else if kind < 7 {
                let conversation = format!("talk-{}-{}", self.number, self.runs);
                for _ in 0..self.random.u8(2..5) {
                    let plan = Plan::turn(self.marker(), &conversation, &self.world.letterbox, &mut self.random);
                    all.push(self.pursue(plan).await);
                }
            } else {
                let plan = Plan::new(self.marker(), &self.world.letterbox, &mut self.random);
                all.push(self.pursue(plan).await);
            }
        }
        all
    }

    /// A response, and another one that goes on from it, and needs it also when it is gone.
    async fn go_on(&mut self, all: &mut Vec<Seen>) {
        let first = Plan::first(self.marker(), &self.world.letterbox, &mut self.random);
        let first = self.pursue(first).await;
        let completed = first.ended.as_ref().is_some_and(|response| response["status"] == "completed");
        let id = first.id.clone().filter(|_| completed);
        all.push(first);
        if let Some(id) = id {
            let plan = Plan::behind(self.marker(), &id, &self.world.letterbox, &mut self.random);
            all.push(self.pursue(plan).await);
        }
    }

    /// A turn in a conversation of several clients, or an item that is added between the turns.
    async fn take_part(&mut self, all: &mut Vec<Seen>) {
        let hall = format!("hall-{}", self.number % HALLS);
        if self.random.u8(..5) < 3 {
            let plan = Plan::in_hall(self.marker(), &hall, &self.world.letterbox, &mut self.random);
            all.push(self.pursue(plan).await);
            return;
        }
        for _ in 0..self.random.u8(1..6) {
            self.runs += 1;
            let text = Note::text(self.number, self.runs);
            let fate = self.add_note(&hall, &text).await;
            self.world.notes.lock().push(Note { hall: hall.clone(), text, fate });
            sleep(Duration::from_millis(self.random.u64(5..150))).await;
        }
    }

    async fn add_note(&mut self, hall: &str, text: &str) -> NoteFate {
        let path = format!("/v1/conversations/{hall}/items");
        let body = json!({"items": [{"role": "user", "content": text}]});
        let request = self.request(reqwest::Method::POST, &path).json(&body);
        let added = match timeout(NOTE_PATIENCE, request.send()).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) if error.is_connect() => return NoteFate::Refused,
            _ => return NoteFate::Unknown,
        };
        match added.status().as_u16() {
            200 => {}
            // A turn goes on, or there has been none.
            404 | 409 => return NoteFate::Refused,
            503 => return NoteFate::Unknown,
            other => panic!("{text}: {other} instead of an item"),
        }
        let Ok(added) = added.json::<Value>().await else { return NoteFate::Unknown };
        if self.random.u8(..3) > 0 {
            return NoteFate::Added;
        }
        let path = format!("{path}/{}", added["first_id"].as_str().unwrap());
        match timeout(NOTE_PATIENCE, self.request(reqwest::Method::DELETE, &path).send()).await {
            Ok(Ok(answer)) => match answer.status().as_u16() {
                200 => NoteFate::Deleted,
                409 => NoteFate::Added,
                503 => NoteFate::Unknown,
                other => panic!("{text}: {other} instead of a deletion"),
            },
            Ok(Err(error)) if error.is_connect() => NoteFate::Added,
            _ => NoteFate::Unknown,
        }
    }

    /// Lets the response go that a run goes on from, which has begun; false when nobody knows whether that was done.
    async fn forget(&mut self, id: &str, how: Forgotten) -> bool {
        if how == Forgotten::Expired {
            self.world.marks.expired.lock().insert(id.to_owned());
            return true;
        }
        self.world.marks.deleted.lock().entry(id.to_owned()).or_default();
        let request = self.request(reqwest::Method::DELETE, &format!("/v1/responses/{id}"));
        let Ok(answer) = self.answer(request).await else { return false };
        // It may have been deleted by a request whose answer did not come.
        assert!([200, 404].contains(&answer.status().as_u16()), "{id}: {} instead of a deletion", answer.status());
        self.world.marks.deleted.lock().insert(id.to_owned(), true);
        true
    }

    fn marker(&mut self) -> String {
        self.runs += 1;
        format!("run-{}-{}", self.number, self.runs)
    }

    /// Asks for a run, and follows it to its end.
    async fn pursue(&mut self, plan: Arc<Plan>) -> Seen {
        self.world.plans.lock().insert(plan.marker.clone(), plan.clone());
        let mut seen = Seen::new(plan);
        let mut forgotten = false;
        loop {
            if self.world.marks.is_marker_poisoned(&seen.plan.marker) {
                seen.fate = Fate::Poisoned;
            }
            if let (Some((previous, how)), Some(_), false) = (seen.plan.previous.clone(), &seen.id, forgotten) {
                forgotten = self.forget(&previous, how).await;
            }
            let tried = match (&seen.id, seen.fate) {
                (_, Fate::Refused | Fate::Lost | Fate::Ended | Fate::Poisoned) => return seen,
                (None, _) => self.post(&mut seen).await,
                (Some(id), _) => {
                    let id = id.clone();
                    match self.random.u8(..4) {
                        0 if seen.plan.key.is_some() => self.post(&mut seen).await,
                        1 => self.look(&mut seen, &id).await,
                        _ => self.read_on(&mut seen, &id).await,
                    }
                }
            };
            if seen.fate != Fate::Ended {
                seen.returns += 1;
                let most = if tried.is_ok() { 150 } else { 300 };
                sleep(Duration::from_millis(self.random.u64(5..most))).await;
            }
        }
    }

    /// `POST /v1/responses`, for the first time or again.
    async fn post(&mut self, seen: &mut Seen) -> Result<(), Trouble> {
        let mut body = seen.plan.body.clone();
        let stream = self.random.u8(..3) > 0;
        body["stream"] = stream.into();
        let mut request = self.request(reqwest::Method::POST, "/v1/responses").json(&body);
        if let Some(key) = &seen.plan.key {
            request = request.header("idempotency-key", key);
        }
        // An answer that is the end of the run, or that nobody may ask for again, is waited for.
        let patience = if seen.plan.key.is_none() { Duration::from_secs(90) } else { self.patience() };
        let answer = match timeout(patience, request.send()).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) if error.is_connect() => return Err(Trouble),
            Ok(Err(_)) | Err(_) => return seen.lost(),
        };
        if answer.status() == 503 {
            let code = answer.json::<Value>().await.map(|body| body["error"]["code"].clone()).unwrap_or_default();
            // Who waits for the end of a run is told that the server stops, and the run goes on.
            let may_go_on = !stream && !seen.plan.background() && code == "shutting_down";
            if seen.plan.key.is_none() {
                seen.fate = if may_go_on || code == "outcome_unknown" { Fate::Lost } else { Fate::Refused };
            }
            return Err(Trouble);
        }
        // Somebody else's turn goes on.
        if answer.status() == 409 && seen.plan.hall.is_some() && seen.id.is_none() {
            return Err(Trouble);
        }
        if stream {
            let first = seen.id.is_none().then_some(0);
            self.read(seen, answer, first, seen.plan.key.is_some()).await
        } else {
            // A failed run is an error that names its response.
            if answer.status() == 502 {
                let Ok(Ok(body)) = timeout(patience, answer.json::<Value>()).await else { return seen.lost() };
                seen.moved();
                seen.named(body["error"]["response_id"].as_str().unwrap());
                return Ok(());
            }
            let Ok(Ok(text)) = timeout(patience, text_of(answer, &seen.plan.marker)).await else { return seen.lost() };
            seen.take_response(&text);
            Ok(())
        }
    }

    /// `GET /v1/responses/{id}`
    async fn look(&mut self, seen: &mut Seen, id: &str) -> Result<(), Trouble> {
        let request = self.request(reqwest::Method::GET, &format!("/v1/responses/{id}"));
        let answer = self.answer(request).await?;
        let text = timeout(self.patience(), text_of(answer, &seen.plan.marker)).await.map_err(|_| Trouble)??;
        seen.take_response(&text);
        Ok(())
    }

    /// `GET /v1/responses/{id}?stream=true&starting_after=N`
    async fn read_on(&mut self, seen: &mut Seen, id: &str) -> Result<(), Trouble> {
        let mut path = format!("/v1/responses/{id}?stream=true");
        let next = seen.next();
        if next > 0 {
            path.push_str(&format!("&starting_after={}", next - 1));
        }
        let request = self.request(reqwest::Method::GET, &path);
        let answer = self.answer(request).await?;
        self.read(seen, answer, Some(next), false).await
    }

    /// Reads a stream to its end, or as far as it comes, or until the client has had enough.
    async fn read(
        &mut self,
        seen: &mut Seen,
        mut answer: Response,
        first: Option<u64>,
        may_be_snapshot: bool,
    ) -> Result<(), Trouble> {
        let status = answer.status();
        if status != 200 {
            let text = answer.text().await.unwrap_or_default();
            panic!("{}: {status} instead of a stream: {text}", seen.plan.marker);
        }
        let enough = if self.random.u8(..4) == 0 { self.random.usize(1..12) } else { usize::MAX };
        let mut parser = None;
        let mut begun = Vec::new();
        let mut events = 0;
        loop {
            let bytes = match timeout(self.patience(), answer.chunk()).await {
                Ok(Ok(Some(bytes))) => bytes,
                // Cut by a server that stops in order: nothing is torn.
                Ok(Ok(None)) => {
                    assert!(parser.as_ref().is_none_or(Parser::at_border), "the stream ended inside a frame");
                    return seen.cut();
                }
                Ok(Err(_)) | Err(_) => return seen.cut(),
            };
            let parser = match &mut parser {
                Some(parser) => {
                    Parser::push(parser, &bytes);
                    parser
                }
                None => {
                    begun.extend_from_slice(&bytes);
                    let Some(begin) = Begin::of(&begun, may_be_snapshot) else { continue };
                    let mut made = match begin {
                        Begin::Snapshot(snapshot, rest) => {
                            let made = Parser::expecting(snapshot["sequence_number"].as_u64().unwrap() + 1);
                            seen.take_snapshot(snapshot);
                            begun.drain(..rest);
                            made
                        }
                        // The replay of a response that has ended begins at its beginning.
                        Begin::Events => Parser::expecting(first.filter(|_| !may_be_snapshot).unwrap_or(0)),
                    };
                    made.unchecked = true;
                    made.push(&begun);
                    parser.insert(made)
                }
            };
            while let Some(frame) = parser.next() {
                match frame {
                    Frame::Event(event) => {
                        events += 1;
                        seen.take_event(event.number, event.frame, &event.data, event.data["response"]["id"].as_str());
                    }
                    Frame::Done => {
                        seen.fate = Fate::Ended;
                        return Ok(());
                    }
                    Frame::Comment => {}
                }
            }
            if events >= enough {
                return Ok(());
            }
        }
    }

    fn request(&self, method: reqwest::Method, path: &str) -> RequestBuilder {
        let url = self.world.url.lock().clone();
        self.http.request(method, format!("{url}{path}"))
    }

    async fn answer(&mut self, request: RequestBuilder) -> Result<Response, Trouble> {
        match timeout(self.patience(), request.send()).await {
            Ok(Ok(answer)) if answer.status() != 503 => Ok(answer),
            _ => Err(Trouble),
        }
    }

    /// How long it waits this time. Some do not wait long.
    fn patience(&mut self) -> Duration {
        Duration::from_millis(if self.random.u8(..6) == 0 { self.random.u64(50..1_000) } else { 20_000 })
    }
}

/// The beginning of a stream.
enum Begin {
    /// A snapshot, and where the events behind it begin.
    Snapshot(Value, usize),
    Events,
}

impl Begin {
    /// None as long as it cannot be told.
    fn of(bytes: &[u8], may_be_snapshot: bool) -> Option<Self> {
        if !may_be_snapshot {
            return Some(Self::Events);
        }
        let end = memchr::memmem::find(bytes, b"\n\n")? + 2;
        let snapshot = bytes[..end].strip_prefix(b"event: response.snapshot\ndata: ");
        Some(match snapshot {
            Some(data) => Self::Snapshot(serde_json::from_slice(data).unwrap(), end),
            None => Self::Events,
        })
    }
}

async fn text_of(answer: Response, marker: &str) -> Result<Value, Trouble> {
    let status = answer.status();
    let text = answer.text().await.map_err(|_| Trouble)?;
    assert!(status == 200, "{marker}: {status} {text}");
    serde_json::from_str(&text).map_err(|_| Trouble)
}

impl Seen {
    fn new(plan: Arc<Plan>) -> Self {
        Self {
            plan,
            id: None,
            fate: Fate::Asked,
            frames: BTreeMap::new(),
            snapshots: Vec::new(),
            ended: None,
            returns: 0,
            pause: Duration::ZERO,
            last: Instant::now(),
        }
    }

    /// The number of the event that it has to see next.
    fn next(&self) -> u64 {
        let snapshot = self.snapshots.iter().filter_map(|snapshot| snapshot["sequence_number"].as_u64()).max();
        let event = self.frames.keys().last().copied();
        event.max(snapshot).map_or(0, |last| last + 1)
    }

    /// Something came.
    fn moved(&mut self) {
        self.pause = self.pause.max(self.last.elapsed());
        self.last = Instant::now();
    }

    fn named(&mut self, id: &str) {
        match &self.id {
            Some(known) => assert_eq!(known, id, "{}: the id of its response", self.plan.marker),
            None => self.id = Some(id.to_owned()),
        }
        self.fate = Fate::Taken;
    }

    fn take_event(&mut self, number: u64, frame: Vec<u8>, data: &Value, id: Option<&str>) {
        self.moved();
        if let Some(id) = id {
            self.named(id);
        }
        if matches!(data["response"]["status"].as_str(), Some("completed" | "failed" | "incomplete" | "cancelled")) {
            self.ended = Some(data["response"].clone());
        }
        if let Some(known) = self.frames.get(&number) {
            assert!(*known == frame, "{}: event {number} comes twice, and differs", self.plan.marker);
        }
        self.frames.insert(number, frame);
    }

    fn take_snapshot(&mut self, snapshot: Value) {
        self.moved();
        self.named(snapshot["response"]["id"].as_str().unwrap());
        let last = self.frames.keys().last().copied().unwrap_or(0);
        assert!(snapshot["sequence_number"].as_u64() >= Some(last), "{}: a snapshot goes back", self.plan.marker);
        self.snapshots.push(snapshot);
    }

    fn take_response(&mut self, response: &Value) {
        self.moved();
        self.named(response["id"].as_str().unwrap());
        let active = response["status"] == "in_progress" || response["status"] == "queued";
        if !active {
            self.ended = Some(response.clone());
            self.fate = Fate::Ended;
        }
        assert!(!active || self.ended.is_none(), "{}: it has ended, and goes on", self.plan.marker);
    }

    /// The answer to a `POST` did not come.
    fn lost(&mut self) -> Result<(), Trouble> {
        if self.plan.key.is_none() {
            self.fate = Fate::Lost;
        }
        Err(Trouble)
    }

    /// A stream broke.
    fn cut(&mut self) -> Result<(), Trouble> {
        if self.id.is_none() {
            return self.lost();
        }
        Err(Trouble)
    }
}

/// A response without what changes from one look to the next.
pub fn output(response: &Value) -> Value {
    json!({"id": response["id"], "output": response["output"], "status": response["status"]})
}
