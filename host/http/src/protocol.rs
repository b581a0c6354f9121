//! HTTP/1.1, or HTTP/2 with prior knowledge: a connection says which with its first bytes.
//!
//! HTTP/2 puts many requests on one connection, so what one connection may take is bounded here: streams, windows, headers,
//! and resets, which cost a client nothing. A stream whose client takes nothing counts as a connection that takes nothing.

use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::{net::TcpStream, time::sleep};

/// What HTTP/2 begins with, as far as no method of HTTP/1 does.
const PREFACE: [u8; 3] = *b"PRI";
/// How often a connection is looked at whose first bytes come one by one.
const LOOK: Duration = Duration::from_millis(10);

/// The most requests at a time on one connection.
const STREAMS: u32 = 64;
/// What a client may send of a body before it is read, in bytes.
const STREAM_WINDOW: u32 = 256 << 10;
/// The same of all bodies of a connection.
const CONNECTION_WINDOW: u32 = 1 << 20;
/// What is made of an answer before the client takes it, in bytes.
const SEND_BUFFER: usize = 64 << 10;
/// The largest head of a request, in bytes.
const HEAD: u32 = 64 << 10;
/// The most streams that a client has reset and that are not forgotten yet.
const RESETS: usize = 20;

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

impl Protocol {
    /// What the first bytes of a connection say, that must come within `limit`. They are still to be read.
    pub async fn of(stream: &TcpStream, limit: Duration) -> Self {
        let look = async {
            let mut first = [0; PREFACE.len()];
            loop {
                match stream.peek(&mut first).await {
                    Ok(length @ 1..) if first[..length] == PREFACE[..length] => {
                        if length == PREFACE.len() {
                            return Self::Http2;
                        }
                    }
                    _ => return Self::Http1,
                }
                sleep(LOOK).await;
            }
        };
        tokio::time::timeout(limit, look).await.unwrap_or(Self::Http1)
    }
}

/// HTTP/2 within its limits. Who does not answer a ping within `write_timeout` is gone.
pub(super) fn http2(write_timeout: Duration) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(HEAD)
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(RESETS)
        .keep_alive_interval(write_timeout)
        .keep_alive_timeout(write_timeout);
    builder
}
