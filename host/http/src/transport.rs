//! A connection's bytes, and how long they may take.
//!
//! - Who takes nothing of what is sent loses the connection after `limits.write_timeout`: otherwise whoever asks and does
//!   not read keeps what was made for them, for as long as they like. The kernel is told the same, for what it has taken
//!   and cannot deliver.
//! - A client may close its sending half and wait for the answer. It looks like one that has gone. So what it asked is
//!   answered if that takes no longer than [`HALF_CLOSED`], and to the end where nothing depends on whether it is there;
//!   see [`Patience`].
//! - What has come of a message of a WebSocket that is not complete is counted, so that it is not kept for ever.
//! - Requests of HTTP/1 are followed: see [`framing`](super::framing).

use std::{
    collections::HashMap,
    future::Future as _,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep, sleep_until},
};

use super::{
    framing::{Framing, Requests},
    stream::Stream,
};

/// How long the answer to a client that sends no more may take, where its run ends with its connection.
pub(super) const HALF_CLOSED: Duration = Duration::from_millis(300);
/// The bytes of a control frame around its payload, from a client: it is masked.
const CONTROL_FRAME: usize = 6;

/// What a connection's transport and its handlers know of each other.
#[derive(Debug, Default)]
pub(super) struct Wire {
    patience: Mutex<Patience>,
    message: Mutex<Unfinished>,
    /// Whether there is something to send that the client does not take.
    stalled: AtomicBool,
    /// Answers of which a piece was handed over and the next one is not wanted yet, and since when.
    waiting: Mutex<HashMap<u64, Instant>>,
    /// How many answers there were.
    answers: AtomicU64,
    /// In HTTP/1, as far as there are requests.
    pub requests: Requests,
    /// Whether it is one of WebSockets now.
    pub upgraded: AtomicBool,
}

/// How fast the pieces of an answer are taken.
#[derive(Debug)]
pub(super) struct Flow {
    wire: Arc<Wire>,
    number: u64,
}

impl Flow {
    /// The next piece is wanted.
    pub fn wanted(&self) {
        self.wire.waiting.lock().remove(&self.number);
    }

    /// A piece was handed over.
    pub fn handed_over(&self) {
        self.wire.waiting.lock().insert(self.number, Instant::now());
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.wanted();
    }
}

/// How long a client that sends no more is taken to be there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Patience {
    /// Nothing is being answered.
    #[default]
    None,
    /// For [`HALF_CLOSED`].
    Short,
    /// Until it is answered: what it asked for goes on without it, too.
    Long,
}

/// What has come of a message.
#[derive(Clone, Copy, Debug, Default)]
struct Unfinished {
    bytes: usize,
    since: Option<Instant>,
}

impl Wire {
    /// Says how long a client that sends no more is waited for.
    pub fn wait(&self, patience: Patience) {
        *self.patience.lock() = patience;
    }

    /// Whether something that is to be sent waits for the client to take it.
    pub fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed)
    }

    /// The flow of another answer.
    pub fn flow(self: &Arc<Self>) -> Flow {
        Flow { wire: self.clone(), number: self.answers.fetch_add(1, Ordering::Relaxed) }
    }

    /// Ends when a client has taken nothing of an answer for this long. In HTTP/2 each has a window of its own, and the
    /// connection may be open for others.
    pub async fn stuck(&self, limit: Duration) {
        loop {
            let oldest = self.waiting.lock().values().min().copied();
            match oldest.map(|since| since + limit) {
                Some(until) if until <= Instant::now() => return,
                Some(until) => sleep_until(until).await,
                None => sleep(limit).await,
            }
        }
    }

    /// A message has come; what follows is another one.
    pub fn message_came(&self) {
        *self.message.lock() = Unfinished::default();
    }

    /// A control frame has come, with so much in it. It may stand between the parts of a message.
    pub fn control_came(&self, payload: usize) {
        let mut message = self.message.lock();
        message.bytes = message.bytes.saturating_sub(CONTROL_FRAME + payload);
        if message.bytes == 0 {
            message.since = None;
        }
    }

    /// How much has come of a message that is not complete, in bytes.
    pub fn unfinished(&self) -> usize {
        self.message.lock().bytes
    }

    /// Ends when a message has been unfinished for this long, or with the error of `grow`, which is told how much of it has
    /// come. It sees the beginning of one, and more of it, only when it is polled.
    pub async fn message_overdue<E>(
        &self,
        limit: Duration,
        mut grow: impl FnMut(usize) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut waiting: Option<(Instant, Pin<Box<Sleep>>)> = None;
        std::future::poll_fn(|context| {
            let Unfinished { bytes, since: Some(since) } = *self.message.lock() else {
                waiting = None;
                return Poll::Pending;
            };
            grow(bytes)?;
            if waiting.as_ref().is_none_or(|(begun, _)| *begun != since) {
                waiting = Some((since, Box::pin(sleep_until(since + limit))));
            }
            match &mut waiting {
                Some((_, sleep)) => sleep.as_mut().poll(context).map(Ok),
                None => Poll::Pending,
            }
        })
        .await
    }

    fn came(&self, bytes: usize) {
        let mut message = self.message.lock();
        message.bytes = message.bytes.saturating_add(bytes);
        message.since.get_or_insert_with(Instant::now);
    }
}

/// A connection's bytes.
#[derive(Debug)]
pub(super) struct Transport {
    stream: Stream,
    /// In HTTP/1.
    framing: Option<Framing>,
    wire: Arc<Wire>,
    write_timeout: Duration,
    /// Runs while the client takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Runs when the client has sent its last byte.
    ended: Option<Pin<Box<Sleep>>>,
}

impl Transport {
    /// The bytes of this stream; of HTTP/1, if `framing` is given.
    pub fn new(stream: Stream, framing: Option<Framing>, wire: Arc<Wire>, write_timeout: Duration) -> Self {
        #[cfg(target_os = "linux")]
        {
            let milliseconds = u32::try_from(write_timeout.as_millis()).unwrap_or(u32::MAX);
            if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(stream.tcp(), milliseconds) {
                tracing::debug!(%error, "TCP_USER_TIMEOUT");
            }
        }
        Self { stream, framing, wire, write_timeout, stalled: None, ended: None }
    }

    /// Ends a write that has waited too long.
    fn timed<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.wire.stalled.store(written.is_pending(), Ordering::Relaxed);
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(self.write_timeout)));
        ready!(stalled.as_mut().poll(context));
        let message = "the client did not read what was sent (limits.write_timeout)";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, message)))
    }

    /// Waits before the end of what the client sends is told: hyper drops what is being answered then.
    fn held(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let patience = *self.wire.patience.lock();
            if patience == Patience::None {
                return Poll::Ready(Ok(()));
            }
            let ended = self.ended.get_or_insert_with(|| Box::pin(sleep(HALF_CLOSED)));
            ready!(ended.as_mut().poll(context));
            if patience == Patience::Short {
                return Poll::Ready(Ok(()));
            }
            // Looked at again and again: nobody says when the answer is there.
            ended.as_mut().reset(Instant::now() + HALF_CLOSED);
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if let Poll::Ready(Ok(())) = read {
            match buffer.filled().len() - before {
                0 if buffer.remaining() > 0 => return self.held(context),
                bytes => {
                    self.wire.came(bytes);
                    let this = self.get_mut();
                    if let Some(framing) = this.framing.as_mut().filter(|_| !this.wire.upgraded.load(Ordering::Relaxed))
                    {
                        framing.came(&buffer.filled()[before..], &this.wire.requests);
                    }
                }
            }
        }
        read
    }
}

impl AsyncWrite for Transport {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.timed(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.timed(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        // Of what was written in the clear, that it was flushed says nothing.
        if self.stream.is_buffered() { self.timed(context, flushed) } else { flushed }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
