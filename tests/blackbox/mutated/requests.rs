//! Requests: right ones of every route, and what is changed of them.

use std::{
    fmt::{self, Display, Formatter},
    sync::Mutex,
};

use fastrand::Rng;
use serde_json::{Value, json};

use super::{
    bodies,
    values::{change, damage, once_in, one, text, value},
};

/// The most ids of a kind that are remembered.
const REMEMBERED: usize = 64;

/// The routes of a server, and the ids that its answers told.
pub struct Routes {
    /// Method and path of every operation.
    operations: Vec<(String, String)>,
    keys: bool,
    responses: Mutex<Vec<String>>,
    conversations: Mutex<Vec<String>>,
    items: Mutex<Vec<String>>,
}

/// A request.
pub struct Made {
    pub bytes: Vec<u8>,
    /// Whether it may be none: whether its head or its framing was changed.
    pub broken: bool,
    /// Whether the sending side is closed behind it.
    pub half_closes: bool,
}

impl Made {
    /// Whether its answer has no body.
    pub fn is_head(&self) -> bool {
        self.bytes.starts_with(b"HEAD ")
    }
}

impl Display for Made {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let shown = self.bytes[..self.bytes.len().min(20_000)].escape_ascii();
        write!(formatter, "{}", shown.to_string().replace("\\r\\n", "\\r\\n\n"))
    }
}

impl Routes {
    /// Those that the server describes.
    pub fn new(description: &Value, keys: bool) -> Self {
        let paths = description["paths"].as_object().unwrap().iter();
        let operations = paths.flat_map(|(path, item)| {
            item.as_object().unwrap().keys().map(move |method| (method.to_uppercase(), path.clone()))
        });
        let remembered = |ids: &[&str]| Mutex::new(ids.iter().map(|id| (*id).to_owned()).collect());
        Self {
            operations: operations.collect(),
            keys,
            responses: remembered(&["resp_00000000000000000000000000000000"]),
            conversations: remembered(&["c1", "c2"]),
            items: remembered(&["msg_1"]),
        }
    }

    /// Remembers the ids in an answer.
    pub fn learn(&self, body: &[u8]) {
        let Ok(answer) = serde_json::from_slice::<Value>(body) else { return };
        let found = |value: &Value| value["id"].as_str().map(str::to_owned);
        let items = ["data", "output"].into_iter().filter_map(|list| answer[list].as_array()).flatten();
        for id in found(&answer).into_iter().chain(items.filter_map(found)) {
            let known = match id.split('_').next() {
                Some("resp") => &self.responses,
                Some("conv") => &self.conversations,
                _ => &self.items,
            };
            let mut known = known.lock().unwrap();
            if known.len() >= REMEMBERED {
                known.remove(0);
            }
            known.push(id);
        }
    }

    fn id(rng: &mut Rng, of: &Mutex<Vec<String>>) -> String {
        let known = of.lock().unwrap();
        known[rng.usize(..known.len())].clone()
    }

    /// The request of this number.
    pub fn request(&self, seed: u64, number: u64) -> Made {
        let rng = &mut Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(number));
        let (method, template) = &self.operations[rng.usize(..self.operations.len())];
        // The route that does most is asked most.
        let (method, template) = match rng.u8(..4) {
            0 => ("POST", "/v1/responses"),
            _ => (method.as_str(), template.as_str()),
        };
        let socket = template == "/v1/responses" && method == "GET" && !once_in(rng, 4);
        let mut method = method.to_owned();
        if once_in(rng, 30) {
            method = one(rng, &["GET", "HEAD", "OPTIONS", "PATCH", "PUT", "DELETE", "POST", "TRACE", "FOO", "get"])
                .to_owned();
        }
        let target = self.target(rng, template);
        // A name that was learnt may have a space in it.
        let spaced = target.contains(' ');
        let mut head = format!("{method} {target}");
        head.push_str(if once_in(rng, 60) { " HTTP/1.0\r\n" } else { " HTTP/1.1\r\n" });
        self.headers(rng, &mut head);
        let body = if socket { None } else { self.body(rng, template) };
        let mut made = Made { bytes: Vec::new(), broken: false, half_closes: once_in(rng, 20) };
        if socket {
            let key = "sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
            head.push_str(&format!("connection: upgrade\r\nupgrade: websocket\r\n{key}\r\n"));
            made.bytes = head.into_bytes();
            self.frames(rng, &mut made.bytes);
            // Somebody has to close it.
            made.half_closes = true;
        } else {
            head.push_str("connection: close\r\n");
            frame(rng, &mut made, head, body);
        }
        made.broken |= spaced;
        if once_in(rng, 25) {
            let end = memchr::memmem::find(&made.bytes, b"\r\n\r\n").map_or(0, |end| end + 4);
            let body = made.bytes.split_off(end);
            damage(rng, &mut made.bytes);
            made.bytes.extend(body);
            (made.broken, made.half_closes) = (true, true);
        }
        made
    }

    fn target(&self, rng: &mut Rng, template: &str) -> String {
        let mut path = String::new();
        for part in template.split('/').skip(1) {
            path.push('/');
            match part {
                _ if once_in(rng, 60) => path.push_str(&escaped(&text(rng))),
                "{item}" => path.push_str(&self.parameter(rng, &self.items)),
                "{id}" if template.contains("conversations") => {
                    path.push_str(&self.parameter(rng, &self.conversations))
                }
                "{id}" => path.push_str(&self.parameter(rng, &self.responses)),
                part => path.push_str(part),
            }
        }
        if once_in(rng, 60) {
            path.push_str(one(rng, &["/", "//", "/.", "/..", "%00", "%", "%zz", "?", "#a", ";a=b"]));
        }
        for number in 0..rng.usize(..4).saturating_sub(1) {
            let name = one(
                rng,
                &[
                    "stream",
                    "starting_after",
                    "limit",
                    "after",
                    "before",
                    "order",
                    "include[]",
                    "agent",
                    "principal",
                    "status",
                    "x",
                ],
            );
            let value = match rng.u8(..5) {
                0 => "true".to_owned(),
                1 => one(rng, &["0", "1", "5", "100", "101", "-1", "18446744073709551616", "asc", "desc"]).to_owned(),
                2 => Self::id(rng, &self.items),
                3 => Self::id(rng, &self.responses),
                _ => escaped(&text(rng)),
            };
            path.push_str(&format!("{}{name}={value}", if number == 0 { '?' } else { '&' }));
        }
        path.truncate(8_000);
        path
    }

    fn parameter(&self, rng: &mut Rng, of: &Mutex<Vec<String>>) -> String {
        match rng.u8(..12) {
            0 => escaped(&text(rng)),
            1 => Self::id(rng, &self.items),
            2 => {
                let mut bytes = Self::id(rng, of).into_bytes();
                damage(rng, &mut bytes);
                escaped(&String::from_utf8_lossy(&bytes))
            }
            _ => Self::id(rng, of),
        }
    }

    fn headers(&self, rng: &mut Rng, head: &mut String) {
        let host = if once_in(rng, 40) {
            one(rng, &["evil.example", "", "localhost:99999", "[::1]", "a b"])
        } else {
            "localhost"
        };
        head.push_str(&format!("host: {host}\r\n"));
        let kind = if once_in(rng, 25) {
            one(rng, &["text/plain", "application/json; charset=latin1", "application/x", "", "multipart/form-data"])
        } else {
            "application/json"
        };
        head.push_str(&format!("content-type: {kind}\r\n"));
        if self.keys && !once_in(rng, 20) {
            let key = one(rng, &["key-ann", "key-ann", "key-ops", "key-ops", "wrong", ""]);
            head.push_str(&format!("authorization: Bearer {key}\r\n"));
        }
        for _ in 0..rng.usize(..6).saturating_sub(3) {
            let (name, values): (_, &[&str]) = match rng.u8(..12) {
                0 | 1 => ("idempotency-key", &["k1", "k2", "k3", "", "k\u{e9}", "a,b"]),
                2 => ("last-event-id", &["0", "3", "-1", "x"]),
                3 => ("origin", &["http://localhost:1", "http://evil.example", "null", "x"]),
                4 => ("sec-fetch-site", &["same-origin", "cross-site", "none", "x"]),
                5 => ("x-request-id", &["r", "", "\u{e9}", "r r"]),
                6 => ("accept", &["text/event-stream", "application/json", "*/*", "x"]),
                7 => ("content-encoding", &["gzip", "identity", "deflate", "br", "zstd", "x"]),
                8 => ("range", &["bytes=0-1"]),
                9 => ("authorization", &["Basic eDp5", "Bearer", "Bearer key-bob"]),
                10 => ("access-control-request-method", &["POST", "x"]),
                _ => ("x-large", &["a"]),
            };
            let value = if name == "x-large" { "a".repeat(rng.usize(..3_000)) } else { one(rng, values).to_owned() };
            head.push_str(&format!("{name}: {value}\r\n"));
        }
    }

    fn body(&self, rng: &mut Rng, template: &str) -> Option<Vec<u8>> {
        let (response, conversation) = (Self::id(rng, &self.responses), Self::id(rng, &self.conversations));
        let mut body =
            bodies::of(template, rng, response, conversation).or_else(|| once_in(rng, 10).then(|| value(rng)))?;
        for _ in 0..one(rng, &[0, 1, 1, 1, 2, 3]) {
            change(rng, &mut body);
        }
        let mut bytes = body.to_string().into_bytes();
        if once_in(rng, 8) {
            damage(rng, &mut bytes);
        }
        Some(bytes)
    }

    /// Messages of a client, masked with nothing.
    fn frames(&self, rng: &mut Rng, bytes: &mut Vec<u8>) {
        for _ in 0..rng.usize(1..4) {
            let mut payload = self.body(rng, "/v1/responses").unwrap_or_default();
            if let Ok(Value::Object(mut message)) = serde_json::from_slice(&payload) {
                message.insert("type".to_owned(), json!("response.create"));
                payload = Value::Object(message).to_string().into_bytes();
            }
            let first = if once_in(rng, 10) { rng.u8(..) } else { 0x81 };
            bytes.push(first);
            match u16::try_from(payload.len()) {
                Ok(length @ ..=125) => bytes.push(0x80 | length as u8),
                Ok(length) => {
                    bytes.push(0x80 | 126);
                    bytes.extend(length.to_be_bytes());
                }
                Err(_) => {
                    bytes.push(0x80 | 127);
                    bytes.extend((payload.len() as u64).to_be_bytes());
                }
            }
            bytes.extend([0; 4]);
            bytes.extend(payload);
        }
        if rng.bool() {
            bytes.extend([0x88, 0x80, 0, 0, 0, 0]);
        }
    }
}

/// Puts head and body together.
fn frame(rng: &mut Rng, made: &mut Made, mut head: String, body: Option<Vec<u8>>) {
    let body = body.unwrap_or_default();
    let chunked = format!("{:x}\r\n", body.len()).into_bytes();
    let chunked = if body.is_empty() { Vec::new() } else { [&chunked[..], &body, b"\r\n"].concat() };
    let chunked = [&chunked[..], b"0\r\n\r\n"].concat();
    let length = body.len();
    let body = match rng.u8(..60) {
        0..5 => {
            head.push_str("transfer-encoding: chunked\r\n");
            chunked
        }
        5 => {
            head.push_str(&format!("content-length: {length}\r\ntransfer-encoding: chunked\r\n"));
            made.broken = true;
            chunked
        }
        6 => {
            head.push_str(&format!("content-length: {}\r\n", length + 10));
            made.broken = true;
            body
        }
        7 => {
            head.push_str(&format!("content-length: {}\r\n", length / 2));
            made.broken = true;
            body
        }
        8 => {
            head.push_str(one(
                rng,
                &["content-length: -1\r\n", "content-length: 1, 2\r\n", "transfer-encoding: x\r\n"],
            ));
            made.broken = true;
            body
        }
        9 => {
            head.push_str(&format!("content-length: {length}\r\nexpect: 100-continue\r\n"));
            body
        }
        _ => {
            head.push_str(&format!("content-length: {length}\r\n"));
            body
        }
    };
    // HTTP/1.0 knows no chunks.
    made.broken |= head.contains("HTTP/1.0") && head.contains("transfer-encoding");
    head.push_str("\r\n");
    made.bytes = [head.as_bytes(), &body].concat();
}

/// A text as a part of a path.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes().take(2_000) {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => escaped.push(char::from(byte)),
            _ => escaped.push_str(&format!("%{byte:02x}")),
        }
    }
    escaped
}
