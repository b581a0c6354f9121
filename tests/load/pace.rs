//! A model, and the floor, at a model's pace: one token each 33 ms.
//!
//! Bare tokio: for each token a timer and a write,
//! and nothing else that a server of streams could leave out. On one path it speaks as an upstream of `chat` does, on the
//! other it streams the frames of a response, as the server under test does: that is the paced floor.

use std::{path::Path, sync::Arc, time::Duration};

use memchr::memmem;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime,
    time::Instant,
};

use crate::{WORDS, generator::DELTA};

/// What this program is told to be this.
pub const ARGUMENT: &str = "--pace";
/// The time from one token to the next.
pub const PACE: Duration = Duration::from_millis(33);
/// Where the floor streams the frames of a response.
pub const FLOOR: &str = "/paced";
/// The base URL's path of the upstream.
pub const UPSTREAM: &str = "/v1";

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const LAST: &[u8] = b"0\r\n\r\n";

/// The pieces of an answer, ready to be written: each is one token, or what stands before and after the tokens.
struct Answers {
    floor: Vec<Vec<u8>>,
    upstream: Vec<Vec<u8>>,
}

/// Serves until it is killed.
pub fn serve(frames: &Path) {
    let frames = std::fs::read(frames).unwrap();
    let answers = Arc::new(Answers { floor: floor(&frames), upstream: upstream() });
    runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("{}", listener.local_addr().unwrap());
        loop {
            let (connection, _) = listener.accept().await.unwrap();
            connection.set_nodelay(true).unwrap();
            let answers = answers.clone();
            tokio::spawn(async move {
                // It fails when the other side goes.
                let _ = answer(connection, &answers).await;
            });
        }
    });
}

async fn answer(mut connection: TcpStream, answers: &Answers) -> std::io::Result<()> {
    let mut bytes = Vec::with_capacity(4 << 10);
    loop {
        let end = loop {
            if let Some(head) = memmem::find(&bytes, b"\r\n\r\n") {
                let end = head + 4 + content_length(&bytes[..head]);
                if bytes.len() >= end {
                    break end;
                }
            }
            if connection.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
        };
        let pieces = match memmem::find(&bytes[..end], FLOOR.as_bytes()) {
            Some(at) if at < 16 => &answers.floor,
            _ => &answers.upstream,
        };
        bytes.drain(..end);
        connection.write_all(HEAD).await?;
        let begin = Instant::now();
        for (piece, at) in pieces.iter().zip(0..) {
            tokio::time::sleep_until(begin + PACE * at).await;
            connection.write_all(piece).await?;
        }
    }
}

fn content_length(head: &[u8]) -> usize {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    length.map_or(0, |length| length.trim().parse().unwrap())
}

/// One piece for each text delta; what stands before the first goes with it, and what stands after the last, too.
fn floor(frames: &[u8]) -> Vec<Vec<u8>> {
    let starts: Vec<_> = memmem::find_iter(frames, DELTA).collect();
    let mut bounds = vec![0];
    bounds.extend(&starts[1..]);
    bounds.push(frames.len());
    let mut pieces: Vec<_> = bounds.windows(2).map(|bounds| chunk(&frames[bounds[0]..bounds[1]])).collect();
    pieces.last_mut().unwrap().extend(LAST);
    pieces
}

fn upstream() -> Vec<Vec<u8>> {
    let event = |delta: serde_json::Value, reason: Option<&str>| {
        let choice = json!({"index": 0, "delta": delta, "finish_reason": reason});
        let body = json!({
            "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "paced", "choices": [choice],
        });
        format!("data: {body}\n\n")
    };
    let mut pieces: Vec<_> =
        (0..WORDS).map(|n| chunk(event(json!({"content": format!("word{n} ")}), None).as_bytes())).collect();
    let end = event(json!({}), Some("stop")) + "data: [DONE]\n\n";
    let last = pieces.last_mut().unwrap();
    last.extend(chunk(end.as_bytes()));
    last.extend(LAST);
    pieces
}

fn chunk(bytes: &[u8]) -> Vec<u8> {
    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
    chunk.extend(bytes);
    chunk.extend(b"\r\n");
    chunk
}
