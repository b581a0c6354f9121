//! Bodies that a client has compressed: `content-encoding`.
//!
//! What comes is as large as its plain form: `limits.body_bytes` counts that. A decoder keeps a window of what it has
//! decoded, which counts as the body does.

use std::{fmt, io, pin::Pin};

use async_compression::tokio::bufread::{BrotliDecoder, GzipDecoder, ZlibDecoder, ZstdDecoder};
use async_compression::zstd::DParameter;
use axum::{
    body::Body,
    http::{HeaderMap, header},
};
use bytes::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use outlast_protocol::{ApiError, ErrorKind};
use tokio::io::AsyncRead;
use tokio_util::io::{ReaderStream, StreamReader};

/// The pieces of a body, in its plain form.
pub(super) type Pieces = Pin<Box<dyn Stream<Item = Result<Bytes, ApiError>> + Send>>;

/// The largest window of zstd, as a power of 2: what RFC 8878 (3.1.1.1.2) recommends for HTTP.
const ZSTD_WINDOW: u32 = 23;

/// How a body is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Plain,
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

impl Encoding {
    /// The encoding of a body with these headers.
    ///
    /// # Errors
    ///
    /// 415 for another one, and for several.
    pub fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        let mut given = headers.get_all(header::CONTENT_ENCODING).iter();
        let Some(first) = given.next() else { return Ok(Self::Plain) };
        let name = first.to_str().unwrap_or_default().trim().to_ascii_lowercase();
        match (name.as_str(), given.next()) {
            ("" | "identity", None) => Ok(Self::Plain),
            ("gzip" | "x-gzip", None) => Ok(Self::Gzip),
            ("deflate", None) => Ok(Self::Deflate),
            ("br", None) => Ok(Self::Brotli),
            ("zstd", None) => Ok(Self::Zstd),
            _ => {
                let message = "The body has a `content-encoding` that is not supported: send it plain, or in one of gzip, \
                               deflate, br, zstd.";
                Err(ApiError::new(ErrorKind::UnsupportedMediaType, "unsupported_content_encoding", message))
            }
        }
    }

    /// The most memory that a decoder keeps, in bytes.
    pub fn window(self) -> usize {
        match self {
            Self::Plain => 0,
            Self::Gzip | Self::Deflate => 32 << 10,
            Self::Brotli => 16 << 20,
            Self::Zstd => 1 << ZSTD_WINDOW,
        }
    }

    /// The pieces of a body.
    pub fn pieces(self, body: Body) -> Pieces {
        let pieces = body.into_data_stream();
        if self == Self::Plain {
            return Box::pin(pieces.map_err(|_| cut()));
        }
        let reader = StreamReader::new(pieces.map_err(|_| io::Error::other(Cut)));
        let decoder: Pin<Box<dyn AsyncRead + Send>> = match self {
            Self::Plain => Box::pin(reader),
            Self::Gzip => Box::pin(GzipDecoder::new(reader)),
            Self::Deflate => Box::pin(ZlibDecoder::new(reader)),
            Self::Brotli => Box::pin(BrotliDecoder::new(reader)),
            Self::Zstd => Box::pin(ZstdDecoder::with_params(reader, &[DParameter::window_log_max(ZSTD_WINDOW)])),
        };
        Box::pin(ReaderStream::new(decoder).map(move |piece| {
            piece.map_err(|error| match error.get_ref().is_some_and(|inner| inner.is::<Cut>()) {
                true => cut(),
                false => {
                    let message = format!("The body is not {self}, as its `content-encoding` says.");
                    ApiError::new(ErrorKind::UnsupportedMediaType, "invalid_content_encoding", message)
                }
            })
        }))
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain",
            Self::Gzip => "gzip",
            Self::Deflate => "deflate (zlib)",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
        })
    }
}

fn cut() -> ApiError {
    ApiError::new(ErrorKind::InvalidRequest, "incomplete_body", "The body ended before it was complete.")
}

/// The connection ended in the middle of the body.
#[derive(Debug, thiserror::Error)]
#[error("the body was cut")]
struct Cut;

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn one_known_encoding_is_taken() {
        let of = |values: &[&str]| {
            let values = values.iter().map(|value| (header::CONTENT_ENCODING, HeaderValue::from_str(value).unwrap()));
            Encoding::of(&values.collect()).map_err(|error| error.code)
        };
        assert_eq!(of(&[]), Ok(Encoding::Plain));
        assert_eq!(of(&["identity"]), Ok(Encoding::Plain));
        assert_eq!(of(&["GZIP"]), Ok(Encoding::Gzip));
        assert_eq!(of(&["zstd"]), Ok(Encoding::Zstd));
        for wrong in [&["compress"][..], &["gzip, br"], &["gzip", "br"]] {
            assert_eq!(of(wrong), Err("unsupported_content_encoding"), "{wrong:?}");
        }
    }
}
