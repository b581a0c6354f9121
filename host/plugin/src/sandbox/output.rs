//! Standard output and standard error of a component: lines in the log of its run.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::AsyncWrite;
use wasmtime_wasi::{
    async_trait,
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamError, StreamResult},
};

use super::run_log::RunLog;
use crate::failure::Violation;

/// How much of the last output is remembered, in bytes: enough for the message of a panic.
const TAIL: usize = 4_096;
/// The longest unfinished line, in bytes. A longer one is broken.
const LINE: usize = 8_192;

/// The most that is taken at once, in bytes: what is written in one call is split into lines before anybody else has a turn.
const WRITE: usize = 4_096;

/// One of the two outputs.
#[derive(Clone)]
pub(crate) struct Output {
    name: &'static str,
    log: Arc<RunLog>,
    text: Arc<Mutex<Text>>,
}

#[derive(Default)]
struct Text {
    line: Vec<u8>,
    tail: Vec<u8>,
}

impl Output {
    pub(crate) fn new(name: &'static str, log: Arc<RunLog>) -> Self {
        Self { name, log, text: Arc::default() }
    }

    /// The end of what was written.
    pub(crate) fn tail(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().tail).into_owned()
    }

    fn append(&self, bytes: &[u8]) {
        let mut text = self.text.lock();
        text.tail.extend_from_slice(&bytes[bytes.len().saturating_sub(TAIL)..]);
        let excess = text.tail.len().saturating_sub(TAIL);
        text.tail.drain(..excess);
        if self.log.is_full() {
            // No line of it would be seen: it costs nothing but its copy.
            text.line = Vec::new();
            return;
        }
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            text.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") || text.line.len() > LINE {
                let line = std::mem::take(&mut text.line);
                self.log.line(tracing::Level::INFO, self.name, String::from_utf8_lossy(&line).trim_end());
            }
        }
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if bytes.len() > WRITE {
            let message =
                format!("wrote {} bytes to {} in one call, and `check-write` allows {WRITE}", bytes.len(), self.name);
            return Err(StreamError::Trap(Violation(message).into()));
        }
        self.append(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE)
    }
}

#[async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

impl AsyncWrite for Output {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let taken = &bytes[..bytes.len().min(WRITE)];
        self.append(taken);
        Poll::Ready(Ok(taken.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
