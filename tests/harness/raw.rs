//! HTTP over a bare socket: what a client library hides.
//!
//! Shows the chunks of a body as the server wrote them, reads as slowly as it likes, and goes away in every way
//! that a client can.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use super::wait::{PATIENCE, within};

/// One connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    bytes: Vec<u8>,
}

/// The head of an answer.
#[derive(Debug)]
pub struct Head {
    /// The HTTP status.
    pub status: u16,
    /// The header lines, in lower case.
    pub headers: String,
}

impl Connection {
    /// Connects to `127.0.0.1:PORT`.
    pub async fn open(address: &str) -> Self {
        Self { stream: TcpStream::connect(address).await.unwrap(), bytes: Vec::new() }
    }

    /// The same, with as small a buffer as the system allows, so that a reader who does not read holds up the
    /// writer soon.
    pub async fn open_narrow(address: &str) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4_096).unwrap();
        let address: SocketAddr = address.parse().unwrap();
        Self { stream: socket.connect(address).await.unwrap(), bytes: Vec::new() }
    }

    /// Sends bytes.
    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Sends bytes to a server that may have closed the connection already.
    pub async fn try_send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    /// Sends `POST /v1/responses`.
    pub async fn post(&mut self, body: &Value) {
        let body = body.to_string();
        let head = format!(
            "POST /v1/responses HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        self.send(format!("{head}{body}").as_bytes()).await;
    }

    /// Sends `GET path`.
    pub async fn get(&mut self, path: &str) {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).await;
    }

    /// Reads the head of the answer.
    pub async fn head(&mut self) -> Head {
        self.try_head().await.expect("a head")
    }

    /// The same; none where the connection is closed instead.
    pub async fn try_head(&mut self) -> Option<Head> {
        let end = self.find(b"\r\n\r\n").await?;
        let head = String::from_utf8(self.take(end + 4)).unwrap();
        let (line, headers) = head.split_once("\r\n").unwrap();
        let status = line.split(' ').nth(1).unwrap().parse().unwrap();
        Some(Head { status, headers: headers.to_lowercase() })
    }

    /// Reads a body of JSON that has a length.
    pub async fn body(&mut self, head: &Head) -> Value {
        let length = head.headers.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
        let length = length.trim().parse().unwrap();
        while self.bytes.len() < length {
            assert!(self.read().await, "the body was cut");
        }
        serde_json::from_slice(&self.take(length)).unwrap()
    }

    /// Waits for more, and says whether the server has closed the connection instead.
    pub async fn closed(&mut self) -> bool {
        self.bytes.is_empty() && !self.read().await
    }

    /// Reads the next chunk of a chunked body, as the server cut it; none after the last.
    pub async fn chunk(&mut self) -> Option<Vec<u8>> {
        let end = self.find(b"\r\n").await?;
        let line = String::from_utf8(self.take(end + 2)).unwrap();
        let length = usize::from_str_radix(line.trim(), 16).unwrap();
        while self.bytes.len() < length + 2 {
            if !self.read().await {
                return None;
            }
        }
        let mut chunk = self.take(length + 2);
        assert_eq!(chunk.split_off(length), b"\r\n");
        (length > 0).then_some(chunk)
    }

    /// Reads all chunks to the end.
    pub async fn chunks(&mut self) -> Vec<Vec<u8>> {
        let mut chunks = Vec::new();
        while let Some(chunk) = self.chunk().await {
            chunks.push(chunk);
        }
        chunks
    }

    /// Goes away as a program that is killed does: the server gets a reset.
    pub fn abort(self) {
        self.stream.set_zero_linger().unwrap();
    }

    /// Closes the sending side only.
    pub async fn half_close(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    async fn find(&mut self, what: &[u8]) -> Option<usize> {
        loop {
            if let Some(at) = memchr::memmem::find(&self.bytes, what) {
                return Some(at);
            }
            if !self.read().await {
                return None;
            }
        }
    }

    fn take(&mut self, length: usize) -> Vec<u8> {
        let rest = self.bytes.split_off(length);
        std::mem::replace(&mut self.bytes, rest)
    }

    async fn read(&mut self) -> bool {
        within(PATIENCE, "bytes", self.stream.read_buf(&mut self.bytes)).await.is_ok_and(|length| length > 0)
    }
}
